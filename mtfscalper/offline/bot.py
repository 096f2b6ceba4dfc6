"""freqtrade's own command on a simulated clock: ``python -m mtfscalper.offline.bot trade …``.

The environment variable :data:`~mtfscalper.offline.simulated_clock.CLOCK_VARIABLE` names the clock's file. freqtrade is
imported after the clock, and is not changed.
"""

import os
import signal
import sys
from pathlib import Path

from mtfscalper.offline.bot_time import install
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock


def main() -> None:
    """Run freqtrade with the arguments of this process."""
    path = os.environ.get(CLOCK_VARIABLE)
    if path is None:
        sys.exit(
            f"error: the environment has no {CLOCK_VARIABLE}, the file of a simulated clock; this command is started "
            "by `mtfscalper dry-run`. Start that."
        )
    try:
        clock = SimulatedClock(Path(path))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {CLOCK_VARIABLE} is {path}: {error}")
    # A shell in the background lets what it starts ignore Ctrl-C, by which a bot is ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    install(clock)

    from freqtrade.main import main as freqtrade

    freqtrade(sys.argv[1:])


if __name__ == "__main__":
    main()
