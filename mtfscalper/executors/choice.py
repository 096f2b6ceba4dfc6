"""Which executor runs the trainings that the settings ask for."""

from __future__ import annotations

from mtfscalper.executors.executor import Executor
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.settings import Settings


def executor_for(settings: Settings) -> Executor:
    """The executor of a run's trainings; the one place that decides it."""
    return InlineExecutor()
