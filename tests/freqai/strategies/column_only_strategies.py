"""Reinforcement-learning strategies in the shape of freqtrade's documentation, which know nothing of this package."""

from functools import reduce

import talib.abstract as ta
from freqtrade.strategy import IStrategy
from pandas import DataFrame


class ColumnOnlyStrategy(IStrategy):
    """Enters and leaves where ``&-action`` says so: no callback, no leverage, no signal of its own."""

    can_short = True
    process_only_new_candles = True
    startup_candle_count = 40
    stoploss = -0.05
    minimal_roi = {"0": 0.1, "240": -1}  # noqa: RUF012 - IStrategy's own class attribute
    use_exit_signal = True

    def feature_engineering_expand_all(self, dataframe: DataFrame, period: int, metadata: dict, **kwargs) -> DataFrame:
        dataframe["%-rsi-period"] = ta.RSI(dataframe, timeperiod=period)
        dataframe["%-mfi-period"] = ta.MFI(dataframe, timeperiod=period)
        dataframe["%-adx-period"] = ta.ADX(dataframe, timeperiod=period)
        return dataframe

    def feature_engineering_expand_basic(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe["%-pct-change"] = dataframe["close"].pct_change()
        return dataframe

    def feature_engineering_standard(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe["%-day_of_week"] = (dataframe["date"].dt.dayofweek + 1) / 7
        dataframe["%-hour_of_day"] = (dataframe["date"].dt.hour + 1) / 25
        return dataframe

    def set_freqai_targets(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe["&-action"] = 0
        return dataframe

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        return self.freqai.start(dataframe, metadata, self)

    def populate_entry_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        enter_long = [df["do_predict"] == 1, df["&-action"] == 1]
        df.loc[reduce(lambda x, y: x & y, enter_long), ["enter_long", "enter_tag"]] = (1, "long")
        enter_short = [df["do_predict"] == 1, df["&-action"] == 3]
        df.loc[reduce(lambda x, y: x & y, enter_short), ["enter_short", "enter_tag"]] = (1, "short")
        return df

    def populate_exit_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        exit_long = [df["do_predict"] == 1, df["&-action"] == 2]
        df.loc[reduce(lambda x, y: x & y, exit_long), "exit_long"] = 1
        exit_short = [df["do_predict"] == 1, df["&-action"] == 4]
        df.loc[reduce(lambda x, y: x & y, exit_short), "exit_short"] = 1
        return df


class RawPriceStrategy(ColumnOnlyStrategy):
    """With the raw prices among its features that freqtrade's own environments need."""

    def feature_engineering_standard(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        dataframe = super().feature_engineering_standard(dataframe, metadata, **kwargs)
        dataframe["%-raw_close"] = dataframe["close"]
        dataframe["%-raw_open"] = dataframe["open"]
        dataframe["%-raw_high"] = dataframe["high"]
        dataframe["%-raw_low"] = dataframe["low"]
        return dataframe


class SpotStrategy(RawPriceStrategy):
    """For markets without shorts, as freqtrade's own tests use."""

    can_short = False


class OtherSpotStrategy(SpotStrategy):
    """The same with another stop."""

    stoploss = -0.2
