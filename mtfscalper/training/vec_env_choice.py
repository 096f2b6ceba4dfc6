"""``vec_env`` and ``n_envs`` "auto": the environments that are fastest here, by measurement."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv

from mtfscalper import artefacts
from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import observation_space
from mtfscalper.machine import usable_processors
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.settings import Settings
from mtfscalper.trading.actions import N_ACTIONS

logger = logging.getLogger(__name__)

CANDIDATES = ("batched", "dummy", "subproc")
CACHE_NAME = "vec_env.json"

# Numbers of environments that "auto" tries: doubled, as long as an environment takes this many steps a rollout. Rewards
# some hundred candles on count for next to nothing in an advantage (gamma and gae_lambda), and are cut off there.
_FEWEST_STEPS = 128
_MOST_ENVIRONMENTS = 512
# Of them those within this share of the highest rate are as fast, and the fewest of these train: what they learn is
# likest to what the default learns.
_AS_FAST = 0.9

_Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]


class Measured(NamedTuple):
    """One backend's figures with so many environments.

    :ivar steps_per_second: environment steps with the policy's forward between them, median of the rounds
    :ivar start_seconds: from nothing to the first observation
    """

    vec_env: str
    n_envs: int
    steps_per_second: float
    start_seconds: float


def cache_path() -> Path:
    """Where measurements are kept: ``XDG_CACHE_HOME`` or ``~/.cache``, in ``mtfscalper``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtfscalper" / CACHE_NAME


def fastest_environments(
    settings: Settings,
    tape: MarketTape,
    env_settings: EnvSettings,
    network: dict[str, Any],
    *,
    seconds: float = 1.0,
    compact: bool = True,
) -> Measured:
    """Backend and number of environments, each as set or, where that is "auto", as is fastest for a tape and network.

    Measured once for a machine and settings, then read from :func:`cache_path`. Every backend plays the same
    trajectories from the same seed, so that its choice changes how long a training takes and not what it learns; the
    number of environments changes what it learns.

    :param network: of :func:`mtfscalper.training.fit.network_arguments`
    :param seconds: how long each backend is timed with each number
    :param compact: compact observations, else such that hold their lookback
    """
    tried = _candidates(settings)
    key = _key(settings, tape, env_settings, network, compact, tried)
    path = cache_path()
    known = read_measured(path)
    if key in known:
        figures = [Measured(*figure) for figure in known[key]]
        when = f"measured before, from {path}"
    else:
        act = _policy(settings, tape, network) if compact else _random
        figures = []
        for name, n_envs in tried:
            workers = settings.rl.env_workers
            measured = measure(
                name, tape, env_settings, n_envs, act, seconds=seconds, compact=compact, n_workers=workers
            )
            if measured is not None:
                figures.append(measured)
        if not figures:
            # The one backend that is set cannot start now, and nothing is learned of it; a training falls back.
            name, n_envs = tried[0]
            logger.warning(
                "n_envs 'auto' takes %d: vec_env '%s' cannot start here, and no number of environments was timed.",
                *(n_envs, name),
            )
            return Measured(name, n_envs, 0.0, 0.0)
        artefacts.write_json(path, read_measured(path) | {key: figures})
        when = "measured now"
    best = max(figure.steps_per_second for figure in figures)
    as_fast = [figure for figure in figures if figure.steps_per_second >= _AS_FAST * best]
    fewest = min(figure.n_envs for figure in as_fast)
    chosen = max((figure for figure in figures if figure.n_envs == fewest), key=lambda figure: figure.steps_per_second)
    _log(figures, chosen, settings.rl.n_envs == "auto", when)
    return chosen


def environments_decided(
    settings: Settings, tape: MarketTape, env_settings: EnvSettings, network: dict[str, Any]
) -> Settings:
    """Settings with ``n_envs``, and with it ``vec_env``, decided by measurement, where it is "auto"."""
    if settings.rl.n_envs != "auto":
        return settings
    chosen = fastest_environments(settings, tape, env_settings, network, seconds=0.5)
    decided = settings.with_environments(chosen.n_envs)
    return decided.model_copy(update={"rl": decided.rl.model_copy(update={"vec_env": chosen.vec_env})})


