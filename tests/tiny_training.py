"""The smallest training there is: two environments, rollouts of 64 steps, a net of eight."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from builders import make_settings, make_tape, random_candles
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.settings import Settings

N_FEATURES = 4
ROLLOUT = 64


def tiny_settings(
    *, continual_learning: bool = False, lookback: int = 1, other: dict[str, Any] | None = None, **rl: Any
):
    """
    :param other: ``model_training_parameters``
    :param rl: keys of ``rl_config``
    """
    tiny: dict[str, Any] = {
        "train_cycles": 1,
        "n_envs": 2,
        "n_steps": 32,
        "batch_size": 32,
        "n_epochs": 2,
        "net_arch": [8],
        "vec_env": "dummy",
        "device": "cpu",
        "progress_bar": False,
    }
    freqai = {
        "conv_width": lookback,
        "continual_learning": continual_learning,
        "model_training_parameters": other or {},
        "rl_config": tiny | rl,
    }
    return Settings.from_config({"freqai": freqai})


def random_tape(n_candles: int = 200, seed: int = 1, n_features: int = N_FEATURES) -> MarketTape:
    """A random walk with random signals and features."""
    random = np.random.default_rng(seed)
    return make_tape(
        random_candles(seed, n_candles),
        random.random(n_candles) < 0.2,
        random.random(n_candles) < 0.2,
        random.normal(0, 1, (n_candles, n_features)),
    )


def env_settings_of(settings: Settings) -> EnvSettings:
    return make_settings(settings.rl.entry_mode, settings.lookback)


def parameters(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    """A copy of a policy's parameters."""
    return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two policies are bitwise equal."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
