"""A config as its user wrote it: freqtrade fills in the defaults of its schema before anybody reads it.

Some are not the defaults here, such as ``net_arch`` [128, 128] or an episode that ends at a loss of 2 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from freqtrade.config_schema import CONF_SCHEMA

from mtfscalper.settings import Settings

_DEFINITIONS: Any = CONF_SCHEMA["definitions"]


def as_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """A freqtrade config without what freqtrade's schema filled into its section ``freqai``.

    What the user wrote, in files and environment variables, freqtrade keeps as ``original_config``; without it every
    value counts as written. A value that is not the schema's was put in later, by a program, and counts too.

    :param config: the freqtrade config, left as it is
    """
    original = config.get("original_config")
    if original is None or not config.get("freqai"):
        return dict(config)
    return {**config, "freqai": _without_filled(config["freqai"], original.get("freqai"), _DEFINITIONS["freqai"])}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config by their paths, such as ``freqai.conv_width``; a section without keys is one of them."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found


def config_in_force(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """A freqtrade config whose section ``freqai`` holds what is in force here, for FreqAI, which reads it raw.

    :param config: the freqtrade config, left as it is; sections that nothing is changed in are the same objects
    """
    freqai = as_written(config)["freqai"]
    written_rl = freqai.get("rl_config") or {}
    rl = settings.rl.model_dump(mode="json")
    split = {"shuffle": False, **(freqai.get("data_split_parameters") or {})}
    if "train_size" not in split:
        # FreqAI leaves a missing one to scikit-learn, which holds out a quarter.
        split.setdefault("test_size", settings.test_size)
    return {
        **config,
        "freqai": {
            **config["freqai"],
            "conv_width": settings.lookback,
            "continual_learning": settings.continual_learning,
            "activate_tensorboard": settings.tensorboard,
            "save_backtest_models": settings.save_backtest_models,
            "data_split_parameters": split,
            "rl_config": {
                **rl,
                **written_rl,
                "model_reward_parameters": {
                    **rl["model_reward_parameters"],
                    **(written_rl.get("model_reward_parameters") or {}),
                },
            },
        },
    }


def not_written(config: Mapping[str, Any]) -> Iterator[str]:
    """Complaints about keys that have to be written: freqtrade reads them long before there is a FreqAI model."""
    freqai = as_written(config).get("freqai") or {}
    if config.get("original_config") is not None and freqai.get("enabled") and "train_period_days" not in freqai:
        yield (
            "freqai.train_period_days is missing, and freqtrade loads candles by it; accepted: integer from 1 to 36500 "
            "(days that each period is trained on); remedy: write it, 30 for example"
        )


def _without_filled(section: Mapping[str, Any], original: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    written = original if isinstance(original, Mapping) else {}
    kept = {}
    for key, value in section.items():
        known = schema["properties"].get(key, {})
        if "properties" in known and isinstance(value, Mapping):
            kept[key] = _without_filled(value, written.get(key), known)
        elif key in written or "default" not in known or value != known["default"]:
            kept[key] = value
    return kept
