"""A reward that was written for FreqAI, a nested ``MyRLEnv`` with ``calculate_reward``, in training here."""

from __future__ import annotations

import ast
import difflib
import inspect
import math
import traceback
from collections.abc import Container, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from freqtrade.configuration.config_secrets import sanitize_config
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.RL.Base3ActionRLEnv import Base3ActionRLEnv
from freqtrade.freqai.RL.BaseEnvironment import BaseEnvironment
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from pandas import DataFrame

from mtfscalper.artefacts import value_hash
from mtfscalper.freqai.reward_env import METHOD, NEUTRAL, NUMBERS, NotShownError, base_of, numbers_of, reward_env
from mtfscalper.market.tape import MarketTape
from mtfscalper.settings import RLSettings
from mtfscalper.trading.account import Fill
from mtfscalper.trading.episode import EpisodeState, exit_candle
from mtfscalper.trading.own_reward import OwnRewardError
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.user_code import UserCode, class_code, words_said

MY_RL_ENV = "MyRLEnv"
# Where the parents stand that every such class has.
_NOT_THE_USERS = ("freqtrade", "gymnasium", "typing", "builtins")
# Sections of a config of which other parts of a fingerprint are made.
_HASHED_ELSEWHERE = ("freqai", "rl_config", "feature_parameters", "data_split_parameters", "model_training_parameters")
# What such a class would change besides its reward, and what does that here.
_TRADES = "trades follow freqtrade's rules, whatever the reward"
_OBSERVES = "the policy is shown features and its trade (docs/clock.md)"
_REFUSED = {
    "step": _TRADES,
    "is_tradesignal": _TRADES,
    "action_masks": "what cannot be done is masked by the rules",
    "set_action_space": "the policy has FreqAI's five actions",
    "reset": "episodes begin as freqai.rl_config.randomize_starting_position says; set attributes of yours in __init__",
    "reset_env": "episodes begin as freqai.rl_config.randomize_starting_position says",
    "_get_observation": _OBSERVES,
}


@dataclass(frozen=True)
class UsersReward:
    """The class of a user's reward, and what its method is given of the config.

    :ivar code: the class, by value
    :ivar rl_config: the section ``freqai.rl_config`` as FreqAI would hand it over
    :ivar config: hashes of whatever else of the config its files name, by path
    """

    code: UserCode
    rl_config: Mapping[str, Any]
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def config_read(self) -> dict[str, str]:
        """Hashes of what only the method reads of the config, by path; its parameters are not among it."""
        own = {key: value for key, value in self.rl_config.items() if key not in RLSettings.model_fields}
        return {f"freqai.rl_config.{key}": value_hash(value) for key, value in own.items()} | dict(self.config)

    @property
    def parameters_sha256(self) -> str:
        """A hash of what only the method reads of the config, its parameters included."""
        return value_hash([self.rl_config["model_reward_parameters"], self.config_read])

    def of_pair(
        self,
        pair: str,
        config: Mapping[str, Any],
        rules: TradingRules,
        lookback: int,
        raw_features: DataFrame | None,
    ) -> FreqaiReward:
        """The reward of a pair's training.

        :param config: the freqtrade config
        :param rules: of the pair's trades
        :param raw_features: unscaled, a row for each candle that is trained on; None where nobody has them
        """
        rl_config = dict(self.rl_config)
        arguments = {
            "config": {**_without_secrets(config), "freqai": {**config["freqai"], "rl_config": rl_config}},
            "reward_kwargs": rl_config["model_reward_parameters"],
            "window_size": lookback,
            "fee": rules.fee_ratio,
            "can_short": rules.can_short,
            "pair": pair,
            "df_raw": None if raw_features is None else raw_features.reset_index(drop=True),
        }
        return FreqaiReward(self.code, arguments)


@dataclass(frozen=True, eq=False)
class FreqaiReward:
    """The reward of one training, see :class:`mtfscalper.trading.own_reward.OwnReward`.

    :ivar arguments: of FreqAI's environments
    """

    code: UserCode
    arguments: dict[str, Any]

    def on(self, tape: MarketTape) -> FreqaiEpisodes:
        """The reward of a new account."""
        return FreqaiEpisodes(self.code.value, tape, self.arguments)


