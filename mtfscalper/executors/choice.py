"""Which executor runs the trainings that the settings ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mtfscalper.executors.child import ChildExecutor
from mtfscalper.executors.ensembles import EnsembleExecutor
from mtfscalper.executors.executor import Executor
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.population import PopulationExecutor
from mtfscalper.executors.processes import ProcessesExecutor
from mtfscalper.executors.ray import RayExecutor
from mtfscalper.executors.ray_cluster import why_no_ray
from mtfscalper.executors.threads import why_too_many_threads
from mtfscalper.executors.worker_count import worker_count
from mtfscalper.machine import usable_processors
from mtfscalper.settings import RLSettings, Settings
from mtfscalper.training.population import why_not_on_device


def executor_for(settings: Settings) -> Executor:
    """The executor of a backtest's trainings; the one place that decides it."""
    if settings.rl.executor == "processes":
        return EnsembleExecutor(ProcessesExecutor(worker_count))
    if settings.rl.executor == "ray":
        return EnsembleExecutor(RayExecutor(settings.rl))
    return executor_here(settings)


def here_if_alone(settings: Settings, n_policies: int) -> Executor | None:
    """The executor of a backtest that lacks one policy alone, where it is not to wait for the start of a process.

    With ``threads_per_job`` its training gives the same bits here; else a process would have other threads.

    :param n_policies: that it lacks
    :return: None where :func:`executor_for`'s is to run them
    """
    rl = settings.rl
    alone = n_policies == 1 and rl.ensemble == 1
    here = alone and rl.executor == "processes" and rl.threads_per_job is not None
    # As a process of trainings would run it.
    return EnsembleExecutor(InlineExecutor()) if here else None


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
    if settings.rl.executor == "ray" and (why := why_no_ray()) is not None:
        return why
    # The nodes of another cluster are asked once it is there.
    is_here = settings.rl.executor != "ray" or settings.rl.ray_address is None
    if is_here and (why := why_too_many_threads(settings.rl)) is not None:
        return why
    if settings.rl.executor != "population" or (why := why_not_on_device(settings)) is None:
        return None
    return (
        f"freqai.rl_config.executor is 'population', which cannot train this: {why}; accepted: what trains wholly on a "
        "device; remedy: change that, or set executor to 'inline' or 'processes'"
    )


def how_bot_differs(settings: Settings) -> Iterator[str]:
    """What a bot makes of settings that are a backtest's, in one line each; it trains beside its trading."""
    if (executor := settings.rl.executor) in ("ray", "population"):
        yield (
            f"freqai.rl_config.executor is {executor!r}, which only backtests use: a bot trains on its own machine, "
            "one pair after the other; accepted for several at a time: 'processes' with a number of workers; remedy: "
            "none where one at a time will do"
        )
    if (why := why_too_many_threads(settings.rl)) is not None:
        yield f"{why}. The bot trains with {usable_processors()}; backtests are refused"
