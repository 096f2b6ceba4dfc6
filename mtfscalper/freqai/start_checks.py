"""What is checked of a config and of this machine when a model is made, before anything is trained."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from freqtrade.config_schema import CONF_SCHEMA
from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from stable_baselines3.common.utils import get_device

from mtfscalper.executors.choice import how_bot_differs, why_executor_cannot_be
from mtfscalper.freqai.deployed_config import why_not_as_deployed
from mtfscalper.freqai.own_reward_keys import for_own_reward, tell_own_reward, why_not_for_own_reward
from mtfscalper.freqai.strategy_rules import settings_of_config
from mtfscalper.freqai.written_config import as_written
from mtfscalper.freqai_settings import SPLIT_ARGUMENTS
from mtfscalper.machine import memory_bytes, why_device_is_missing
from mtfscalper.policy.recurrent import RECURRENT_PPO
from mtfscalper.ppo_settings import PPOSettings
from mtfscalper.settings import RLSettings, Settings, SettingsError
from mtfscalper.stock_keys import unread_keys
from mtfscalper.training.memory import check_memory
from mtfscalper.training.trial_model import why_it_cannot_be_made

logger = logging.getLogger(__name__)

# Keys that FreqAI reads or documents and freqtrade's schema leaves out, by section.
_BEYOND_SCHEMA = {
    "freqai": {
        "model_save_type",
        "extra_returns_per_train",
        "fit_live_predictions_candles",
        "freqai_backtest_live_models",
    },
    "feature_parameters": {
        "use_DBSCAN_to_remove_outliers",
        "outlier_protection_percentage",
        "inlier_metric_window",
        "noise_standard_deviation",
        "reverse_train_test_order",
    },
}


def checked_settings(config: dict[str, Any], *, own_reward: bool = False) -> Settings:
    """The settings of a freqtrade config, once nothing is known that would stop a training on this machine later.

    Keys that look misspelt and keys that are not read get a warning.

    :param own_reward: whether the model's reward is the user's own
    :raises OperationalException: naming every wrong key, the value, the values accepted and the remedy
    """
    settings = settings_of_config(config, own_reward=own_reward)
    written = as_written(config)
    complaints = [*misplaced_keys(written), *_device_complaints(settings), *_recurrent_complaints(settings)]
    if own_reward:
        complaints += why_not_for_own_reward(settings)
    if not complaints:
        try:
            check_memory(settings, memory_bytes(get_device(settings.rl.device)))
        except SettingsError as error:
            complaints.append(str(error))
    is_bot = config.get("runmode") in TRADE_MODES
    if not complaints:
        no_executor = None if is_bot else why_executor_cannot_be(settings)
        complaints += filter(None, [no_executor or why_it_cannot_be_made(settings)])
    if complaints:
        raise OperationalException("The config cannot be used:\n" + "\n".join(complaints))
    for difference in how_bot_differs(settings) if is_bot else ():
        logger.warning("%s", difference)
    for warning in misspelt_keys(config["freqai"]):
        logger.warning("%s", warning)
    others = [
        f"freqai.{'' if section == 'freqai' else f'{section}.'}{key} (nearest: {nearest})"
        for section, keys in unread_keys(written["freqai"]).items()
        for key, nearest in keys.items()
    ]
    if others:
        logger.warning(
            "The config has keys of other models, which nothing here reads: %s. Remedy: write what is nearest where "
            "you mean it, and remove the rest.",
            ", ".join(others),
        )
    unread = settings.ignored_ppo_keys(written)
    if unread:
        logger.warning(
            "freqai.rl_config has PPO's keys %s, which model_type '%s' does not read; its arguments stand in "
            "freqai.model_training_parameters.",
            ", ".join(unread),
            settings.rl.model_type,
        )
    if (beside := why_not_as_deployed(config)) is not None:
        logger.warning("%s", beside)
    if own_reward:
        tell_own_reward(written, settings)
        return for_own_reward(settings)
    return settings


def misplaced_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """A complaint about every setting that stands where nobody reads it, though another section has its name.

    The strategy may have keys of its own in ``freqai`` and ``feature_parameters``, by names that no setting has.

    :param config: the freqtrade config, as its user wrote it
    """
    freqai, features = config["freqai"], config["freqai"].get("feature_parameters") or {}
    of_freqai, of_features = known_keys("freqai"), known_keys("feature_parameters")
    of_split = set(SPLIT_ARGUMENTS)
    places = {
        **dict.fromkeys(of_freqai, "freqai"),
        **dict.fromkeys(of_features, "freqai.feature_parameters"),
        **dict.fromkeys(of_split, "freqai.data_split_parameters"),
        **dict.fromkeys({*RLSettings.model_fields, *PPOSettings.model_fields}, "freqai.rl_config"),
    }
    sections = {key: places[key] for key in places if key.endswith("_parameters") or key == "rl_config"}
    for where, section, looked_for in (
        ("", config, sections),
        ("freqai.", freqai, {key: places[key] for key in places if key not in of_freqai}),
        ("freqai.feature_parameters.", features, {key: places[key] for key in places if key not in of_features}),
    ):
        for key in sorted(set(section) & set(looked_for)):
            place = f"{looked_for[key]}.{key}"
            yield (
                f"{where}{key} is {section[key]!r}, and nobody reads it there; accepted: {place}; remedy: move it "
                "there, or remove it"
            )


def known_keys(section: str) -> set[str]:
    """The keys that FreqAI reads or documents in its section ``freqai``, or ``feature_parameters``."""
    definitions: Any = CONF_SCHEMA["definitions"]
    schema = definitions["freqai"]["properties"]
    if section != "freqai":
        schema = schema[section]["properties"]
    return {*schema, *_BEYOND_SCHEMA[section]}


def misspelt_keys(freqai: Mapping[str, Any]) -> Iterator[str]:
    """A warning for every key of FreqAI's sections that nobody knows and that is nearly one that is known.

    A key unlike any is taken for the strategy's own.

    :param freqai: the section ``freqai`` of a config
    """
    for name, section in (("freqai", freqai), ("feature_parameters", freqai["feature_parameters"])):
        known = sorted(known_keys(name))
        for key in sorted(set(section) - set(known)):
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            if close:
                where = name if name == "freqai" else f"freqai.{name}"
                yield (
                    f"{where}.{key} is {section[key]!r}, a key that FreqAI does not read; accepted: "
                    f"{where}.{close[0]}, which is like it; remedy: write it so, or remove it"
                )


def _recurrent_complaints(settings: Settings) -> Iterator[str]:
    if settings.rl.model_type == RECURRENT_PPO and settings.rl.decision_mode == "exact":
        yield (
            "freqai.rl_config.decision_mode is 'exact' and model_type 'RecurrentPPO'; accepted: 'replay' with it, "
            "because what its policy remembers at an entry depends on all that the account did before, which slots, "
            "locks and other pairs change after its decisions are made; remedy: set decision_mode to 'replay', or "
            "model_type to 'PPO'"
        )


def _device_complaints(settings: Settings) -> Iterator[str]:
    device = settings.rl.device
    why = why_device_is_missing(device)
    if why is not None:
        remedy = "set it so, or install a torch that can use the device"
        if settings.rl.vec_env == "torch":
            remedy += (
                "; without a GPU, configs/config_rl_fast.json in the place of configs/config_rl_gpu.json is fastest"
            )
        yield (
            f"freqai.rl_config.device is {device!r}, and {why}; accepted: 'cpu', 'auto' or a device that is there; "
            f"remedy: {remedy}"
        )
