"""Trainings in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from mtfscalper.executors.executor import Outcome
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch


class InlineExecutor:
    """Runs each job here, when its turn comes. See :class:`mtfscalper.executors.executor.Executor`."""

    together = False

    def run(
        self, jobs: Sequence[TrainingJob], on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> list[Outcome]:
        """See :meth:`mtfscalper.executors.executor.Executor.run`."""
        return [_outcome(job, on_evaluation, watch) for job in jobs]


def _outcome(job: TrainingJob, on_evaluation: OnEvaluation | None, watch: Watch | None) -> Outcome:
    try:
        return job.run(on_evaluation, watch)
    except Exception as error:
        return error
