"""Keys of public FreqAI configs that nothing here reads, with what stands in their place.

They were written for other models: freqtrade's documentation, its tests and published configs carry them. What changes
nothing about a training is told once; a name of a reward is refused with its counterpart, for its sign differs here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

REWARD_SECTION = "freqai.rl_config.model_reward_parameters"

_RL = "freqai.rl_config."
_NOTHING = "nothing"
_EVALUATION = "freqai.data_split_parameters.test_size, whose candles are traded after every update"
_TENSORBOARD = "freqai.activate_tensorboard; logs lie in the identifier's folder"
_REWARD = f"{REWARD_SECTION}, and functions of yours in its terms"

# Nearest key by name; of freqai.rl_config and freqai.model_training_parameters alike.
_NEAREST: dict[str, str] = {
    **dict.fromkeys(
        ("thread_count", "threads", "n_threads", "num_threads", "max_threads", "n_jobs", "num_cpus", "n_cpus"),
        f"{_RL}cpu_count",
    ),
    **dict.fromkeys(("num_envs", "n_workers", "num_workers", "n_processes"), f"{_RL}n_envs"),
    **dict.fromkeys(("multiprocessing", "multiproc", "vec_env_type", "vec_env_cls"), f"{_RL}vec_env"),
    **dict.fromkeys(("total_timesteps", "timesteps", "n_timesteps", "num_timesteps"), f"{_RL}train_cycles"),
    **dict.fromkeys(("task_type", "gpu", "use_gpu", "use_cuda", "cuda", "gpu_memory_fraction"), f"{_RL}device"),
    **dict.fromkeys(("random_state", "random_seed"), f"{_RL}seed"),
    **dict.fromkeys(("frame_stacking", "window_size", "lookback", "conv_width"), "freqai.conv_width"),
    **dict.fromkeys(
        (
            *("n_eval_envs", "n_eval_steps", "eval_multiprocessing", "eval_freq", "eval_episodes"),
            *("max_no_improvement_evals", "min_evals", "test_size"),
        ),
        _EVALUATION,
    ),
    **dict.fromkeys(
        ("tensorboard_log", "tensorboard_path", "tensorboard_throttle", "plot_new_best", "plot_window"), _TENSORBOARD
    ),
    **{
        key: f"freqai.{key}"
        for key in (
            *("activate_tensorboard", "continual_learning", "save_backtest_models", "train_period_days"),
            *("backtest_period_days", "live_retrain_hours", "expiration_hours", "purge_old_models"),
        )
    },
    "lr_schedule": f"{_RL}learning_rate",
    "cr_schedule": f"{_RL}clip_range",
    **dict.fromkeys(
        ("action_masking", "inference_masking", "use_masking", "use_action_masking"),
        "nothing, for impossible actions are always masked with PPO",
    ),
    **dict.fromkeys(("features_extractor", "features_extractor_class"), f"{_RL}network"),
    **dict.fromkeys(("reward_function", "reward_type", "reward_kwargs", "reward_params"), _REWARD),
    "max_drawdown": f"{_RL}max_training_drawdown_pct",
    "max_trade_duration": f"{_RL}max_trade_duration_candles",
    "leverage": "leverage() of the strategy, as traded",
    "fee": "fee of the config itself, as traded",
    "stoploss": "stoploss of the strategy, as traded",
    "liquidation_buffer": "liquidation_buffer of the config itself, as traded",
    **dict.fromkeys(
        (
            *("check_envs", "env", "environment"),
            # Arguments of LightGBM, XGBoost and CatBoost, in whose section of freqtrade's examples they stand.
            *("n_estimators", "max_depth", "num_leaves", "iterations", "loss_function", "verbosity", "subsample"),
            *("colsample_bytree", "min_child_samples", "early_stopping_rounds", "eval_metric", "booster"),
            # Of FreqAI's PyTorch models.
            *("trainer_kwargs", "model_kwargs"),
        ),
        _NOTHING,
    ),
}
# Of the section freqai itself.
_OF_FREQAI = dict.fromkeys(("rl_config_optuna", "optuna_hyperopt", "follow_mode", "track_performance"), _NOTHING)
# Arguments of other algorithms than PPO, which are read in one section only.
_OTHER_ARGUMENTS = {"n_eval_episodes": _EVALUATION} | {
    key: f"freqai.model_training_parameters.{key}, of an algorithm that takes it"
    for key in (
        *("buffer_size", "learning_starts", "tau", "train_freq", "gradient_steps", "target_update_interval"),
        *("exploration_fraction", "exploration_initial_eps", "exploration_final_eps", "rms_prop_eps", "use_rms_prop"),
        *("optimize_memory_usage", "use_sde", "sde_sample_freq"),
    )
}


def unread_keys(freqai: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Keys that public configs carry and nothing here reads.

    :param freqai: the section ``freqai`` of a config
    :return: for the section itself, ``rl_config`` and ``model_training_parameters``: key to what is nearest to it here
    """
    rl, training = (freqai.get(section) or {} for section in ("rl_config", "model_training_parameters"))
    is_ppo = rl.get("model_type", training.get("model_type", "PPO")) == "PPO"
    nearest = _NEAREST | _OTHER_ARGUMENTS
    return {
        "freqai": {key: _OF_FREQAI[key] for key in freqai if key in _OF_FREQAI},
        "rl_config": {key: nearest[key] for key in rl if key in nearest},
        "model_training_parameters": {
            key: nearest[key] for key in training if key in _NEAREST or (is_ppo and key in _OTHER_ARGUMENTS)
        },
    }