def _candidates(settings: Settings) -> list[tuple[str, int]]:
    """What is timed: backends, each with some numbers of environments."""
    rl = settings.rl
    names = CANDIDATES if rl.vec_env == "auto" else (rl.vec_env,)
    if rl.n_envs != "auto":
        return [(name, rl.n_envs) for name in names]
    least, rollout = rl.environments, rl.environments * settings.ppo.n_steps
    numbers = [least]
    while (following := 2 * numbers[-1]) <= _MOST_ENVIRONMENTS and rollout % following == 0:
        if rollout // following < _FEWEST_STEPS:
            break
        numbers.append(following)
    # More processes than some for each processor only take memory.
    processes = max(least, 2 * usable_processors())
    return [
        (name, n_envs)
        for n_envs in numbers
        for name in names
        if name != "subproc" or min(n_envs, rl.env_workers or n_envs) <= processes
    ]


def measure(
    name: str,
    tape: MarketTape,
    env_settings: EnvSettings,
    n_envs: int,
    act: _Act,
    *,
    seconds: float = 1.0,
    compact: bool = True,
    n_workers: int | None = None,
) -> Measured | None:
    """Time one backend; None if it cannot start.

    :param act: observations to actions
    """
    began = time.perf_counter()
    vec_env = build_vec_env(name, tape, env_settings, n_envs, compact=compact, n_workers=n_workers)
    try:
        if name != "dummy" and isinstance(underlying(vec_env), DummyVecEnv):
            # It could not start, and build_vec_env said so.
            return None
        vec_env.seed(0)
        observations: Any = vec_env.reset()
        start_seconds = time.perf_counter() - began
        rates = []
        for _ in range(5):
            steps, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < seconds / 5:
                observations, *_ = vec_env.step(act(observations))
                steps += n_envs
            rates.append(steps / elapsed)
    finally:
        vec_env.close()
    return Measured(name, n_envs, float(np.median(rates)), start_seconds)


def _policy(settings: Settings, tape: MarketTape, network: dict[str, Any]) -> _Act:
    """An untrained policy of the network that will be trained."""
    arguments = network | {"precision": "fp32"}
    policy = MaskedActorCriticPolicy(observation_space(), spaces.Discrete(N_ACTIONS), lambda _: 0.0, **arguments).to(
        get_device(settings.rl.device)
    )
    extractor = policy.features_extractor
    assert isinstance(extractor, LookbackExtractor)
    extractor.set_features(tape.features)

    def act(observations: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        with torch.no_grad():
            actions, _, _ = policy(torch.as_tensor(observations, device=policy.device))
        return np.asarray(actions.cpu().numpy())

    return act


def _random(observations: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, N_ACTIONS, len(observations))


def _key(
    settings: Settings,
    tape: MarketTape,
    env_settings: EnvSettings,
    network: dict[str, Any],
    compact: bool,
    tried: list[tuple[str, int]],
) -> str:
    rl = settings.rl
    return artefacts.value_hash(
        [
            platform.node(),
            platform.processor(),
            usable_processors(),
            torch.get_num_threads(),
            str(get_device(rl.device)),
            artefacts.library_versions(),
            tried,
            rl.env_workers,
            network,
            settings.lookback,
            tape.n_features,
            env_settings.entry_mode,
            compact,
        ]
    )


def read_measured(path: Path) -> dict[str, Any]:
    """What was measured before, by key; nothing where that cannot be read."""
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        # Never measured, or not readable: measured again.
        return {}
    return known if isinstance(known, dict) else {}


def _log(figures: list[Measured], chosen: Measured, is_number_chosen: bool, when: str) -> None:
    ranked = sorted(figures, key=lambda figure: -figure.steps_per_second)
    rows = "\n".join(
        f"  {figure.vec_env:<8} x {figure.n_envs:<4} {figure.steps_per_second:>9,.0f} steps/s "
        f"{figure.start_seconds:>7.2f} s to start"
        for figure in ranked
    )
    if is_number_chosen:
        logger.info("n_envs 'auto' takes %d, with vec_env '%s' (%s):\n%s", chosen.n_envs, chosen.vec_env, when, rows)
    else:
        logger.info("vec_env 'auto' takes '%s' (%s):\n%s", chosen.vec_env, when, rows)
