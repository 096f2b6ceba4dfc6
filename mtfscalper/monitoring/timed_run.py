"""Timing a watched run's training by itself: in its own way, in others, and beside what the machine gives at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.utils import get_device

from mtfscalper.freqai.training_folder import trained_terms
from mtfscalper.machine import precision_on
from mtfscalper.monitoring.choices import Abilities, Choice, alternatives
from mtfscalper.monitoring.facts import TimedRun, TrainedPeriod
from mtfscalper.monitoring.limits import network_operations, step_bytes
from mtfscalper.monitoring.timing import Budget, PerStep, TrialError, time_choices
from mtfscalper.monitoring.trial import Task, TrialProcess
from mtfscalper.settings import Settings

_VEC_ENVS = {"SubprocVecEnv": "subproc", "DummyVecEnv": "dummy", "BatchedTradingEnv": "batched", "torch": "torch"}


def task_of(models: Path, settings: Settings, user_data: Path) -> Task:
    """What the first training of a run trained.

    :param models: ``user_data/models/<identifier>``
    :param user_data: freqtrade's user directory of the run
    :raises TrialError: if it left nothing to go by
    """
    folder = min(models.glob("sub-train-*"), default=None)
    terms = trained_terms(folder) if folder else None
    features = next(folder.glob("*_trained_df.pkl"), None) if folder else None
    if terms is None or features is None:
        raise TrialError(f"{models}: no training left its terms and features, so that nothing can be timed")
    values = np.asarray(pd.read_pickle(features), dtype=np.float32)
    return Task(settings, values, terms.rules, user_data)


def choice_of(settings: Settings, period: TrainedPeriod, abilities: Abilities) -> Choice:
    """How a training ran, with everything decided that was left to the machine."""
    rl = settings.rl
    device = get_device(rl.device)
    return Choice(
        vec_env=_VEC_ENVS.get(period.report.vec_env, rl.vec_env),
        cpu_count=min(rl.cpu_count, abilities.processors),
        interop_threads=min(rl.interop_threads, abilities.processors),
        precision=precision_on(rl.precision, device),
        device=device.type,
    )


def time_run(task: Task, period: TrainedPeriod, seconds: float, tell: Callable[[str, float], None]) -> TimedRun:
    """Time the training of a run.

    :param period: one of its trainings
    :param seconds: how long it may take; the rounds that a comparison needs at least are made all the same
    :param tell: see :class:`mtfscalper.monitoring.timing.Budget`
    :raises TrialError: if the run's own way to train cannot be timed
    """
    abilities = task.abilities()
    yours = choice_of(task.settings, period, abilities)
    budget = Budget(seconds, time.monotonic, tell)
    with _trial_processes(task) as process_for:
        budget.told("measuring what the machine gives at best")
        limits = process_for(yours).limits(yours)

        def run(choice: Choice) -> PerStep:
            return process_for(choice).round(choice)

        timed = time_choices(yours, alternatives(yours, abilities), task.settings.ppo.n_epochs, run, budget)
    n_inputs = task.settings.lookback * task.features.shape[1]
    update, decision = network_operations(n_inputs, task.settings.rl.net_arch, task.settings.rl.net_arch_value)
    return TimedRun(
        timed=timed,
        peak_flops=limits.flops,
        copied_bytes_per_second=limits.copied_bytes,
        update_flop=update,
        decision_flop=decision,
        step_bytes=step_bytes(n_inputs),
        n_epochs=task.settings.ppo.n_epochs,
        seconds=budget.used(),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
    )


@contextmanager
def _trial_processes(task: Task) -> Iterator[Callable[[Choice], TrialProcess]]:
    """A process for each number of inter-op threads, started when it is first asked for."""
    made: dict[int, TrialProcess] = {}
    with ExitStack() as resources:

        def process_for(choice: Choice) -> TrialProcess:
            if choice.interop_threads not in made:
                made[choice.interop_threads] = resources.enter_context(TrialProcess(task))
            return made[choice.interop_threads]

        yield process_for