# What an algorithm takes and these settings hold, by its name as an argument.
_ARGUMENT_PLACES = {
    "policy_kwargs": "the network stands in freqai.rl_config: its net_arch, net_arch_value, activation and network",
    "policy": "it stands in freqai.rl_config.policy_type",
    "lr": "its name is learning_rate",
}


def argument_remedy(key: str) -> str | None:
    """Where what an argument of an algorithm says is set here; None where nothing is known of the name."""
    return _ARGUMENT_PLACES.get(key)


class _Counterpart(NamedTuple):
    """A term of the reward that public names mean.

    :ivar words: one of them begins a part of the name: patterns, for "sentiment" is no time and "window" no win
    :ivar key: its weight
    :ivar meaning: what the weight is one of
    :ivar same_scale: of the names whose number, without its sign, is the weight
    """

    words: tuple[str, ...]
    key: str
    meaning: str
    same_scale: tuple[str, ...] = ()


_COUNTERPARTS = (
    _Counterpart(
        ("invalid",),
        "invalid_weight",
        "minus 1 for an impossible action",
        ("invalid_action_penalty", "invalid_penalty", "invalid_action"),
    ),
    _Counterpart(
        ("idle", "neutral", "inactiv", "no_trade", "flat"),
        "idle_weight",
        "minus 1 for declining a permitted entry",
        ("idle_penalty", "neutral_penalty", "inactivity_penalty", "no_trade_penalty"),
    ),
    _Counterpart(
        ("drawdown", "dd(?:_|$)"), "drawdown_weight", "minus the distance from the trade's best profit, in `profit_aim`"
    ),
    _Counterpart(
        ("hold", "duration", "time", "sitting"),
        "duration_weight",
        "minus the share of the longest duration that the trade has lasted",
        ("hold_penalty_factor", "hold_penalty", "holding_penalty", "duration_penalty", "trade_duration_penalty"),
    ),
    _Counterpart(
        ("timing", "efficiency"), "timing_weight", "how near the favourable end of the recent range a trade is made"
    ),
    _Counterpart(
        ("win(?!dow)", "profit", "pnl", "exit", "loss", "base_factor", "tier"),
        "profit_quality_weight",
        "profit / `profit_aim` at an exit",
    ),
)
# Keys of the section around it.
_OF_RL_CONFIG = ("max_trade_duration_candles", "max_training_drawdown_pct", "add_state_info", "train_cycles")
_MISSPELT = 0.8
_SUM = "the reward here is a sum of terms, each with its weight, in docs/reference/reward.md"


def remedy(section: str, key: str, value: Any, known: Iterable[str]) -> str | None:
    """What to do about a key that was written for another model.

    :param section: where it stands, such as ``freqai.rl_config``
    :param known: the keys read there
    :return: None where nothing is known of it
    """
    return reward_remedy(key, value, known) if section == REWARD_SECTION else argument_remedy(key)


def reward_remedy(key: str, value: Any, known: Iterable[str]) -> str | None:
    """What to do about a key of ``model_reward_parameters`` that was another reward's.

    :param known: the keys read here
    :return: None for what looks like a misspelling of one of these
    """
    if key in _OF_RL_CONFIG:
        return f"it stands in {_RL}{key}: move it there"
    if difflib.get_close_matches(key, list(known), n=1, cutoff=_MISSPELT):
        return None
    for counterpart in _COUNTERPARTS:
        if any(re.search(rf"(?:^|_){word}", key.lower()) for word in counterpart.words):
            return f"{_SUM}: {_in_its_place(key, value, counterpart)}"
    return f"{_SUM}: remove it, or write a term of your own and name it in `terms`"


def _in_its_place(key: str, value: Any, counterpart: _Counterpart) -> str:
    weight, is_number = counterpart.key, isinstance(value, int | float) and not isinstance(value, bool)
    said = f"its counterpart is {weight!r}, the weight of {counterpart.meaning}"
    if not counterpart.meaning.startswith("minus"):
        return f"{said}, so that a weight above 0 rewards more of it; remove {key} and set that"
    said += ", so that a weight above 0 punishes, whatever sign the penalty had"
    if key in counterpart.same_scale and is_number:
        return f"{said}: write {weight!r}: {abs(value):g} for {key} {value:g}"
    return f"{said}; remove {key} and set that"
