"""Worker processes end with their training, however it ends."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from tiny_training import ROLLOUT, env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.envs.build import underlying
from mtfscalper.envs.worker_env import SupervisedSubprocVecEnv, WorkerDiedError
from mtfscalper.settings import Settings
from mtfscalper.training import job as job_module
from mtfscalper.training.callbacks import PhaseClock
from mtfscalper.training.job import TrainingJob, TrainingStoppedError, stop_on

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked from a server here")


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[psutil.Process]:
    """Fills with the worker processes that a training starts."""
    started: list[psutil.Process] = []
    real = job_module.build_vec_env

    def noted(*arguments: Any, **keywords: Any) -> Any:
        vec_env = real(*arguments, **keywords)
        inner = underlying(vec_env)
        if isinstance(inner, SupervisedSubprocVecEnv):
            started.extend(psutil.Process(pid) for pid in inner.pids)
        return vec_env

    monkeypatch.setattr(job_module, "build_vec_env", noted)
    return started


def at_step(monkeypatch: pytest.MonkeyPatch, n: int, act: Callable[[], None]) -> None:
    """Do something in a callback after ``n`` steps of training."""
    steps = iter(range(1, 10**9))
    real = PhaseClock._on_step

    def on_step(self: Any) -> bool:
        if next(steps) == n:
            act()
        return real(self)

    monkeypatch.setattr(PhaseClock, "_on_step", on_step)


def subproc(**rl: Any) -> Settings:
    return tiny_settings(vec_env="subproc", **rl)


def train(settings: Settings, on_evaluation: Any = None) -> Any:
    job = TrainingJob(settings, random_tape(), random_tape(80, seed=2), env_settings_of(settings))
    return job.run(on_evaluation)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=120)
    return bool(processes) and not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def test_two_workers_train_the_parameters_that_none_train(workers: list[psutil.Process]) -> None:
    with_workers, report = train(subproc())
    assert report.worker_pids == [process.pid for process in workers]
    assert len(workers) == 2
    assert report.vec_env == "SubprocVecEnv"
    assert report.timesteps == 4 * ROLLOUT
    assert gone(workers)
    without, _ = train(tiny_settings())
    assert same(parameters(with_workers), parameters(without))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug")], ids=["ctrl-c", "exception"])
def test_workers_end_with_a_training_that_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, workers: list[psutil.Process], error: BaseException
) -> None:
    at_step(monkeypatch, 5, raising(error))
    with pytest.raises(type(error)):
        train(subproc())
    assert gone(workers)


def test_workers_end_when_the_bot_stops(monkeypatch: pytest.MonkeyPatch, workers: list[psutil.Process]) -> None:
    event = threading.Event()
    at_step(monkeypatch, 5, event.set)
    with pytest.raises(TrainingStoppedError):
        train(subproc(train_cycles=1000), on_evaluation=stop_on(event))
    assert gone(workers)


def test_a_worker_that_is_killed_ends_the_training_and_is_named(
    monkeypatch: pytest.MonkeyPatch, workers: list[psutil.Process]
) -> None:
    def kill() -> None:
        os.kill(workers[1].pid, signal.SIGKILL)

    at_step(monkeypatch, 5, kill)
    with pytest.raises(WorkerDiedError) as caught:
        # Of a million cycles there would be no end.
        train(subproc(train_cycles=1_000_000))
    assert f"worker 1 (process {workers[1].pid}, killed by signal 9)" in str(caught.value)
    assert "remedy" in str(caught.value)
    assert gone(workers)
