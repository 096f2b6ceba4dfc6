"""Which of the candles that an exchange sends can be true: the others are refused, as if they had never been sent.

freqtrade fills what is missing with flat candles, in a bot as in a backtest; so a refused candle is one that no trade
took place in, until the exchange sends it again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from freqtrade.data.converter import clean_ohlcv_dataframe
from freqtrade.exchange import timeframe_to_msecs
from pandas import DataFrame, DatetimeIndex, Timestamp, to_datetime

# Columns of a candle as an exchange sends it, after freqtrade's.
DATE, OPEN, HIGH, LOW, CLOSE, VOLUME = range(6)
COLUMNS = ("date", "open", "high", "low", "close", "volume")
# How far a candle may go from the closes around it, as a factor. Of 397,824 candles of BTC, ETH, SOL and XRP, 5m to 1h,
# in eight months with two crashes, none went further than 1.46.
REFUSED_BEYOND = 10.0
# How far high and low may lie beyond open and close before the owner hears of it: there, 1.20 at most.
TOLD_BEYOND = 1.5
# Closes before a candle that say where the price was: one wrong one does not move their median.
_BEFORE = 5
# The newest candles, of which it is told that some are missing or doubtful: older ones no longer matter much.
RECENT = 100
# An exchange's clock may be ahead of this machine's by so much.
_CLOCK_MS = 5_000
# What was traded before is no candle of a market that a bot trades: Bitcoin's first block.
_FIRST_MS = 1_230_940_800_000

Rows = npt.NDArray[np.float64]


class Sifted(NamedTuple):
    """What is left of the candles that an exchange sent.

    :ivar rows: the good ones, by :data:`COLUMNS`, the date in milliseconds since 1970, in rising order; shape (n, 6)
    :ivar is_as_sent: whether that is what was sent, row by row
    :ivar refused: what was left out and why, empty if nothing was
    :ivar doubts: what is traded all the same, empty if nothing is doubtful
    """

    rows: Rows
    is_as_sent: bool
    refused: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def as_rows(ticks: Sequence[Sequence[Any]]) -> Rows:
    """Candles as an exchange sends them, numbers that are none as NaN; shape (n, 6)."""
    try:
        rows = np.array(ticks, dtype=np.float64)
    except (TypeError, ValueError):
        rows = np.empty((0, 0))
    if rows.ndim == 2 and rows.shape[1] == len(COLUMNS):
        return rows
    return np.array([_row(tick) for tick in ticks], dtype=np.float64).reshape(-1, len(COLUMNS))


def sift(
    rows: Rows, timeframe_ms: int, now_ms: int, oldest_ms: int = _FIRST_MS, before: Sequence[float] = ()
) -> Sifted:
    """Tell the candles that can be true from the others.

    A candle is refused if it is no candle (numbers missing, not finite, or not positive), if its time is none that was
    asked for (before ``oldest_ms``, or after now), if its high is below its low, or if it is ten times or a tenth of
    the closes before it and nothing confirms that: the price stays there where its close, and that of a candle beside
    it, lie there too. Of several candles of one time the last stands. A high or low that leaves out the open or the
    close is widened to them.

    :param rows: see :func:`as_rows`
    :param oldest_ms: the oldest time that was asked for, milliseconds since 1970
    :param before: closes before the first candle, oldest first
    """
    n_sent = len(rows)
    refused: list[str] = []
    doubts: list[str] = []

    def leave_out(bad: Any, why: str) -> None:
        nonlocal rows
        if bad.any():
            refused.append(f"{_count(int(bad.sum()))} {why} ({_when(rows[bad, DATE])})")
            rows = rows[~bad]

    with np.errstate(invalid="ignore"):
        leave_out(~np.isfinite(rows).all(axis=1), "without all numbers")
        leave_out(rows[:, DATE] < oldest_ms, "older than any that was asked for")
        leave_out(rows[:, DATE] > now_ms + _CLOCK_MS, "of the future")
        leave_out((rows[:, OPEN : CLOSE + 1] <= 0).any(axis=1) | (rows[:, VOLUME] < 0), "with a price that is none")
        leave_out(rows[:, HIGH] < rows[:, LOW], "with a high below its low")
    rises = bool((np.diff(rows[:, DATE]) > 0).all())
    if not rises:
        rows, n_others = _last_of_each(rows)
        if n_others:
            doubts.append(f"{_count(n_others)} sent twice with different numbers, of which the last stand")
    leave_out(_is_spike(rows, before), "ten times off the prices around, without confirmation")
    body_high, body_low = rows[:, [OPEN, CLOSE]].max(axis=1), rows[:, [OPEN, CLOSE]].min(axis=1)
    narrow = (rows[:, HIGH] < body_high) | (rows[:, LOW] > body_low)
    if narrow.any():
        rows = rows.copy()
        rows[:, HIGH], rows[:, LOW] = np.maximum(rows[:, HIGH], body_high), np.minimum(rows[:, LOW], body_low)
        doubts.append(
            f"{_count(int(narrow.sum()))} whose high or low leaves out open or close, widened "
            f"({_when(rows[narrow, DATE])})"
        )
    doubts += _recent_doubts(rows[-RECENT:], body_high[-RECENT:], body_low[-RECENT:], timeframe_ms)
    is_as_sent = rises and not narrow.any() and len(rows) == n_sent
    return Sifted(rows, is_as_sent, tuple(refused), tuple(doubts))


def sift_frame(frame: DataFrame, pair: str, timeframe: str, now: datetime) -> tuple[DataFrame, Sifted]:
    """Tell the candles of a frame of freqtrade's that can be true from the others.

    :param frame: by :data:`COLUMNS`
    :return: the frame itself where nothing is wrong; else what is left, filled as freqtrade fills a backtest's candles
    """
    rows = frame_rows(frame)
    found = sift(rows, timeframe_to_msecs(timeframe), int(now.timestamp() * 1000))
    if found.is_as_sent:
        return frame, found
    return filled(rows_frame(found.rows), pair, timeframe), found


def frame_rows(frame: DataFrame) -> Rows:
    """The candles of a frame, see :func:`as_rows`."""
    rows = np.empty((len(frame), len(COLUMNS)))
    dates = DatetimeIndex(to_datetime(frame["date"], utc=True)).as_unit("ms")
    rows[:, DATE] = np.where(dates.isna(), np.nan, dates.astype("int64"))
    rows[:, OPEN:] = frame[list(COLUMNS[OPEN:])].to_numpy(dtype=np.float64)
    return rows


def rows_frame(rows: Rows) -> DataFrame:
    """The frame of candles, see :func:`frame_rows`."""
    frame = DataFrame(rows, columns=list(COLUMNS))
    frame["date"] = to_datetime(frame["date"].astype("int64"), unit="ms", utc=True)
    return frame


def filled(frame: DataFrame, pair: str, timeframe: str) -> DataFrame:
    """A frame with a flat candle where one is missing, as freqtrade makes them in bots and in backtests."""
    if frame.empty:
        return frame
    return clean_ohlcv_dataframe(frame, timeframe, pair, fill_missing=True, drop_incomplete=False)


def _row(tick: Any) -> list[float]:
    try:
        row = [float("nan") if value is None else float(value) for value in tick]
    except (TypeError, ValueError):
        row = []
    return row if len(row) == len(COLUMNS) else [float("nan")] * len(COLUMNS)


def _last_of_each(rows: Rows) -> tuple[Rows, int]:
    """The candles in rising order, of each time the last one, and how many had another with other numbers."""
    rows = rows[np.argsort(rows[:, DATE], kind="stable")]
    is_again = np.append(np.diff(rows[:, DATE]) == 0, False)
    differs = is_again & np.append((np.diff(rows, axis=0) != 0).any(axis=1), False)
    return rows[~is_again], int(differs.sum())


def _is_spike(rows: Rows, before: Sequence[float]) -> npt.NDArray[np.bool_]:
    n_before = len(before)
    closes = np.concatenate([np.asarray(before, dtype=np.float64), rows[:, CLOSE]])
    if len(closes) < 2:
        return np.zeros(len(rows), dtype=bool)
    # The median of the closes before each candle; the first ones have too few before them, and take those after.
    early = np.median(closes[: _BEFORE + 1])
    level = np.full(len(closes), early)
    if len(closes) > _BEFORE:
        windows = np.lib.stride_tricks.sliding_window_view(closes, _BEFORE)
        level[_BEFORE:] = np.median(windows[:-1], axis=1)
    level = level[n_before:]
    off = (rows[:, HIGH] > level * REFUSED_BEYOND) | (rows[:, LOW] < level / REFUSED_BEYOND)
    if not off.any():
        return off
    moved = _is_far(rows[:, CLOSE], level)
    beside = np.empty((2, len(closes)))
    beside[0], beside[1] = np.append(np.nan, closes[:-1]), np.append(closes[1:], np.nan)
    # NaN: there is no candle on that side, which confirms nothing.
    with np.errstate(invalid="ignore"):
        stays = np.any(~_is_far(closes, beside) & ~np.isnan(beside), axis=0)
    return np.asarray(off & ~(moved & np.asarray(stays)[n_before:]))


def _is_far(rates: npt.NDArray[np.float64], level: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.asarray((rates > level * REFUSED_BEYOND) | (rates < level / REFUSED_BEYOND))


def _recent_doubts(
    rows: Rows, body_high: npt.NDArray[np.float64], body_low: npt.NDArray[np.float64], timeframe_ms: int
) -> list[str]:
    doubts = []
    wicks = (rows[:, HIGH] > body_high * TOLD_BEYOND) | (rows[:, LOW] < body_low / TOLD_BEYOND)
    if wicks.any():
        doubts.append(f"{_count(int(wicks.sum()))} with a far high or low ({_when(rows[wicks, DATE])}), traded as sent")
    steps = np.diff(rows[:, DATE])
    # Months are of unequal length.
    gaps = steps > 1.5 * timeframe_ms
    if gaps.any():
        n_missing = int((np.round(steps[gaps] / timeframe_ms) - 1).sum())
        after = _when(rows[:-1][gaps, DATE])
        doubts.append(f"{_count(n_missing)} missing (after {after}), filled flat as in a backtest")
    return doubts


def _count(number: int) -> str:
    return f"{number} candle{'s' if number != 1 else ''}"


def _when(dates_ms: npt.NDArray[np.float64]) -> str:
    known = dates_ms[np.isfinite(dates_ms)]
    if not len(known):
        return "without a time"
    try:
        first = Timestamp(int(known[0]), unit="ms", tz="UTC")
    except (OverflowError, ValueError):
        return "at no time"
    return f"{first:%Y-%m-%d %H:%M}" + (" and others" if len(dates_ms) > 1 else "")
