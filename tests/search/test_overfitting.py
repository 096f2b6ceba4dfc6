"""The probability of backtest overfitting: by hand, by its definition, on noise and on a trial that is better."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mtfscalper.search.overfitting import FEWEST_DAYS, overfitting


def by_definition(daily: np.ndarray, blocks: int) -> float:
    """The share of halvings whose logit is at most 0, one by one."""
    parts = np.array_split(daily, blocks)
    low = []
    for half in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[block] for block in half]).mean(axis=0)
        beyond = np.concatenate([parts[block] for block in range(blocks) if block not in half]).mean(axis=0)
        ranks = beyond.argsort().argsort() + 1
        relative = ranks[inside.argmax()] / (daily.shape[1] + 1)
        low.append(np.log(relative / (1 - relative)) <= 0)
    return float(np.mean(low))


def test_it_is_what_is_worked_by_hand() -> None:
    # Four blocks of four days, in which the first trial earns 3, 1, 0, 0 a day, the second 0, 0, 2, 1, the third 0.
    daily = np.repeat([[3.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 1, 0]], 4, axis=0)
    # Best on blocks {1, 2}: the first, which on {3, 4} earns 0, as the third: rank 1 of 3, in the lower half.
    # {1, 3}: the first with 1.5, beyond 0.5 as the second: ties count against it, rank 2 of 3: 2/4 is the middle.
    # {1, 4}: the first with 1.5, beyond 0.5 against 1: rank 2 of 3, the middle, and so not above it.
    # {2, 3}: the second with 1, beyond 0.5 against 1.5: rank 2. {2, 4}: 0.5 each, the one sorted first (the second,
    # which earned 0 on the first day), beyond 1 against 1.5: rank 2. {3, 4}: the second, beyond nothing: rank 1.
    found = overfitting(daily)
    assert found is not None
    assert (found.probability, found.halvings, found.trials) == (1.0, 6, 3)
    # Nothing beyond: in the first and the last.
    assert found.loses == pytest.approx(2 / 6)


@pytest.mark.parametrize(("days", "blocks"), [(16, 4), (50, 12), (90, 16)])
def test_it_is_its_definition_and_leaves_no_day_out(days: int, blocks: int) -> None:
    daily = np.random.default_rng(days).normal(size=(days, 7))
    found = overfitting(daily)
    assert found is not None
    assert 0 < found.probability < 1
    assert found.probability == pytest.approx(by_definition(daily, blocks))


def test_on_noise_it_is_a_half_on_average() -> None:
    rng = np.random.default_rng(11)
    found = [overfitting(rng.normal(size=(96, 10))) for _ in range(60)]
    # The mean of 60, each with a deviation of about 0.22.
    assert np.mean([one.probability for one in found if one is not None]) == pytest.approx(0.5, abs=0.09)


def test_one_trial_that_is_better_is_no_overfitting() -> None:
    daily = np.random.default_rng(12).normal(size=(96, 20))
    daily[:, 7] += 1.0
    found = overfitting(daily)
    assert found is not None
    assert found.probability == found.loses == 0.0


def test_a_trial_that_is_there_twice_is_one() -> None:
    daily = np.random.default_rng(13).normal(size=(64, 5))
    assert overfitting(np.hstack([daily, daily[:, :2]])) == overfitting(daily)


def test_too_little_gives_none_and_what_is_no_number_is_refused() -> None:
    rng = np.random.default_rng(14)
    assert overfitting(rng.normal(size=(FEWEST_DAYS - 1, 5))) is None
    assert overfitting(rng.normal(size=(FEWEST_DAYS, 5))) is not None
    assert overfitting(np.repeat(rng.normal(size=(64, 1)), 3, axis=1)) is None
    with pytest.raises(ValueError, match="not all finite"):
        overfitting(np.full((64, 2), np.nan))
