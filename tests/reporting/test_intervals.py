"""Intervals of daily means: what they are of, when there is none, and that they follow the data."""

import math

import numpy as np
import pytest

from mtfscalper.reporting.intervals import (
    ENOUGH_DAYS,
    ENOUGH_DIFFERENT_DAYS,
    ENOUGH_TRADES,
    Interval,
    mean_interval,
    standard_error,
)

SEED = 3


def normal_days(n: int = 120, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(5).normal(mean, 1.0, n)


def test_the_mean_is_the_total_over_all_that_began() -> None:
    sums, counts = normal_days(), np.tile([1.0, 2.0, 3.0], 40)
    found = mean_interval(sums, counts, SEED, draws=200)
    assert found.mean == pytest.approx(sums.sum() / 240)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.mean < found.high


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    # Skewed, so that the drawn interval and not Student's is the wider one.
    sums, counts = np.exp(2 * normal_days()), np.ones(120)
    first = mean_interval(sums, counts, SEED, draws=200)
    assert mean_interval(sums, counts, SEED, draws=200) == first
    assert mean_interval(sums, counts, SEED + 1, draws=200) != first


@pytest.mark.parametrize(
    ("days", "trades"), [(ENOUGH_DAYS - 1, 10 * ENOUGH_TRADES), (10 * ENOUGH_DAYS, ENOUGH_TRADES - 1)]
)
def test_too_few_days_or_trades_have_a_mean_and_no_interval(days: int, trades: int) -> None:
    found = mean_interval(normal_days(days, mean=9.0), np.full(days, trades / days), SEED)
    assert (found.low, found.high) == (None, None)
    assert found.mean > 0
    assert found.sign == 0


def seldom(different_days: int, n: int = 60) -> np.ndarray:
    """Days of which few differ from zero, and the others by rounding alone."""
    sums = np.random.default_rng(6).normal(0.0, 1e-12, n)
    sums[np.linspace(0, n - 1, different_days).astype(int)] = np.random.default_rng(7).normal(0.0, 0.02, different_days)
    return sums


def test_too_few_days_that_differ_have_a_mean_and_no_interval() -> None:
    found = mean_interval(seldom(ENOUGH_DIFFERENT_DAYS - 1), np.ones(60), SEED)
    assert (found.low, found.high) == (None, None)
    assert found.mean == pytest.approx(seldom(ENOUGH_DIFFERENT_DAYS - 1).mean())


def test_days_drawn_that_hardly_differ_do_not_stretch_the_interval() -> None:
    # All in a row, so that many draws have none of them.
    sums = np.sort(np.abs(seldom(ENOUGH_DIFFERENT_DAYS)))
    found = mean_interval(sums, np.ones(60), SEED, draws=400)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low < 20 * np.abs(sums).max()


def test_differences_of_rounding_are_none() -> None:
    assert mean_interval(np.full(60, 1e-11), np.ones(60), SEED) == Interval(0.0, 0.0, 0.0)


def test_nothing_at_all_has_a_mean_of_zero() -> None:
    assert mean_interval(np.zeros(0), np.zeros(0), SEED) == Interval(0.0, None, None)


def test_differences_that_do_not_vary_are_certain() -> None:
    assert mean_interval(np.zeros(50), np.ones(50), SEED) == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(("mean", "sign"), [(1.0, 1), (-1.0, -1), (0.0, 0)])
def test_the_sign_is_that_of_an_interval_without_zero(mean: float, sign: int) -> None:
    sums = normal_days() - normal_days().mean() + mean
    assert mean_interval(sums, np.ones(120), SEED, draws=200).sign == sign


def test_days_that_repeat_themselves_widen_the_interval() -> None:
    independent, counts = normal_days(240), np.ones(240)
    # Each day four times: as much spread, a quarter of the information.
    lasting = np.repeat(independent[:60], 4)

    def width(sums: np.ndarray) -> float:
        found = mean_interval(sums, counts, SEED, draws=200)
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(lasting) > 1.4 * width(independent)


def test_the_standard_error_of_single_days_is_the_usual_one() -> None:
    sums = normal_days(50)
    # A block of one day: the deviation over the root of the days.
    assert standard_error(sums, np.ones(50), 1.0) == pytest.approx(sums.std() / math.sqrt(50))


def test_the_standard_error_is_that_of_many_bootstrap_means() -> None:
    from arch.bootstrap import StationaryBootstrap

    sums = np.cumsum(normal_days(80)) / 5
    bootstrap = StationaryBootstrap(6.0, sums, seed=1)
    means = bootstrap.apply(lambda drawn: np.array([drawn.mean()]), 4000)
    assert standard_error(sums, np.ones(80), 6.0) == pytest.approx(means.std(), rel=0.05)


def test_a_higher_level_is_a_wider_interval_around_the_same_mean() -> None:
    sums, counts = normal_days(), np.ones(120)
    usual, surer = mean_interval(sums, counts, SEED), mean_interval(sums, counts, SEED, level=0.95)
    assert mean_interval(sums, counts, SEED, level=0.9) == usual
    assert surer.mean == usual.mean
    assert surer.low is not None
    assert surer.high is not None
    assert usual.low is not None
    assert usual.high is not None
    assert surer.low < usual.low < usual.high < surer.high
