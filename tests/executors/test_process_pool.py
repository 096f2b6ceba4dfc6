"""Who gets which job, and what is done when a process is lost: with processes that do what the test says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from fake_workers import FakeCrew, FakeWorker, job
from tiny_training import random_tape

from mtfscalper.executors.batches import Batches, in_batches
from mtfscalper.executors.process_pool import PoolPlan, ProcessPool, start_pool
from mtfscalper.executors.threads import threads_of_job
from mtfscalper.executors.worker import Told
from mtfscalper.executors.worker_process import WorkerLostError
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.watching import TrainingState, Watch


class Here:
    """What trains in this process: its outcome says so."""

    together = False

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[Batches]:
        return in_batches(lambda jobs: [("here", one.period) for one in jobs], at_once=1)  # type: ignore[misc]


@contextmanager
def pool_of(
    crew: FakeCrew, n: int, *, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None, **plan: object
) -> Iterator[ProcessPool]:
    chosen = PoolPlan(Here(), lambda _: n, **plan)  # type: ignore[arg-type]
    with start_pool(chosen, on_evaluation, watch, crew.start) as pool:
        yield pool


def outcomes(pool: ProcessPool, n: int) -> dict[str, object]:
    return {done.period: outcome for done, outcome in (pool.next_finished() for _ in range(n))}


def at_once(worker: FakeWorker) -> None:
    worker.finish()


def test_no_more_jobs_are_taken_than_keep_every_process_busy_and_ready_for_the_next() -> None:
    crew = FakeCrew()
    with pool_of(crew, 2) as pool:
        # Before the first one it is not known how many there will be.
        assert pool.room == 1
        made = 0
        while pool.room > 0:
            pool.submit(job(str(made)))
            made += 1
        assert made == 4
        crew.wait_begun(2)
        # As many are begun as there are processes, whatever waits.
        assert [len(worker.requests) for worker in crew.workers] == [1, 1]
        crew.workers[1].finish()
        # What waits is begun while whoever makes jobs does something else.
        crew.wait_begun(1)
        assert [len(worker.requests) for worker in crew.workers] == [1, 2]
        # What has ended takes room until it is fetched.
        assert pool.room == 0
        done, outcome = pool.next_finished()
        assert (done.period, outcome) == ("1", (2, "1"))
        assert pool.room == 1


class Clock:
    """A fake one, on which every training takes ten seconds, and making a job ready takes one."""

    def __init__(self, crew: FakeCrew) -> None:
        self.now = 0.0
        self._crew = crew
        self._ends: dict[FakeWorker, float] = {}
        crew.on_begin = self.begin

    def begin(self, worker: FakeWorker) -> None:
        self._ends[worker] = self.now + 10.0

    def to_next_end(self) -> None:
        worker = min(self._ends, key=lambda one: (self._ends[one], one.number))
        self.now = max(self.now, self._ends.pop(worker))
        worker.finish()


def test_whoever_makes_jobs_holds_few_of_them_and_keeps_the_processes_busy() -> None:
    crew = FakeCrew()
    clock = Clock(crew)
    held = most_held = made = finished = 0
    with pool_of(crew, 3) as pool:
        while finished < 30:
            while made < 30 and pool.room > 0:
                clock.now += 1.0
                pool.submit(job(str(made)))
                made, held = made + 1, held + 1
                most_held = max(most_held, held)
                if made <= 3:
                    crew.wait_begun(1)
            clock.to_next_end()
            pool.next_finished()
            finished, held = finished + 1, held - 1
            if finished <= 27:
                crew.wait_begun(1)
    assert most_held == 6
    # 30 trainings of 10 seconds on three processes; the first jobs were made while nothing trained.
    assert clock.now <= 110.0


def test_a_process_runs_job_after_job_and_jobs_end_in_any_order() -> None:
    crew = FakeCrew()
    crew.on_begin = at_once
    with pool_of(crew, 1) as pool:
        for name in "abc":
            pool.submit(job(name))
        assert outcomes(pool, 3) == {name: (1, name) for name in "abc"}
        with pytest.raises(LookupError):
            pool.next_finished()
    assert len(crew.workers) == 1
    assert crew.workers[0].is_ended


def test_processors_are_divided_among_the_processes_unless_threads_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtfscalper.executors.threads.usable_processors", lambda: 16)
    assert threads_of_job(job("", cpu_count=8).settings.rl, 4) == 2
    assert threads_of_job(job("", cpu_count=32).settings.rl, 4) == 4
    assert threads_of_job(job("", cpu_count=2).settings.rl, 4) == 1
    assert threads_of_job(job("", threads_per_job=3).settings.rl, 4) == 3
    crew = FakeCrew()
    crew.on_begin = at_once
    with pool_of(crew, 2) as pool:
        pool.submit(job("a", cpu_count=8, interop_threads=1))
        outcomes(pool, 1)
    assert crew.workers[0].requests[0].threads == (4, 1)


def test_candles_lie_in_one_file_for_all_who_share_them_and_as_long_as_they_are_needed() -> None:
    crew = FakeCrew()
    tape = random_tape(20, seed=3)
    with pool_of(crew, 2) as pool:
        for name in "ab":
            pool.submit(job(name, tape))
        crew.wait_begun(2)
        sent = [worker.requests[0].job for worker in crew.workers]
        assert [one.train.digest() for one in sent] == [tape.digest()] * 2
        assert [one.train.close.flags.writeable for one in sent] == [False] * 2
        scratch = pool._scratch
        assert len(list(scratch.glob("*.tape"))) == 1
        crew.workers[0].finish()
        pool.next_finished()
        assert len(list(scratch.glob("*.tape"))) == 1
        crew.workers[1].finish()
        pool.next_finished()
        assert not list(scratch.glob("*.tape"))
    assert not scratch.exists()


def test_a_lost_training_is_begun_again_in_a_new_process(caplog: pytest.LogCaptureFixture) -> None:
    crew = FakeCrew()
    crew.on_begin = lambda worker: worker.die() if worker.number == 1 else worker.finish()
    with pool_of(crew, 1) as pool:
        pool.submit(job("a"))
        assert outcomes(pool, 1) == {"a": (2, "a")}
    assert "BTC/USDT:USDT a: worker 1 is lost. It is trained again, in a new process." in caplog.text


def test_one_whose_processes_are_lost_again_is_named_and_the_others_finish() -> None:
    crew = FakeCrew()
    crew.on_begin = lambda worker: worker.die() if worker.requests[-1].job.period == "b" else worker.finish()
    states: list[TrainingState] = []
    with pool_of(crew, 1, watch=states.append) as pool:
        for name in "abc":
            pool.submit(job(name))
        done = outcomes(pool, 3)
    lost = done.pop("b")
    assert isinstance(lost, WorkerLostError)
    assert str(lost).startswith("BTC/USDT:USDT b: worker 2 is lost")
    assert done == {"a": (1, "a"), "c": (3, "c")}


def test_beside_a_bot_a_lost_training_is_not_begun_again() -> None:
    crew = FakeCrew()
    crew.on_begin = FakeWorker.die
    with pool_of(crew, 1, beside_bot=True) as pool:
        pool.submit(job("a"))
        assert isinstance(outcomes(pool, 1)["a"], WorkerLostError)
    assert len(crew.workers) == 1


@pytest.mark.parametrize("how", ["none starts", "each ends at once"])
def test_where_no_process_starts_jobs_run_here(how: str, caplog: pytest.LogCaptureFixture) -> None:
    crew = FakeCrew(most=0 if how == "none starts" else 9)
    crew.on_start = FakeWorker.die
    with pool_of(crew, 2) as pool:
        for name in "ab":
            pool.submit(job(name))
        assert outcomes(pool, 2) == {"a": ("here", "a"), "b": ("here", "b")}
        assert pool.room == 1
    assert len([record for record in caplog.records if "No process of trainings can be started" in record.msg]) == 1


def test_beside_a_bot_nothing_runs_here() -> None:
    with pool_of(FakeCrew(most=0), 1, beside_bot=True) as pool:
        pool.submit(job("a"))
        assert isinstance(outcomes(pool, 1)["a"], WorkerLostError)


def test_fewer_processes_than_were_asked_for_do_the_work(caplog: pytest.LogCaptureFixture) -> None:
    crew = FakeCrew(most=1)
    crew.on_begin = lambda worker: None
    with pool_of(crew, 2) as pool:
        for name in "ab":
            pool.submit(job(name))
        crew.wait_begun(1)
        crew.workers[0].finish()
        crew.wait_begun(1)
        crew.workers[0].finish()
        assert outcomes(pool, 2) == {"a": (1, "a"), "b": (1, "b")}
    assert "No more than 1 processes of trainings can be started" in caplog.text


def test_what_a_listener_raises_ends_that_training_alone() -> None:
    crew = FakeCrew()
    found = Evaluation(64, 0.1, 3, 0.5, 0.1)

    def begin(worker: FakeWorker) -> None:
        if worker.requests[-1].job.period == "a":
            worker.tell(Told(is_life=True, evaluation=found))
        else:
            worker.finish()

    def refuse(evaluation: Evaluation | None) -> None:
        assert evaluation == found
        raise RuntimeError("enough")

    crew.on_begin = begin
    with pool_of(crew, 1, on_evaluation=refuse) as pool:
        for name in "ab":
            pool.submit(job(name))
        done = outcomes(pool, 2)
    assert str(done["a"]) == "enough"
    assert done["b"] == (2, "b")
    assert crew.workers[0].is_ended
    assert crew.workers[0].requests[0].is_asked


class FailsToUnpickle:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return _refuse, ("no such class here",)


def _refuse(why: str) -> None:
    raise ImportError(why)


def test_an_outcome_that_cannot_be_unpickled_ends_that_training_alone() -> None:
    crew = FakeCrew()
    with pool_of(crew, 2) as pool:
        for name in "abc":
            pool.submit(job(name))
        crew.wait_begun(2)
        first, second = crew.workers
        first.tell(Told(outcome=FailsToUnpickle()))  # type: ignore[arg-type]
        done, outcome = pool.next_finished()
        assert (done.period, str(outcome)) == ("a", "no such class here")
        assert isinstance(outcome, ImportError)
        # What waits is trained by another process in its place.
        crew.wait_begun(1)
        second.finish()
        crew.workers[2].finish()
        assert outcomes(pool, 2) == {"b": (2, "b"), "c": (3, "c")}


def test_what_is_checked_ends_all_that_run_and_wait() -> None:
    crew = FakeCrew()
    stopped: list[bool] = []

    def check() -> None:
        if stopped:
            raise RuntimeError("the bot is stopping")

    with pool_of(crew, 1, check=check) as pool:
        for name in "ab":
            pool.submit(job(name))
        crew.wait_begun(1)
        stopped.append(True)
        assert {name: str(error) for name, error in outcomes(pool, 2).items()} == dict.fromkeys(
            "ab", "the bot is stopping"
        )
    assert crew.workers[0].is_ended


def test_a_run_that_is_broken_off_keeps_what_has_ended_and_leaves_nothing_running() -> None:
    crew = FakeCrew()

    def broken_off() -> None:
        with pool_of(crew, 2) as pool:
            break_off(pool)

    def break_off(pool: ProcessPool) -> None:
        for name in "ab":
            pool.submit(job(name))
        crew.wait_begun(2)
        crew.workers[0].finish()
        # The next has been begun: what has ended has been heard.
        pool.submit(job("c"))
        crew.wait_begun(1)
        assert [(done.period, outcome) for done, outcome in pool.take_finished()] == [("a", (1, "a"))]
        assert pool.take_finished() == []
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert [worker.is_ended for worker in crew.workers] == [True, True]


def test_lines_and_progress_of_all_reach_whoever_looks_on(caplog: pytest.LogCaptureFixture) -> None:
    crew = FakeCrew()
    states: list[TrainingState] = []

    def begin(worker: FakeWorker) -> None:
        record = logging.LogRecord("mtfscalper.made_up", logging.INFO, "", 1, f"from {worker.number}", None, None)
        worker.tell(Told(record=record))
        worker.tell(Told(state=TrainingState(worker.requests[-1].job.name, "", 10, 100)))
        worker.finish()

    crew.on_begin = begin
    caplog.set_level(logging.INFO)
    with pool_of(crew, 2, watch=states.append) as pool:
        for name in "ab":
            pool.submit(job(name))
        outcomes(pool, 2)
    assert {"from 1", "from 2"} <= set(caplog.messages)
    for name in "ab":
        told = [state.has_ended for state in states if state.name.endswith(name)]
        # Its end is told too, though the process did not.
        assert told == [False, True]
