"""Trials whose workers are gone: found by their leases, failed, and enqueued again once."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from optuna.trial import TrialState
from studies import spec_of

from mtfscalper.search import leases
from mtfscalper.search.leases import (
    LEASE,
    Lease,
    LeaseTimes,
    began_at,
    duplicate_of,
    ended_at,
    enqueue_again,
    set_aside,
    take_back,
)
from mtfscalper.search.storage import open_storage, open_study
from mtfscalper.search.study_folder import StudyFolder

X = {"x": optuna.distributions.FloatDistribution(0, 1), "y": optuna.distributions.IntDistribution(0, 9)}
TIMES = LeaseTimes(20.0, 40.0)


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    return open_study(open_storage(None, StudyFolder(tmp_path)), spec_of(), [1])


def leased(study: optuna.Study, until: float) -> optuna.Trial:
    trial = study.ask(X)
    study._storage.set_trial_system_attr(trial._trial_id, LEASE, {"worker": "host:1", "until": until})
    return trial


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_a_trial_whose_lease_is_long_over_is_failed_and_enqueued_again_with_the_same_parameters(
    study: optuna.Study,
) -> None:
    now = time.time()
    gone, late, alive = leased(study, now - 41), leased(study, now - 39), leased(study, now + 20)
    assert take_back(study, TIMES, {}) == [gone.number]
    assert states(study) == ["FAIL", "RUNNING", "RUNNING", "WAITING"]
    again = study.ask(X)
    assert again.params == gone.params
    assert again.user_attrs == {leases.AGAIN_OF: gone.number, leases.ATTEMPT: 2}
    assert {late.number, alive.number}.isdisjoint(take_back(study, TIMES, {}))
    assert len(study.trials) == 4


def test_a_worker_that_died_before_it_had_a_lease_is_found_too(
    study: optuna.Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    study.ask(X)
    seen: dict[int, float] = {}
    assert take_back(study, TIMES, seen) == []
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    # By another process, which has just begun to look.
    assert take_back(study, TIMES, {}) == []
    assert take_back(study, TIMES, seen) == [0]
    assert take_back(study, TIMES, seen) == []
    assert seen == {}


@pytest.mark.parametrize("hours", [-9, 9])
def test_a_machine_of_another_time_zone_neither_loses_a_trial_nor_misjudges_when_it_was(
    tmp_path: Path, hours: int
) -> None:
    """A database keeps Optuna's local moments as they are, whoever reads them."""
    study = open_study(optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'shared.db'}"), spec_of(), [1])
    before = time.time()
    for _ in range(2):
        trial = study.ask(X)
    with Lease(study._storage, trial._trial_id, TIMES, lambda: None):
        pass
    assert set_aside(study, study.trials[1], leases.LOST)
    shift = timedelta(hours=hours)
    asked, lost = study.trials
    for one in (asked, lost):
        assert one.datetime_start is not None
        one.datetime_start += shift
    assert lost.datetime_complete is not None
    lost.datetime_complete += shift
    assert before <= (began_at(lost) or 0.0) <= (ended_at(lost) or 0.0) <= time.time()
    # Just asked for there, hours ago or ahead by the clock here.
    there = SimpleNamespace(get_trials=lambda **_: [asked], _storage=study._storage, enqueue_trial=study.enqueue_trial)
    assert take_back(there, TIMES, {}) == []  # type: ignore[arg-type]


def test_nothing_is_lost_where_whoever_took_a_trial_back_died_between_two_steps(study: optuna.Study) -> None:
    trial = leased(study, 0.0)
    # It had marked the trial and not enqueued it.
    assert set_aside(study, study.trials[trial.number], leases.LOST)
    enqueue_again(study)
    enqueue_again(study)
    assert states(study) == ["FAIL", "WAITING"]


def test_of_two_that_were_enqueued_for_the_same_trial_the_first_one_counts(study: optuna.Study) -> None:
    trial = leased(study, 0.0)
    set_aside(study, study.trials[trial.number], leases.LOST)
    for _ in range(2):
        study.enqueue_trial(trial.params, user_attrs={leases.AGAIN_OF: trial.number})
    assert [duplicate_of(study.trials, number) for number in range(3)] == [None, None, 1]
    # If the first one is lost in its turn, it has a successor of its own.
    set_aside(study, study.trials[1], leases.LOST)
    assert duplicate_of(study.trials, 2) == 1


def test_of_two_that_began_one_study_at_once_the_first_trial_runs_once(study: optuna.Study) -> None:
    for _ in range(2):
        study.enqueue_trial({"x": 0.5}, user_attrs={leases.FIRST: True})
    study.ask(X)
    # Another one of these parameters, which nobody enqueued.
    study.enqueue_trial({"x": 0.5})
    assert [duplicate_of(study.trials, number) for number in range(3)] == [None, 0, None]


def test_a_trial_that_ends_after_all_is_not_tried_again(study: optuna.Study) -> None:
    trial = leased(study, 0.0)
    frozen = study.trials[trial.number]
    study.tell(trial, 1.0)
    assert not set_aside(study, frozen, leases.LOST)
    enqueue_again(study)
    assert states(study) == ["COMPLETE"]


def test_what_costs_every_worker_its_life_is_given_up(study: optuna.Study) -> None:
    leased(study, 0.0)
    for _ in range(leases.ATTEMPTS):
        take_back(study, TIMES, {})
        if study.get_trials(states=(TrialState.WAITING,)):
            leased(study, 0.0)
    take_back(study, TIMES, {})
    assert states(study) == ["FAIL"] * leases.ATTEMPTS


def test_stopping_is_no_attempt(study: optuna.Study) -> None:
    for attempt in range(leases.ATTEMPTS + 1):
        leased(study, 0.0)
        set_aside(study, study.trials[attempt], leases.STOPPED)
        enqueue_again(study)
    assert states(study)[-1] == "WAITING"
    assert study.trials[-1].user_attrs[leases.ATTEMPT] == 1


def test_a_lease_is_renewed_while_it_is_held_and_notices_that_it_is_lost(study: optuna.Study) -> None:
    trial, looked = study.ask(X), threading.Semaphore(0)
    with Lease(study._storage, trial._trial_id, LeaseTimes(0.02, 0.0), looked.release) as lease:
        first = study.trials[0].system_attrs[LEASE]["until"]
        # It looks before it renews: at the second look the first renewal is done.
        for _ in range(2):
            assert looked.acquire(timeout=120)
        assert study.trials[0].system_attrs[LEASE]["until"] > first
        assert not lease.is_lost
        study.tell(trial, 1.0)
        lease._thread.join(120)
        assert not lease._thread.is_alive()
        assert lease.is_lost
