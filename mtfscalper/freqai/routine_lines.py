"""Lines of freqtrade's log that a backtest repeats for every pair and period, and that say nothing of either."""

from __future__ import annotations

import logging
import re

# What freqtrade says, by logger. Warnings are never among it, and whatever else these loggers say is shown.
_ROUTINE = {
    "freqtrade.data.dataprovider": r"Increasing startup_candle_count for freqai|Loading data for .* from .* to ",
    "freqtrade.freqai.data_kitchen": (
        r"Could not find backtesting prediction file|Found backtesting prediction file|"
        r".*: dropped 0 training points|dropped 0 of "
    ),
    "freqtrade.freqai.freqai_interface": (
        r"Training \d+ timeranges|Training .*, \d+/\d+ pairs|Saving backtest model to disk|Saving metadata to disk|"
        r"Set fresh train queue|Could not find model at|Found model at"
    ),
    "freqtrade.strategy.hyper": r"No params for|Strategy Parameter\(default\)",
}


class _Routine(logging.Filter):
    def __init__(self, routine: str) -> None:
        super().__init__()
        self._routine = re.compile(routine)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO or self._routine.match(record.getMessage()) is None


def leave_out_routine() -> None:
    """Leave routine lines out of the log from now on, unless freqtrade was asked to say more (``-v``)."""
    if logging.root.isEnabledFor(logging.DEBUG):
        return
    for name, routine in _ROUTINE.items():
        logger = logging.getLogger(name)
        if not any(isinstance(known, _Routine) for known in logger.filters):
            logger.addFilter(_Routine(routine))
