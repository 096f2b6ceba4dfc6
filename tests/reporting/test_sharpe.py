"""Sharpe ratios, by hand; what is left of the best of several, by integration and simulation."""

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from mtfscalper.reporting.sharpe import (
    annual_sharpe,
    annual_sortino,
    deflated_sharpe,
    expected_best_sharpe,
    probabilistic_sharpe,
)


@pytest.mark.parametrize("trials", [2, 3, 10, 100, 1000])
def test_the_best_of_trials_that_earn_nothing_is_the_largest_of_as_many_normal_ones(trials: int) -> None:
    # E max = ∫ x n φ(x) Φ(x)^(n-1) dx; the authors' formula approximates it.
    exact, _ = quad(lambda x: x * trials * norm.pdf(x) * norm.cdf(x) ** (trials - 1), -12, 12, limit=200)
    assert expected_best_sharpe(0.25, trials) == pytest.approx(0.5 * exact, rel=0.08 if trials == 2 else 0.025)


def test_the_ratio_of_skewed_returns_is_above_the_true_one_as_often_as_it_says() -> None:
    # One less an exponential number: mean 0, deviation 1, skewness -2, kurtosis 9. Their Sharpe ratio is then 0.4.
    returns = 1.4 - np.random.default_rng(1).exponential(size=(2000, 1000))
    sharpes = returns.mean(axis=1) / returns.std(axis=1, ddof=1)
    said = np.array([probabilistic_sharpe(sharpe, 0.4, 1000, -2, 9) for sharpe in sharpes])
    for probability in (0.1, 0.5, 0.9):
        assert (said < probability).mean() == pytest.approx(probability, abs=0.025)
    # Had they been taken for normal ones, the probabilities would be too sure.
    normal = np.array([probabilistic_sharpe(sharpe, 0.4, 1000, 0, 3) for sharpe in sharpes])
    assert (normal > 0.9).mean() > 0.14


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


def test_the_numbers_are_those_of_the_authors_example() -> None:
    """Bailey and López de Prado 2014: 100 trials, five years of 250 days, an annual ratio of 2.5."""
    best = expected_best_sharpe(0.5 / 250, 100)
    assert best == pytest.approx(0.1132, abs=5e-5)
    assert probabilistic_sharpe(2.5 / math.sqrt(250), best, 1250, -3, 10) == pytest.approx(0.9004, abs=5e-5)


def test_trials_whose_ratios_are_not_known_count() -> None:
    returns, sharpes = np.random.default_rng(1).normal(0.002, 0.02, 250), [-1.0, 0.0, 1.0]
    known, more = deflated_sharpe(returns, sharpes), deflated_sharpe(returns, sharpes, 60)
    assert known is not None
    assert more is not None
    assert (known.trials, more.trials) == (3, 60)
    assert more.expected_best > known.expected_best
    assert more.probability < known.probability
