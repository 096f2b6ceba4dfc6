"""Trainings of one shape all at once, on the device that the settings name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager

from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.executors.batches import Batches, in_batches
from mtfscalper.executors.executor import Outcome
from mtfscalper.executors.followed import Followed
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.ensemble import begun, ended
from mtfscalper.training.job import TrainingJob, TrainingStoppedError
from mtfscalper.training.population import Shape, train_population
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.watching import Watch

logger = logging.getLogger(__name__)

# Jobs whose candles lie in memory at a time. Where a device holds fewer, they follow each other in halves.
_AT_ONCE = 64


class PopulationExecutor:
    """Runs jobs as :func:`mtfscalper.training.population.train_population` does; those of another shape after them."""

    together = True

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> AbstractContextManager[Batches]:
        """See :meth:`mtfscalper.executors.executor.Executor.start`."""

        def run(jobs: Sequence[TrainingJob]) -> list[Outcome]:
            followed = Followed(watch)
            outcomes: dict[int, Outcome] = {}
            shapes: dict[Shape, list[int]] = {}
            for at, job in enumerate(jobs):
                shapes.setdefault(Shape.of_job(job), []).append(at)
            for positions in shapes.values():
                members = [jobs[at] for at in positions]
                outcomes |= zip(positions, _outcomes(members, on_evaluation, followed), strict=True)
                for job in members:
                    followed.end(job)
            return [outcomes[at] for at in range(len(jobs))]

        return in_batches(run, _AT_ONCE)


def _outcomes(jobs: list[TrainingJob], on_evaluation: OnEvaluation | None, watch: Watch | None) -> list[Outcome]:
    try:
        results = train_population([*map(begun, jobs)], [on_evaluation] * len(jobs), watch)
    except TrainingStoppedError as error:
        return [error] * len(jobs)
    except Exception as error:
        if len(jobs) == 1:
            return [error]
        logger.warning("%d trainings at once fail (%s); each is tried alone.", len(jobs), error)
        return [outcome for job in jobs for outcome in _outcomes([job], on_evaluation, watch)]
    return [_ended(job, result) for job, result in zip(jobs, results, strict=True)]


def _ended(job: TrainingJob, result: tuple[BaseAlgorithm, TrainingReport]) -> Outcome:
    try:
        return ended(job, result)
    except Exception as error:
        return error
