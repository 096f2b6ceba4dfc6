"""How sure a mean of daily figures is: blocks of days drawn again, so that what lasts for days stays together.

Two intervals are made and the wider one counts: the studentised stationary bootstrap (Politis and
Romano 1994, https://doi.org/10.1080/01621459.1994.10476870), and Student's t with the same standard error. Fat tails
make an interval from few days too narrow; of the two, one or the other notices. ``tests/acceptance/test_coverage.py``
counts how often both are wrong.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

LEVEL = 0.9
# Intervals made at this level hold the truth as often as :data:`LEVEL` says, on few days with rare large losses too: in
# whole percent the lowest at which at most 6 % of 1,000 studies of each kind and length were wrong on either side. That
# test counts others.
_MADE_AT = 0.95
DRAWS = 1000
# Fewer say more of themselves than of what comes.
ENOUGH_TRADES = 30
ENOUGH_DAYS = 30
# Of these days; a policy that ends few trades differs on few days from the same entries held.
ENOUGH_DIFFERENT_DAYS = 10
# Differences as small as this are of rounding: freqtrade gives profits with eight decimals.
NO_DIFFERENCE = 1e-8
# Of days drawn that hardly differ the error is next to nothing, and a mean divided by it anything.
_LEAST_ERROR_OF_A_DRAW = 0.1

_Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and where it may lie.

    :ivar low: None where there are too few trades, days, or days that differ to say, as ``high``
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """+1 where all of it is above zero, -1 where all of it is below, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def mean_interval(sums: _Floats, counts: _Floats, seed: int, *, draws: int = DRAWS, level: float = LEVEL) -> Interval:
    """What one of many earned on average, of daily sums over all of them, with its interval.

    :param sums: of each day, in the order of the days, shape (n_days,)
    :param counts: how many began on each day, whose total the sums are divided by; ones for a mean of days
    :param seed: the same seed gives the same interval
    :param level: how often the interval is to hold the truth; one above :data:`LEVEL` needs more draws
    """
    total = float(counts.sum())
    mean = float(sums.sum() / total) if total else 0.0
    different = int((np.abs(sums) > NO_DIFFERENCE).sum())
    if len(sums) < ENOUGH_DAYS or total < ENOUGH_TRADES or 0 < different < ENOUGH_DIFFERENT_DAYS:
        return Interval(mean, None, None)
    if not different:
        return Interval(0.0, 0.0, 0.0)
    # Here, because it imports statsmodels, which takes a second.
    from arch.bootstrap import StationaryBootstrap, optimal_block_length
    from scipy.stats import t

    block = float(optimal_block_length(sums - mean * counts)["stationary"].iloc[0])
    # At least single days, at most a third of them: a block of all of them would draw the same days each time.
    block = min(max(block if math.isfinite(block) else 1.0, 1.0), len(sums) / 3)

    # What is left out on either side shrinks with the level as it was found to do for LEVEL.
    made_at = 1 - (1 - _MADE_AT) * ((1 - level) / (1 - LEVEL))

    def ratio(sums: _Floats, counts: _Floats) -> _Floats:
        return np.array([sums.sum() / max(counts.sum(), 1.0)])

    of_all = standard_error(sums, counts, block)

    def error(_: Any, sums: _Floats, counts: _Floats) -> _Floats:
        return np.array([max(standard_error(sums, counts, block), _LEAST_ERROR_OF_A_DRAW * of_all)])

    # Annotated as a whole number, and any mean length serves.
    bootstrap = StationaryBootstrap(block, sums, counts, seed=seed)  # type: ignore[arg-type]
    drawn = bootstrap.conf_int(ratio, draws, method="studentized", size=made_at, std_err_func=error)
    degrees = max(len(sums) / block - 1, 3.0)
    beside = of_all * math.sqrt(len(sums) / (len(sums) - 1))
    beside *= float(t.ppf((1 + made_at) / 2, degrees))
    low, high = float(drawn[0, 0]), float(drawn[1, 0])
    return Interval(mean, min(low, mean - beside), max(high, mean + beside))


def standard_error(sums: _Floats, counts: _Floats, block: float) -> float:
    """Standard error of the ratio of two totals over days, as the stationary bootstrap would find it.

    The variance of a mean of blocks of geometric length (Politis and Romano 1994, lemma 1), of the ratio's residuals.

    :param block: mean length of a block, in days
    """
    n, total = len(sums), max(float(counts.sum()), 1.0)
    residuals = sums - sums.sum() / total * counts
    residuals = residuals - residuals.mean()
    stays = 1 - 1 / block
    # Later lags weigh less than a twentieth.
    lags = np.arange(1, min(n - 1, math.ceil(3 * block)) + 1)
    covariances = np.array([residuals[lag:] @ residuals[:-lag] for lag in lags]) / n
    weights = (1 - lags / n) * stays**lags + lags / n * stays ** (n - lags)
    variance = float(residuals @ residuals / n + 2 * (weights * covariances).sum())
    return math.sqrt(max(variance, 0.0) * n) / total or math.ulp(1.0)
