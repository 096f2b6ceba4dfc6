"""The market tape: aligned arrays of candles, raw prices and signals beside scaled features.

Prices and signals are taken from the frame before the feature pipeline, by position, so that no scaling and no
dropped column can reach them. Position i of the tape is candle i; a decision at the open of candle k = i + 1 sees
features up to and including row i.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper import artefacts
from mtfscalper.market.lookback import gap_free_segments
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL

PRICE_COLUMNS = ("open", "high", "low", "close")

# How the file of a tape begins, and where its body does, behind a SHA-256.
_MAGIC = b"mtfscalper tape 1\n"
_BODY = len(_MAGIC) + 32
# Of an array's place in the file: a whole cache line.
_ALIGNMENT = 64
# What is not an array of a tape.
_PLAIN = ("pair", "timeframe_ms", "segments")
# What a strategy says of its trades, where that is not the same at all candles: columns of a frame, and of a tape. The
# first two kinds belong to the row that has closed, the others to the candle that opens.
GATE_COLUMNS = ("long_gate", "short_gate")
EXIT_COLUMNS = ("long_exit", "short_exit")
ENTRY_COLUMNS = (
    *("long_leverage", "short_leverage", "long_liquidation", "short_liquidation"),
    *("long_stake", "short_stake"),
)


class TapeError(ValueError):
    """The candles or features cannot be used. Names what, where, received, accepted, remedy."""


@dataclass(frozen=True)
class MarketTape:
    """Candles of one pair.

    :ivar pair: e.g. ``BTC/USDT:USDT``
    :ivar timeframe_ms: length of a candle
    :ivar dates_ms: opening times, int64, shape (n_candles,), as all but ``features``
    :ivar open: raw prices in quote currency, float64, as ``high``, ``low``, ``close``
    :ivar funding: funding due on one unit of the asset at the candle's open, float64
    :ivar price_scale: price steps in one unit of quote currency, float64
    :ivar long_signal: the classic signal at the candle's close, bool, as ``short_signal``
    :ivar features: scaled features, float32, shape (n_candles, n_features)
    :ivar usable: whether every feature of the row was there, bool; the others hold zeros
    :ivar segments: gap-free runs of candles, half-open
    :ivar long_gate: whether the strategy lets a long be entered after the candle's close, bool, as ``short_gate``; None
        where it always does
    :ivar long_exit: the strategy's own exit signal for longs at the candle's close, bool, as ``short_exit``; None where
        it has none
    :ivar long_leverage: of a long entered at the candle's open, float64, and so on, see
        :class:`mtfscalper.trading.account.Candle`; None where the rules have the one for all candles
    :ivar funding_within: as ``funding``, due between the candle's open and the next one's, float64; None for none
    """

    pair: str
    timeframe_ms: int
    dates_ms: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]
    funding: npt.NDArray[np.float64]
    price_scale: npt.NDArray[np.float64]
    long_signal: npt.NDArray[np.bool_]
    short_signal: npt.NDArray[np.bool_]
    features: npt.NDArray[np.float32]
    usable: npt.NDArray[np.bool_]
    segments: tuple[tuple[int, int], ...]
    long_gate: npt.NDArray[np.bool_] | None = None
    short_gate: npt.NDArray[np.bool_] | None = None
    long_exit: npt.NDArray[np.bool_] | None = None
    short_exit: npt.NDArray[np.bool_] | None = None
    long_leverage: npt.NDArray[np.float64] | None = None
    short_leverage: npt.NDArray[np.float64] | None = None
    long_liquidation: npt.NDArray[np.float64] | None = None
    short_liquidation: npt.NDArray[np.float64] | None = None
    long_stake: npt.NDArray[np.float64] | None = None
    short_stake: npt.NDArray[np.float64] | None = None
    funding_within: npt.NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.dates_ms)

    @property
    def n_features(self) -> int:
        return int(self.features.shape[1])

    @property
    def funding_through(self) -> npt.NDArray[np.float64]:
        """Funding due on one unit of the asset from each candle's open on and before the next one's; float64."""
        return self.funding if self.funding_within is None else self.funding + self.funding_within

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        features: npt.ArrayLike,
        *,
        pair: str,
        timeframe_ms: int,
        signals_needed: bool,
        usable: npt.ArrayLike | None = None,
    ) -> MarketTape:
        """Build a tape from an unscaled frame and the features of the same rows.

        :param frame: ``date``, open, high, low, close, ``price_scale`` (see :func:`price_scale`: it is read off all
            candles of a pair, of which these may be a part) and, for the modes that use them, the classic signals;
            one row a candle. Without a ``funding`` or ``funding_within`` column none is due. Of :data:`GATE_COLUMNS`,
            :data:`EXIT_COLUMNS` and :data:`ENTRY_COLUMNS` those that are not the same for all candles.
        :param features: the pipeline's output for these rows, shape (n_candles, n_features)
        :param signals_needed: whether the entry mode reads the classic signals
        :param usable: rows whose features were all there; all of them by default
        :raises TapeError: if lengths differ, dates do not rise, prices are not positive numbers, a high is below its
            low, or the funding or a used feature is NaN or infinite
        """
        matrix = np.ascontiguousarray(features, dtype=np.float32)
        n = len(frame)
        if matrix.ndim != 2 or len(matrix) != n:
            raise TapeError(f"{pair}: features have shape {matrix.shape}; accepted: one row for each of {n} candles")
        usable_rows = np.ones(n, dtype=bool) if usable is None else np.asarray(usable, dtype=bool)
        dates = pd.DatetimeIndex(frame["date"])
        dates_ms = np.asarray(dates.as_unit("ms").astype("int64"), dtype=np.int64)
        prices: dict[str, Any] = {name: np.ascontiguousarray(frame[name], dtype=np.float64) for name in PRICE_COLUMNS}
        _check_dates(pair, dates)
        for name, values in prices.items():
            _check_numbers(pair, dates, name, values, positive=True)
        _check_extremes(pair, dates, prices["high"], prices["low"])
        funding = np.ascontiguousarray(
            frame["funding"] if "funding" in frame.columns else np.zeros(n), dtype=np.float64
        )
        _check_numbers(pair, dates, "funding", funding, positive=False)
        within = None
        if "funding_within" in frame.columns:
            within = np.ascontiguousarray(frame["funding_within"], dtype=np.float64)
            _check_numbers(pair, dates, "funding_within", within, positive=False)
        scale = np.ascontiguousarray(frame["price_scale"], dtype=np.float64)
        _check_numbers(pair, dates, "price_scale", scale, positive=True)
        _check_features(pair, dates, matrix, usable_rows)
        long_signal, short_signal = _signals(pair, frame, signals_needed)
        kinds = dict.fromkeys(GATE_COLUMNS + EXIT_COLUMNS, bool) | dict.fromkeys(ENTRY_COLUMNS, float)
        traded: dict[str, Any] = {
            name: np.ascontiguousarray(frame[name].to_numpy(), dtype=kind)
            for name, kind in kinds.items()
            if name in frame.columns
        }
        return cls(
            pair=pair,
            timeframe_ms=timeframe_ms,
            dates_ms=dates_ms,
            **prices,
            funding=funding,
            funding_within=within,
            price_scale=scale,
            long_signal=long_signal,
            short_signal=short_signal,
            features=matrix if usable_rows.all() else np.where(usable_rows[:, None], matrix, np.float32(0)),
            usable=usable_rows,
            segments=tuple(gap_free_segments(dates_ms, timeframe_ms)),
            **traded,
        )

    def without_features(self) -> MarketTape:
        """The same candles without the feature matrix: what an environment needs, cheap to send to a worker."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return MarketTape(**(values | {"features": np.empty((len(self), 0), dtype=np.float32)}))

    def split(self) -> list[MarketTape]:
        """A tape for each gap-free segment."""
        return [self.rows(start, stop) for start, stop in self.segments]

    def rows(self, start: int, stop: int) -> MarketTape:
        """The candles [start, stop) alone."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cut = {name: value[start:stop] for name, value in values.items() if isinstance(value, np.ndarray)}
        segments = tuple(gap_free_segments(cut["dates_ms"], self.timeframe_ms))
        return MarketTape(**(values | cut | {"segments": segments}))

    def save(self, path: Path) -> None:
        """Write the tape as one file, whole or not at all.

        :data:`_MAGIC` and the SHA-256 of what follows; the length of a JSON header, in eight bytes; the header, which
        names every array's type and shape; the arrays, each as it lies in memory, at the next multiple of
        :data:`_ALIGNMENT`.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: np.ascontiguousarray(value) for name, value in values.items() if isinstance(value, np.ndarray)}
        described = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
        header = json.dumps({**values, **described}).encode()
        parts: list[bytes | memoryview] = [len(header).to_bytes(8, "little"), header]
        place = _BODY + 8 + len(header)
        for array in arrays.values():
            padding = -place % _ALIGNMENT
            parts += [bytes(padding), array.data]
            place += padding + array.nbytes
        hasher = hashlib.sha256()
        for part in parts:
            hasher.update(part)

        def write(target: Path) -> None:
            with target.open("wb") as file:
                file.writelines([_MAGIC, hasher.digest(), *parts])

        artefacts.write_atomically(path, write)

    @classmethod
    def load(cls, path: Path) -> MarketTape:
        """The tape that :meth:`save` wrote, its arrays mapped from the file: read-only, in memory once for all readers.

        :raises TapeError: if the file is missing, damaged or not a tape
        """
        try:
            raw = np.asarray(np.memmap(path, mode="r", dtype=np.uint8))
        except (OSError, ValueError) as error:
            raise TapeError(_unreadable(path, str(error))) from error
        if raw[: len(_MAGIC)].tobytes() != _MAGIC:
            raise TapeError(_unreadable(path, "it begins as another kind of file"))
        if raw[len(_MAGIC) : _BODY].tobytes() != hashlib.sha256(raw[_BODY:].data).digest():
            raise TapeError(_unreadable(path, "it is damaged, its hash differs from the one in it"))
        place = _BODY + 8
        n_header = int.from_bytes(raw[_BODY:place].tobytes(), "little")
        values = json.loads(raw[place : place + n_header].tobytes())
        if missing := [field.name for field in fields(cls) if field.name not in values]:
            raise TapeError(_unreadable(path, f"it holds no {', '.join(missing)}"))
        place += n_header
        for field in fields(cls):
            if field.name not in _PLAIN and values[field.name] is not None:
                dtype, shape = np.dtype(values[field.name][0]), values[field.name][1]
                place += -place % _ALIGNMENT
                n_bytes = dtype.itemsize * math.prod(shape)
                values[field.name] = raw[place : place + n_bytes].view(dtype).reshape(shape)
                place += n_bytes
        values["segments"] = tuple((start, stop) for start, stop in values["segments"])
        return cls(**values)

    def digest(self) -> str:
        """SHA-256 of everything on the tape."""
        hasher = hashlib.sha256(f"{self.pair} {self.timeframe_ms}".encode())
        for field in fields(self):
            value: Any = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                hasher.update(field.name.encode() + np.ascontiguousarray(value).tobytes())
        return hasher.hexdigest()


