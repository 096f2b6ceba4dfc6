"""Environments in worker processes: a SubprocVecEnv whose steps lie in shared memory."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import pickle
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.util import Finalize
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from mtfscalper.envs.env_worker import ASK, CLOSE, DONE, FAILED, STEP, Maker, heard, name_of, ring, serve
from mtfscalper.envs.step_memory import Layout, StepMemory
from mtfscalper.sent_errors import SentError

# How long workers may take to end by themselves.
_CLOSE_SECONDS = 5.0
# How long after the end of a pipe its worker's exit status is waited for.
_STATUS_SECONDS = 1.0


class WorkerDiedError(RuntimeError):
    """A worker process of a SubprocVecEnv is gone. Names the worker, its process and the remedy."""


class WorkerStartError(RuntimeError):
    """A worker process of a SubprocVecEnv could not make its environments. Says why."""


class _Worker(NamedTuple):
    """The parent's side of a worker.

    :ivar rows: of its environments among all
    """

    number: int
    process: Any
    requests: Connection
    answers: Connection
    rows: range

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"


class SupervisedSubprocVecEnv(SubprocVecEnv):
    """A SubprocVecEnv for observations and actions of a fixed shape, whose workers may hold several environments.

    Actions, observations, rewards and ends lie in shared memory, and what wakes a worker, or tells that it has stepped,
    is one byte in a pipe; what an info holds beside, as at an episode's end, goes through the pipe. It is a DummyVecEnv
    of the same environments to the last bit, exceptions included. It says which worker died, and closes whatever state
    it is in; its workers end by themselves if this process is killed, and nothing of the memory is left then.
    """

    def __init__(self, makers: Sequence[Maker], start_method: str, n_workers: int | None = None) -> None:
        """
        :param makers: of the environments
        :param start_method: ``forkserver`` or ``spawn``
        :param n_workers: how many processes hold them, as evenly as can be; None for one each
        :raises WorkerDiedError: if a worker is gone before it has made its environments
        :raises WorkerStartError: if a worker cannot make its environments
        :raises RuntimeError: if observations or actions are not arrays of a fixed shape
        :raises OSError: if there is no room in shared memory, or for processes
        """
        self.waiting = self.closed = False
        self.processes: list[Any] = []
        self._workers: list[_Worker] = []
        self._memory: StepMemory | None = None
        try:
            self._start(makers, multiprocessing.get_context(start_method), min(n_workers or len(makers), len(makers)))
        except BaseException:
            # The workers that did start would otherwise run on: nobody holds this object, to close it.
            for process in self.processes:
                process.kill()
            self._give_memory_back()
            raise
        # Python's own way at the end of a process is SIGTERM, and waiting for ever; these come before it.
        self._at_exit = Finalize(self, _close, (weakref.ref(self),), exitpriority=1)

    def _start(self, makers: Sequence[Maker], context: Any, n_workers: int) -> None:
        n_envs = len(makers)
        bounds = [n_envs * index // n_workers for index in range(n_workers + 1)]
        for index, (first, stop) in enumerate(itertools.pairwise(bounds)):
            (its_requests, requests), (answers, its_answers) = context.Pipe(duplex=False), context.Pipe(duplex=False)
            own = cloudpickle.dumps(makers[first:stop])
            # A daemon: ended with this process, if nothing else ends it.
            process = context.Process(target=serve, args=(its_requests, its_answers, own, first), daemon=True)
            process.start()
            self.processes.append(process)
            self._workers.append(_Worker(index, process, requests, answers, range(first, stop)))
            its_requests.close()
            its_answers.close()
        try:
            observation_space, action_space = self._answers()[0]
        except WorkerDiedError:
            raise
        except Exception as error:
            raise WorkerStartError(f"an environment cannot be made: {type(error).__name__}: {error}") from error
        layout = Layout.of_spaces(observation_space, action_space, n_envs)
        with StepMemory.created(layout) as self._memory:
            self._request([("share", self._memory.name, layout) for _ in self._workers])
        VecEnv.__init__(self, n_envs, observation_space, action_space)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, in the order of their environments."""
        return [process.pid for process in self.processes if process.pid is not None]

    # stable-baselines3's interface

    def step_async(self, actions: npt.NDArray[Any]) -> None:
        memory = self._shared
        actions = np.asarray(actions)
        if actions.shape != memory.actions.shape:
            raise ValueError(f"actions of shape {actions.shape}; accepted: {memory.actions.shape}, one an environment")
        memory.actions[...] = actions
        with self._naming_the_dead():
            for worker in self._workers:
                ring(worker.requests, STEP)
        self.waiting = True

    def step_wait(self) -> Any:
        answers = self._answers()
        self.waiting = False
        memory = self._shared
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": cut} for cut in memory.cut_off.tolist()]
        for told in answers:
            for index, info, reset_info in told or ():
                # In DummyVecEnv's order.
                infos[index] = info | infos[index]
                if reset_info is not None:
                    infos[index]["terminal_observation"] = memory.terminal_observations[index].copy()
                    self.reset_infos[index] = reset_info
        return memory.observations.copy(), memory.rewards.copy(), memory.dones.copy(), infos

    def reset(self) -> Any:
        rows = [slice(worker.rows.start, worker.rows.stop) for worker in self._workers]
        answers = self._request([("reset", self._seeds[own], self._options[own]) for own in rows])
        self.reset_infos = [info for infos in answers for info in infos]
        # Seeds and options are only used once.
        self._reset_seeds()
        self._reset_options()
        return self._shared.observations.copy()

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        return self._ask("get_attr", indices, attr_name)

    def has_attr(self, attr_name: str) -> bool:
        return VecEnv.has_attr(self, attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        self._ask("set_attr", indices, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        return self._ask("env_method", indices, method_name, method_args, method_kwargs)

    def env_is_wrapped(self, wrapper_class: type[Any], indices: int | Iterable[int] | None = None) -> list[bool]:
        # By its name: every VecMonitor asks about stable-baselines3's Monitor, which to unpickle would import torch in
        # each worker.
        return [name_of(wrapper_class) in names for names in self._ask("wrappers", indices)]

    def get_images(self) -> Sequence[npt.NDArray[Any] | None]:
        return self._ask("render", None) if self.render_mode == "rgb_array" else [None] * self.num_envs

    def close(self) -> None:
        """End every worker, also one that died or is in the middle of a step."""
        if self.closed:
            return
        self.closed = True
        self._at_exit.cancel()
        for worker in self._workers:
            # This worker is gone already.
            with contextlib.suppress(OSError):
                ring(worker.requests, CLOSE)
            # One that still has to say something hears that nobody listens.
            worker.requests.close()
            worker.answers.close()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for process in self.processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
        for process in self.processes:
            if process.is_alive():
                # Not terminate: a worker that was stopped would not end.
                process.kill()
                process.join(timeout=_CLOSE_SECONDS)
        self._give_memory_back()

    def _give_memory_back(self) -> None:
        if self._memory is not None:
            self._memory.close()

    # To workers and back

    @property
    def _shared(self) -> StepMemory:
        assert self._memory is not None
        return self._memory

    def _ask(self, what: str, indices: int | Iterable[int] | None, *arguments: Any) -> list[Any]:
        """Ask environments the same thing.

        :return: their answers, in the order of the indices
        """
        asked = [range(self.num_envs)[index] for index in self._get_indices(indices)]
        own = [[index for index in asked if index in worker.rows] for worker in self._workers]
        answers = self._request([("each", what, rows, arguments) for rows in own])
        # Workers hold environments in their order: each gives its answers one after the other.
        of_rows = {worker.rows: iter(found) for worker, found in zip(self._workers, answers, strict=True)}
        return [next(of_rows[worker.rows]) for index in asked for worker in self._workers if index in worker.rows]

    def _request(self, requests: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send each worker a request: the name of its method and arguments.

        :return: their answers
        """
        # Before any of them is sent: what cannot be pickled leaves every worker as it was.
        messages = [pickle.dumps((name, arguments)) for name, *arguments in requests]
        with self._naming_the_dead():
            for worker, message in zip(self._workers, messages, strict=True):
                ring(worker.requests, ASK)
                worker.requests.send_bytes(message)
        return self._answers()

    def _answers(self) -> list[Any]:
        """What every worker answers, None from one that has only done what it was asked.

        :raises Exception: the first that an environment raised, once all have answered
        """
        answers: list[Any] = [None] * len(self._workers)
        failed: tuple[_Worker, SentError] | None = None
        with self._naming_the_dead():
            # Whoever was woken last is mostly done last: then the others need not be waited for one by one, and this
            # process, which would take a processor from them each time, wakes once.
            for worker in reversed(self._workers):
                what = heard(worker.answers)
                if what != DONE:
                    answers[worker.number] = pickle.loads(worker.answers.recv_bytes())
                if what == FAILED:
                    failed = worker, answers[worker.number]
        if failed is not None:
            worker, failure = failed
            failure.error.add_note(f"In {worker} of {len(self._workers)}:\n{failure.words}")
            raise failure.error
        return answers

    @contextlib.contextmanager
    def _naming_the_dead(self) -> Iterator[None]:
        """Turn the broken pipe of a worker that died into an error that says so."""
        try:
            yield
        except (EOFError, OSError) as error:
            wait([process.sentinel for process in self.processes], timeout=_STATUS_SECONDS)
            dead = [
                f"worker {index} (process {process.pid}, {_exit_words(process.exitcode)})"
                for index, process in enumerate(self.processes)
                if not process.is_alive()
            ]
            if not dead:
                raise
            raise WorkerDiedError(
                f"{' and '.join(dead)} of {len(self.processes)} SubprocVecEnv workers died; "
                "remedy: check the memory of the machine (a worker killed by signal 9 was usually out of it), lower "
                "freqai.rl_config.n_envs, or set freqai.rl_config.vec_env to 'dummy'"
            ) from error


def _close(environments: weakref.ref[SupervisedSubprocVecEnv]) -> None:
    if (left := environments()) is not None:
        left.close()


def _exit_words(exitcode: int | None) -> str:
    if exitcode is None:
        return "no exit status"
    return f"killed by signal {-exitcode}" if exitcode < 0 else f"exit status {exitcode}"
