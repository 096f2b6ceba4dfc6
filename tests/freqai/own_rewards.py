"""Rewards in the manner of public FreqAI models, as users write them."""

from typing import Any

from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from freqtrade.freqai.RL.Base3ActionRLEnv import Base3ActionRLEnv
from freqtrade.freqai.RL.Base4ActionRLEnv import Base4ActionRLEnv
from freqtrade.freqai.RL.Base5ActionRLEnv import Actions, Base5ActionRLEnv, Positions

# The one of freqtrade's documentation.
Documented = ReinforcementLearner.MyRLEnv
FEATURE = "%-rsi-period_14_BTC/USDTUSDT_5m"


class PaysExits(Base5ActionRLEnv):
    """Nothing but the profit of what an exit action closes."""

    def calculate_reward(self, action: int) -> float:
        is_exit = (action, self._position) in ((2, Positions.Long), (4, Positions.Short))
        return self.get_unrealized_profit() if is_exit else 0.0


class PaysExits4(Base4ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        return self.get_unrealized_profit() if action == 1 and self._position != Positions.Neutral else 0.0


class PaysExits3(Base3ActionRLEnv):
    def calculate_reward(self, action: int) -> float:
        return self.get_unrealized_profit() if action == 2 and self._position == Positions.Long else 0.0


class Impatient(Base5ActionRLEnv):
    """Pays what the trade gained since the last candle, less for idling, for hesitating and for what cannot be done."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.idle_candles = 0

    def calculate_reward(self, action: int) -> float:
        penalties = self.rl_config["model_reward_parameters"]
        if not self._is_valid(action):
            self.tensorboard_log("invalid")
            return penalties["invalid_action_penalty"]
        self.idle_candles = self.idle_candles + 1 if self._position == Positions.Neutral else 0
        if self._position == Positions.Neutral:
            if self.is_tradesignal(action):
                return 0.0
            return penalties["idle"]["each_candle"] * min(self.idle_candles, 10)
        before = self.prices.iloc[self._current_tick - 1].open
        gain = self.prices.iloc[self._current_tick].open / before - 1
        sign = 1 if self._position == Positions.Long else -1
        late = self.get_trade_duration() / self.rl_config["max_trade_duration_candles"]
        return 100 * sign * gain - penalties["hold_penalty_factor"] * late


class ReadsEverything(Base5ActionRLEnv):
    """Reads all that public rewards read, and weighs it into one number."""

    def calculate_reward(self, action: int) -> float:
        names = [entry["type"] for entry in self.trade_history]
        past = self._position_history[self._current_tick - 1]
        assert past == self._position or self._last_trade_tick == self._current_tick
        assert len(self._position_history) == self._current_tick
        assert self._position_history[self._start_tick] == Positions.Neutral
        assert self._start_tick < self._current_tick <= self._end_tick
        assert self.total_profit == self._total_profit
        assert self.config["timeframe"] == "5m"
        assert self.pair == "BTC/USDT:USDT"
        assert self.actions is Actions
        assert self.can_short is True
        if self._last_trade_tick is not None:
            assert self.get_trade_duration() == self._current_tick - self._last_trade_tick
            assert names[-1] in ("enter_long", "enter_short")
            assert self.trade_history[-1]["index"] == self._last_trade_tick
        ticks = self.history.get("tick", [])
        assert ticks == sorted(ticks)
        rsi = self.raw_features[FEATURE].iloc[self._current_tick]
        paid = self.add_entry_fee(self.current_price()) - self.add_exit_fee(self.current_price())
        self.tensorboard_log("rsi", value=float(rsi), category="features")
        return float(
            self.get_unrealized_profit()
            + (self._total_unrealized_profit - self._total_profit)
            + self.get_most_recent_return()
            + (self.get_most_recent_max_pnl() > self.profit_aim * self.rr)
            + rsi / 100
            - paid / self.current_price()
            + (action == Actions.Long_exit.value) * len(names)
        )
