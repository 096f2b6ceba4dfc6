"""Ensembles wherever trainings run: each member is a job of its own, and what they give is joined."""

from __future__ import annotations

from collections.abc import Sequence

from mtfscalper.executors.executor import Executor, Outcome
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.ensemble import join, member_jobs
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch


class EnsembleExecutor:
    """Gives the members' jobs to another executor. See :class:`mtfscalper.executors.executor.Executor`.

    :ivar together: as of the other executor
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.together = executor.together

    def run(
        self, jobs: Sequence[TrainingJob], on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> list[Outcome]:
        """See :meth:`mtfscalper.executors.executor.Executor.run`; a member that fails fails its ensemble."""
        members = [member_jobs(job) for job in jobs]
        outcomes = iter(self._executor.run([one for ensemble in members for one in ensemble], on_evaluation, watch))
        return [_joined(job, [next(outcomes) for _ in ensemble]) for job, ensemble in zip(jobs, members, strict=True)]


def _joined(job: TrainingJob, outcomes: Sequence[Outcome]) -> Outcome:
    results = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            return outcome
        results.append(outcome)
    return join(job, results)
