"""The candles that lie in a freqtrade data directory."""

from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, TradingMode
from freqtrade.exchange import timeframe_to_msecs
from numpy.typing import NDArray

from mtfscalper.offline import ReplayError

MAX_DECIMALS = 8


class MissingCandlesError(LookupError):
    """There are no candles of a pair in a timeframe. Names the directory and what it holds."""


class Candles(NamedTuple):
    """Candles of one file, sorted by time.

    :ivar open_ms: open of each candle, Unix milliseconds, shape (n_candles,)
    :ivar values: open, high, low, close, volume – for funding the rate alone –, shape (n_candles, 5 or 1)
    :ivar length_ms: from the open of a candle to its close
    """

    open_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    length_ms: int

    def closed_by(self, now_ms: int) -> "Candles":
        """Return the candles that have closed by ``now_ms``, without a copy."""
        count = int(np.searchsorted(self.open_ms, now_ms - self.length_ms, side="right"))
        return self._replace(open_ms=self.open_ms[:count], values=self.values[:count])

    def between(self, start_ms: int | None, end_ms: int | None, limit: int) -> "Candles":
        """Select as Binance does: from the start on, or without a start the last ones up to the end."""
        stop = len(self.open_ms) if end_ms is None else int(np.searchsorted(self.open_ms, end_ms, side="right"))
        first = max(0, stop - limit) if start_ms is None else int(np.searchsorted(self.open_ms, start_ms, side="left"))
        stop = min(stop, first + limit)
        return self._replace(open_ms=self.open_ms[first:stop], values=self.values[first:stop])


class CandleStore:
    """The candles of a freqtrade data directory, read when they are first asked for.

    :ivar timeframes: the timeframes of the futures candles of each pair, shortest first
    :param datadir: directory whose ``futures/`` holds freqtrade's feather files
    :param shift: by how much all candles are later than the files say, whole milliseconds
    :raises ReplayError: when it holds no futures candles
    """

    def __init__(self, datadir: Path, shift: timedelta = timedelta(0)) -> None:
        self.datadir = datadir
        self._shift_ms = shift // timedelta(milliseconds=1)
        self._handler = get_datahandler(datadir, "feather")
        timeframes: dict[str, set[str]] = {}
        available = self._handler.ohlcv_get_available_data(datadir, TradingMode.FUTURES)
        for pair, timeframe, candle_type in available:
            if candle_type == CandleType.FUTURES and ":" in pair:
                timeframes.setdefault(pair, set()).add(timeframe)
        if not timeframes:
            raise ReplayError(
                f"datadir {datadir} holds no futures candles; accepted is a freqtrade data directory with "
                "futures/<PAIR>-<timeframe>-futures.feather. Write one with `mtfscalper synthetic --datadir "
                "DIR` or `freqtrade download-data --trading-mode futures`."
            )
        self.timeframes = {pair: sorted(found, key=timeframe_to_msecs) for pair, found in sorted(timeframes.items())}
        # A cache of each store's own: one on the class would keep the candles of a store that is gone.
        self.candles = lru_cache(maxsize=None)(self._load)
        self.decimals = lru_cache(maxsize=None)(self._decimals)

    def finest(self, pair: str) -> Candles:
        """Return the futures candles of the shortest timeframe."""
        return self.candles(pair, self.timeframes[pair][0], CandleType.FUTURES)

    def _load(self, pair: str, timeframe: str, candle_type: CandleType) -> Candles:
        """Read the candles of a pair.

        :raises MissingCandlesError: when the directory has none
        """
        frame = self._handler.ohlcv_load(
            pair, timeframe, candle_type, fill_missing=False, drop_incomplete=False, warn_no_data=False
        )
        if frame.empty:
            raise MissingCandlesError(
                f"{self.datadir} has no {timeframe} {candle_type} candles of {pair}; "
                f"its futures candles are {', '.join(self.timeframes[pair])}."
            )
        columns = (
            ["funding_rate"] if candle_type == CandleType.FUNDING_RATE else ["open", "high", "low", "close", "volume"]
        )
        return Candles(
            frame["date"].dt.as_unit("ms").astype("int64").to_numpy() + self._shift_ms,
            frame[columns].to_numpy(dtype=np.float64),
            timeframe_to_msecs(timeframe),
        )

    def _decimals(self, pair: str) -> tuple[int, int]:
        """Count the decimals of prices and of volumes in the finest candles."""
        values = self.finest(pair).values
        return _count_decimals(values[:, :4]), _count_decimals(values[:, 4])


def _count_decimals(values: NDArray[np.float64]) -> int:
    for decimals in range(MAX_DECIMALS):
        if np.allclose(values, values.round(decimals), rtol=1e-12, atol=0.0):
            return decimals
    return MAX_DECIMALS
