"""The config of a model whose reward is the user's own: its parameters belong to the user's method."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from mtfscalper.ppo_settings import PPOSettings
from mtfscalper.settings import RLSettings, Settings
from mtfscalper.stock_keys import unread_keys
from mtfscalper.trading.reward import RewardSettings

logger = logging.getLogger(__name__)

_PARAMETERS = "model_reward_parameters"
# Read here whoever pays: the unit in which the policy is shown a trade's profit.
_READ_HERE = ("profit_aim",)
_ONE_BY_ONE = ("subproc", "dummy")


def without_own_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what the user's method alone may read of ``freqai.rl_config``.

    :param config: as the user wrote it
    """
    freqai = config.get("freqai") or {}
    own = set(_own_keys(freqai))
    rl = {key: value for key, value in (freqai.get("rl_config") or {}).items() if key not in own}
    parameters = rl.get(_PARAMETERS) or {}
    rl[_PARAMETERS] = {key: parameters[key] for key in _READ_HERE if key in parameters}
    return {**config, "freqai": {**freqai, "rl_config": rl}}


def for_own_reward(settings: Settings) -> Settings:
    """Settings under which no term of this package's reward pays, and environments step one account at a time."""
    rl = settings.rl
    changes: dict[str, Any] = {
        _PARAMETERS: RewardSettings(equity_weight=0.0, profit_aim=rl.model_reward_parameters.profit_aim)
    }
    if rl.vec_env not in _ONE_BY_ONE:
        changes["vec_env"] = "dummy"
    return settings.model_copy(update={"rl": rl.model_copy(update=changes)})


def why_not_for_own_reward(settings: Settings) -> Iterator[str]:
    """Complaints about settings that an own reward cannot be trained with."""
    if settings.rl.vec_env == "torch":
        yield (
            "freqai.rl_config.vec_env is 'torch', and MyRLEnv.calculate_reward is Python that is asked about one "
            "account at a time, which no device and no population does; accepted: 'subproc' or 'dummy' ('batched' and "
            "'auto' run as 'dummy'); remedy: set one of these, or write the reward as a term (docs/own_reward.md)"
        )


def tell_own_reward(config: Mapping[str, Any], settings: Settings) -> None:
    """Say once what an own reward changes of the settings.

    :param config: as the user wrote it
    :param settings: as the config has them
    """
    freqai = config["freqai"]
    if settings.rl.vec_env not in _ONE_BY_ONE:
        logger.info(
            "freqai.rl_config.vec_env '%s' runs as 'dummy': MyRLEnv.calculate_reward is asked about one account at a "
            "time.",
            settings.rl.vec_env,
        )
    own = sorted(_own_keys(freqai))
    parameters = (freqai.get("rl_config") or {}).get(_PARAMETERS) or {}
    weights = sorted(key for key in parameters if key.endswith("_weight") and key in RewardSettings.model_fields)
    said = [f"keys that nothing else reads ({', '.join(own)})"] if own else []
    said += [f"weights of terms that do not pay beside it ({', '.join(weights)})"] if weights else []
    if said:
        logger.warning(
            "freqai.rl_config has, for MyRLEnv.calculate_reward alone, %s. Remedy: remove what it does not read.",
            " and ".join(said),
        )


def _own_keys(freqai: Mapping[str, Any]) -> Iterator[str]:
    """Keys of ``rl_config`` that are no setting, and that no warning about other models' keys names."""
    known = {*RLSettings.model_fields, *PPOSettings.model_fields, *unread_keys(freqai)["rl_config"]}
    yield from (key for key in freqai.get("rl_config") or {} if key not in known)
