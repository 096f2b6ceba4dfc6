"""Several processes of trainings: who gets which job, what becomes of it, and what is done when one is lost."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Protocol

from mtfscalper.executors.executor import Executor, Outcome, run_all
from mtfscalper.executors.followed import Followed
from mtfscalper.executors.outcomes import WAIT_SECONDS, Outcomes
from mtfscalper.executors.sent_jobs import TapeFiles
from mtfscalper.executors.threads import threads_of_job
from mtfscalper.executors.worker import Request, Told
from mtfscalper.executors.worker_process import Endable, WorkerLostError, WorkerProcess, end_all, write_log
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch

logger = logging.getLogger(__name__)

# How often it is looked whether to end what runs, and whether there is something new to run.
_LOOK_SECONDS = 0.1
# Jobs that are held for each process, so that one that has finished need not wait for the next: with the one it runs.
_JOBS_AHEAD = 2
# How often a training is begun whose process is lost.
_TRIES = 2


class Worker(Endable, Protocol):
    """What is asked of a :class:`mtfscalper.executors.worker_process.WorkerProcess`."""

    connection: Connection

    def send(self, request: bytes) -> None:
        """See :meth:`WorkerProcess.send`."""

    def hear(self) -> Told | None:
        """See :meth:`WorkerProcess.hear`."""

    def how_lost(self) -> str:
        """See :meth:`WorkerProcess.how_lost`."""


# From a folder for temporary files and a number of its own.
StartWorker = Callable[[Path, int], Worker]


@dataclass(frozen=True)
class PoolPlan:
    """How a pool runs trainings.

    :ivar executor: runs a job in its process; can be pickled
    :ivar how_many: processes at a time, by the first job
    :ivar check: is called several times a second; what it raises ends the trainings, and becomes of each of them
    :ivar beside_bot: whether a bot trades beside them. They then give way to it, a training whose process is lost is
        not begun again, and none runs in this process
    :ivar is_quiet: whether no more than warnings of theirs are logged
    """

    executor: Executor
    how_many: Callable[[TrainingJob], int]
    check: Callable[[], None] = lambda: None
    beside_bot: bool = False
    is_quiet: bool = False

    def start_worker(self, scratch: Path, number: int) -> Worker:
        """Start a process."""
        return WorkerProcess(scratch, number, beside_bot=self.beside_bot, is_quiet=self.is_quiet)


@contextmanager
def start_pool(
    plan: PoolPlan,
    on_evaluation: OnEvaluation | None,
    watch: Watch | None,
    start_worker: StartWorker | None = None,
) -> Iterator[ProcessPool]:
    """A pool until a ``with`` block ends.

    :param start_worker: the plan's own by default
    """
    # A short name: sockets lie in it, whose paths may have a hundred characters.
    with tempfile.TemporaryDirectory(prefix="rl-", ignore_cleanup_errors=True) as scratch:
        pool = ProcessPool(plan, on_evaluation, watch, Path(scratch), start_worker or plan.start_worker)
        try:
            yield pool
        finally:
            pool.close()


@dataclass(eq=False)
class _Task:
    """
    :ivar tries: how often it was begun and its process lost
    """

    job: TrainingJob
    tries: int = 0


@dataclass(eq=False)
class _Hand:
    """
    :ivar worker: a process
    :ivar is_ready: whether it has begun to read
    :ivar task: that it runs
    """

    worker: Worker
    is_ready: bool = False
    task: _Task | None = None


class ProcessPool:
    """Trainings in processes. See :class:`mtfscalper.executors.executor.Running`.

    A thread hears the processes, so that none waits and all is shown while whoever submits jobs makes the next one.
    Processes are started as there are jobs for them.
    """

    def __init__(
        self,
        plan: PoolPlan,
        on_evaluation: OnEvaluation | None,
        watch: Watch | None,
        scratch: Path,
        start_worker: StartWorker,
    ) -> None:
        """
        :param scratch: folder for temporary files
        """
        self._plan, self._on_evaluation = plan, on_evaluation
        self._watch, self._is_watched = Followed(watch), watch is not None
        self._scratch, self._start_worker = scratch, start_worker
        self._tapes = TapeFiles(scratch)
        self._outcomes = Outcomes()
        self._changed = self._outcomes.changed
        # Of these, all but the hands change where the condition is held.
        self._waiting: deque[_Task] = deque()
        self._hands: list[_Hand] = []
        self._n_started = 0
        # Processes that were asked for, and how many of them can be started.
        self._n_workers = self._n_possible = 0
        self._is_inline = self._is_closed = False
        self._thread = threading.Thread(target=self._serve, name="trainings", daemon=True)

    # ---------------------------------------------------------------------- for whoever has jobs

    @property
    def room(self) -> int:
        """See :attr:`mtfscalper.executors.executor.Running.room`."""
        with self._changed:
            most = 1 if self._is_inline or not self._n_workers else _JOBS_AHEAD * self._n_workers
            return most - self._outcomes.unreturned

    def submit(self, job: TrainingJob) -> None:
        """See :meth:`mtfscalper.executors.executor.Running.submit`."""
        if not self._n_workers:
            self._n_workers = self._n_possible = self._plan.how_many(job)
            self._thread.start()
        with self._changed:
            self._waiting.append(_Task(job))
            self._outcomes.expect()

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        """See :meth:`mtfscalper.executors.executor.Running.next_finished`."""
        while (ended := self._outcomes.next(lambda: self._is_inline and bool(self._waiting))) is None:
            with self._changed:
                if not self._waiting:
                    # They have been given up meanwhile.
                    continue
                job = self._waiting.popleft().job
            [outcome] = run_all(self._plan.executor, [job], self._on_evaluation, self._watch)
            self._outcomes.add(job, outcome)
        return ended

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        """See :meth:`mtfscalper.executors.executor.Running.take_finished`."""
        return self._outcomes.take()

    def close(self) -> None:
        """End all processes, whatever they do."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(WAIT_SECONDS)
        # If the thread still goes on, it waits for one of these.
        end_all([hand.worker for hand in self._hands])
        if self._thread.is_alive():
            self._thread.join()
            end_all([hand.worker for hand in self._hands])

    # ---------------------------------------------------------------------- the thread's

    def _serve(self) -> None:
        while not self._is_closed:
            try:
                self._plan.check()
                self._distribute()
                self._listen()
            except Exception as error:
                # What is checked, or what nobody foresaw: it becomes of all jobs, so that nobody waits for ever.
                self._give_up(list(self._hands), error)
                self._fail_waiting(error)

    def _listen(self) -> None:
        """Hear what was told, or wait a moment for it or for a job."""
        hands = {hand.worker.connection: hand for hand in self._hands}
        if not hands:
            with self._changed:
                if not self._is_closed and (self._is_inline or not self._waiting):
                    self._changed.wait(_LOOK_SECONDS)
            return
        for connection in wait(list(hands), _LOOK_SECONDS):
            assert isinstance(connection, Connection)
            self._hear(hands[connection])

    def _distribute(self) -> None:
        """Give jobs to those who can run one, and start processes for the others."""
        begun: list[_Hand] = []
        with self._changed:
            for hand in self._hands:
                if self._waiting and hand.is_ready and hand.task is None:
                    hand.task = self._waiting.popleft()
                    begun.append(hand)
            n_starting = sum(not hand.is_ready for hand in self._hands)
            n_to_start = min(len(self._waiting) - n_starting, self._n_possible - len(self._hands))
        for hand in begun:
            self._send(hand)
        for _ in range(n_to_start):
            self._n_started += 1
            try:
                worker = self._start_worker(self._scratch, self._n_started)
            except OSError as error:
                self._cannot_start(str(error))
                return
            self._hands.append(_Hand(worker))

    def _send(self, hand: _Hand) -> None:
        assert hand.task is not None
        job = hand.task.job
        rl = job.settings.rl
        threads = threads_of_job(rl, self._n_workers), rl.interop_threads
        request = Request(self._plan.executor, job, threads, self._on_evaluation is not None, self._is_watched)
        try:
            sent = self._tapes.dumps(request, hand.task)
        except Exception as error:
            self._finish(hand, error)
        else:
            hand.worker.send(sent)

    def _hear(self, hand: _Hand) -> None:
        try:
            # It may be what cannot be unpickled here.
            told = hand.worker.hear()
            if told is not None:
                self._take(hand, told)
                return
        except Exception as error:
            self._give_up([hand], error)
            return
        self._lose(hand)

    def _take(self, hand: _Hand, told: Told) -> None:
        if told.record is not None:
            write_log(told.record)
        elif told.state is not None:
            self._watch(told.state)
        elif told.outcome is not None:
            self._finish(hand, told.outcome)
        elif told.is_life:
            if self._on_evaluation is not None:
                self._on_evaluation(told.evaluation)
        else:
            hand.is_ready = True

    def _finish(self, hand: _Hand, outcome: Outcome) -> None:
        """Note what became of the job that a process runs."""
        task, hand.task = hand.task, None
        assert task is not None
        self._tapes.let_go(task)
        self._watch.end(task.job)
        self._outcomes.add(task.job, outcome)

    def _give_up(self, hands: list[_Hand], error: Exception) -> None:
        """End trainings with their processes."""
        for hand in hands:
            self._hands.remove(hand)
        end_all([hand.worker for hand in hands])
        for hand in hands:
            if hand.task is not None:
                self._finish(hand, error)

    def _lose(self, hand: _Hand) -> None:
        """A process has ended that nobody has ended."""
        how = hand.worker.how_lost()
        self._hands.remove(hand)
        end_all([hand.worker])
        task = hand.task
        if task is None:
            if not hand.is_ready:
                self._cannot_start(how)
            return
        task.tries += 1
        if self._plan.beside_bot or task.tries >= _TRIES:
            again = "" if task.tries == 1 else f" (as the {task.tries} processes of it)"
            self._finish(hand, WorkerLostError(f"{task.job.name}: {how}{again}"))
            return
        logger.warning("%s: %s. It is trained again, in a new process.", task.job.name, how)
        with self._changed:
            self._waiting.appendleft(task)

    def _cannot_start(self, how: str) -> None:
        """Go on with the processes that there are, or without any."""
        if self._hands:
            self._n_possible = len(self._hands)
            logger.warning(
                "No more than %d processes of trainings can be started (%s); training goes on with these.",
                self._n_possible,
                how,
            )
        elif self._plan.beside_bot:
            self._fail_waiting(WorkerLostError(how))
        else:
            logger.warning(
                "No process of trainings can be started (%s); training goes on in this process, one after the other.",
                how,
            )
            with self._changed:
                self._is_inline = True
                self._n_possible = 0
                self._changed.notify_all()

    def _fail_waiting(self, error: Exception) -> None:
        with self._changed:
            while self._waiting:
                self._outcomes.add(self._waiting.popleft().job, error)
