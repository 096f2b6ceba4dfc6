"""From a name to a vector environment in a VecMonitor."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecMonitor

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.episodes import EnvSettings, EpisodeMap
from mtfscalper.envs.lookback_observation import LookbackObservation
from mtfscalper.envs.reward_errors import RewardErrorsInInfo
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.machine import set_torch_threads
from mtfscalper.market.tape import MarketTape

logger = logging.getLogger(__name__)

# Which backend takes over when one cannot start; the last one has no successor.
FALLBACKS = {"subproc": "dummy"}

# What a worker needs is imported once, in the server that workers are forked from: eight workers then start in the
# time of one.
_PRELOADED = ["mtfscalper.envs.build"]

# How long a worker may take to end by itself.
_CLOSE_SECONDS = 5.0


class WorkerDiedError(RuntimeError):
    """A worker process of a SubprocVecEnv is gone. Names the worker, its process and the remedy."""


def make_env(tape: MarketTape, settings: EnvSettings, compact: bool) -> gymnasium.Env[Any, Any]:
    """One trading environment, with compact observations, or such that hold their lookback."""
    env = TradingEnv(tape, settings)
    return env if compact else LookbackObservation(env, tape.features)


def _make_worker_env(tape: MarketTape, settings: EnvSettings, compact: bool) -> gymnasium.Env[Any, Any]:
    # Eight workers with a thread pool each would fight over the same processors.
    set_torch_threads(1, 1)
    # Ctrl-C and a service manager's stop reach the whole process group; the parent alone decides when workers end. They
    # end by themselves once it is gone, for nobody writes into their pipes any more.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, signal.SIG_IGN)
    env = make_env(tape, settings, compact)
    return env if settings.own_reward is None else RewardErrorsInInfo(env)


class SupervisedSubprocVecEnv(SubprocVecEnv):
    """A SubprocVecEnv that says which worker died, and closes whatever state it is in."""

    def __init__(self, makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]], start_method: str) -> None:
        try:
            with self._naming_the_dead():
                super().__init__(list(makers), start_method=start_method)
        except BaseException:
            # The workers that did start would otherwise run on: nobody holds this object, to close it.
            for process in getattr(self, "processes", []):
                process.kill()
            raise
        # Python's own way at the end of a process is SIGTERM, and waiting for ever; these come before it.
        self._at_exit = Finalize(self, _close, (weakref.ref(self),), exitpriority=1)

    def step_async(self, actions: Any) -> None:
        with self._naming_the_dead():
            super().step_async(actions)

    def step_wait(self) -> Any:
        with self._naming_the_dead():
            observations, rewards, dones, infos = super().step_wait()
        # As DummyVecEnv gives them, so that a training is the same on both, bit by bit.
        return observations, rewards.astype(np.float32), dones, infos

    def reset(self) -> Any:
        with self._naming_the_dead():
            return super().reset()

    def get_attr(self, *args: Any, **kwargs: Any) -> list[Any]:
        with self._naming_the_dead():
            return super().get_attr(*args, **kwargs)

    def env_method(self, *args: Any, **kwargs: Any) -> list[Any]:
        with self._naming_the_dead():
            return super().env_method(*args, **kwargs)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers, in the order of the environments."""
        return [process.pid for process in self.processes if process.pid is not None]

    def close(self) -> None:
        """End every worker, also one that died or is in the middle of a step."""
        if self.closed:
            return
        self.closed = True
        self._at_exit.cancel()
        for remote in self.remotes:
            try:
                remote.send(("close", None))
            except OSError:
                # This worker is gone already.
                continue
        for process in self.processes:
            process.join(timeout=_CLOSE_SECONDS)
            if process.is_alive():
                # Not terminate: a worker that was stopped would not end.
                process.kill()
                process.join(timeout=_CLOSE_SECONDS)
        for remote in self.remotes:
            remote.close()

    @contextlib.contextmanager
    def _naming_the_dead(self) -> Iterator[None]:
        """Turn the broken pipe of a worker that died into an error that says so."""
        try:
            yield
        except (EOFError, OSError) as error:
            processes = getattr(self, "processes", [])
            for process in processes:
                process.join(timeout=0.2)
            dead = [
                f"worker {index} (process {process.pid}, {_exit_words(process.exitcode)})"
                for index, process in enumerate(processes)
                if not process.is_alive()
            ]
            if not dead:
                raise
            raise WorkerDiedError(
                f"{' and '.join(dead)} of {len(processes)} SubprocVecEnv workers died; "
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


def build_vec_env(
    name: str, tape: MarketTape, settings: EnvSettings, n_envs: int, *, compact: bool = True
) -> VecMonitor:
    """Build a vector environment; one that cannot start is replaced by the next, with one warning.

    Seeding is the caller's: ``vec_env.seed(s)`` gives environment i the seed s + i, and with it its own start.

    :param name: ``subproc``, ``dummy`` or ``batched``
    :param tape: the candles every environment plays on
    :param n_envs: how many environments
    :param compact: compact observations, else such that hold their lookback
    :raises ValueError: for a name that is not known
    """
    builders: dict[str, Callable[[MarketTape], VecEnv]] = {
        "subproc": lambda tape: _subproc([partial(_make_worker_env, tape, settings, compact)] * n_envs),
        "dummy": lambda tape: DummyVecEnv([partial(make_env, tape, settings, compact)] * n_envs),
        "batched": lambda tape: BatchedTradingEnv(tape, settings, n_envs, compact=compact),
    }
    if name not in builders:
        raise ValueError(f"vec_env is {name!r}; accepted: {', '.join(builders)}; remedy: set one of these")
    if compact:
        tape = tape.without_features()
    # Wrong candles are an error of the data, whatever runs them: found here, not in a worker.
    EpisodeMap.from_tapes(tape, settings)
    while True:
        try:
            return VecMonitor(builders[name](tape))
        except (OSError, EOFError, RuntimeError, ImportError) as error:
            if name not in FALLBACKS:
                raise
            logger.warning(
                "vec_env '%s' could not start (%s: %s); training goes on with '%s'.",
                name,
                type(error).__name__,
                error,
                FALLBACKS[name],
            )
            name = FALLBACKS[name]


def _subproc(makers: Sequence[Callable[[], gymnasium.Env[Any, Any]]]) -> SupervisedSubprocVecEnv:
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    if method == "forkserver":
        # Without effect once the server runs, which then has these modules already.
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    return SupervisedSubprocVecEnv(makers, start_method=method)


def underlying(vec_env: VecEnv) -> VecEnv:
    """The vector environment inside its wrappers."""
    return vec_env.unwrapped
