"""Starts a command beside a replay exchange, so that both live on the one clock that this process was given.

    python bot_beside_exchange.py DATADIR EXCHANGE_CONFIG COMMAND…

DATADIR holds the candles; EXCHANGE_CONFIG is written, with the address of the exchange, before the command starts.
"""

import signal
import subprocess
import sys
from pathlib import Path

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import write_overlay


def main(datadir: str, exchange_config: str, *command: str) -> int:
    # Ctrl-C goes to the whole group; the exchange has to outlive the bot.
    signal.signal(signal.SIGINT, lambda *_: None)
    with ReplayExchange(Path(datadir)) as exchange:
        write_overlay(Path(exchange_config), exchange.url, {})
        return subprocess.Popen(command).wait()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
