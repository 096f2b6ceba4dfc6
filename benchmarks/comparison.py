"""What a comparison of two ways to compute one thing found."""

from typing import Any, NamedTuple

import numpy as np


class Check(NamedTuple):
    """What was compared.

    :ivar seen: the largest difference, or how many differ; NaN where nothing could be compared
    :ivar tolerance: the most that passes
    :ivar compared: of how many
    """

    name: str
    seen: float
    tolerance: float
    compared: str

    @property
    def passes(self) -> bool:
        return self.seen <= self.tolerance


def largest(values: Any) -> float:
    """The largest of some numbers, 0 of none; NaN where one is."""
    return float(np.max(np.asarray(values), initial=0.0))


def difference(ours: Any, theirs: Any) -> float:
    """The largest difference of two arrays; where neither has a number there is none."""
    ours, theirs = (np.asarray(values, dtype=float) for values in (ours, theirs))
    same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        return largest(np.where(same, 0.0, np.abs(ours - theirs)))
