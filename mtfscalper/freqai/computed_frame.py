"""What a strategy computed for a period: kept beside the period's files, and compared with what it computes now.

Sources do not show it: features hang on class attributes, module constants, helpers in other files and the candles
before the period. Nor does a hash: an indicator that starts a week earlier differs in the last bits of every row.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL

# In deviations of a column over the rows kept; far from its mean, of a tenth of the distance.
TOLERANCE = 1e-5
# Kept values are whole numbers of this: as small on disk as float32, and as fine far from the mean as near it.
_STEP = 1e-6
_MISSING = np.iinfo(np.int32).min
# Below this share of its mean, a column's deviation is the rounding of its sum.
_CONSTANT = 1e-9
# Of a column whose deviation is as many times the spread of most of its rows, that spread is taken.
_OUTLYING = 100.0
# As many scales from the mean differences begin to count by what they are of the distance.
_FAR = 10.0
_COLUMNS_NAMED = 3


def computed_columns(frame: DataFrame) -> DataFrame:
    """Whatever training and predictions read of a strategy's frame beside its candles.

    :param frame: with features, labels and signals, one row a candle
    :return: ``date``, the features and labels by FreqAI's rule for their names, and the classic signals
    """
    names = [name for name in frame.columns if "%" in name or "&" in name or name in (LONG_SIGNAL, SHORT_SIGNAL)]
    return frame[["date", *names]]


class FrameSlice(NamedTuple):
    """Rows of a frame, cut off when they are asked for: the slices of a long backtest overlap many times.

    :ivar start: the first row's date
    :ivar stop: the date of the first row that no longer belongs to it
    """

    frame: DataFrame
    start: datetime
    stop: datetime

    def cut(self) -> DataFrame:
        """The rows."""
        dates = self.frame["date"]
        return self.frame[(dates >= self.start) & (dates < self.stop)]


class ComputedFrame(NamedTuple):
    """The columns of :func:`computed_columns` over the rows of a period, as they were computed once.

    :ivar names: of the columns, shape (n_columns,)
    :ivar dates_ms: of the rows, milliseconds since 1970, shape (n_rows,)
    :ivar means: shape (n_columns,)
    :ivar scales: the columns' deviations, where few values make them the spread of the others; where there is none a
        value's own size; shape (n_columns,)
    :ivar steps: distances to the mean in millionths of the scale, logarithmic where far, int32, shape (n_rows,
        n_columns)
    """

    names: npt.NDArray[np.str_]
    dates_ms: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]
    scales: npt.NDArray[np.float64]
    steps: npt.NDArray[np.int32]

    @classmethod
    def from_rows(cls, rows: DataFrame) -> ComputedFrame:
        """
        :param rows: of the frame that :func:`computed_columns` gives
        """
        values = _values(rows)
        known = np.isfinite(values)
        counts = np.maximum(known.sum(axis=0), 1)
        with np.errstate(over="ignore", invalid="ignore"):
            means = np.where(known, values, 0.0).sum(axis=0) / counts
            deviations = np.sqrt((np.where(known, values - means, 0.0) ** 2).sum(axis=0) / counts)
        # Where no value is known, any will do.
        counted = np.where(known, values, np.where(known.any(axis=0), np.nan, 0.0))
        low, middle, high = np.nanquantile(counted, (0.1, 0.5, 0.9), axis=0)
        spreads = (high - low) / 2
        # A quotient by almost nothing makes a deviation beside which all other rows are alike.
        is_outlying = (spreads > _CONSTANT * np.abs(middle)) & ~(deviations <= _OUTLYING * spreads)
        means, deviations = np.where(is_outlying, middle, means), np.where(is_outlying, spreads, deviations)
        sizes = np.where(means != 0.0, np.abs(means), 1.0)
        scales = np.where(deviations > _CONSTANT * np.abs(means), deviations, sizes)
        return cls(np.array(_names(rows), dtype=np.str_), _dates_ms(rows), means, scales, _steps(values, means, scales))

    @classmethod
    def from_file(cls, path: Path) -> ComputedFrame:
        """What :meth:`save` wrote."""
        with np.load(path) as arrays:
            return cls(**arrays)

    def save(self, path: Path) -> None:
        """Write it into one file, whole or not at all."""

        def write(target: Path) -> None:
            with target.open("wb") as file:
                np.savez_compressed(file, **self._asdict())

        artefacts.write_atomically(path, write)

    def difference(self, rows: DataFrame) -> str | None:
        """What differs from the frame computed now by more than :data:`TOLERANCE`, None if nothing does.

        :param rows: of the frame that :func:`computed_columns` gives
        """
        then, now = self.names.tolist(), _names(rows)
        if then != now:
            others = [*(f"{name} is new" for name in now if name not in then)]
            others += [f"{name} is gone" for name in then if name not in now]
            return f"computed columns ({_first(others) if others else 'their order'})"
        if not np.array_equal(self.dates_ms, _dates_ms(rows)):
            return f"computed rows ({len(self.dates_ms)} then, {len(rows)} or others now)"
        moved = np.abs(_steps(_values(rows), self.means, self.scales).astype(np.int64) - self.steps)
        differs = moved > round(TOLERANCE / _STEP)
        if not differs.any():
            return None
        columns = _first([then[at] for at in np.flatnonzero(differs.any(axis=0))])
        return f"computed {columns} (in {int(differs.any(axis=1).sum())} of {len(rows)} rows)"


def _names(rows: DataFrame) -> list[str]:
    return [name for name in rows.columns if name != "date"]


def _dates_ms(rows: DataFrame) -> npt.NDArray[np.int64]:
    return pd.DatetimeIndex(rows["date"]).as_unit("ms").astype("int64").to_numpy()


def _values(rows: DataFrame) -> npt.NDArray[np.float64]:
    return rows[_names(rows)].to_numpy(dtype=np.float64, na_value=np.nan)


def _steps(
    values: npt.NDArray[np.float64], means: npt.NDArray[np.float64], scales: npt.NDArray[np.float64]
) -> npt.NDArray[np.int32]:
    """Values in steps from the mean; what is missing or infinite, which FreqAI treats alike, as one number."""
    known = np.isfinite(values)
    largest = np.iinfo(np.int32).max
    distances = (np.where(known, values, means) - means) / scales
    far = np.maximum(np.abs(distances) / _FAR, 1.0)
    distances = np.where(far > 1.0, np.sign(distances) * _FAR * (1.0 + np.log(far)), distances)
    steps = np.rint(distances / _STEP).clip(-largest, largest)
    return np.where(known, steps, _MISSING).astype(np.int32)


def _first(names: list[str]) -> str:
    more = len(names) - _COLUMNS_NAMED
    return ", ".join(names[:_COLUMNS_NAMED]) + (f" and {more} more" if more > 0 else "")
