"""Lines of freqtrade's log that say nothing of a run: what is printed leaves them out, a log file keeps them.

A record with ``is_displayed`` set stands in a display already, and is not printed below or above it either.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from freqtrade.loggers.ft_rich_handler import FtRichHandler

# What a start repeats of the config and the strategy, by logger and those below it. Whether it is a dry run, and with
# which database, is not among it.
_AT_START = {
    "freqtrade.configuration": (
        r"Using (config:|max_open_trades:|user-data directory:|data directory:|pairs |freqaimodel class name:)|"
        r"Parameter --|Filter trades by timerange:|Validating configuration"
    ),
    "freqtrade.exchange": r"Checking exchange|Exchange \".*\" is officially|Using CCXT|Applying additional ccxt config",
    "freqtrade.loggers": r"Enabling colorized output|Logfile configured|Verbosity set to",
    "freqtrade.resolvers.strategy_resolver": r"Override strategy '|Strategy using ",
    "freqtrade.strategy.hyper": r"No params for|Strategy Parameter\(default\)|Found no parameter file",
}

# What a backtest repeats for every pair and period.
_REPEATED = {
    "freqtrade.data.dataprovider": r"Increasing startup_candle_count for freqai|Loading data for .* from .* to ",
    "freqtrade.freqai.data_kitchen": (
        r"Could not find backtesting prediction file|Found backtesting prediction file|"
        r".*: dropped 0 training points|dropped 0 of "
    ),
    "freqtrade.freqai.freqai_interface": (
        r"Training \d+ timeranges|Training .*, \d+/\d+ pairs|Saving backtest model to disk|Saving metadata to disk|"
        r"Set fresh train queue|Could not find model at|Found model at"
    ),
    "freqtrade.strategy.hyper": _AT_START["freqtrade.strategy.hyper"],
}


class _Routine(logging.Filter):
    """Lets all but routine lines through. Warnings are none, and with ``-v`` nothing is."""

    def __init__(self, routine: Mapping[str, str]) -> None:
        super().__init__()
        self._routine = [(logging.Filter(name), re.compile(lines, re.DOTALL)) for name, lines in routine.items()]

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > logging.INFO or logging.root.isEnabledFor(logging.DEBUG):
            return True
        if getattr(record, "is_displayed", False):
            return False
        said = record.getMessage()
        return not any(among.filter(record) and lines.match(said) for among, lines in self._routine)


class AtStart(_Routine):
    """For a handler that prints, in ``log_config``: leaves out what a start repeats of the config."""

    def __init__(self) -> None:
        super().__init__(_AT_START)


class Repeated(_Routine):
    """Leaves out what a backtest repeats, and what its display says."""

    def __init__(self) -> None:
        super().__init__(_REPEATED)


def leave_out_routine() -> None:
    """Print no line from now on that a backtest repeats for every pair and period."""
    for handler in logging.root.handlers:
        prints = isinstance(handler, FtRichHandler) or type(handler) is logging.StreamHandler
        if prints and not any(isinstance(known, Repeated) for known in handler.filters):
            handler.addFilter(Repeated())