class FreqaiEpisodes:
    """One account's reward, see :class:`mtfscalper.trading.own_reward.EpisodeReward`."""

    def __init__(self, kind: type[BaseEnvironment], tape: MarketTape, arguments: Mapping[str, Any]) -> None:
        self._kind, self._features, self._fee = kind, arguments["df_raw"], arguments["fee"]
        self._numbers = numbers_of(kind)
        try:
            self._env = reward_env(kind, tape, arguments)
        except Exception as error:
            raise self._failed(error) from error

    def begin(self, state: EpisodeState) -> None:
        """See :meth:`mtfscalper.trading.own_reward.EpisodeReward.begin`."""
        self._env.begin_episode(int(state.candle), int(state.last))

    def of_candle(self, before: EpisodeState, action: int, fill: Fill, after: EpisodeState) -> float:
        """See :meth:`mtfscalper.trading.own_reward.EpisodeReward.of_candle`.

        What the candle did is shown: an entry, whoever made it, and the end of a trade by the action that leaves it,
        whatever ended it. What was asked for and not done, and FreqAI's environment would have done, is shown as
        Neutral. A trade that is entered and ended in one candle is two calls, and so is one that the episode's last
        candle ends.
        """
        env, numbers, tick = self._env, self._numbers, int(before.candle)
        account = before.account
        side = int(account.side or after.account.side or fill.side)
        ends_in = int(exit_candle(before, fill)) if fill.exited else -1
        reward = 0.0
        try:
            best = float(account.best_profit)
            if account.side == 0 and side:
                best = self._fees(side, after.account.leverage)
                reward += env.reward_of(numbers.enters[side], tick, best, best)
            elif ends_in != tick:
                shown = numbers.asked[action]
                if shown and env.would_trade(shown):
                    shown = NEUTRAL
                reward += env.reward_of(shown, tick, before.profit, best)
            if fill.exited:
                reward += env.reward_of(numbers.exits[side], ends_in, fill.profit_ratio, best, fill.close_rate)
            reward = float(reward)
        except OwnRewardError:
            raise
        except Exception as error:
            raise self._failed(error) from error
        if not math.isfinite(reward):
            raise OwnRewardError(
                f"{MY_RL_ENV}.{METHOD} gives {reward!r} at candle {tick}; accepted: a finite number; remedy: correct "
                "the method"
            )
        return reward

    def metrics(self) -> dict[str, float]:
        """What ``tensorboard_log`` noted in this episode, without FreqAI's own count of actions."""
        own = set(self._numbers.actions.__members__)
        return {
            f"{category}/{name}": float(value)
            for category, values in self._env.tensorboard_metrics.items()
            for name, value in values.items()
            if category != "actions" or name not in own
        }

    def _fees(self, side: int, leverage: float) -> float:
        """What a trade is worth right after its entry: less by the fees of both sides."""
        fee = side * self._fee
        return float(side * ((1 - fee) / (1 + fee) - 1) * leverage)

    def _failed(self, error: Exception) -> OwnRewardError:
        """What the user's code raised, with the line of it."""
        frames = traceback.extract_tb(error.__traceback__)
        kinds = [kind for kind in self._kind.__mro__ if kind.__module__.partition(".")[0] not in _NOT_THE_USERS]
        own = [getattr(value, "__code__", None) for kind in kinds for value in vars(kind).values()]
        files = {code.co_filename for code in own if code is not None}
        frame = next((each for each in reversed(frames) if each.filename in files), frames[-1])
        kind = AttributeError if isinstance(error, NotShownError) else type(error)
        said = f"{kind.__name__}: {error}"
        if isinstance(error, KeyError) and self._features is not None:
            close = difflib.get_close_matches(str(error.args[0]), map(str, self._features.columns), n=1, cutoff=0.3)
            said += f" (of the features, the nearest is {close[0]!r})" if close else ""
        if not isinstance(error, NotShownError):
            said += "; accepted: a finite number for every action at every candle; remedy: correct that line"
        where = f"{frame.filename}, line {frame.lineno} ({frame.line})"
        return OwnRewardError(f"{MY_RL_ENV}.{frame.name} fails in {where}: {said}")


# ---------------------------------------------------------------------- at the start


def users_reward(model: type, config: Mapping[str, Any]) -> UsersReward | None:
    """The reward of a FreqAI model's own ``MyRLEnv``, None for a model without one.

    :param model: the class that freqtrade found
    :param config: the freqtrade config
    :raises OperationalException: if the class changes more than its reward, goes by actions that are not known here, or
        is no ``MyRLEnv``
    """
    kind = getattr(model, MY_RL_ENV)
    if kind is getattr(BaseReinforcementLearningModel, MY_RL_ENV):
        _check_unused(model)
        return None
    _check(model, kind)
    rl_config = deepcopy(dict(config["freqai"].get("rl_config") or {}))
    rl_config["model_reward_parameters"] = dict(rl_config.get("model_reward_parameters") or {})
    return UsersReward(class_code(kind, model), rl_config, dict(_named_in(config, words_said(kind, model))))


