"""Gates: each can refuse, none passes that cannot be computed, and luck does not pass them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mtfscalper.reporting.intervals import ENOUGH_DAYS, mean_interval
from mtfscalper.search.gates import SEED, Gate, Limits, SeedDays, TrialDays, gates_of, interval_level

DAYS = 60
VALIDATION = 90
NAMES = ("interval", "deflated_sharpe", "overfitting", "trades", "drawdown", "dear", "late", "spread")


def seed_days(differences: np.ndarray, seed: int = 0, **changes: Any) -> SeedDays:
    values = {"trades": 150, "max_drawdown": 0.05, "dear": float(differences.mean()), "late": float(differences.mean())}
    return SeedDays(seed, differences, **{**values, **changes})


def study(
    rng: np.random.Generator, edge: float, trials: int = 20, better: int = 20, days: int = DAYS, seeds: int = 3
) -> tuple[list[SeedDays], list[TrialDays]]:
    """A study and its winner on the locked candles.

    :param edge: mean of a day over its deviation, of the trials that are better
    :param better: how many are
    """
    of_days = tuple(range(20_000, 20_000 + VALIDATION))
    found = [
        TrialDays(
            number, True, of_days, tuple(0.02 * (rng.standard_t(4, VALIDATION) / 2**0.5 + edge * (number < better)))
        )
        for number in range(trials)
    ]
    winner = max(found, key=lambda trial: float(np.mean(trial.differences)))
    true = edge * (winner.number < better)
    # Seeds share entries and candles: half of what a day differs by is the same.
    common = rng.standard_t(4, days) / 2
    locked = [
        seed_days(0.02 * ((common + rng.standard_t(4, days) / 2) + true), seed=seed, trades=int(rng.integers(100, 200)))
        for seed in range(seeds)
    ]
    return locked, found


def by_key(gates: Sequence[Gate]) -> dict[str, Gate]:
    return {gate.key: gate for gate in gates}


def refused(gates: Sequence[Gate]) -> set[str]:
    return {gate.key for gate in gates if not gate.passed}


@pytest.fixture(scope="module")
def good() -> tuple[list[SeedDays], list[TrialDays]]:
    """A winner that passes: one of twenty trials that all are as good."""
    return study(np.random.default_rng(1), edge=0.8)


def test_a_winner_that_is_better_passes_every_gate(good: Any) -> None:
    gates = gates_of(*good, look=1)
    assert tuple(gate.key for gate in gates) == NAMES
    # Twenty equal trials: which is the best of them is luck, and so may the rest of the days say.
    assert refused(gates) <= {"overfitting"}
    for gate in gates:
        assert Gate.from_json(gate.as_json()) == gate


def test_a_better_trial_among_worthless_ones_passes_every_gate() -> None:
    # The worthless ones vary, and the more trials vary, the better the luckiest must be.
    assert refused(gates_of(*study(np.random.default_rng(2), edge=1.0, trials=8, better=1), look=1)) == set()


def test_the_interval_is_of_the_mean_of_the_seeds_and_asks_more_at_each_look(good: Any) -> None:
    seeds, trials = good
    first, second, third = (by_key(gates_of(seeds, trials, look))["interval"] for look in (1, 2, 3))
    daily = np.mean([one.differences for one in seeds], axis=0)
    assert first.value == mean_interval(daily, np.ones(DAYS), SEED).low
    assert first.value is not None
    assert second.value is not None
    assert third.value is not None
    assert first.value > second.value > third.value
    assert "look 3" in third.why
    assert [interval_level(look) for look in (1, 2, 3)] == pytest.approx([0.9, 0.95, 0.975])
    # However often one looks, all looks together may be wrong at most twice as often as the first.
    assert sum(1 - interval_level(look) for look in range(1, 40)) < 0.2


def test_a_second_look_can_refuse_what_the_first_would_have_passed() -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        seeds, trials = study(rng, edge=0.3)
        first, later = (by_key(gates_of(seeds, trials, look))["interval"] for look in (1, 4))
        if first.passed and not later.passed:
            return
    raise AssertionError("no look was refused for being a later one")


def test_pruned_trials_count_though_their_days_are_few_or_unknown(good: Any) -> None:
    seeds, trials = good
    few = by_key(gates_of(seeds, trials, 1))["deflated_sharpe"]
    more = [*trials, *(TrialDays(100 + number, False) for number in range(2000))]
    many = by_key(gates_of(seeds, more, 1))["deflated_sharpe"]
    assert "20 trials" in few.why
    assert "2020 trials" in many.why
    assert few.value is not None
    assert many.value is not None
    assert many.value <= few.value
    assert by_key(gates_of(seeds, more, 1))["overfitting"] == by_key(gates_of(seeds, trials, 1))["overfitting"]


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("trades", {"trades": 99}),
        ("drawdown", {"max_drawdown": 0.2501}),
        ("dear", {"dear": -1.0}),
        ("late", {"late": -1.0}),
        ("dear", {"dear": None}),
        ("late", {"late": None}),
    ],
)
def test_each_gate_refuses_by_itself_what_one_seed_shows(good: Any, key: str, changes: dict[str, Any]) -> None:
    seeds, trials = good
    kept = refused(gates_of(seeds, trials, 1))
    changed = [seeds[0], seeds[1]._replace(**changes), seeds[2]]
    assert refused(gates_of(changed, trials, 1)) - kept == {key}
    if None in changes.values():
        assert by_key(gates_of(changed, trials, 1))[key].value is None


def test_seeds_must_agree(good: Any) -> None:
    _, trials = good
    day = np.random.default_rng(1).normal(0.01, 0.001, DAYS)

    def spread(*means: float) -> Gate:
        return by_key(gates_of([seed_days(day * mean) for mean in means], trials, 1))["spread"]

    assert spread(1, 2, 3).passed
    assert spread(-0.5, 2, 3).passed
    # One in two gains; one loses more than all gain; none gains.
    assert not spread(-0.1, 2).passed
    assert not spread(-1.5, 2, 3).passed
    assert not spread(-1, -2, -3).passed
    # One seed says nothing of others.
    assert not spread(2).passed
    assert spread(2).value is None


def test_what_cannot_be_computed_is_not_passed(good: Any) -> None:
    seeds, trials = good
    short = [one._replace(differences=one.differences[: ENOUGH_DAYS - 1]) for one in seeds]
    interval = by_key(gates_of(short, trials, 1))["interval"]
    assert (interval.value, interval.passed) == (None, False)
    assert str(ENOUGH_DAYS) in interval.why
    alone = by_key(gates_of(seeds, trials[:1], 1))
    for key in ("deflated_sharpe", "overfitting"):
        assert (alone[key].value, alone[key].passed) == (None, False)
    # A policy that always does what the classic exits do.
    none = [seed_days(np.zeros(DAYS)) for _ in range(3)]
    assert {"interval", "deflated_sharpe", "dear", "late", "spread"} <= refused(gates_of(none, trials, 1))
    others = [trial._replace(days=tuple(day + trial.number for day in trial.days)) for trial in trials]
    assert "not all of the same days" in by_key(gates_of(seeds, others, 1))["overfitting"].why


def test_stricter_limits_refuse_more(good: Any) -> None:
    limits = Limits(trades=1000, drawdown=0.01, fee_factor=2, late_candles=3)
    gates = by_key(gates_of(*good, look=1, limits=limits))
    assert not gates["trades"].passed
    assert not gates["drawdown"].passed
    assert gates["dear"].name == "fees × 2"
    assert gates["late"].name == "entries 3 candles late"


def test_of_twenty_studies_of_luck_none_passes_with_or_without_the_trade_gate() -> None:
    rng = np.random.default_rng(20_261_127)
    refusals = [refused(gates_of(*study(rng, edge=0.0), look=1)) for _ in range(20)]
    assert all(found - {"trades"} for found in refusals)
    assert not any("trades" in found for found in refusals)
