"""The algorithms that ``model_type`` names."""

from __future__ import annotations

from typing import Any

import sb3_contrib
import stable_baselines3


def algorithm_class(model_type: str) -> type[Any]:
    """The class of an algorithm FreqAI offers, from stable-baselines3 or sb3-contrib.

    :raises ValueError: for a name that neither library has
    """
    for library in (stable_baselines3, sb3_contrib):
        if hasattr(library, model_type):
            return getattr(library, model_type)  # type: ignore[no-any-return]
    raise ValueError(f"freqai.rl_config.model_type is {model_type!r}; accepted: an algorithm of stable-baselines3")
