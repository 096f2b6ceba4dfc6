"""Vector environments: equal on every backend, and gone when they are closed, whatever happened."""

import logging
import os
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from builders import make_settings, make_tape, random_candles
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from mtfscalper.envs import build, worker_env
from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.lookback_observation import make_env
from mtfscalper.envs.worker_env import SupervisedSubprocVecEnv, WorkerDiedError
from mtfscalper.market.tape import MarketTape, TapeError

N_CANDLES = 400
SETTINGS = make_settings("gated", lookback=4)


def signal_tape() -> MarketTape:
    features = np.random.default_rng(0).uniform(-1, 1, (N_CANDLES, 2)).astype(np.float32)
    signals = np.arange(N_CANDLES) % 5 == 0
    return make_tape(random_candles(0, N_CANDLES), signals, np.roll(signals, 2), features=features)


@pytest.fixture
def workers() -> Iterator[VecMonitor]:
    """Two workers, whose test may do them any harm."""
    vec_env = build_vec_env("subproc", signal_tape(), SETTINGS, 2)
    yield vec_env
    vec_env.close()


def dies_in_a_worker(parent: int, *arguments: Any) -> Any:
    return make_env(*arguments) if os.getpid() == parent else os._exit(3)


def pids(vec_env: VecMonitor) -> list[int]:
    inner = underlying(vec_env)
    assert isinstance(inner, SupervisedSubprocVecEnv)
    return inner.pids


