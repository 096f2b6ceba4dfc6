"""What a reward that was written for FreqAI sees: trades here, in the words of FreqAI's environments.

Each candle is one ``step`` of FreqAI's own class, with the action that was carried out: its tick goes on, the user's
``calculate_reward`` is asked, then the position changes. So positions, ticks and histories are FreqAI's by
construction. What a trade has earned is what the rules here say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from freqtrade.freqai.RL.Base3ActionRLEnv import Actions as Actions3
from freqtrade.freqai.RL.Base3ActionRLEnv import Base3ActionRLEnv
from freqtrade.freqai.RL.Base4ActionRLEnv import Actions as Actions4
from freqtrade.freqai.RL.Base4ActionRLEnv import Base4ActionRLEnv
from freqtrade.freqai.RL.Base5ActionRLEnv import Actions as Actions5
from freqtrade.freqai.RL.Base5ActionRLEnv import Base5ActionRLEnv
from freqtrade.freqai.RL.BaseEnvironment import BaseEnvironment, Positions
from pandas import DataFrame

from mtfscalper.market.tape import PRICE_COLUMNS, MarketTape
from mtfscalper.trading.own_reward import OwnRewardError


class ActionNumbers(NamedTuple):
    """The numbers that one of FreqAI's environments gives to actions.

    :ivar asked: of each :class:`mtfscalper.trading.actions.Action`; one without a counterpart does nothing there
    :ivar enters: by side, +1 long and -1 short, as ``exits``
    """

    actions: type[Enum]
    asked: tuple[int, ...]
    enters: Mapping[int, int]
    exits: Mapping[int, int]


# Base3's Sell turns a long into a short where shorts are allowed, which nothing does here.
NUMBERS: dict[type, ActionNumbers] = {
    Base5ActionRLEnv: ActionNumbers(Actions5, (0, 1, 2, 3, 4), {1: 1, -1: 3}, {1: 2, -1: 4}),
    Base4ActionRLEnv: ActionNumbers(Actions4, (0, 2, 1, 3, 1), {1: 2, -1: 3}, {1: 1, -1: 1}),
    Base3ActionRLEnv: ActionNumbers(Actions3, (0, 1, 2, 0, 0), {1: 1}, {1: 2}),
}
# What calculate_reward may read of its environment, beside FreqAI's own methods and what its class adds.
SHOWN = (
    *("config", "rl_config", "pair", "fee", "can_short", "actions", "rr", "profit_aim", "prices", "raw_features"),
    *("_current_tick", "_start_tick", "_end_tick", "_last_trade_tick", "_position", "_position_history", "_done"),
    *("_total_profit", "total_profit", "_total_unrealized_profit", "total_reward", "trade_history", "history"),
    *("current_price", "get_unrealized_profit", "get_trade_duration", "get_most_recent_max_pnl"),
    *("get_most_recent_return", "add_entry_fee", "add_exit_fee", "_is_valid", "is_tradesignal", "tensorboard_log"),
    *("tensorboard_metrics", "id", "window_size", "max_drawdown", "compound_trades", "live", "np_random"),
)
# Of all of them.
NEUTRAL = 0
METHOD = "calculate_reward"


class NotShownError(AttributeError):
    """A reward reads what it is not shown here. Names what, what it may read, and the remedy."""


class RewardEnv:
    """Stands between a user's ``MyRLEnv`` and FreqAI's base class in the order of inheritance: the user's own methods
    come first, and what they call by ``super`` is answered here."""

    def __init__(
        self,
        *,
        prices: DataFrame,
        reward_kwargs: Mapping[str, Any],
        window_size: int,
        config: dict[str, Any],
        fee: float,
        can_short: bool,
        pair: str,
        df_raw: DataFrame | None,
        id: str = "baseenv-1",
        **others: Any,
    ) -> None:
        """FreqAI's arguments, by its names.

        :param prices: open, high, low, close, one row a candle
        :param reward_kwargs: ``model_reward_parameters``
        :param window_size: candles before the first decision
        :param df_raw: unscaled features of the same rows, None where there are none
        :param others: what an environment of FreqAI is given beyond
        """
        self.config, self.rl_config = config, config["freqai"]["rl_config"]
        self.id, self.pair, self.fee, self.can_short, self.live = id, pair, fee, can_short, False
        self.prices, self.window_size = prices, window_size
        if df_raw is not None:
            self.raw_features = df_raw
        self.actions = numbers_of(type(self)).actions
        self.rr, self.profit_aim = reward_kwargs.get("rr", 1), reward_kwargs.get("profit_aim", 0.025)
        self.max_drawdown = 1 - self.rl_config.get("max_training_drawdown_pct", 0.8)
        self.compound_trades = config.get("stake_amount") == "unlimited"
        self.tensorboard_metrics: dict[str, dict[str, float]] = {}
        self.__opens: list[float] = prices["open"].tolist()
        self.seed()
        self.begin_episode(window_size + 1, len(prices) - 1)

    def begin_episode(self, first: int, last: int) -> None:
        """Flat again.

        :param first: the candle of the first decision, which is the tick after FreqAI's ``_start_tick``
        :param last: that ends the episode
        """
        self.tensorboard_metrics = {}
        self._done, self._position, self._last_trade_tick = False, Positions.Neutral, None
        self._start_tick = self._current_tick = first - 1
        self._end_tick = last
        self._position_history = [None] * self._start_tick + [Positions.Neutral]
        self._total_profit = self._total_unrealized_profit = 1.0
        self.total_reward = 0.0
        self.history: dict[str, list[Any]] = {}
        self.trade_history: list[dict[str, Any]] = []
        self.__profit = self.__best = 0.0
        self.__rate = self.__opens[self._start_tick]

    def reward_of(self, action: int, tick: int, profit: float, best: float, rate: float | None = None) -> float:
        """What the user's reward gives for an action that is carried out at a tick.

        :param action: by the numbers of the user's base class
        :param tick: number of the candle; those since the last one passed flat and undecided. The tick of the call
            before for a trade that is entered and ended in one candle
        :param profit: of the open trade where the action is carried out
        :param best: the highest that it had at opens
        :param rate: where the action is carried out; None for the candle's open
        """
        history = self._position_history
        if tick < len(history):
            history.pop()
        elif tick > len(history):
            history += [Positions.Neutral] * (tick - len(history))
        self._current_tick = tick - 1
        self.__profit, self.__best = profit, max(best, profit)
        self.__rate = self.__opens[tick] if rate is None else rate
        return self.step(action)[1]  # type: ignore[no-any-return]

    def would_trade(self, action: int) -> bool:
        """Whether FreqAI's environment would carry an action out."""
        return bool(self.is_tradesignal(action))

    # ------------------------------------------------------------------ what FreqAI's class answers otherwise

    def _get_observation(self) -> None:
        """No policy looks here."""

    def get_unrealized_profit(self) -> float:
        """The open trade's profit ratio after fees and funding, leverage included; at an exit that of its fill."""
        return 0.0 if self._position == Positions.Neutral else self.__profit

    def current_price(self) -> float:
        """The rate at which the action is carried out: the candle's open, or where a rule closes the trade."""
        return self.__rate

    # ------------------------------------------------------------------ what other versions of FreqAI have

    @property
    def total_profit(self) -> float:
        """FreqAI's ``_total_profit``: what one unit staked on every trade has become."""
        return self._total_profit

    def get_most_recent_max_pnl(self) -> float:
        """The highest profit that the open trade had at opens up to now, 0 when flat."""
        return 0.0 if self._position == Positions.Neutral else self.__best

    def get_most_recent_return(self) -> float:
        """The log return of the price since the last open in the direction of the open trade, 0 when flat."""
        if self._position == Positions.Neutral:
            return 0.0
        change = math.log(self.__rate / self.__opens[self._current_tick - 1])
        return change if self._position == Positions.Long else -change

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise NotShownError(
            f"self.{name} is nothing that a reward is shown here; accepted: attributes of your own that MyRLEnv sets, "
            f"and {', '.join(SHOWN)}; remedy: read one of these"
        )


