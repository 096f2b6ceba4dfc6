"""Features without values: rows that lack one are not trained on, and who lacks which is said."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from freqtrade.exceptions import OperationalException
from pandas import DataFrame

# Above this share of the rows: FreqAI warns a bot from there on.
_FEW = 0.1
_NAMED = 3
_REMEDY = (
    "candles from earlier on (freqtrade download-data), of correlated pairs and longer timeframes too, a larger "
    "startup_candle_count, indicators over fewer candles, or an include_corr_pairlist without pairs that are younger"
)


@dataclass(frozen=True)
class MissingValues:
    """What is missing in the rows of a training.

    :ivar rows: with ``date`` and features
    :ivar has: whether each feature has a value, shape (n_rows, n_features)
    :ivar names: of the features
    """

    rows: DataFrame
    has: npt.NDArray[np.bool_]
    names: list[str]

    @classmethod
    def of(cls, rows: DataFrame, names: list[str]) -> MissingValues:
        """
        :param rows: with ``date`` and the features of these names
        """
        features = rows.filter(names).replace([np.inf, -np.inf], np.nan)
        return cls(rows, features.notna().to_numpy(), list(features.columns))

    @property
    def n_complete(self) -> int:
        """Rows that have every feature."""
        return int(self.has.all(axis=1).sum())

    def complaint(self, pair: str, period: str) -> str | None:
        """What to say of a training that loses more than a tenth of its rows; None of others.

        :param period: what it is called
        :raises OperationalException: if no row is left
        """
        n_rows = len(self.rows)
        if self.n_complete == 0:
            raise OperationalException(
                f"{pair}: none of the {n_rows} candles to train {period} on has every feature: {self._who()}; "
                f"accepted: candles with a value of each; remedy: {_REMEDY}"
            )
        if self.n_complete >= (1 - _FEW) * n_rows:
            return None
        return (
            f"{pair}: {self.n_complete} of the {n_rows} candles to train {period} on have every feature, and it goes "
            f"without the others: {self._who()}. Remedy: {_REMEDY}."
        )

    def _who(self) -> str:
        """The features with the fewest values."""
        counts = self.has.sum(axis=0)
        lacking = [at for at in np.argsort(counts, kind="stable") if counts[at] < len(self.rows)]
        parts = [f"{self.names[at]} {self._when(int(at))}" for at in lacking[:_NAMED]]
        if len(lacking) > _NAMED:
            parts.append(f"and {len(lacking) - _NAMED} more")
        return ", ".join(parts)

    def _when(self, at: int) -> str:
        has = self.has[:, at]
        if not has.any():
            return "has none"
        return f"has {int(has.sum())}, from {self.rows['date'].iloc[int(has.argmax())]:%Y-%m-%d %H:%M} on"
