"""Sharpe ratios, by hand and by the figures that their authors published."""

import math

import numpy as np
import pytest

from mtfscalper.reporting.sharpe import (
    annual_sharpe,
    annual_sortino,
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
)

# "The Deflated Sharpe Ratio" (Bailey and López de Prado 2014), its numerical example: an annual ratio of 2.5 over 1,250
# daily returns, variance 1/2 of the trials' annual ratios, skewness -3 and kurtosis 10, 250 days a year.
DAILY = 2.5 / math.sqrt(250)
VARIANCE = 0.5 / 250


def test_the_best_of_a_hundred_trials_is_the_published_one() -> None:
    assert expected_best_sharpe(VARIANCE, 100) == pytest.approx(0.1132, abs=5e-5)


@pytest.mark.parametrize(
    ("trials", "skewness", "kurtosis", "published"),
    [(100, -3, 10, 0.9004), (46, -3, 10, 0.9505), (88, 0, 3, 0.9505)],
)
def test_deflated_ratios_are_the_published_ones(
    trials: int, skewness: float, kurtosis: float, published: float
) -> None:
    best = expected_best_sharpe(VARIANCE, trials)
    assert probabilistic_sharpe(DAILY, best, 1250, skewness, kurtosis) == pytest.approx(published, abs=5e-5)


def test_ratios_are_those_worked_by_hand() -> None:
    # Mean 0.01; deviations ±0.02 around it, one degree of freedom less: sqrt(0.0016 / 3).
    returns = np.array([0.03, -0.01, 0.03, -0.01])
    assert annual_sharpe(returns) == pytest.approx(0.01 / math.sqrt(0.0016 / 3) * math.sqrt(365))
    # Losses of 0.01 on half of the days: sqrt(0.0001 / 2).
    assert annual_sortino(returns) == pytest.approx(0.01 / math.sqrt(0.00005) * math.sqrt(365))


def test_nothing_is_divided_by_nothing() -> None:
    assert annual_sharpe(np.zeros(5)) == annual_sortino(np.zeros(5)) == annual_sharpe(np.zeros(1)) == 0.0
    assert annual_sortino(np.array([0.1, 0.2])) == 0.0


def test_one_trial_is_not_deflated_and_more_trials_deflate_more() -> None:
    returns = np.random.default_rng(1).normal(0.002, 0.02, 250)
    assert deflated_sharpe(returns, [1.0]) is None
    few, many = (deflated_sharpe(returns, list(np.linspace(-2, 2, n))) for n in (3, 60))
    assert few is not None
    assert many is not None
    assert (few.trials, many.trials) == (3, 60)
    assert few.expected_best < many.expected_best
    assert few.probability > 2 * many.probability


def test_skewness_and_kurtosis_are_those_of_the_returns() -> None:
    # Of 0, 0, 0, 1: mean 1/4, moments 3/16, 3/32, 21/256.
    returns = np.array([0.0, 0.0, 0.0, 1.0])
    found = deflated_sharpe(returns, [0.0, 0.0])
    sharpe = 0.25 / math.sqrt(0.25)
    skewness, kurtosis = (3 / 32) / (3 / 16) ** 1.5, (21 / 256) / (3 / 16) ** 2
    assert found is not None
    assert found.probability == pytest.approx(probabilistic_sharpe(sharpe, 0.0, 4, skewness, kurtosis))
