"""FreqAI's hooks: which of them this model calls, and what stops a model of the user's that overrides another one.

A hook that nothing calls would be ignored in silence, and its author believe in it.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, TypeVar

import gymnasium
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.RL.Base3ActionRLEnv import Base3ActionRLEnv
from freqtrade.freqai.RL.Base4ActionRLEnv import Base4ActionRLEnv
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from freqtrade.freqai.RL.BaseEnvironment import BaseEnvironment
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel

from mtfscalper.files_read import watched
from mtfscalper.user_code import files_used
from mtfscalper.user_values import codes_inside

# Of FreqAI's methods those that are called here, in a backtest or by a bot.
LIVE_HOOKS = (
    # What a model of one's own changes.
    *("train", "fit", "predict", "define_data_pipeline", "fit_live_predictions"),
    # The order of things in a backtest.
    *("start", "start_backtesting", "ensure_data_exists", "model_exists", "log_backtesting_progress"),
    *("check_if_feature_list_matches_strategy", "backtesting_fit_live_predictions"),
    *("_append_null_backtesting_predictions", "start_backtesting_from_historic_predictions", "clean_up"),
    # And in a bot.
    *("start_live", "start_scanning", "_start_scanning", "extract_data_and_train_model", "_set_train_queue"),
    *("build_strategy_return_arrays", "set_initial_historic_predictions", "set_start_dry_live_date"),
    *("update_metadata", "track_current_candle", "cache_corr_pairlist_dfs", "inference_timer", "train_timer"),
    *("shutdown", "_on_stop"),
    # Once, when the model is made.
    *("assert_config", "set_full_path", "unset_outlier_removal"),
)

_Method = TypeVar("_Method", bound=Callable[..., Any])
# Where parents of a model stand that are no code of the user's.
_NOT_THE_USERS = ("mtfscalper", "freqtrade", "abc", "builtins")

# What is found by its name, and asked in training: see mtfscalper.freqai.own_reward.
_ENVIRONMENT = "MyRLEnv"
_REWARD = (
    "a reward of yours is calculate_reward of a nested class MyRLEnv(Base5ActionRLEnv), or terms and their weights in "
    "freqai.rl_config.model_reward_parameters, which is faster (docs/own_reward.md)"
)
_ENVIRONMENTS = "training runs on environments that trade by freqtrade's rules; freqai.rl_config.vec_env says how"
_PIPELINE = "features are scaled by define_data_pipeline"
# What does here what a hook does elsewhere.
_INSTEAD = {
    "calculate_reward": _REWARD,
    "set_train_and_eval_environments": _ENVIRONMENTS,
    "pack_env_dict": _ENVIRONMENTS,
    "rl_model_predict": "predict decides on all rows of a frame at once",
    "get_state_info": "the trade's state is what training showed, with freqai.rl_config.add_state_info",
    "build_ohlc_price_dataframes": "prices are the pair's own candles, whatever features there are",
    "drop_ohlc_from_df": "freqai.rl_config.drop_ohlc_from_features leaves raw prices out",
    "load_model_from_disk": "freqai.continual_learning goes on from the last model",
    "get_init_model": "freqai.continual_learning goes on from the last model",
    "data_cleaning_train": _PIPELINE,
    "data_cleaning_predict": _PIPELINE,
    "define_label_pipeline": "a policy has no labels to scale",
}


def dead_hooks() -> frozenset[str]:
    """What FreqAI's base classes let a model override and nothing here calls, and what its environments do."""
    of_models = {
        name
        for base in BaseReinforcementLearningModel.__mro__
        if base.__module__.startswith("freqtrade.")
        for name, value in vars(base).items()
        if not name.startswith("__") and (callable(value) or isinstance(value, property | staticmethod | classmethod))
    }
    of_environments = {
        name
        for base in (BaseEnvironment, Base3ActionRLEnv, Base4ActionRLEnv, Base5ActionRLEnv)
        for name, value in vars(base).items()
        if callable(value) and not name.startswith("__")
    } - set(dir(gymnasium.Env))
    return frozenset((of_models | of_environments) - {*LIVE_HOOKS, _ENVIRONMENT})


# What FreqAI's models find their environments and callbacks in, and nothing here fills.
_UNFILLED = ("train_env", "eval_env", "eval_callback", "tensorboard_callback", "progressbar_callback", "df_raw")


def own_trainings(model: type, ours: type) -> list[str]:
    """The hooks in which a model trains in its own way, and which it wants called for each training.

    :param model: the class that freqtrade found
    :param ours: the class it inherits its training from
    """
    return [name for name in ("train", "fit") if getattr(model, name) is not getattr(ours, name)]