def _unreadable(path: Path, why: str) -> str:
    return (
        f"{path} cannot be read: {why}; accepted: a file that MarketTape.save wrote in this version; remedy: save the "
        "tape again"
    )


def price_scale(candles: pd.DataFrame, exchange_scale: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Price steps in one unit of quote currency: the most decimals seen in a candle's month.

    The rule of freqtrade's backtester (``get_tick_size_over_time``). A month of whole prices shows none and keeps the
    steps of the month before, the first ones those of the exchange (``Backtesting.get_pair_precision``).

    :param candles: ``date``, open, high, low, close; one row a candle
    :param exchange_scale: the exchange's price steps in a unit, which matter for whole prices alone; one number, or
        shape (n_candles,)
    :return: shape (n_candles,)
    """
    dates = pd.DatetimeIndex(candles["date"])
    rates = candles[list(PRICE_COLUMNS)].to_numpy(dtype=np.float64)
    different, where = np.unique(rates, return_inverse=True)
    decimals = np.array([_decimals(rate) for rate in different], dtype=np.int64)[where.reshape(rates.shape)]
    most = pd.Series(decimals.max(axis=1))
    months = most.groupby(dates.year * 12 + dates.month).transform("max")
    scale = 10.0 ** months.astype(np.float64)
    shown = scale.where(months > 0).ffill().to_numpy()
    return np.where(np.isnan(shown), exchange_scale, shown)


def _decimals(rate: float) -> int:
    # Fourteen significant digits: the binary noise of a computed price lies beyond them.
    digits = np.format_float_positional(rate, precision=14, unique=False, fractional=False, trim="-")
    return len(digits.partition(".")[2])


def _signals(pair: str, frame: pd.DataFrame, needed: bool) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    missing = [name for name in (LONG_SIGNAL, SHORT_SIGNAL) if name not in frame.columns]
    if missing and needed:
        raise TapeError(
            f"{pair}: the strategy's frame has no column {' and '.join(missing)}; accepted: both, 0 or 1, set in "
            "feature_engineering_standard (see mtfscalper.market.signals); remedy: add them, or set "
            "freqai.rl_config.entry_mode to 'agent', which needs no signals"
        )
    if missing:
        none = np.zeros(len(frame), dtype=bool)
        return none, none.copy()
    long_signal = frame[LONG_SIGNAL].to_numpy(dtype=np.float64, na_value=0.0) > 0
    short_signal = frame[SHORT_SIGNAL].to_numpy(dtype=np.float64, na_value=0.0) > 0
    # freqtrade enters on neither when both are set.
    return long_signal & ~short_signal, short_signal & ~long_signal


def _check_dates(pair: str, dates: pd.DatetimeIndex) -> None:
    if dates.hasnans or not dates.is_monotonic_increasing or not dates.is_unique:
        bad = int(np.flatnonzero(~(dates[1:] > dates[:-1]))[0]) + 1 if len(dates) > 1 else 0
        raise TapeError(
            f"{pair}: the date of row {bad} is {dates[bad]}, not later than the row before; accepted: rising dates "
            "without repeats; remedy: download the pair's candles again"
        )


def _check_numbers(
    pair: str, dates: pd.DatetimeIndex, name: str, values: npt.NDArray[np.float64], *, positive: bool
) -> None:
    bad = np.flatnonzero(~(np.isfinite(values) & ((values > 0) | (not positive))))
    if len(bad):
        raise TapeError(
            f"{pair}: {name} of the candle at {dates[bad[0]]} is {values[bad[0]]} ({len(bad)} such candles); accepted: "
            f"a {'positive' if positive else 'finite'} number; remedy: download the pair's candles again"
        )


def _check_extremes(
    pair: str, dates: pd.DatetimeIndex, high: npt.NDArray[np.float64], low: npt.NDArray[np.float64]
) -> None:
    bad = np.flatnonzero(high < low)
    if len(bad):
        at = bad[0]
        raise TapeError(
            f"{pair}: the candle at {dates[at]} has a high of {high[at]} below its low of {low[at]} ({len(bad)} such "
            "candles); accepted: a high that is no lower; remedy: download the pair's candles again"
        )


def _check_features(
    pair: str, dates: pd.DatetimeIndex, matrix: npt.NDArray[np.float32], usable: npt.NDArray[np.bool_]
) -> None:
    bad = np.argwhere(~np.isfinite(matrix) & usable[:, None])
    if len(bad):
        row, column = bad[0]
        raise TapeError(
            f"{pair}: feature {column} of the candle at {dates[row]} is {matrix[row, column]} after scaling "
            f"({len(bad)} such values); accepted: finite numbers; remedy: correct the feature in "
            "feature_engineering_* so that float32 can hold it"
        )
