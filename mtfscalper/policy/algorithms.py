"""The algorithms that ``model_type`` names, and the arguments they take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import sb3_contrib
import stable_baselines3

from mtfscalper.settings_text import did_you_mean

# Set by this package, so that a value in model_training_parameters would silently lose.
_OWNED_ARGUMENTS = {"self", "policy", "env", "policy_kwargs", "tensorboard_log", "seed", "device", "_init_setup_model"}


def algorithm_class(model_type: str) -> type[Any]:
    """The class of an algorithm FreqAI offers, from stable-baselines3 or sb3-contrib.

    :raises ValueError: for a name that neither library has
    """
    for library in (stable_baselines3, sb3_contrib):
        if hasattr(library, model_type):
            return getattr(library, model_type)  # type: ignore[no-any-return]
    raise ValueError(f"freqai.rl_config.model_type is {model_type!r}; accepted: an algorithm of stable-baselines3")


def unknown_arguments(model_type: str, arguments: Mapping[str, Any]) -> list[str]:
    """A complaint about each of ``freqai.model_training_parameters`` that an algorithm does not take."""
    accepted = sorted(set(inspect.signature(algorithm_class(model_type)).parameters) - _OWNED_ARGUMENTS)
    return [
        f"freqai.model_training_parameters.{key} is {value!r}, which {model_type} does not take; accepted: "
        f"{', '.join(accepted)}; remedy: {did_you_mean(key, accepted)}"
        for key, value in arguments.items()
        if key not in accepted
    ]
