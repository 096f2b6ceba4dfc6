"""What is held out is disjoint and embargoed, and a plan knows the shortest period it can cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtfscalper.market.folds import FoldPlan

MINUTES_5 = 300_000

PLANS = st.builds(
    FoldPlan,
    held_out_share=st.floats(0.05, 0.6),
    n_folds=st.none() | st.integers(2, 8),
    has_judges=st.booleans(),
    embargo_candles=st.integers(1, 40),
)


@st.composite
def dates(draw: st.DrawFn) -> np.ndarray:
    """Opening times with candles missing here and there."""
    steps = np.ones(draw(st.integers(30, 1500)), dtype=np.int64)
    steps[draw(st.lists(st.integers(0, len(steps) - 1), max_size=5))] = draw(st.integers(2, 100))
    return np.cumsum(steps) * MINUTES_5


@settings(max_examples=60, deadline=None)
@given(PLANS, dates())
def test_parts_are_disjoint_and_no_trade_or_observation_reaches_from_one_to_another(
    plan: FoldPlan, dates_ms: np.ndarray
) -> None:
    folds = plan.cut(dates_ms, MINUTES_5)
    part = folds.train * 1 + folds.choose * 2 + folds.judge * 4
    assert set(part) <= {0, 1, 2, 4}
    used = np.flatnonzero(part)
    changes = np.flatnonzero(np.diff(part[used]) != 0)
    between = (dates_ms[used[changes + 1]] - dates_ms[used[changes]]) // MINUTES_5 - 1
    assert (between >= plan.embargo_candles).all()
    assert folds.held_out.sum() <= plan.held_out_share * len(dates_ms)
    assert plan.has_judges or not folds.judge.any()


@settings(max_examples=60, deadline=None)
@given(PLANS, st.integers(3, 30))
def test_in_the_shortest_period_every_part_has_room_for_an_episode(plan: FoldPlan, shortest: int) -> None:
    n_rows = plan.candles_needed(shortest)
    folds = plan.cut(np.arange(n_rows) * MINUTES_5, MINUTES_5)
    n_held_out = (plan.n_folds or 1) * (2 if plan.has_judges and plan.n_folds is None else 1)
    parts = {
        name: np.split(np.flatnonzero(mask), np.flatnonzero(np.diff(np.flatnonzero(mask)) > 1) + 1)
        for name, mask in (("train", folds.train), ("choose", folds.choose), ("judge", folds.judge))
    }
    assert len(parts["choose"]) == plan.n_choosing
    assert len(parts["choose"]) + (len(parts["judge"]) if plan.has_judges else 0) == n_held_out
    assert len(parts["train"]) == (plan.n_folds or 1)
    named = [*parts["train"], *parts["choose"], *(parts["judge"] if plan.has_judges else [])]
    assert min(map(len, named)) >= shortest


@pytest.mark.parametrize(
    ("n_folds", "has_judges", "expected"),
    [
        # 100 rows, a fifth held out, embargo 3: t trained on, c choosing, j judging, . of an embargo.
        (None, False, "t" * 77 + "..." + "c" * 20),
        (None, True, "t" * 77 + "..." + "c" * 10 + "..." + "j" * 7),
        (2, False, "t" * 37 + "..." + "c" * 10 + "..." + "t" * 34 + "..." + "c" * 10),
        (2, True, "t" * 37 + "..." + "c" * 10 + "..." + "t" * 34 + "..." + "j" * 10),
        (
            4,
            True,
            ("t" * 17 + "...ccccc..." + "t" * 14 + "...jjjjj..." + "t" * 14 + "...ccccc..." + "t" * 14 + "...jjjjj"),
        ),
    ],
)
def test_a_period_is_cut_as_drawn(n_folds: int | None, has_judges: bool, expected: str) -> None:
    folds = FoldPlan(0.2, n_folds, has_judges, 3).cut(np.arange(100) * MINUTES_5, MINUTES_5)
    letters = np.where(folds.train, "t", np.where(folds.choose, "c", np.where(folds.judge, "j", ".")))
    assert "".join(letters) == expected


def test_of_three_folds_the_newest_and_the_oldest_judge() -> None:
    folds = FoldPlan(0.3, 3, True, 1).cut(np.arange(90) * MINUTES_5, MINUTES_5)
    assert np.flatnonzero(folds.judge).tolist() == [*range(21, 30), *range(81, 90)]
    assert np.flatnonzero(folds.choose).tolist() == list(range(51, 60))
