"""What every place where trainings run can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.watching import Watch

# What became of a job: what TrainingJob.run returns, or what it raised.
Outcome = tuple[BaseAlgorithm, TrainingReport] | Exception


class Running(Protocol):
    """Trainings under way. A training that fails stops no other one."""

    @property
    def room(self) -> int:
        """How many more jobs it takes now.

        Whoever makes jobs makes the next one when there is room, so that candles of a few jobs lie in memory, not of
        all.
        """

    def submit(self, job: TrainingJob) -> None:
        """Hand a job over, where there is room."""

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        """Wait for the next job that ends, in whatever order they do.

        :return: the very job that was submitted, and what became of it
        :raises LookupError: if all that was submitted has been returned
        """

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        """What has ended and was not returned yet, without waiting: what is to be kept when a run is broken off."""


class Executor(Protocol):
    """Runs trainings."""

    @property
    def together(self) -> bool:
        """Whether several jobs at once take less time than one after the other.

        Where they do, a backtest makes its jobs ready first; else each is made when its turn comes.
        """

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[Running]:
        """Begin to run trainings. As the context is left, what still runs is given up, with all its processes.

        :param on_evaluation: as :meth:`TrainingJob.run`'s, of every job
        :param watch: as :meth:`TrainingJob.run`'s, of every job
        """


def run_all(
    executor: Executor,
    jobs: Sequence[TrainingJob],
    on_evaluation: OnEvaluation | None = None,
    watch: Watch | None = None,
) -> list[Outcome]:
    """Run a list of jobs to their ends.

    :param on_evaluation: see :meth:`Executor.start`
    :param watch: see :meth:`Executor.start`
    :return: what became of each job, in the order of the jobs
    """
    outcomes: dict[TrainingJob, Outcome] = {}
    submitted = 0
    with executor.start(on_evaluation, watch) as running:
        for finished in range(len(jobs)):
            while submitted < len(jobs) and running.room > 0:
                running.submit(jobs[submitted])
                submitted += 1
            assert submitted > finished, f"{executor} takes no job, and runs none"
            job, outcome = running.next_finished()
            outcomes[job] = outcome
    return [outcomes[job] for job in jobs]
