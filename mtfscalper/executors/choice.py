"""Which executor runs the trainings that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from mtfscalper.executors.child import ChildExecutor
from mtfscalper.executors.ensembles import EnsembleExecutor
from mtfscalper.executors.executor import Executor
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.population import PopulationExecutor
from mtfscalper.executors.processes import ProcessesExecutor
from mtfscalper.executors.ray import RayExecutor
from mtfscalper.executors.ray_cluster import why_no_ray
from mtfscalper.executors.worker_count import worker_count
from mtfscalper.settings import RLSettings, Settings
from mtfscalper.training.population import why_not_on_device


def executor_for(settings: Settings) -> Executor:
    """The executor of a backtest's trainings; the one place that decides it."""
    if settings.rl.executor == "processes":
        return EnsembleExecutor(ProcessesExecutor(worker_count))
    if settings.rl.executor == "ray":
        return EnsembleExecutor(RayExecutor(settings.rl))
    return executor_here(settings)


def executor_here(settings: Settings) -> Executor:
    """The executor of trainings that stay in this process, as one by itself does."""
    return EnsembleExecutor(PopulationExecutor() if trains_as_one_batch(settings) else InlineExecutor())


def trains_as_one_batch(settings: Settings) -> bool:
    """Whether trainings that stay in this process run together, on the device that the settings name."""
    return settings.rl.vec_env == "torch" and why_not_on_device(settings) is None


def bots_executor(settings: Settings, check: Callable[[], None]) -> Executor:
    """The executor of a bot's trainings, beside which the bot trades.

    :param check: is called often while one runs; what it raises ends it
    """
    executor, rl = executor_here(settings), settings.rl
    return ChildExecutor(executor, check, bots_trainings_at_once(rl)) if rl.live_training == "process" else executor


def bots_trainings_at_once(rl: RLSettings) -> int:
    """How many trainings of a bot may run at a time: several only in processes, and only where a number asks for it."""
    in_processes = rl.executor == "processes" and rl.live_training == "process"
    return rl.workers if in_processes and rl.workers != "auto" else 1


def why_executor_cannot_be(settings: Settings) -> str | None:
    """Why the executor that settings name cannot train what they ask for, None where it can."""
    if settings.rl.executor == "ray":
        return why_no_ray()
    if settings.rl.executor != "population" or (why := why_not_on_device(settings)) is None:
        return None
    return (
        f"freqai.rl_config.executor is 'population', which cannot train this: {why}; accepted: what trains wholly on a "
        "device; remedy: change that, or set executor to 'inline' or 'processes'"
    )
