"""A process that steps environments for a :class:`mtfscalper.envs.worker_env.SupervisedSubprocVecEnv`.

Nothing here imports stable-baselines3 or torch: a worker needs neither, and they take most of the time of its start.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import cloudpickle
import gymnasium

from mtfscalper.envs.step_memory import Layout, StepMemory
from mtfscalper.files_read import watched
from mtfscalper.sent_errors import SentError

Env = gymnasium.Env[Any, Any]
Maker = Callable[[], Env]

# What the parent tells a worker, and a worker the parent, in one byte; after some a message follows.
CLOSE, STEP, ASK = b"c", b"s", b"m"
DONE, FAILED, ANSWER = b"d", b"f", b"a"


class Told(NamedTuple):
    """What an environment has to say of a step, beside what lies in shared memory.

    :ivar row: of the environment among all
    :ivar reset_info: of the episode that follows; None inside an episode
    """

    row: int
    info: dict[str, Any]
    reset_info: dict[str, Any] | None


def ring(connection: Connection, what: bytes) -> None:
    """Wake whoever listens at the other end, by one byte: of what can wait and be waited for, one of the fastest, and
    the end of either process is heard at the other end at once."""
    if os.name == "posix":
        os.write(connection.fileno(), what)
    else:
        connection.send_bytes(what)


def heard(connection: Connection) -> bytes:
    """Wait for the other end.

    :raises EOFError: if there is none
    """
    what = os.read(connection.fileno(), 1) if os.name == "posix" else connection.recv_bytes()
    if not what:
        raise EOFError
    return what


def serve(requests: Connection, answers: Connection, makers: bytes, first: int) -> None:
    """Step environments until the parent has enough of it, or is gone.

    :param makers: of these environments, pickled by cloudpickle
    :param first: index of the first of them among all
    """
    # Eight workers with a thread pool each would fight over the same processors. Torch, which may come with code of the
    # user's, reads this.
    os.environ["OMP_NUM_THREADS"] = "1"
    # Ctrl-C and a service manager's stop reach the whole process group; the parent alone decides when workers end. They
    # end by themselves once it is gone, for nobody holds the other end of their pipes any more.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    worker = _Worker(requests, answers, first)
    try:
        with watched({}):
            worker.serve(makers)
    except (EOFError, BrokenPipeError):
        # The parent is gone.
        pass
    finally:
        worker.close()


class _Worker:
    def __init__(self, requests: Connection, answers: Connection, first: int) -> None:
        self._requests, self._answers, self._first = requests, answers, first
        self._envs: list[Env] = []
        self._memory: StepMemory | None = None

    def serve(self, makers: bytes) -> None:
        self._answer(self._make, makers)
        while (what := heard(self._requests)) != CLOSE:
            if what == STEP:
                self._answer(self._step)
            else:
                name, arguments = self._requests.recv()
                _limit_torch_threads()
                self._answer(getattr(self, name), *arguments)

    def close(self) -> None:
        for env in self._envs:
            env.close()
        if self._memory is not None:
            self._memory.close()

    def _answer(self, act: Callable[..., Any], *arguments: Any) -> None:
        try:
            answer = act(*arguments)
            what, message = (DONE, None) if answer is None else (ANSWER, pickle.dumps(answer))
        except Exception as error:
            what, message = FAILED, cloudpickle.dumps(SentError.of(error))
        ring(self._answers, what)
        if message is not None:
            self._answers.send_bytes(message)

    # What the parent asks for

    def _make(self, makers: bytes) -> tuple[Any, Any]:
        self._envs = [make() for make in pickle.loads(makers)]
        _limit_torch_threads()
        return self._envs[0].observation_space, self._envs[0].action_space

    def share(self, name: str, layout: Layout) -> None:
        """Find the memory that steps are told in."""
        self._memory = StepMemory.found(name, layout, slice(self._first, self._first + len(self._envs)))

    def _step(self) -> list[Told] | None:
        memory = self._memory
        assert memory is not None
        told = []
        for index, env in enumerate(self._envs):
            observation, reward, terminated, truncated, info = env.step(memory.actions[index])
            done = terminated or truncated
            memory.cut_off[index] = truncated and not terminated
            if done:
                memory.terminal_observations[index] = observation
                observation, reset_info = env.reset()
                told.append(Told(self._first + index, info, reset_info))
            elif info:
                told.append(Told(self._first + index, info, None))
            memory.observations[index] = observation
            memory.rewards[index] = reward
            memory.dones[index] = done
        return told or None

    def reset(self, seeds: Sequence[int | None], options: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Begin an episode in each environment.

        :return: their infos
        """
        assert self._memory is not None
        infos = []
        for index, (env, seed, chosen) in enumerate(zip(self._envs, seeds, options, strict=True)):
            self._memory.observations[index], info = env.reset(seed=seed, **({"options": chosen} if chosen else {}))
            infos.append(info)
        return infos

    def each(self, what: str, indices: Sequence[int], arguments: Sequence[Any]) -> list[Any]:
        """Ask environments, by their indices among all, the same thing one after the other."""
        ask = _QUESTIONS[what]
        return [ask(self._envs[index - self._first], *arguments) for index in indices]


def _limit_torch_threads() -> None:
    """Let torch have one thread of each kind, once something that was sent here has imported it."""
    if "torch" in sys.modules:
        from mtfscalper.machine import set_torch_threads

        set_torch_threads(1, 1)


def name_of(kind: type[Any]) -> str:
    """What the parent and a worker call a class alike."""
    return f"{kind.__module__}.{kind.__qualname__}"


def _wrappers(env: Env) -> set[str]:
    """The names of the classes that an environment is wrapped in, and of those that these derive from."""
    names: set[str] = set()
    while isinstance(env, gymnasium.Wrapper):
        names.update(map(name_of, type(env).__mro__))
        env = env.env
    return names


# What an environment can be asked.
_QUESTIONS: dict[str, Callable[..., Any]] = {
    "get_attr": lambda env, name: env.get_wrapper_attr(name),
    "set_attr": setattr,
    "env_method": lambda env, name, arguments, keywords: env.get_wrapper_attr(name)(*arguments, **keywords),
    "wrappers": _wrappers,
    "render": lambda env: env.render(),
}