def is_running(pid: int) -> bool:
    """Whether a process still runs. A zombie has ended: the server that forked it has yet to notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        # Asked in one step: a process may end between a look for it and the question.
        return False


def running(process_ids: list[int]) -> list[int]:
    return [pid for pid in process_ids if is_running(pid)]


def wait_until_gone(process_ids: list[int]) -> None:
    deadline = time.monotonic() + 120
    while running(process_ids) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running(process_ids) == []


def trajectory(name: str, compact: bool, n_envs: int, n_steps: int) -> tuple[list[np.ndarray], list[Any]]:
    """Observations, rewards and ends of a seeded run, and the trades and episodes its infos tell of."""
    vec_env = build_vec_env(name, signal_tape(), SETTINGS, n_envs, compact=compact)
    try:
        vec_env.seed(7)
        arrays, told = [vec_env.reset()], []
        rng = np.random.default_rng(0)
        for _ in range(n_steps):
            observations, rewards, dones, infos = vec_env.step(rng.integers(0, 5, n_envs))
            arrays += [observations, rewards, dones]
            for info in infos:
                told += info.get("trades", [])
                if "episode" in info:
                    # How long an episode took is not the same twice.
                    told.append((info["episode"]["r"], info["episode"]["l"], info["final_equity"]))
        return arrays, told
    finally:
        vec_env.close()


@pytest.mark.parametrize("compact", [True, False])
def test_workers_and_one_process_give_the_same_trajectory_for_a_seed_and_actions(compact: bool) -> None:
    apart, told_apart = trajectory("subproc", compact, n_envs=3, n_steps=200)
    together, told_together = trajectory("dummy", compact, n_envs=3, n_steps=200)
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_array_equal(one, other)
    assert told_apart == told_together
    assert len(told_apart) > 20
    assert sum(done.sum() for done in apart[3::3]) >= 3


def test_each_environment_has_a_start_of_its_own_which_the_seed_repeats() -> None:
    vec_env = build_vec_env("dummy", signal_tape(), SETTINGS, 8)
    starts = []
    for seed in (3, 3, 4):
        vec_env.seed(seed)
        starts.append(vec_env.reset()[:, 0].tolist())
    assert len(set(starts[0])) >= 6
    assert starts[0] == starts[1]
    # Environment i is seeded with s + i.
    assert starts[2][:-1] == starts[0][1:]


def test_every_worker_is_a_process_with_one_torch_thread(workers: VecMonitor) -> None:
    # Functions sent to the workers answer there, where torch is imported with the first.
    workers.set_attr("torch_threads", torch.get_num_threads)
    workers.set_attr("interop_threads", torch.get_num_interop_threads)
    workers.set_attr("pid", os.getpid)
    assert workers.env_method("torch_threads") == [1, 1]
    assert workers.env_method("interop_threads") == [1, 1]
    assert workers.env_method("pid") == pids(workers)
    assert len({os.getpid(), *pids(workers)}) == 3


@pytest.mark.parametrize(("compact", "n_features", "shape"), [(True, 0, (7,)), (False, 2, (4 * 2 + 6,))])
def test_workers_get_the_feature_matrix_only_where_they_observe_lookback(
    monkeypatch: pytest.MonkeyPatch, compact: bool, n_features: int, shape: tuple[int, ...]
) -> None:
    sent: list[MarketTape] = []

    def receive(makers: Sequence[Any], *_: Any) -> DummyVecEnv:
        sent.extend(maker.args[0] for maker in makers)
        return DummyVecEnv([lambda: make_env(*makers[0].args)])

    monkeypatch.setattr(build, "_subproc", receive)
    vec_env = build_vec_env("subproc", signal_tape(), SETTINGS, 2, compact=compact)
    assert [tape.n_features for tape in sent] == [n_features] * 2
    assert vec_env.reset().shape == (1, *shape)


def test_workers_are_gone_after_close(workers: VecMonitor) -> None:
    process_ids = pids(workers)
    workers.reset()
    assert running(process_ids) == process_ids
    processes = underlying(workers).processes
    workers.close()
    wait_until_gone(process_ids)
    # They ended when they were asked to, and were not killed.
    assert [process.exitcode for process in processes] == [0, 0]
    # Closing twice is closing once.
    workers.close()


def test_workers_are_gone_after_close_in_the_middle_of_a_step(workers: VecMonitor) -> None:
    process_ids = pids(workers)
    workers.reset()
    workers.step_async(np.zeros(2, dtype=np.int64))
    workers.close()
    wait_until_gone(process_ids)


def test_a_worker_that_ignores_close_is_killed(workers: VecMonitor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_env, "_CLOSE_SECONDS", 0.5)
    process_ids = pids(workers)
    workers.reset()
    # Stopped, it reads no message, and would act on a signal to terminate only once it goes on.
    os.kill(process_ids[1], signal.SIGSTOP)
    try:
        workers.close()
        assert running(process_ids) == []
    finally:
        if is_running(process_ids[1]):
            os.kill(process_ids[1], signal.SIGKILL)


def test_an_exception_in_a_worker_comes_out_as_it_is_with_where_it_was_raised(workers: VecMonitor) -> None:
    process_ids = pids(workers)
    workers.reset()
    with pytest.raises(IndexError) as caught:
        # There is no action 99.
        workers.step(np.array([0, 99]))
    [note] = caught.value.__notes__
    assert note.startswith(f"In worker 1 (process {process_ids[1]}) of 2:\nTraceback")
    assert "trading_env.py" in note
    # As after an exception in a DummyVecEnv: whoever goes on after it can.
    with pytest.raises(AttributeError, match="no_such_thing"):
        workers.get_attr("no_such_thing")
    assert workers.reset().shape == (2, 7)
    workers.close()
    wait_until_gone(process_ids)


@pytest.mark.parametrize("moment", ["before the actions are sent", "while the workers step"])
def test_a_killed_worker_is_named_within_seconds_and_the_others_are_closed(workers: VecMonitor, moment: str) -> None:
    process_ids = pids(workers)
    workers.seed(0)
    workers.reset()
    for _ in range(10):
        workers.step(np.array([1, 3]))
    if moment == "before the actions are sent":
        os.kill(process_ids[0], signal.SIGKILL)
        wait_until_gone(process_ids[:1])
        proceed = partial(workers.step, np.array([1, 3]))
    else:
        # Stopped, it cannot answer before it is killed.
        os.kill(process_ids[0], signal.SIGSTOP)
        workers.step_async(np.array([1, 3]))
        os.kill(process_ids[0], signal.SIGKILL)
        proceed = workers.step_wait
    with pytest.raises(WorkerDiedError) as caught:
        proceed()
    message = str(caught.value)
    assert message.startswith(f"worker 0 (process {process_ids[0]}, killed by signal 9) of 2 SubprocVecEnv workers")
    assert "remedy: check the memory of the machine" in message
    assert "freqai.rl_config.n_envs" in message
    workers.close()
    wait_until_gone(process_ids)


@pytest.mark.parametrize("call", ["reset", "get_attr", "env_method"])
def test_every_call_to_a_killed_worker_names_it(workers: VecMonitor, call: str) -> None:
    os.kill(pids(workers)[1], signal.SIGKILL)
    arguments = {"reset": (), "get_attr": ("settings",), "env_method": ("action_masks",)}[call]
    with pytest.raises(WorkerDiedError, match=r"worker 1 .* killed by signal 9"):
        getattr(workers, call)(*arguments)


def test_a_worker_that_cannot_start_is_noticed_at_once_and_ends_the_others(tmp_path: Path) -> None:
    tape, note = signal_tape(), tmp_path / "pid"

    def start_well() -> Any:
        note.write_text(str(os.getpid()))
        return make_env(tape, SETTINGS, True)

    def start_late_and_die() -> Any:
        while not note.exists():
            time.sleep(0.01)
        os._exit(3)

    # Held, the exception keeps the pipes open: nothing but their maker ends the workers.
    with pytest.raises(WorkerDiedError) as caught:
        SupervisedSubprocVecEnv([start_well, start_late_and_die], start_method="forkserver")
    wait_until_gone([int(note.read_text())])
    assert caught.match(r"^worker 1 \(process \d+, exit status 3\) of 2 ")


@pytest.mark.parametrize("cause", ["no process", "workers that end"])
def test_workers_that_cannot_start_are_replaced_by_one_process_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cause: str
) -> None:
    if cause == "no process":
        monkeypatch.setattr(build, "_subproc", lambda *_: (_ for _ in ()).throw(OSError("no more processes")))
    else:
        monkeypatch.setattr(build, "make_env", partial(dies_in_a_worker, os.getpid()))
    with caplog.at_level(logging.WARNING):
        vec_env = build_vec_env("subproc", signal_tape(), SETTINGS, 2)
    assert isinstance(underlying(vec_env), DummyVecEnv)
    assert vec_env.reset().shape == (2, 7)
    (record,) = caplog.records
    named = {"no process": "OSError: no more processes", "workers that end": "exit status 3"}[cause]
    assert named in record.getMessage()
    assert "goes on with 'dummy'" in record.getMessage()


@pytest.mark.parametrize("name", ["gpu", "", "Subproc"])
def test_an_unknown_name_is_refused_with_those_that_are_known(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"vec_env is '{name}'; accepted: subproc, dummy, batched; remedy: set one of these"
    ):
        build_vec_env(name, signal_tape(), SETTINGS, 2)


@pytest.mark.parametrize("name", ["subproc", "dummy"])
def test_candles_that_cannot_be_used_are_an_error_of_the_data_and_not_of_the_backend(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EnvSettings(SETTINGS.rules, SETTINGS.reward, "gated", lookback=N_CANDLES)
    with pytest.raises(TapeError):
        build_vec_env(name, signal_tape(), settings, 2)
    assert not caplog.records
