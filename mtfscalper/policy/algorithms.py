"""The algorithms that ``model_type`` names, and the arguments they take."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import sb3_contrib
import stable_baselines3
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mtfscalper.ppo_settings import PPOSettings
from mtfscalper.settings_text import did_you_mean, parse_section
from mtfscalper.stock_keys import argument_remedy

_SECTION = "freqai.model_training_parameters"
_STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)
# A loop over fewer would not end, or divide by zero.
_COUNTS = {"buffer_size", "train_freq", "target_update_interval", "n_delta", "n_top", "n_eval_episodes"}
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
    """A complaint about each of ``freqai.model_training_parameters`` that an algorithm does not take, or not so."""
    parameters = inspect.signature(algorithm_class(model_type)).parameters
    accepted = sorted(set(parameters) - _OWNED_ARGUMENTS)
    complaints: list[str] = []
    for key, value in arguments.items():
        if key not in accepted:
            remedy = argument_remedy(key) or did_you_mean(key, accepted)
            if key in PPOSettings.model_fields:
                remedy = "remove it, for it is PPO's, or set freqai.rl_config.model_type to 'PPO'"
            complaints.append(
                f"{_SECTION}.{key} is {value!r}, which {model_type} does not take; accepted: {', '.join(accepted)}; "
                f"remedy: {remedy}"
            )
        elif value is None and _fits(parameters[key].annotation, None):
            continue
        elif key in PPOSettings.model_fields:
            # The same quantities, under the same names, with the same bounds.
            parse_section(PPOSettings, {key: value}, complaints, _SECTION)
        elif not _fits(parameters[key].annotation, value) or (key in _COUNTS and value < 1):
            at_least = " >= 1" if key in _COUNTS else ""
            complaints.append(
                f"{_SECTION}.{key} is {value!r}; accepted: {_in_words(parameters[key].annotation)}{at_least} with "
                f"{model_type}; remedy: set it so, or remove it for {parameters[key].default!r}"
            )
    return complaints


def _fits(annotation: Any, value: Any) -> bool:
    try:
        TypeAdapter(annotation, config=_STRICT).validate_python(value)
    except ValidationError:
        return False
    return True


def _in_words(annotation: Any) -> str:
    words = annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
    return words.replace("int", "integer").replace("float", "number").replace("None", "null").replace(" | ", " or ")
