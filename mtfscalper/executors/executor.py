"""What every place where trainings run can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.watching import Watch

# What became of a job: what TrainingJob.run returns, or what it raised.
Outcome = tuple[BaseAlgorithm, TrainingReport] | Exception


class Executor(Protocol):
    """Runs trainings."""

    @property
    def together(self) -> bool:
        """Whether several jobs at once take less time than one after the other.

        Where they do, a backtest makes its jobs ready first; else each is made when its turn comes.
        """

    def run(
        self, jobs: Sequence[TrainingJob], on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> list[Outcome]:
        """Run jobs to their ends. A training that fails stops no other one.

        :param on_evaluation: as :meth:`TrainingJob.run`'s, of every job
        :param watch: as :meth:`TrainingJob.run`'s, of every job
        :return: what became of each job, in the order of the jobs
        """
