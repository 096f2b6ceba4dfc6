"""How a study is, by numbers worked out by hand."""

from __future__ import annotations

import os
import socket

import pytest
from made_up_study import BEGAN, trial
from optuna.trial import TrialState

from mtfscalper.monitoring.study_state import busy_seconds, study_state, trials_per_hour

COMPLETE, PRUNED, FAIL, RUNNING, WAITING = (
    *(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL),
    *(TrialState.RUNNING, TrialState.WAITING),
)
NOW = BEGAN.timestamp()


def test_trials_are_counted_by_what_became_of_them() -> None:
    state = study_state(
        "s",
        [
            trial(0, COMPLETE, 0, 60, 0.1),
            trial(1, PRUNED, 0, 30),
            trial(2, FAIL, 0, 20, error="no candles"),
            # Its worker was killed, and trial 4 is the same again.
            trial(3, FAIL, 0, 20, set_aside="lost"),
            trial(4, RUNNING, 60, again_of=3),
            trial(5, WAITING),
            trial(6, FAIL, 0, 1, set_aside="impossible", error="no such network"),
            trial(7, FAIL, 0, 1, set_aside="duplicate", error="trial 4 is the same"),
        ],
        NOW + 90,
        asked=10,
    )
    assert (state.done, state.pruned, state.failed, state.impossible, state.again) == (1, 1, 1, 1, 1)
    assert state.waiting == 1
    assert [one.number for one in state.running] == [4]
    assert state.finished == 2
    assert state.last_error == (6, "no such network")
    assert not state.is_over


def test_time_that_spans_share_is_counted_once_and_none_between_them() -> None:
    assert busy_seconds([(0, 10), (5, 15), (100, 110), (102, 104)]) == 25
    assert busy_seconds([]) == 0


def test_the_pace_is_that_of_the_hours_in_which_anything_ran() -> None:
    # Two at once for ten minutes; a night; one for ten minutes: three trials in twenty minutes.
    trials = [
        trial(0, COMPLETE, 0, 600, 0.1),
        trial(1, PRUNED, 0, 600),
        trial(2, COMPLETE, 50_000, 50_600, 0.1),
        trial(3, FAIL, 600, 50_000),
        trial(4, RUNNING, 50_600),
    ]
    assert trials_per_hour(trials) == pytest.approx(9.0)
    assert trials_per_hour([]) is None


def test_the_pace_is_that_of_the_last_twenty() -> None:
    slow = [trial(n, COMPLETE, 3600.0 * n, 3600.0 * (n + 1), 0.1) for n in range(5)]
    fast = [trial(n, COMPLETE, 20_000 + 60.0 * n, 20_000 + 60.0 * (n + 1), 0.1) for n in range(5, 25)]
    assert trials_per_hour(slow + fast) == pytest.approx(60.0)


def test_time_left_is_the_trials_left_at_that_pace_less_the_time_since_the_last_one_ended() -> None:
    ended = [trial(0, COMPLETE, 0, 600, 0.1), trial(1, PRUNED, 600, 1200)]
    # Six an hour, eight to do.
    assert study_state("s", ended, NOW + 99_999, asked=10).seconds_left == pytest.approx(4800)
    running = trial(2, RUNNING, 1200)
    assert study_state("s", [*ended, running], NOW + 1300, asked=10).seconds_left == pytest.approx(4700)
    assert study_state("s", ended, NOW, asked=None).seconds_left is None
    assert study_state("s", [running], NOW, asked=10).seconds_left is None
    assert study_state("s", ended, NOW + 1300, asked=2).is_over


def test_a_worker_whose_lease_ran_out_is_lost_and_the_memory_of_one_here_is_seen() -> None:
    here = f"{socket.gethostname()}:{os.getpid()}"
    first = trial(0, RUNNING, 0, intermediate=(0.1, 0.3), lease={"worker": here, "until": NOW + 5})
    # What the sampler learns from of a trial that is being pruned is no instance.
    first.intermediate_values[10**9 + 1] = 9.0
    alive, late, lost = study_state(
        "s",
        [
            first,
            trial(1, RUNNING, 0, lease={"worker": "elsewhere:1", "until": NOW - 39}),
            trial(2, RUNNING, 0, lease={"worker": "elsewhere:2", "until": NOW - 41}),
        ],
        NOW,
    ).running
    assert (alive.is_lost, late.is_lost, lost.is_lost) == (False, False, True)
    assert (alive.instances, alive.mean) == (2, pytest.approx(0.2))
    assert alive.memory_bytes is not None
    assert alive.memory_bytes > 10e6
    assert late.memory_bytes is None


def test_the_best_stands_first_and_rivals_whose_interval_reaches_it_are_counted() -> None:
    state = study_state(
        "s",
        [
            trial(0, COMPLETE, 0, 1, 0.010, interval=[0.001, 0.010, 0.020]),
            trial(1, COMPLETE, 0, 1, 0.030, interval=[0.020, 0.030, 0.040]),
            trial(2, COMPLETE, 0, 1, 0.025, interval=[0.015, 0.025, 0.030]),
            trial(3, COMPLETE, 0, 1, 0.005, interval=[None, 0.005, None]),
        ],
        NOW,
    )
    assert [one.number for one in state.ranking] == [1, 2, 0, 3]
    assert state.reaching == 1
    assert study_state("s", [], NOW).reaching == 0


def test_samples_a_second_are_those_of_a_training_and_those_of_all_at_once() -> None:
    # Two trials at once, 100 s each, of which each trained at 1,000 samples a second.
    both = [trial(n, COMPLETE, 0, 125, 0.1, samples_per_second=1000.0, timesteps=100_000) for n in range(2)]
    state = study_state("s", both, NOW)
    assert state.samples_per_second == 1000
    assert state.samples_per_second_in_all == pytest.approx(200_000 / 125)
