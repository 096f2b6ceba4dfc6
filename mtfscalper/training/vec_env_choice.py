"""``vec_env: "auto"``: the vector environment that is fastest here, by measurement."""

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

_Act = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.int64]]


class Measured(NamedTuple):
    """One backend's figures.

    :ivar steps_per_second: environment steps with the policy's forward between them, median of the rounds
    :ivar start_seconds: from nothing to the first observation
    """

    vec_env: str
    steps_per_second: float
    start_seconds: float


def cache_path() -> Path:
    """Where measurements are kept: ``XDG_CACHE_HOME`` or ``~/.cache``, in ``mtfscalper``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtfscalper" / CACHE_NAME


def fastest_vec_env(
    settings: Settings,
    tape: MarketTape,
    env_settings: EnvSettings,
    network: dict[str, Any],
    *,
    seconds: float = 1.0,
    compact: bool = True,
) -> str:
    """The fastest backend for a tape and network on this machine.

    Measured once for a machine and settings, then read from :func:`cache_path`. Every backend plays the same
    trajectories from the same seed, so that the choice changes how long a training takes and not what it learns.

    :param network: of :func:`mtfscalper.training.fit.network_arguments`
    :param seconds: how long each backend is timed
    :param compact: compact observations, else such that hold their lookback
    """
    key = _key(settings, tape, env_settings, network, compact)
    path = cache_path()
    known = read_measured(path)
    if key in known:
        figures = [Measured(*figure) for figure in known[key]]
        _log(figures, f"measured before, from {path}")
    else:
        act = _policy(settings, tape, network) if compact else _random
        figures = []
        for name in CANDIDATES:
            measured = measure(name, tape, env_settings, settings.rl.n_envs, act, seconds=seconds, compact=compact)
            if measured is not None:
                figures.append(measured)
        artefacts.write_json(path, read_measured(path) | {key: figures})
        _log(figures, "measured now")
    return max(figures, key=lambda figure: figure.steps_per_second).vec_env


def measure(
    name: str,
    tape: MarketTape,
    env_settings: EnvSettings,
    n_envs: int,
    act: _Act,
    *,
    seconds: float = 1.0,
    compact: bool = True,
) -> Measured | None:
    """Time one backend; None if it cannot start.

    :param act: observations to actions
    """
    began = time.perf_counter()
    vec_env = build_vec_env(name, tape, env_settings, n_envs, compact=compact)
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
    return Measured(name, float(np.median(rates)), start_seconds)


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
    settings: Settings, tape: MarketTape, env_settings: EnvSettings, network: dict[str, Any], compact: bool
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
            rl.n_envs,
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


def _log(figures: list[Measured], when: str) -> None:
    ranked = sorted(figures, key=lambda figure: -figure.steps_per_second)
    rows = "\n".join(
        f"  {figure.vec_env:<8} {figure.steps_per_second:>9,.0f} steps/s {figure.start_seconds:>7.2f} s to start"
        for figure in ranked
    )
    logger.info("vec_env 'auto' takes '%s' (%s):\n%s", ranked[0].vec_env, when, rows)
