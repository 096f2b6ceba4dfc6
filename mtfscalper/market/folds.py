"""Folds: stretches of a training period that are held out, some to choose the policy and some to judge it.

Spread over the period they see more kinds of market than its last days do. Around each lies an embargo (López de
Prado, Advances in Financial Machine Learning, 2018, chapter 7): candles that are neither trained on nor held out, as
many as an observation looks back and a trade lives, so that neither reaches from one side to the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Folds(NamedTuple):
    """What each row of a training period is for, bool, shape (n_rows,); of an embargo's rows none is true.

    :ivar choose: whether the row is of a fold that chooses the policy among those of the training
    :ivar judge: whether it is of a fold that judges the one chosen
    """

    train: npt.NDArray[np.bool_]
    choose: npt.NDArray[np.bool_]
    judge: npt.NDArray[np.bool_]

    @property
    def held_out(self) -> npt.NDArray[np.bool_]:
        """Whether a row is of a fold."""
        return self.choose | self.judge


@dataclass(frozen=True)
class FoldPlan:
    """How a training period is cut.

    Without judges every fold chooses. With them the newest judges, the one before it chooses, and so on in turn.

    :ivar held_out_share: of the period's rows, in all folds together, the embargoes not counted
    :ivar n_folds: how many are spread over the period; None for one at its end, which is halved where there are judges
    :ivar has_judges: whether some of them judge
    :ivar embargo_candles: at least so many lie between two folds, and between a fold and what is trained on
    """

    held_out_share: float
    n_folds: int | None
    has_judges: bool
    embargo_candles: int

    @property
    def n_choosing(self) -> int:
        """How many folds choose."""
        if not self.has_judges:
            return self.n_folds or 1
        return (self.n_folds or 2) // 2

    def candles_needed(self, shortest: int) -> int:
        """Candles of the shortest period whose every part has room for an episode.

        :param shortest: candles of the shortest episode
        """
        share, n = self.held_out_share, self.n_folds
        if n is None:
            parts = 2 if self.has_judges else 1
            held_out = parts * (shortest + (parts - 1) * self.embargo_candles) / share
            trained = (shortest + self.embargo_candles) / (1 - share)
            return math.ceil(round(max(held_out, trained), 6)) + parts
        trained = n * (shortest + 2 * self.embargo_candles) / (1 - share)
        # Positions are whole rows: up to one a fold is lost to that.
        return math.ceil(round(max(n * shortest / share, trained), 6)) + n

    def cut(self, dates_ms: npt.NDArray[np.int64], timeframe_ms: int) -> Folds:
        """Cut a period.

        :param dates_ms: opening times of its rows, rising; candles may be missing among them
        """
        n_rows, embargo_ms = len(dates_ms), self.embargo_candles * timeframe_ms
        train = np.ones(n_rows, dtype=bool)
        choose, judge = np.zeros(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
        free_after_ms = None
        stretches = self._stretches(n_rows)
        for number, (start, stop) in enumerate(stretches):
            if free_after_ms is not None:
                start = max(start, int(np.searchsorted(dates_ms, free_after_ms, side="right")))
            if start >= stop:
                continue
            first_ms, last_ms = int(dates_ms[start]), int(dates_ms[stop - 1])
            judges = self.has_judges and (len(stretches) - 1 - number) % 2 == 0
            (judge if judges else choose)[start:stop] = True
            free_after_ms = last_ms + embargo_ms
            train &= (dates_ms < first_ms - embargo_ms) | (dates_ms > free_after_ms)
        return Folds(train, choose, judge)

    def _stretches(self, n_rows: int) -> list[tuple[int, int]]:
        """The rows of each fold, half-open, before the embargo between them."""
        held_out = int(self.held_out_share * n_rows)
        if self.n_folds is not None:
            stops = [n_rows * number // self.n_folds for number in range(1, self.n_folds + 1)]
            return [(stop - held_out // self.n_folds, stop) for stop in stops]
        start = n_rows - held_out
        if not self.has_judges:
            return [(start, n_rows)]
        middle = start + held_out // 2
        return [(start, middle), (middle, n_rows)]