def noting_files(method: _Method) -> _Method:
    """Let a method of a model note which files the model's own hooks read meanwhile, see :mod:`mtfscalper.files_read`.

    What a strategy reads is not among it: what it computes is compared by its values.
    """

    @functools.wraps(method)
    def noting(model: Any, *args: Any, **kwargs: Any) -> Any:
        users = [kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] not in _NOT_THE_USERS]
        if not any(name in vars(kind) for kind in users for name in LIVE_HOOKS):
            return method(model, *args, **kwargs)
        sources = {str(path) for path in files_used(type(model)).values()}
        with watched(vars(model).setdefault("hooks_read", {}), sources):
            return method(model, *args, **kwargs)

    return noting  # type: ignore[return-value]


def check_hooks(model: type, ours: type) -> None:
    """Refuse a model that overrides a hook without effect.

    :param model: the class that freqtrade found
    :param ours: the class it inherits its training from
    :raises OperationalException: naming such hooks, what does here what they do elsewhere, and the live ones; or
        another model of freqtrade's among its parents, or what a hook reads that nothing here fills
    """
    others = [kind.__name__ for kind in model.__mro__ if kind not in ours.__mro__ and _is_freqtrades_model(kind)]
    if others:
        raise OperationalException(
            f"{model.__name__} inherits from {' and '.join(others)} of freqtrade beside {ours.__name__}, and each "
            f"trains in its own way; accepted: a class that inherits from {ours.__name__} and from none of freqtrade's "
            f"learners; remedy: take {' and '.join(others)} out of its bases; {_REWARD}"
        )
    unfilled = sorted(set(_unfilled(model.__mro__[: model.__mro__.index(ours)])))
    if unfilled:
        raise OperationalException(
            f"{model.__name__} reads {', '.join(f'self.{name}' for name in unfilled)}, which FreqAI fills and nothing "
            "here does, for training makes its environments and callbacks itself; accepted: a fit that calls "
            "super().fit, or one that trains on train_tape and evaluation_tape of its data_dictionary; remedy: call "
            f"super().fit, and say the rest in freqai.rl_config; {_ENVIRONMENTS}"
        )
    without_effect = sorted(set(_without_effect(model, ours)))
    if not without_effect:
        return
    instead = dict.fromkeys(_INSTEAD[name] for name in without_effect if name in _INSTEAD)
    raise OperationalException(
        f"{model.__name__} overrides {', '.join(without_effect)}, which nothing calls here; accepted: the hooks that "
        f"are called, which are {', '.join(name for name in LIVE_HOOKS if not name.startswith('_'))}; remedy: remove "
        f"{'it' if len(without_effect) == 1 else 'them'}{''.join(f'; {words}' for words in instead)}"
    )


def _is_freqtrades_model(kind: type) -> bool:
    return kind.__module__.startswith("freqtrade.") and issubclass(kind, BaseReinforcementLearningModel)


def _unfilled(kinds: Iterable[type]) -> Iterator[str]:
    """Names of :data:`_UNFILLED` that the methods of classes read and none of them sets."""
    codes = [code for kind in kinds for value in vars(kind).values() for code in _codes_of(value)]
    steps = [step for code in codes for step in dis.get_instructions(code)]
    kept = {step.argval for step in steps if step.opname == "STORE_ATTR"}
    for step in steps:
        if step.opname in ("LOAD_ATTR", "LOAD_METHOD") and step.argval in _UNFILLED and step.argval not in kept:
            yield step.argval


def _codes_of(value: Any) -> Iterator[CodeType]:
    """The code of a class's attribute and of the functions inside it; none of what has no code."""
    code = getattr(getattr(value, "fget", None) or getattr(value, "__func__", value), "__code__", None)
    if code is not None:
        yield from codes_inside(code)


def _without_effect(model: type, ours: type) -> Iterator[str]:
    mro, dead = model.__mro__, dead_hooks()
    above = mro[: mro.index(ours)]
    overridden = {name for kind in above for name in vars(kind) if name in dead}
    # The user's own code may call what FreqAI's would: such hooks live as long as their caller does.
    while called := overridden & set(_names_used(above, overridden)):
        overridden -= called
    yield from overridden
    # A class that stands behind this one in the order of inheritance: this one's methods win.
    defined = {name for kind in ours.__mro__ if not kind.__module__.startswith("freqtrade.") for name in vars(kind)}
    for kind in mro[mro.index(ours) + 1 :]:
        if kind not in ours.__mro__ and issubclass(kind, BaseReinforcementLearningModel):
            yield from (name for name in vars(kind) if name in dead or (name in defined and name in LIVE_HOOKS))


def _names_used(kinds: Iterable[type], without: set[str]) -> Iterator[str]:
    """Names of attributes that the methods of classes use, but for those of some names."""
    for kind in kinds:
        for name, value in vars(kind).items():
            if name not in without:
                yield from (used for code in _codes_of(value) for used in code.co_names)
