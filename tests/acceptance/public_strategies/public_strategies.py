"""Strategies in the style of public ones, each with something that the shipped one does without."""

import talib.abstract as ta
from freqtrade.strategy import IStrategy, stoploss_from_open
from pandas import DataFrame

from mtfscalper.strategy import PolicyExits


class ReadsActions(IStrategy):
    """Columns only, as in freqtrade's documentation; shorts too, at three times."""

    can_short = True
    process_only_new_candles = True
    startup_candle_count = 40
    stoploss = -0.06
    minimal_roi = {"0": 0.1, "240": 0.0}  # noqa: RUF012
    use_exit_signal = True

    def feature_engineering_expand_all(self, dataframe: DataFrame, period: int, metadata: dict, **kwargs) -> DataFrame:
        dataframe["%-rsi-period"] = ta.RSI(dataframe, timeperiod=period)
        dataframe["%-mfi-period"] = ta.MFI(dataframe, timeperiod=period)
        return dataframe

    def feature_engineering_expand_basic(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe["%-pct-change"] = dataframe["close"].pct_change()
        return dataframe

    def set_freqai_targets(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe["&-action"] = 0
        return dataframe

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = self.freqai.start(dataframe, metadata, self)
        dataframe["rsi"] = ta.RSI(dataframe, timeperiod=14)
        return dataframe

    def populate_entry_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        trusted = (df["do_predict"] == 1) & (df["volume"] > 0)
        df.loc[trusted & (df["&-action"] == 1) & (df["rsi"] < 70), ["enter_long", "enter_tag"]] = (1, "long")
        df.loc[trusted & (df["&-action"] == 3) & (df["rsi"] > 30), ["enter_short", "enter_tag"]] = (1, "short")
        return df

    def populate_exit_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        df.loc[df["&-action"] == 2, "exit_long"] = 1
        df.loc[df["&-action"] == 4, "exit_short"] = 1
        return df

    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return 3.0


class BuysMore(ReadsActions):
    """DCA: buys once more at a loss, and a stop of its own goes to break-even after a gain."""

    position_adjustment_enable = True
    max_entry_position_adjustment = 1
    use_custom_stoploss = True

    def custom_stake_amount(self, pair, current_time, proposed_stake, **kwargs):
        return proposed_stake / 2

    def adjust_trade_position(self, trade, current_time, current_rate, current_profit, **kwargs):
        return trade.stake_amount if current_profit < -0.02 and trade.nr_of_successful_entries == 1 else None

    def custom_stoploss(self, pair, trade, current_time, current_rate, current_profit, after_fill, **kwargs):
        if current_profit > 0.02:
            return stoploss_from_open(0.002, current_profit, is_short=trade.is_short, leverage=trade.leverage)
        return None


class TakesProfit(PolicyExits, ReadsActions):
    """The policy decides about open trades, and gains of two per cent are taken."""

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        return "take_profit" if current_profit > 0.02 else None
