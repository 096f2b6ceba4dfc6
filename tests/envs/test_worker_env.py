"""Worker processes that tell their steps in shared memory: a DummyVecEnv to the last bit, and nothing left of it."""

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import pytest
from equivalence import all_rules_settings, assert_equal_trajectories, dummy_env, eventful_tape
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from mtfscalper.envs import step_memory
from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.lookback_observation import make_env
from mtfscalper.envs.step_memory import Layout, StepMemory
from mtfscalper.envs.worker_env import SupervisedSubprocVecEnv

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked from a server here")

SETTINGS = all_rules_settings("gated")


class Toy(gymnasium.Env[Any, Any]):
    """Says back what it was started with and what it is told; an episode has three steps."""

    def __init__(self, action_space: spaces.Space[Any], observation_space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = observation_space or spaces.Box(-1e6, 1e6, (2, 3), np.float64)
        self.action_space = action_space
        self.render_mode = "rgb_array"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.k = 0
        return np.full((2, 3), float(self.np_random.integers(0, 1000))), {"options": options, "seed": seed}

    def step(self, action: Any) -> Any:
        self.k += 1
        told = {"told": float(np.sum(action)), "text": "x" * self.k}
        return np.full((2, 3), self.k + float(np.sum(action))), self.k / 3, False, self.k == 3, told

    def render(self) -> Any:
        return np.full((2, 2, 3), self.k, dtype=np.uint8)


class UnsendableError(Exception):
    """Cannot be unpickled: it needs two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def toys(action_space: spaces.Space[Any], n: int = 3) -> list[Callable[[], Any]]:
    return [partial(Toy, action_space)] * n


def segments() -> set[str]:
    """What lies in the machine's shared memory of Python's making."""
    return {path.name for path in Path("/dev/shm").glob("psm_*")}


@pytest.mark.parametrize("n_workers", [None, 2])
@pytest.mark.parametrize("compact", [True, False])
def test_workers_say_what_one_process_says_to_the_last_bit(n_workers: int | None, compact: bool) -> None:
    tape = eventful_tape()
    workers = build_vec_env("subproc", tape, SETTINGS, 3, compact=compact, n_workers=n_workers)
    try:
        inner = underlying(workers)
        assert isinstance(inner, SubprocVecEnv)
        assert len(inner.processes) == (n_workers or 3)
        seen = assert_equal_trajectories(dummy_env(tape, SETTINGS, 3, compact), inner, 500)
    finally:
        workers.close()
    assert seen["truncated"] + seen["terminated"] > 5
    assert len(seen) > 5


def test_no_worker_is_started_without_an_environment() -> None:
    workers = build_vec_env("subproc", eventful_tape(), SETTINGS, 2, n_workers=5)
    try:
        inner = underlying(workers)
        assert isinstance(inner, SubprocVecEnv)
        assert len(inner.processes) == 2
    finally:
        workers.close()


@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)])
def test_everything_a_vector_environment_is_asked_for_is_answered_as_in_one_process(space: spaces.Space[Any]) -> None:
    dummy, workers = DummyVecEnv(toys(space)), SupervisedSubprocVecEnv(toys(space), "forkserver", 2)
    try:
        answers = []
        for vec_env in (dummy, workers):
            vec_env.seed(5)
            vec_env.set_options({"a": 1})
            said: list[Any] = [vec_env.reset(), list(vec_env.reset_infos)]
            for k in range(7):
                said += vec_env.step(np.array([space.sample() * 0 + k] * 3, dtype=space.dtype))
                said.append(list(vec_env.reset_infos))
            vec_env.set_attr("mark", 7, indices=[2, 0])
            said += [vec_env.get_attr("mark", indices=[0, 2, 0]), vec_env.get_attr("k", indices=-1)]
            said += [vec_env.has_attr("k"), vec_env.has_attr("mark"), vec_env.has_attr("nothing")]
            said += [vec_env.env_is_wrapped(Monitor), vec_env.env_method("render", indices=1), vec_env.get_images()]
            said += [vec_env.observation_space, vec_env.action_space, vec_env.num_envs, vec_env.render_mode]
            answers.append(said)
        for one, other in zip(*answers, strict=True):
            np.testing.assert_equal(other, one)
        with pytest.raises(ValueError, match="actions of shape"):
            workers.step(np.zeros(1, dtype=space.dtype))
        # What was told is the caller's own.
        first, *_ = workers.step(np.zeros((3, *space.shape), dtype=space.dtype))
        kept = first.copy()
        workers.step(np.ones((3, *space.shape), dtype=space.dtype))
        np.testing.assert_array_equal(first, kept)
    finally:
        workers.close()


def test_an_error_that_cannot_be_sent_comes_as_its_words() -> None:
    workers = SupervisedSubprocVecEnv(toys(spaces.Discrete(2), 2), "forkserver", 1)
    try:
        workers.set_attr("fail", SendableError().raise_it)
        with pytest.raises(RuntimeError, match="UnsendableError: 3 and 4") as caught:
            workers.env_method("fail", indices=1)
        assert "in raise_it" in caught.value.__notes__[0]
        # Neither can this be sent: nobody has heard anything of it.
        with pytest.raises(Exception, match="pickle"):
            workers.set_attr("fail", lambda: None)
        assert workers.reset().shape == (2, 2, 3)
    finally:
        workers.close()


class SendableError(UnsendableError):
    """On its way to a worker it can be."""

    def __init__(self) -> None:
        super().__init__(3, 4)

    def __reduce__(self) -> Any:
        return SendableError, ()

    def raise_it(self) -> None:
        raise UnsendableError(3, 4)


def test_of_several_errors_the_first_workers_is_raised_and_all_go_on() -> None:
    workers = SupervisedSubprocVecEnv(toys(spaces.Discrete(2), 4), "forkserver")
    try:
        workers.reset()
        for index in (1, 3):
            workers.set_attr("k", f"the count of {index}", indices=index)
        # What is no number cannot be counted on.
        with pytest.raises(TypeError) as caught:
            workers.step(np.zeros(4, dtype=np.int64))
        assert "In worker 1 " in caught.value.__notes__[0]
        workers.reset()
        observations, *_ = workers.step(np.zeros(4, dtype=np.int64))
        assert np.array_equal(observations, np.ones((4, 2, 3)))
    finally:
        workers.close()


def test_a_space_whose_values_have_no_fixed_shape_says_what_to_do_and_leaves_nothing() -> None:
    before = segments()
    maker = partial(Toy, spaces.Discrete(2), spaces.Dict({"a": spaces.Discrete(2)}))
    with pytest.raises(RuntimeError, match="the observation space is a Dict; accepted: Box or Discrete"):
        SupervisedSubprocVecEnv([maker], "forkserver")
    assert segments() <= before


def fails() -> Any:
    raise KeyError("no such thing")


def test_an_environment_that_cannot_be_made_says_why() -> None:
    with pytest.raises(RuntimeError, match="an environment cannot be made: KeyError: 'no such thing'") as caught:
        SupervisedSubprocVecEnv([*toys(spaces.Discrete(2), 1), fails], "forkserver")
    assert caught.value.__cause__ is not None
    assert "in fails" in caught.value.__cause__.__notes__[0]


def test_where_there_is_no_room_in_shared_memory_one_process_steps_them_all(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = segments()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_memory.os, "posix_fallocate", full)
    vec_env = build_vec_env("subproc", eventful_tape(), SETTINGS, 2)
    assert isinstance(underlying(vec_env), DummyVecEnv)
    assert "No space left on device" in caplog.text
    assert segments() <= before


def test_memory_has_no_name_once_workers_have_found_it_and_goes_with_the_last_array(
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = segments()
    layout = Layout.of_spaces(spaces.Box(-1, 1, (3,)), spaces.Discrete(5), 4)
    with StepMemory.created(layout) as memory:
        found = StepMemory.found(memory.name, layout, slice(2, 4))
        assert segments() > before
    assert segments() <= before
    memory.rewards[:] = [1, 2, 3, 4]
    assert found.rewards.tolist() == [3, 4]
    held = found.rewards
    found.close()
    memory.close()
    assert held.tolist() == [3, 4]
    del held, found
    gc.collect()
    assert capfd.readouterr().err == ""


# Starts workers, tells their process ids, and waits to be killed in the middle of a step.
PROGRAM = """
import os, sys, time
sys.path[:0] = {path!r}
from functools import partial
import numpy as np
from test_worker_env import SETTINGS, eventful_tape
from mtfscalper.envs.build import build_vec_env, underlying
if __name__ == "__main__":
    vec_env = build_vec_env("subproc", eventful_tape(), SETTINGS, 2)
    vec_env.reset()
    print(*underlying(vec_env).pids, flush=True)
    vec_env.step_async(np.zeros(2, dtype=int))
    {then}
"""


def run_program(then: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(path=sys.path, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    )


@pytest.mark.parametrize(
    "end", ["kill -9", *(pytest.param(end, marks=pytest.mark.acceptance) for end in ("exit", "exception", "ctrl-c"))]
)
def test_nothing_is_left_however_a_process_with_workers_ends(end: str) -> None:
    before = segments()
    then = {"exit": "pass", "exception": "raise ZeroDivisionError('a bug')"}.get(end, "time.sleep(1000)")
    process = run_program(then)
    assert process.stdout is not None
    ids = [int(word) for word in process.stdout.readline().split()]
    assert len(ids) == 2
    workers = [psutil.Process(pid) for pid in ids if psutil.pid_exists(pid)]
    if end in ("kill -9", "ctrl-c"):
        # Ctrl-C on a terminal reaches all of its processes.
        os.killpg(process.pid, signal.SIGINT) if end == "ctrl-c" else process.kill()
    # Workers hold its standard error: read to the end, all of them are gone.
    _, said = process.communicate(timeout=120)
    expected = {"kill -9": "", "exit": "", "exception": "ZeroDivisionError: a bug", "ctrl-c": "KeyboardInterrupt"}[end]
    assert said.rstrip().endswith(expected)
    assert "leaked" not in said
    assert "resource_tracker" not in said
    if end in ("kill -9", "exit"):
        assert said == ""
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
    assert segments() <= before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc")
def test_workers_start_without_torch() -> None:
    loaded = "['torch' in open(f'/proc/{pid}/maps').read() for pid in [os.getpid(), *underlying(vec_env).pids]]"
    process = run_program(f"print({loaded}); vec_env.close()")
    said, _ = process.communicate(timeout=120)
    assert said.splitlines()[1:] == ["[True, False, False]"]


def test_wrappers_are_known_by_their_class_and_what_it_derives_from() -> None:
    def wrapped() -> Any:
        return Marked(TimeLimit(Toy(spaces.Discrete(2)), 5))

    dummy = DummyVecEnv([wrapped, *toys(spaces.Discrete(2), 1)])
    workers = SupervisedSubprocVecEnv([wrapped, *toys(spaces.Discrete(2), 1)], "forkserver")
    try:
        answers = [workers.env_is_wrapped(kind) for kind in (Marked, TimeLimit, gymnasium.Wrapper, Monitor, Toy)]
        assert answers == [dummy.env_is_wrapped(kind) for kind in (Marked, TimeLimit, gymnasium.Wrapper, Monitor, Toy)]
        assert answers[:4] == [[True, False]] * 3 + [[False, False]]
    finally:
        workers.close()


class Marked(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Does nothing."""


def test_a_worker_steps_each_of_its_environments_by_its_own_row() -> None:
    # Seven on three: two, two and three.
    makers = [partial(make_env, eventful_tape(), SETTINGS, True)] * 7
    workers = SupervisedSubprocVecEnv(makers, "forkserver", 3)
    try:
        assert len(workers.pids) == 3
        assert_equal_trajectories(dummy_env(eventful_tape(), SETTINGS, 7), workers, 60)
    finally:
        workers.close()
