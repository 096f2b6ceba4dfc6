"""Trainings in this process, one after the other."""

from __future__ import annotations

from contextlib import AbstractContextManager

from mtfscalper.executors.batches import Batches, in_batches
from mtfscalper.executors.executor import Outcome
from mtfscalper.executors.followed import Followed
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.ensemble import begun, ended
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch


class InlineExecutor:
    """Runs each job here, when its outcome is asked for. See :class:`mtfscalper.executors.executor.Executor`."""

    together = False

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[Batches]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`."""
        return in_batches(lambda jobs: [_outcome(job, on_evaluation, Followed(watch)) for job in jobs], at_once=1)


def _outcome(job: TrainingJob, on_evaluation: OnEvaluation | None, watch: Followed) -> Outcome:
    try:
        return ended(job, begun(job).run(on_evaluation, watch))
    except Exception as error:
        return error
    finally:
        watch.end(job)
