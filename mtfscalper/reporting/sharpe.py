"""Sharpe ratios, and what is left of one that was the best of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Markets of coins do not close.
DAYS_A_YEAR = 365
_NORMAL = NormalDist()
_EULER_MASCHERONI = 0.5772156649015329


class DeflatedSharpe(NamedTuple):
    """The Sharpe ratio of a run that was one of several tried.

    :ivar trials: how many were
    :ivar expected_best: the annual Sharpe ratio that the best of so many would show if none earned anything
    :ivar probability: that the true one is above zero, given that it is the best of so many
    """

    trials: int
    expected_best: float
    probability: float


def annual_sharpe(returns: npt.NDArray[np.float64]) -> float:
    """Mean over deviation of daily returns, for a year; 0 where they do not vary."""
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    return float(returns.mean()) / deviation * math.sqrt(DAYS_A_YEAR) if deviation > 0 else 0.0


def annual_sortino(returns: npt.NDArray[np.float64]) -> float:
    """The same over the deviation of losses from zero; 0 where there is none."""
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2))) if len(returns) else 0.0
    return float(returns.mean()) / downside * math.sqrt(DAYS_A_YEAR) if downside > 0 else 0.0


def expected_best_sharpe(variance: float, trials: int) -> float:
    """The Sharpe ratio to expect of the best of several trials that earn nothing.

    Bailey and López de Prado 2014, "The Deflated Sharpe Ratio", https://doi.org/10.3905/jpm.2014.40.5.094

    :param variance: of the trials' Sharpe ratios
    """
    if trials < 2:
        return 0.0
    first, second = _NORMAL.inv_cdf(1 - 1 / trials), _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return math.sqrt(variance) * ((1 - _EULER_MASCHERONI) * first + _EULER_MASCHERONI * second)


def probabilistic_sharpe(sharpe: float, benchmark: float, n: int, skewness: float, kurtosis: float) -> float:
    """Probability that the true Sharpe ratio is above a benchmark (Bailey and López de Prado 2012).

    :param sharpe: of returns over single periods, as ``benchmark``
    :param n: periods
    :param skewness: of the returns, 0 for normal ones
    :param kurtosis: of the returns, 3 for normal ones
    """
    variance = 1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(n - 1) / math.sqrt(max(variance, 1e-12)))


def deflated_sharpe(
    returns: npt.NDArray[np.float64], sharpes: Sequence[float], trials: int | None = None
) -> DeflatedSharpe | None:
    """The Sharpe ratio of daily returns, deflated by the number of trials that it was chosen from.

    :param sharpes: annual ones of all the trials, this one included
    :param trials: how many there were, where the ratios of some are not known; as many as there are ratios by default
    :return: None for fewer than two trials, or returns that do not vary
    """
    trials = len(sharpes) if trials is None else trials
    if len(sharpes) < 2 or len(returns) < 3 or not returns.std() > 0:
        return None
    daily = np.asarray(sharpes) / math.sqrt(DAYS_A_YEAR)
    best = expected_best_sharpe(float(daily.var(ddof=1)), trials)
    scores = (returns - returns.mean()) / returns.std()
    probability = probabilistic_sharpe(
        annual_sharpe(returns) / math.sqrt(DAYS_A_YEAR),
        best,
        len(returns),
        float(np.mean(scores**3)),
        float(np.mean(scores**4)),
    )
    return DeflatedSharpe(trials, best * math.sqrt(DAYS_A_YEAR), probability)
