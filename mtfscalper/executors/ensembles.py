"""Ensembles wherever trainings run: each member is a job of its own, and what they give is joined."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mtfscalper.executors.executor import Executor, Outcome, Running
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.ensemble import is_alone, join, member_jobs
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch


class EnsembleExecutor:
    """Gives the members' jobs to another executor. See :class:`mtfscalper.executors.executor.Executor`.

    A member that fails fails its ensemble.

    :ivar together: as of the other executor
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.together = executor.together

    @contextmanager
    def start(self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None) -> Iterator[Running]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`."""
        with self._executor.start(on_evaluation, watch) as running:
            yield _Ensembles(running)


class _Ensembles:
    """See :class:`mtfscalper.executors.executor.Running`."""

    def __init__(self, running: Running) -> None:
        self._running = running
        # Members for which there was no room yet.
        self._waiting: deque[TrainingJob] = deque()
        self._ensembles: dict[TrainingJob, tuple[TrainingJob, list[TrainingJob]]] = {}
        self._outcomes: dict[TrainingJob, Outcome] = {}

    @property
    def room(self) -> int:
        return 0 if self._waiting else self._running.room

    def submit(self, job: TrainingJob) -> None:
        # One that is alone is joined and judged where it is trained.
        members = [job] if is_alone(job) else member_jobs(job)
        self._ensembles |= dict.fromkeys(members, (job, members))
        self._waiting.extend(members)
        self._fill()

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        while True:
            self._fill()
            whole = self._whole(*self._running.next_finished())
            if whole is not None:
                return whole

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        return [whole for taken in self._running.take_finished() if (whole := self._whole(*taken)) is not None]

    def _whole(self, member: TrainingJob, outcome: Outcome) -> tuple[TrainingJob, Outcome] | None:
        """What became of an ensemble, once all its members have ended."""
        self._outcomes[member] = outcome
        job, members = self._ensembles[member]
        if not all(one in self._outcomes for one in members):
            return None
        for one in members:
            del self._ensembles[one]
        outcomes = [self._outcomes.pop(one) for one in members]
        return job, outcomes[0] if is_alone(job) else _joined(job, outcomes)

    def _fill(self) -> None:
        while self._waiting and self._running.room > 0:
            self._running.submit(self._waiting.popleft())


def _joined(job: TrainingJob, outcomes: Sequence[Outcome]) -> Outcome:
    results = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        results.append(outcome)
    return join(job, results)
