"""How many processes train at a time: as many as train most, by measurement, and as free memory holds."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import psutil
from stable_baselines3.common.utils import get_device

from mtfscalper import artefacts
from mtfscalper.executors.executor import Running
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.process_pool import PoolPlan, start_pool
from mtfscalper.executors.threads import threads_of_job
from mtfscalper.machine import usable_processors
from mtfscalper.settings import OUTSIDE_A_TRAINING, RLSettings, Settings
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.memory import memory_needed
from mtfscalper.training.vec_env_choice import cache_path, read_measured

logger = logging.getLogger(__name__)

_CACHE_NAME = "workers.json"
# What a process takes before it trains: torch and its libraries, of which a part is shared.
_PROCESS_BYTES = 450e6
# The same of an environment's own process.
_ENV_PROCESS_BYTES = 150e6
# A training that is timed collects about so many steps before each of its updates, and learns from so many candles.
_TIMED_STEPS = 4096
# More processes are timed as long as each further step trains by so much more.
_WORTH = 1.03


class Measured(NamedTuple):
    """One number's figures.

    :ivar workers: processes at a time
    :ivar threads: of torch in each
    :ivar seconds: of one of the short trainings that ran side by side
    """

    workers: int
    threads: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Short trainings a minute of all processes together."""
        return 60 * self.workers / self.seconds


def worker_count(job: TrainingJob) -> int:
    """How many processes train at a time, of a run with trainings like one."""
    asked = job.settings.rl.workers
    fitting = fitting_processes(job.settings, job.train.n_features)
    n = _fastest(job, fitting) if asked == "auto" else asked
    if n > fitting:
        logger.warning(
            "freqai.rl_config.workers is %d, and free memory holds %d trainings of %.1f GB each: %d processes train. "
            "Remedy: free memory, or lower n_envs, n_steps or net_arch.",
            n,
            fitting,
            _bytes_needed(job.settings, job.train.n_features) / 1e9,
            fitting,
        )
    return min(n, fitting)


def fitting_processes(settings: Settings, n_features: int) -> int:
    """Processes that free memory holds; one at least, for a training in this process would need as much.

    :param n_features: of a candle
    """
    return max(1, int(psutil.virtual_memory().available / _bytes_needed(settings, n_features)))


def counts_to_time(most: int) -> list[int]:
    """The numbers of processes that ``workers`` 'auto' chooses from."""
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def _bytes_needed(settings: Settings, n_features: int) -> float:
    n_processes = settings.rl.env_workers or settings.rl.environments
    envs = n_processes * _ENV_PROCESS_BYTES if settings.rl.vec_env == "subproc" else 0.0
    training = sum(need.n_bytes for need in memory_needed(settings, n_features))
    return _PROCESS_BYTES + envs + training


def _fastest(job: TrainingJob, fitting: int) -> int:
    """Of the numbers up to one for each processor, the one that trains most.

    Measured once for a machine and settings, then read from a file beside :func:`cache_path`'s.
    """
    most = min(usable_processors(), fitting)
    if most == 1:
        return 1
    path, key = cache_path().with_name(_CACHE_NAME), _key(job)
    known = read_measured(path)
    if key in known:
        figures = [Measured(*figure) for figure in known[key]]
        when = f"measured before, from {path}"
    else:
        figures = measured(job, most)
        when = "measured now"
        if not figures:
            # The trainings themselves will say what is wrong.
            return 1
        artefacts.write_json(path, read_measured(path) | {key: figures})
    return _told(figures, when)


def measured(job: TrainingJob, most: int, clock: Callable[[], float] = time.perf_counter) -> list[Measured]:
    """Time short trainings side by side: one, two, four and so on, as long as more of them train more.

    :param job: is what they are like
    :param most: processes at a time
    :return: nothing where one fails, or no process starts
    """
    figures: list[Measured] = []
    with start_pool(PoolPlan(InlineExecutor(), lambda _: most, is_quiet=True), None, None) as running:
        for workers in counts_to_time(most):
            threads = threads_of_job(job.settings.rl, workers)
            short = short_training(job, threads)
            # At first processes are started and warm up.
            first, seconds = (_seconds_side_by_side(running, short, workers, clock) for _ in range(2))
            if first is None or seconds is None:
                return []
            figures.append(Measured(workers, threads, seconds))
            if len(figures) > 1 and figures[-1].per_minute < _WORTH * figures[-2].per_minute:
                break
    return figures


def _seconds_side_by_side(running: Running, job: TrainingJob, workers: int, clock: Callable[[], float]) -> float | None:
    """Of several trainings alike at once, until the last is over; None where one fails."""
    began = clock()
    for _ in range(workers):
        running.submit(replace(job))
    outcomes = [running.next_finished()[1] for _ in range(workers)]
    return None if any(isinstance(outcome, Exception) for outcome in outcomes) else clock() - began


def short_training(job: TrainingJob, threads: int) -> TrainingJob:
    """A training of a few thousand steps that computes as another one does."""
    rl, ppo = job.settings.rl, job.settings.ppo
    n_steps = min(ppo.n_steps, max(_TIMED_STEPS, ppo.batch_size) // rl.environments + 1)
    changes: dict[str, object] = {"train_cycles": 1, "threads_per_job": threads, "ensemble": 1}
    start, stop = max(job.train.segments, key=lambda segment: segment[1] - segment[0])
    return replace(
        job,
        settings=job.settings.model_copy(
            update={
                "rl": rl.model_copy(update=changes),
                "ppo": ppo.model_copy(update={"n_steps": n_steps}),
            }
        ),
        train=job.train.rows(start, min(stop, start + _TIMED_STEPS)),
        evaluation=None,
        judging=None,
        initial_model=None,
        tensorboard_dir=None,
    )


def _told(figures: list[Measured], when: str) -> int:
    """The number that trains most, with a table for the log."""
    ranked = sorted(figures, key=lambda figure: -figure.per_minute)
    rows = "\n".join(
        f"  {figure.workers:>3} x {figure.threads} threads {figure.per_minute:>9,.1f} short trainings a minute"
        for figure in ranked
    )
    logger.info("workers 'auto' takes %d (%s):\n%s", ranked[0].workers, when, rows)
    return ranked[0].workers


def _key(job: TrainingJob) -> str:
    rl: RLSettings = job.settings.rl
    alike = {*OUTSIDE_A_TRAINING, "decision_mode", "train_cycles", "seed", "ensemble"}
    return artefacts.value_hash(
        [
            platform.node(),
            platform.processor(),
            usable_processors(),
            str(get_device(rl.device)),
            artefacts.library_versions(),
            rl.model_dump(mode="json", exclude=alike),
            job.settings.ppo.model_dump(mode="json"),
            job.settings.lookback,
            job.train.n_features,
        ]
    )
