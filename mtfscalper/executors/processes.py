"""Trainings side by side, in processes that live as long as the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.process_pool import PoolPlan, ProcessPool, start_pool
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch


class ProcessesExecutor:
    """Runs each job in one of several processes. See :class:`mtfscalper.executors.executor.Executor`.

    A training whose process is lost is begun once more in a new one, and gives the same; then its outcome is
    :class:`mtfscalper.executors.worker_process.WorkerLostError`. Where no process can be started jobs run in this one.
    """

    together = True

    def __init__(self, how_many: Callable[[TrainingJob], int]) -> None:
        """
        :param how_many: processes at a time, by the first job
        """
        self._plan = PoolPlan(InlineExecutor(), how_many)

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[ProcessPool]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`; ``on_evaluation`` hears None several times a second
        at most, and both are called by a thread of the executor's own."""
        return start_pool(self._plan, on_evaluation, watch)
