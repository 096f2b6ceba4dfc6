"""freqtrade reads a file of candles once for all backtests of this process: hundreds of tests begin with the same ones.

What is remembered goes by the file as it lies there (its inode, size and time of change), and by everything that the
reading depends on; what it logged is logged again. Merges of timeframes go by every byte of both frames.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import os
import pickle
from functools import cache, wraps
from typing import Any

import freqtrade.strategy
import numpy as np
import pandas as pd
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.freqai import data_kitchen
from freqtrade.optimize import backtesting

_LOGGER = logging.getLogger("freqtrade.data")
_MOST = 64
_PRICES = ["open", "high", "low", "close"]


class _Listener(logging.Handler):
    """Takes down what readings log."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record)


_candles: dict[Any, tuple[pd.DataFrame, list[logging.LogRecord]]] = {}
_merges: dict[Any, pd.DataFrame] = {}
_tick_sizes: dict[Any, tuple[pd.DataFrame, pd.Series]] = {}


def _keep(remembered: dict[Any, Any], key: Any, value: Any) -> None:
    """Put it last, and forget the first of too many: those of a bot's own folder are not asked for again."""
    remembered[key] = value
    if len(remembered) > _MOST:
        del remembered[next(iter(remembered))]


def _remember_candles() -> None:
    real = IDataHandler.ohlcv_load

    @wraps(real)
    def ohlcv_load(
        self: IDataHandler, pair: str, timeframe: str, candle_type: Any, *, timerange: Any = None, **more: Any
    ) -> pd.DataFrame:
        file = self._pair_data_filename(self._datadir, pair, timeframe, candle_type)
        if not file.is_file():
            return real(self, pair, timeframe, candle_type, timerange=timerange, **more)
        status = os.stat(file)
        key = (
            *(type(self), file, status.st_ino, status.st_size, status.st_mtime_ns, _LOGGER.getEffectiveLevel()),
            *(pair, timeframe, candle_type, str(timerange and vars(timerange)), *sorted(more.items())),
        )
        if key in _candles:
            read, lines = _candles.pop(key)
            for line in lines:
                logging.getLogger(line.name).log(line.levelno, line.getMessage())
        else:
            listener = _Listener()
            _LOGGER.addHandler(listener)
            try:
                read = real(self, pair, timeframe, candle_type, timerange=timerange, **more)
            finally:
                _LOGGER.removeHandler(listener)
            lines = listener.heard
        _keep(_candles, key, (read, lines))
        # It shares its columns until they are changed.
        return read.copy(deep=False)

    IDataHandler.ohlcv_load = ohlcv_load


def _remember_tick_sizes() -> None:
    real = backtesting.get_tick_size_over_time

    @wraps(real)
    def get_tick_size_over_time(candles: pd.DataFrame) -> pd.Series:
        """Beside what it returns it leaves columns in the frame."""
        key = (*candles.columns, candles[["date", *_PRICES]].to_numpy(dtype=float, copy=False).tobytes())
        if key in _tick_sizes:
            left, sizes = _tick_sizes.pop(key)
            for name in left.columns:
                candles[name] = left[name].array.copy()
        else:
            known = [*candles.columns]
            sizes = real(candles)
            left = candles.drop(columns=known)
        _keep(_tick_sizes, key, (left, sizes))
        return sizes.copy()

    backtesting.get_tick_size_over_time = get_tick_size_over_time


def _digest(frame: pd.DataFrame) -> bytes:
    """Of a frame's names, types, index and values."""
    digest = hashlib.blake2b(pickle.dumps((frame.index, frame.columns, [str(one) for one in frame.dtypes])))
    for block in frame._mgr.blocks:
        values = getattr(block.values, "asi8", block.values)
        is_plain = isinstance(values, np.ndarray) and values.dtype != object
        digest.update(values.tobytes() if is_plain else pickle.dumps(values))
        digest.update(block.mgr_locs.as_array.tobytes())
    return digest.digest()


def _remember_merges() -> None:
    real = freqtrade.strategy.merge_informative_pair
    signature = inspect.signature(real)

    @wraps(real)
    def merge_informative_pair(*arguments: Any, **named: Any) -> pd.DataFrame:
        asked = signature.bind(*arguments, **named)
        asked.apply_defaults()
        key = tuple(_digest(one) if isinstance(one, pd.DataFrame) else one for one in asked.arguments.values())
        merged = _merges.pop(key) if key in _merges else real(*arguments, **named)
        _keep(_merges, key, merged)
        return merged.copy()

    for module in (freqtrade.strategy, data_kitchen):
        module.merge_informative_pair = merge_informative_pair  # type: ignore[attr-defined]


@cache
def remember() -> None:
    """Begin to remember, once a process."""
    _remember_candles()
    _remember_merges()
    _remember_tick_sizes()
