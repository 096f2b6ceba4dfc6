"""Whether what one way of training learns is no worse than what another one learns, as a test that can fail.

Both are trained from the same seeds on the same markets; what is judged is the mean of the differences by seed, by
Student's t. That an interval reaches zero, or that two intervals overlap, shows nothing: with few seeds it always does.
Here few seeds fail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import nct, t

LEVEL = 0.05
POWER = 0.8


class NonInferiority(NamedTuple):
    """What the differences, ours less the reference's, say.

    :ivar lower: the one-sided 95 % confidence bound of their mean
    :ivar margin: the loss that is accepted
    """

    n: int
    mean: float
    spread: float
    lower: float
    margin: float

    @property
    def shown(self) -> bool:
        """Whether the loss is, with 95 % confidence, smaller than the margin."""
        return self.lower >= -self.margin

    @property
    def power(self) -> float:
        """How often as many seeds with this spread would show it, were there no difference."""
        return power(self.n, self.spread, self.margin)

    @property
    def n_needed(self) -> int:
        return seeds_for(self.spread, self.margin)

    def __str__(self) -> str:
        points = f"{100 * self.mean:+.1f} points, {100 * self.lower:+.1f} or more; margin {-100 * self.margin:+.1f}"
        seeds = f"{self.n} seeds, spread {100 * self.spread:.1f}, power {self.power:.0%}"
        return f"{points} ({seeds}; {POWER:.0%} takes {self.n_needed})"


def power(n: int, spread: float, margin: float) -> float:
    """The probability that the bound of n differences of mean 0 and this standard deviation is above the margin."""
    if n < 2:
        return 0.0
    if spread == 0:
        return 1.0
    return float(nct.sf(t.ppf(1 - LEVEL, n - 1), n - 1, margin * math.sqrt(n) / spread))


def seeds_for(spread: float, margin: float) -> int:
    """As many seeds as show it in four of five samples with this spread, or 1,000 where not even those would."""
    return next((n for n in range(2, 1000) if power(n, spread, margin) >= POWER), 1000)


def non_inferiority(differences: Sequence[float], margin: float) -> NonInferiority:
    """Judge differences of pairs, ours less the reference's, in shares of the best possible return.

    :param differences: one of each seed
    :param margin: above 0
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n < 2 or not np.isfinite(values).all() or margin <= 0:
        raise ValueError(
            f"{n} differences {values.tolist()} and a margin of {margin}; "
            "accepted: two or more finite differences, a margin above 0"
        )
    spread = float(values.std(ddof=1))
    lower = float(values.mean() - t.ppf(1 - LEVEL, n - 1) * spread / math.sqrt(n))
    return NonInferiority(n, float(values.mean()), spread, lower, margin)
