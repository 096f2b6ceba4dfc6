"""freqtrade's own command on a simulated clock: ``python -m mtfscalper.offline.bot trade …``.

The environment variable :data:`~mtfscalper.offline.simulated_clock.CLOCK_VARIABLE` names the clock's file. freqtrade is
imported after the clock, and is not changed; ccxt reads the errors of the loopback exchange as it reads Binance's.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mtfscalper.offline.bot_time import install
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock

_SECONDS_TO_END = 60.0


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
    threading.Thread(target=_end_with, args=(os.getppid(), time.sleep), name="parent", daemon=True).start()
    install(clock)

    from mtfscalper.offline import futures_errors

    futures_errors.install()

    from freqtrade.main import main as freqtrade

    freqtrade(sys.argv[1:])


def _end_with(parent: int, true_sleep: Callable[[float], None]) -> None:
    """End this bot with the process that drives it: without it nobody answers, and nobody moves the clock."""
    while os.getppid() == parent:
        true_sleep(1.0)
    os.kill(os.getpid(), signal.SIGINT)
    true_sleep(_SECONDS_TO_END)
    os._exit(1)


if __name__ == "__main__":
    main()