def check_reward_of_strategy(reward: UsersReward | None, can_short: bool) -> None:
    """Refuse a reward whose actions do not fit a strategy's trades.

    :raises OperationalException: naming the actions, what is accepted, and the remedy
    """
    if reward is not None and can_short and base_of(reward.code.value) is Base3ActionRLEnv:
        raise OperationalException(
            f"{MY_RL_ENV} inherits from Base3ActionRLEnv and the strategy can short: its Sell turns a long into a "
            "short at once, which no trade does here; accepted: Base5ActionRLEnv or Base4ActionRLEnv, or a strategy "
            "with can_short = False; remedy: change one of the two"
        )


def _check_unused(model: type) -> None:
    """Refuse a model whose file holds a reward that nothing finds, and whose author believes in it.

    :raises OperationalException: naming the class
    """
    file = vars(model).get("__file__")
    if file is None:
        # Made by hand, not found by freqtrade, which keeps no module of a model either.
        return
    tree = ast.parse(Path(file).read_bytes())
    of_model = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == model.__name__]
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in (node for body in (tree.body, *of_model) for node in body):
        if isinstance(node, ast.ClassDef) and node.name not in {model.__name__, *used} and _has_reward(node):
            raise OperationalException(
                f"{model.__name__} comes with a class {node.name} ({file}, line {node.lineno}), whose {METHOD} nothing "
                f"calls; accepted: a class of the name {MY_RL_ENV} within {model.__name__}; remedy: name it so and "
                f"indent it there, write {MY_RL_ENV} = {node.name} there, or remove it"
            )


def _has_reward(node: ast.ClassDef) -> bool:
    """Whether a class of a file defines a reward of its own, and is no model."""
    bases = {name for base in node.bases for name in (getattr(base, "id", None), getattr(base, "attr", None)) if name}
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    return METHOD in methods and any(base.endswith(("Env", "Environment")) for base in bases)


def _check(model: type, kind: Any) -> None:
    name = f"{model.__name__}.{MY_RL_ENV}"
    known = " or ".join(base.__name__ for base in NUMBERS)
    if not isinstance(kind, type) or base_of(kind) is None:
        raise OperationalException(
            f"{name} is {kind!r}; accepted: a class that inherits from {known}, whose actions are known here; remedy: "
            "inherit from one of them"
        )
    if getattr(kind, METHOD) is getattr(BaseEnvironment, METHOD):
        raise OperationalException(
            f"{name} has no {METHOD}; accepted: a class that defines it; remedy: define it, or remove the class to "
            "train on the reward of freqai.rl_config.model_reward_parameters"
        )
    if (signature := _unfit_signature(kind)) is not None:
        raise OperationalException(
            f"{name}.{METHOD} takes {signature}; accepted: (self, action), for it is asked with the action alone; "
            "remedy: write it so, and read the rest from self"
        )
    refused = sorted({name for name in _names_of_the_users(kind) if name in _REFUSED})
    if refused:
        instead = dict.fromkeys(_REFUSED[each] for each in refused)
        raise OperationalException(
            f"{name} overrides {', '.join(refused)}, which nothing calls here; accepted: {METHOD}, __init__ and "
            f"methods of your own; remedy: remove {'it' if len(refused) == 1 else 'them'}; {'; '.join(instead)}"
        )


def _unfit_signature(kind: type) -> str | None:
    """What the method takes, if it cannot be called with an action; None if it can, or nobody knows."""
    try:
        signature = inspect.signature(getattr(kind, METHOD))
        arguments = (NEUTRAL,) if isinstance(inspect.getattr_static(kind, METHOD), staticmethod) else (None, NEUTRAL)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*arguments)
    except TypeError:
        return str(signature)
    return None


def _names_of_the_users(kind: type) -> Iterable[str]:
    """Names that a class and its parents define, as far as they are not FreqAI's."""
    for each in kind.__mro__:
        if each in NUMBERS:
            return
        yield from vars(each)


def _named_in(config: Mapping[str, Any], words: Container[str]) -> Iterator[tuple[str, str]]:
    """Hashes of the keys that a reward's files name of the config and of its section ``freqai``, by path."""
    plain = _without_secrets(config)
    for prefix, section in (("", plain), ("freqai.", plain["freqai"])):
        for key, value in section.items():
            # Where files lie changes nothing.
            if key in words and key not in _HASHED_ELSEWHERE and not isinstance(value, PurePath):
                yield f"{prefix}{key}", value_hash(value)


def _without_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config without keys and passwords: what trains in another process needs none."""
    return dict(sanitize_config({name: value for name, value in config.items() if name != "original_config"}))
