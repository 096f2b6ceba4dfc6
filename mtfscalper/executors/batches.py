"""Jobs that run when their outcomes are asked for, by whoever asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from mtfscalper.executors.executor import Outcome
from mtfscalper.training.job import TrainingJob

# What became of each of several jobs, in their order.
RunBatch = Callable[[Sequence[TrainingJob]], list[Outcome]]


class Batches:
    """Gathers jobs and runs them at once. See :class:`mtfscalper.executors.executor.Running`."""

    def __init__(self, run: RunBatch, at_once: int) -> None:
        """
        :param at_once: how many jobs are gathered at most
        """
        self._run, self._at_once = run, at_once
        self._waiting: list[TrainingJob] = []
        self._finished: deque[tuple[TrainingJob, Outcome]] = deque()

    @property
    def room(self) -> int:
        """See :attr:`mtfscalper.executors.executor.Running.room`."""
        return self._at_once - len(self._waiting) - len(self._finished)

    def submit(self, job: TrainingJob) -> None:
        """See :meth:`mtfscalper.executors.executor.Running.submit`."""
        self._waiting.append(job)

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        """See :meth:`mtfscalper.executors.executor.Running.next_finished`."""
        if not self._finished:
            batch, self._waiting = self._waiting, []
            if not batch:
                raise LookupError("no job was submitted that has not been returned")
            self._finished.extend(zip(batch, self._run(batch), strict=True))
        return self._finished.popleft()

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        """See :meth:`mtfscalper.executors.executor.Running.take_finished`."""
        taken = list(self._finished)
        self._finished.clear()
        return taken


@contextmanager
def in_batches(run: RunBatch, at_once: int) -> Iterator[Batches]:
    """See :class:`Batches`, which leave nothing behind that had to be ended."""
    yield Batches(run, at_once)
