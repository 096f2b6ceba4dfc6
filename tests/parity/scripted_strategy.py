"""A strategy that plays a script: the decisions of a test, and nothing of its own."""

from datetime import timedelta

import numpy as np
from freqtrade.persistence import Trade
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.trading.actions import Action


class ScriptedStrategy(IStrategy):
    """Its columns and rules are set by :class:`backtester.Backtester` before each run.

    :ivar actions: decision at the open of every candle, members of :class:`Action`
    """

    INTERFACE_VERSION = 3
    timeframe = "5m"
    can_short = True
    process_only_new_candles = True
    use_exit_signal = True
    startup_candle_count = 0
    stoploss = -0.1
    minimal_roi = {}  # noqa: RUF012 - IStrategy's own class attribute

    actions: np.ndarray
    max_trade_duration_candles: int
    leverage_long = 1.0
    leverage_short = 1.0

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["enter_long"] = self._signal(Action.LONG_ENTER)
        dataframe["enter_short"] = self._signal(Action.SHORT_ENTER)
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["exit_long"] = self._signal(Action.LONG_EXIT)
        dataframe["exit_short"] = self._signal(Action.SHORT_EXIT)
        return dataframe

    def _signal(self, action: Action) -> np.ndarray:
        # Row k - 1 is acted upon at the open of candle k.
        return np.append(self.actions[1:] == action, False).astype(int)

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        longest = timedelta(minutes=5 * self.max_trade_duration_candles)
        return "max_duration" if current_time - trade.open_date_utc >= longest else None

    def confirm_trade_entry(
        self, pair, order_type, amount, rate, time_in_force, current_time, entry_tag, side, **kwargs
    ):
        # No entry in the candle of an exit, as in strategies/MtfScalper_RL_Hybrid.py.
        before = current_time - timedelta(microseconds=1)
        return not Trade.get_trades_proxy(pair=pair, is_open=False, close_date=before)

    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return self.leverage_short if side == "short" else self.leverage_long
