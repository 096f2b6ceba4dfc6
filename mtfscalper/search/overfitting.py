"""Whether choosing the best of several trials chooses anything: the probability of backtest overfitting.

Bailey, Borwein, López de Prado and Zhu 2015, "The Probability of Backtest Overfitting",
https://doi.org/10.21314/JCF.2016.322: combinatorially symmetric cross-validation (CSCV).
"""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# The paper's own: 12,870 ways to halve them.
MOST_BLOCKS = 16
# Fewer blocks can be halved in six ways at most, and shorter ones are single days.
_FEWEST_BLOCKS = 4
_FEWEST_DAYS_A_BLOCK = 4
FEWEST_DAYS = _FEWEST_BLOCKS * _FEWEST_DAYS_A_BLOCK


class Overfitting(NamedTuple):
    """What choosing the best of several trials is worth.

    :ivar probability: share of the halvings in which the trial that was best on one half of the days is no better than
        the median trial on the other
    :ivar loses: share of them in which it earns nothing, or less, on the other half
    :ivar halvings: ways to halve the blocks of days
    :ivar trials: that differ
    """

    probability: float
    loses: float
    halvings: int
    trials: int


def overfitting(daily: npt.NDArray[np.float64]) -> Overfitting | None:
    """The probability of backtest overfitting of choosing by the mean of a day, as a study does.

    Days are cut into an even number of blocks of as equal length as can be; no day is left out. Trials that earned the
    same on every day are one. Equal trials on the other half count against the chosen one.

    :param daily: what each trial earned on each day, shape (n_days, n_trials)
    :return: None for fewer than two different trials, or fewer than :data:`FEWEST_DAYS` days
    :raises ValueError: for values that are not finite
    """
    if not np.isfinite(daily).all():
        raise ValueError("a trial's daily figures are not all finite; accepted: one number for each day and trial")
    daily = np.unique(daily, axis=1)
    days, trials = daily.shape
    blocks = min(MOST_BLOCKS, days // _FEWEST_DAYS_A_BLOCK) // 2 * 2
    if trials < 2 or blocks < _FEWEST_BLOCKS:
        return None
    parts = np.array_split(daily, blocks)
    sums, lengths = np.array([part.sum(axis=0) for part in parts]), np.array([len(part) for part in parts])
    chosen_from = _halvings(blocks)
    inside = chosen_from @ sums / (chosen_from @ lengths)[:, None]
    beyond = (1 - chosen_from) @ sums / ((1 - chosen_from) @ lengths)[:, None]
    best = inside.argmax(axis=1)
    theirs = beyond[np.arange(len(best)), best]
    # Relative rank of the chosen one, in (0, 1); its logit is at most 0 where that is at most a half.
    rank = (1 + (beyond < theirs[:, None]).sum(axis=1)) / (trials + 1)
    return Overfitting(float((rank <= 0.5).mean()), float((theirs <= 0).mean()), len(best), trials)


@cache
def _halvings(blocks: int) -> npt.NDArray[np.float64]:
    """Every way to choose half of the blocks, 1 for those chosen; shape (n_halvings, n_blocks)."""
    halves = np.array(list(combinations(range(blocks), blocks // 2)))
    chosen = np.zeros((len(halves), blocks))
    np.put_along_axis(chosen, halves, 1.0, axis=1)
    return chosen
