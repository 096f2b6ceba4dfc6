"""What judges whether one way of training learns as much as another one: it finds what is worse, and few seeds fail."""

import math

import numpy as np
import pytest
from non_inferiority import non_inferiority, power, seeds_for

MARGIN = 0.05
# As far apart as two trainings of the same are, which no difference stands behind: mean 0, standard deviation 0.06.
RANDOM = np.random.default_rng(5).normal(size=24)
SPREAD = 0.06 * (RANDOM - RANDOM.mean()) / RANDOM.std(ddof=1)


def test_the_bound_is_worked_by_hand() -> None:
    # Mean 0.02, deviation sqrt((1 + 0 + 1) / 2) = 1 hundredth; Student's t of 2 degrees at 95 % is 2.920.
    judged = non_inferiority([0.01, 0.02, 0.03], MARGIN)
    assert judged.mean == pytest.approx(0.02)
    assert judged.spread == pytest.approx(0.01)
    assert judged.lower == pytest.approx(0.02 - 2.920 * 0.01 / math.sqrt(3), abs=1e-5)


def test_what_is_as_good_passes_with_seeds_enough() -> None:
    judged = non_inferiority(SPREAD.tolist(), MARGIN)
    assert judged.shown
    assert judged.power > 0.95


@pytest.mark.parametrize("worse_by", [0.04, MARGIN, 0.10])
def test_what_is_worse_fails(worse_by: float) -> None:
    assert not non_inferiority((SPREAD - worse_by).tolist(), MARGIN).shown


def test_what_is_worse_without_any_spread_fails() -> None:
    assert not non_inferiority([-0.06] * 8, MARGIN).shown
    assert non_inferiority([-0.04] * 8, MARGIN).shown


def test_too_few_seeds_fail_though_nothing_is_worse_and_say_how_many_it_takes() -> None:
    few = SPREAD[:4] - SPREAD[:4].mean()
    judged = non_inferiority(few.tolist(), MARGIN)
    # Overlapping intervals: this would have passed.
    assert judged.mean == pytest.approx(0.0)
    assert not judged.shown
    assert judged.power < 0.8
    assert judged.n_needed > len(few)
    assert f"takes {judged.n_needed}" in str(judged)
    assert power(judged.n_needed, judged.spread, MARGIN) >= 0.8 > power(judged.n_needed - 1, judged.spread, MARGIN)


def test_the_power_is_how_often_the_equal_passes_and_the_level_how_often_the_worse_does() -> None:
    random = np.random.default_rng(1)
    drawn = random.normal(0.0, 0.06, (1000, 10))
    passed = np.mean([non_inferiority(row, MARGIN).shown for row in drawn])
    assert passed == pytest.approx(power(10, 0.06, MARGIN), abs=0.04)
    at_the_margin = np.mean([non_inferiority(row - MARGIN, MARGIN).shown for row in drawn])
    assert at_the_margin == pytest.approx(0.05, abs=0.025)


def test_more_spread_takes_more_seeds_and_a_wider_margin_fewer() -> None:
    # About ((1.645 + 0.842) * 0.09 / 0.05)^2 = 20 by the normal distribution, and some more by Student's.
    assert 20 <= seeds_for(0.09, MARGIN) <= 23
    assert seeds_for(0.06, MARGIN) < seeds_for(0.09, MARGIN) < seeds_for(0.12, MARGIN)
    assert seeds_for(0.09, 2 * MARGIN) < seeds_for(0.09, MARGIN)
    assert seeds_for(10.0, MARGIN) == 1000


@pytest.mark.parametrize("differences", [[], [0.1], [0.1, math.nan]])
def test_what_cannot_be_judged_is_refused(differences: list[float]) -> None:
    with pytest.raises(ValueError, match="two or more finite differences"):
        non_inferiority(differences, MARGIN)
