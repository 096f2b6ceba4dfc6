"""From a name to a vector environment in a VecMonitor."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.env_worker import Maker
from mtfscalper.envs.episodes import EnvSettings, EpisodeMap
from mtfscalper.envs.lookback_observation import make_env
from mtfscalper.envs.worker_env import SupervisedSubprocVecEnv
from mtfscalper.market.tape import MarketTape

logger = logging.getLogger(__name__)

# Which backend takes over when one cannot start; the last one has no successor.
FALLBACKS = {"subproc": "dummy"}

# What a worker needs is imported once, in the server that workers are forked from: eight workers then start in the
# time of one. Code of the user's mostly brings torch with it, which is imported there too then.
_PRELOADED = ["mtfscalper.envs.env_worker", "mtfscalper.envs.lookback_observation"]
_PRELOADED_FOR_USERS_CODE = [*_PRELOADED, "mtfscalper.envs.build"]


def build_vec_env(
    name: str,
    tape: MarketTape,
    settings: EnvSettings,
    n_envs: int,
    *,
    compact: bool = True,
    n_workers: int | None = None,
) -> VecMonitor:
    """Build a vector environment; one that cannot start is replaced by the next, with one warning.

    Seeding is the caller's: ``vec_env.seed(s)`` gives environment i the seed s + i, and with it its own start.

    :param name: ``subproc``, ``dummy`` or ``batched``
    :param tape: the candles every environment plays on
    :param n_envs: how many environments
    :param compact: compact observations, else such that hold their lookback
    :param n_workers: processes of ``subproc``, no more than environments; None for one for each
    :raises ValueError: for a name that is not known
    """
    builders: dict[str, Callable[[MarketTape], VecEnv]] = {
        "subproc": lambda tape: _subproc(
            [partial(make_env, tape, settings, compact)] * n_envs,
            n_workers,
            _PRELOADED_FOR_USERS_CODE if settings.own_reward or settings.own_terms else _PRELOADED,
        ),
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


def _subproc(makers: Sequence[Maker], n_workers: int | None, preloaded: list[str]) -> SupervisedSubprocVecEnv:
    methods = multiprocessing.get_all_start_methods()
    method = "forkserver" if "forkserver" in methods else "spawn"
    if method == "forkserver":
        # Without effect once the server runs, which then has these modules already.
        multiprocessing.get_context("forkserver").set_forkserver_preload(preloaded)
    return SupervisedSubprocVecEnv(makers, method, n_workers)


def underlying(vec_env: VecEnv) -> VecEnv:
    """The vector environment inside its wrappers."""
    return vec_env.unwrapped
