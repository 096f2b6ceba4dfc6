"""How far a run is, and how long it will take: worked out by hand, on a clock of the test's own."""

from __future__ import annotations

import pytest

from mtfscalper.progress.run import RunProgress
from mtfscalper.training.watching import TrainingState


class Clock:
    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def state(name: str, timesteps: int, *, updated: bool = False, planned: int = 1000, part: str = "") -> TrainingState:
    return TrainingState(name, part, timesteps, planned, updated)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run(clock: Clock) -> RunProgress:
    return RunProgress(clock)


def test_nothing_is_left_to_be_said_before_a_first_update(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2"})
    assert run.seconds_left is None
    run.note(state("A 1", 0))
    clock.seconds += 10
    run.note(state("A 1", 500))
    assert run.seconds_left is None
    assert run.samples_per_second == 50.0


def test_the_whole_run_is_expected_at_the_pace_of_what_was_updated(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2", "B 1", "B 2"})
    run.note(state("A 1", 0))
    clock.seconds += 20
    run.note(state("A 1", 500, updated=True))
    # 3,500 of 4,000 samples are left, at 25 a second.
    assert run.seconds_left == 140.0
    assert run.share == 0.125
    # Rollouts are faster than rollouts with their updates: they change nothing, and time passes.
    clock.seconds += 5
    run.note(state("A 1", 900))
    assert run.seconds_left == 135.0


def test_what_is_reused_costs_nothing(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2", "B 1", "B 2"})
    run.note(state("A 1", 0))
    clock.seconds += 20
    run.note(state("A 1", 1000, updated=True))
    assert run.seconds_left == 60.0
    # A 1 is over, A 2 turned out to be reusable, and B 1 lies on disk.
    run.expect({"B 2"})
    assert run.seconds_left == 20.0
    assert (run.n_policies, run.number_of("A 1"), run.number_of("B 2")) == (2, 1, 2)


def test_members_of_an_ensemble_are_trainings_of_their_own(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2"}, members=2)
    run.note(state("A 1", 0, part="member 1 of 2"))
    clock.seconds += 10
    run.note(state("A 1", 1000, updated=True, part="member 1 of 2"))
    assert run.seconds_left == 30.0
    run.note(state("A 1", 0, part="member 2 of 2"))
    assert run.n_policies == 2
    assert run.share == 0.25


def test_trainings_that_run_at_once_add_up(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2"})
    for name in ("A 1", "A 2"):
        run.note(state(name, 0))
    clock.seconds += 10
    for name in ("A 1", "A 2"):
        run.note(state(name, 500, updated=True))
    assert run.seconds_left == 10.0
    assert run.samples_per_second == 100.0


def test_a_run_never_has_less_than_nothing_left(run: RunProgress, clock: Clock) -> None:
    run.note(state("A 1", 0))
    clock.seconds += 10
    run.note(state("A 1", 500, updated=True))
    clock.seconds += 1000
    assert run.seconds_left == 0.0


def test_samples_a_second_are_those_of_the_last_two_minutes(run: RunProgress, clock: Clock) -> None:
    run.note(state("A 1", 0, planned=10_000))
    for timesteps in (1000, 2000, 2500):
        clock.seconds += 100
        run.note(state("A 1", timesteps, planned=10_000))
    assert run.samples_per_second == 5.0


def test_what_was_given_up_is_no_longer_waited_for(run: RunProgress, clock: Clock) -> None:
    run.expect({"A 1", "A 2"})
    for name in ("A 1", "A 2"):
        run.note(state(name, 0))
    clock.seconds += 10
    run.note(state("A 2", 500, updated=True))
    run.note(state("A 1", 100)._replace(has_ended=True))
    assert [one.name for one in run.running] == ["A 2"]
    # 600 of 1,100 samples are done.
    assert run.share == pytest.approx(600 / 1100)


def test_trainings_that_are_announced_before_they_begin_have_numbers_of_their_own(run: RunProgress) -> None:
    run.expect({"A 1", "A 2", "A 3"})
    run.announce("A 1")
    run.announce("A 2")
    run.note(state("A 2", 0))
    assert [run.number_of(name) for name in ("A 1", "A 2", "A 3")] == [1, 2, 3]
