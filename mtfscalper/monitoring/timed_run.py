"""Timing a watched run's training by itself: in its own way, in others, and beside what the machine gives at best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.utils import get_device

from mtfscalper.freqai.training_folder import trained_terms
from mtfscalper.machine import precision_on
from mtfscalper.monitoring.choices import Abilities, Choice, alternatives
from mtfscalper.monitoring.facts import LeftBehind, TimedRun, TrainedPeriod
from mtfscalper.monitoring.limits import network_operations, step_bytes
from mtfscalper.monitoring.others import OthersClock
from mtfscalper.monitoring.timing import Budget, PerStep, TrialError, time_choices
from mtfscalper.monitoring.trial import Task, TrialProcess
from mtfscalper.settings import Settings

# Where a policy lets few trades begin, the entries tell too little of the signals.
SIGNAL_SHARE_MIN = 0.01
_VEC_ENVS = {"SubprocVecEnv": "subproc", "DummyVecEnv": "dummy", "BatchedTradingEnv": "batched", "torch": "torch"}


def task_of(models: Path, settings: Settings, user_data: Path, left: LeftBehind) -> Task:
    """What the first training of a run trained.

    :param models: ``user_data/models/<identifier>``
    :param user_data: freqtrade's user directory of the run
    :param left: what the run left, see :func:`signal_share`
    :raises TrialError: if it left nothing to go by
    """
    folder = min(models.glob("sub-train-*"), default=None)
    terms = trained_terms(folder) if folder else None
    features = next(folder.glob("*_trained_df.pkl"), None) if folder else None
    if terms is None or features is None:
        raise TrialError(f"{models}: no training left its terms and features, so that nothing can be timed")
    values = np.asarray(pd.read_pickle(features), dtype=np.float32)
    return Task(settings, values, terms.rules, user_data, signal_share(left))


def signal_share(left: LeftBehind) -> float:
    """Of the candles without a trade, those with a signal, by the entries that the run made.

    :param left: of it
    """
    free = left.predicted_rows - left.questions
    return min(max(left.frame_rows / free if free > 0 else 0.0, SIGNAL_SHARE_MIN), 1.0)


def choice_of(settings: Settings, period: TrainedPeriod, abilities: Abilities) -> Choice:
    """How a training ran, with everything decided that was left to the machine."""
    rl = settings.rl
    device = get_device(rl.device)
    return Choice(
        vec_env=_VEC_ENVS.get(period.report.vec_env, rl.vec_env),
        cpu_count=min(rl.torch_threads, abilities.processors),
        interop_threads=min(rl.interop_threads, abilities.processors),
        precision=precision_on(rl.precision, device),
        device=device.type,
    )


def time_run(
    task: Task,
    yours: Choice,
    periods: Sequence[TrainedPeriod],
    seconds: float,
    tell: Callable[[str, float], None],
    accepts: Callable[[Choice], bool],
) -> TimedRun:
    """Time the training of a run.

    :param yours: of :func:`choice_of`
    :param periods: its trainings
    :param seconds: how long it may take; the rounds that a comparison needs at least are made all the same
    :param tell: see :class:`mtfscalper.monitoring.timing.Budget`
    :param accepts: whether the settings would take a choice
    :raises TrialError: if the run's own way to train cannot be timed
    """
    abilities = task.abilities()
    budget = Budget(seconds, time.monotonic, tell)
    clock = OthersClock()
    with _trial_processes(task) as process_for:
        budget.told("measuring what the machine gives at best")
        limits = process_for(yours).limits(yours)

        def run(choice: Choice) -> PerStep:
            return process_for(choice).round(choice)

        others = alternatives(yours, abilities, accepts)
        timed = time_choices(yours, others, task.settings.ppo.n_epochs, run, budget, accepts)
        # Before the processes end: what they used would be nobody's.
        others_cores = clock.cores()
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
        others_cores=others_cores,
        rest_share=rest_share(periods),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
    )


def rest_share(periods: Sequence[TrainedPeriod]) -> float:
    """The part of trainings that is neither rollout nor update: the start of workers, evaluations."""
    seconds = sum(period.report.seconds for period in periods)
    phases = sum(period.watched.rollout.seconds + period.watched.update.seconds for period in periods)
    return min(max(1.0 - phases / seconds, 0.0), 1.0) if seconds > 0 else 0.0


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
