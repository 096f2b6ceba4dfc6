"""Which executor runs the trainings that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable

from mtfscalper.executors.child import ChildExecutor
from mtfscalper.executors.ensembles import EnsembleExecutor
from mtfscalper.executors.executor import Executor
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.population import PopulationExecutor
from mtfscalper.settings import Settings
from mtfscalper.training.population import why_not_on_device


def executor_for(settings: Settings) -> Executor:
    """The executor of a run's trainings; the one place that decides it."""
    on_device = settings.rl.vec_env == "torch" and why_not_on_device(settings) is None
    return EnsembleExecutor(PopulationExecutor() if on_device else InlineExecutor())


def bots_executor(settings: Settings, check: Callable[[], None]) -> Executor:
    """The executor of a bot's trainings, beside which the bot trades.

    :param check: is called often while one runs; what it raises ends it
    """
    executor = executor_for(settings)
    return ChildExecutor(executor, check) if settings.rl.live_training == "process" else executor
