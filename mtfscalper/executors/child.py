"""Trainings in a process of their own, of low priority, which can be lost without whoever asked for them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from mtfscalper.executors.executor import Executor
from mtfscalper.executors.process_pool import PoolPlan, ProcessPool, start_pool
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.watching import Watch


class ChildExecutor:
    """Lets another executor run jobs in a process beside a bot. See :class:`mtfscalper.executors.executor.Executor`.

    The process and its worker processes are ended as the context is left, however that comes about; they end by
    themselves if this process is killed. They have lower priority than this process, and where memory is short they are
    what Linux ends first. A lost one becomes of its job
    :class:`mtfscalper.executors.worker_process.WorkerLostError`.

    :ivar together: as of the other executor
    """

    def __init__(self, executor: Executor, check: Callable[[], None], at_once: int = 1) -> None:
        """
        :param executor: can be pickled
        :param check: is called several times a second; what it raises ends the trainings, and becomes of each of them
        :param at_once: as many of these may run beside each other, and share the processors
        """
        self._plan = PoolPlan(executor, lambda _: at_once, check, beside_bot=True)
        self.together = executor.together

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[ProcessPool]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`; ``on_evaluation`` hears None several times a second
        at most, and both are called by a thread of the executor's own."""
        return start_pool(self._plan, on_evaluation, watch)
