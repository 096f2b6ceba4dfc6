"""Whether an algorithm can be made at all with the arguments a config gives it, tried before anything is trained."""

from __future__ import annotations

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.settings import Settings
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.training.fit import network_arguments


class _Still(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """Spaces like those of trading, and nothing that moves."""

    observation_space = spaces.Box(-1.0, 1.0, (8,), dtype=np.float32)
    action_space = spaces.Discrete(N_ACTIONS)


def why_it_cannot_be_made(settings: Settings) -> str | None:
    """A complaint about the arguments of an algorithm other than PPO, as far as they fail together; None for none."""
    rl, arguments = settings.rl, settings.other_algorithm_kwargs
    if rl.model_type == "PPO":
        return None
    environments = DummyVecEnv([_Still for _ in range(rl.environments)])
    try:
        algorithm_class(rl.model_type)(
            rl.policy_type, environments, policy_kwargs=network_arguments(settings, 1), device="cpu", **arguments
        )
    # Whatever stable-baselines3 raises here it would raise in the first training.
    except Exception as error:
        return (
            f"freqai.model_training_parameters is {arguments!r} with model_type {rl.model_type!r}, policy_type "
            f"{rl.policy_type!r} and n_envs {rl.environments}, of which no model can be made ({type(error).__name__}: "
            f"{error}); accepted: arguments that stable-baselines3 takes together; remedy: change them as it says"
        )
    return None
