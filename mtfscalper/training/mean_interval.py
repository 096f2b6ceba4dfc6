"""How low a mean may truly be, from groups of values that belong together."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

# One-sided: the lower end of a 90 % interval.
CONFIDENCE = 0.95


def standard_error(sums: npt.ArrayLike, counts: npt.ArrayLike) -> float:
    """Of the mean of all values, where those of one group may depend on each other in any way.

    The linearised variance of a ratio of sums over groups (Cochran, Sampling Techniques, 1977, chapter 6), which for
    groups of one value is the ordinary standard error.

    :param sums: of the values of each group, shape (n_groups,)
    :param counts: of the values of each group, as ``sums``; a mean is one of the values a count stands for
    :return: NaN for fewer than two groups
    """
    total, n = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if len(total) < 2:
        return math.nan
    residuals = total - n * (total.sum() / n.sum())
    return math.sqrt(len(total) / (len(total) - 1) * float(residuals @ residuals)) / float(n.sum())


def lower_end(mean: float, error: float, n_groups: int) -> float:
    """The lower end of the interval of :data:`CONFIDENCE`, by Student's t with ``n_groups`` - 1 degrees of freedom.

    :param error: of :func:`standard_error`
    :return: NaN for fewer than two groups
    """
    if n_groups < 2:
        return math.nan
    # Here: a machine that only trains needs no SciPy.
    from scipy.special import stdtrit

    return mean - float(stdtrit(n_groups - 1, CONFIDENCE)) * error