class CheckedReward:
    """Stands before a user's ``MyRLEnv``: FreqAI's ``step`` would fail in its own lines at what is no number."""

    def calculate_reward(self, action: int) -> Any:
        """What the user's method gives.

        :raises OwnRewardError: if that is no number
        """
        reward = super().calculate_reward(action)  # type: ignore[misc]
        is_number = isinstance(reward, Real | np.generic) or getattr(reward, "ndim", None) == 0
        if not is_number or isinstance(reward, np.str_):
            raise OwnRewardError(
                f"MyRLEnv.{METHOD} gives {reward!r} of type {type(reward).__name__} for the action {action}; accepted: "
                "a finite number for every action at every candle; remedy: correct the method, whose every branch "
                "has to return one"
            )
        return reward


def reward_env(kind: type[BaseEnvironment], tape: MarketTape, arguments: Mapping[str, Any]) -> Any:
    """An environment of the user's class that shows it the trades of one account.

    :param kind: the user's ``MyRLEnv``
    :param arguments: of FreqAI's environments, without prices
    :return: a :class:`RewardEnv` and a ``kind``
    """
    base = base_of(kind)
    assert base is not None, f"{kind} was refused at the start"
    between = type(base.__name__, (RewardEnv, base), {})
    shown = type(kind.__name__, (CheckedReward, kind, between), {"__module__": kind.__module__})
    prices = DataFrame({name: getattr(tape, name) for name in PRICE_COLUMNS})
    return shown(df=prices, prices=prices, starting_point=True, seed=1, live=False, **arguments)


def base_of(kind: type) -> type[BaseEnvironment] | None:
    """Which of FreqAI's environments a class is made from, None if none that is known."""
    return next((base for base in kind.__mro__ if base in NUMBERS), None)


def numbers_of(kind: type) -> ActionNumbers:
    """The numbers of actions that a class goes by."""
    base = base_of(kind)
    assert base is not None, f"{kind} was refused at the start"
    return NUMBERS[base]
