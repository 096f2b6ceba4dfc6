"""Strategies that say something of their own about their trades, as public ones do."""

import talib.abstract as ta
from column_only_strategies import ColumnOnlyStrategy
from pandas import DataFrame


class ByRate(ColumnOnlyStrategy):
    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return 10.0 if int(current_rate) % 2 else 2.0


class ByHour(ColumnOnlyStrategy):
    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return 3.0 if current_time.hour < 12 else 1.0


class ByTag(ColumnOnlyStrategy):
    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return 5.0 if entry_tag.startswith("long") else 2.0


class ByVolatility(ColumnOnlyStrategy):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["atr"] = ta.ATR(dataframe, timeperiod=14)
        return super().populate_indicators(dataframe, metadata)

    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        frame, _ = self.dp.get_analyzed_dataframe(pair, self.timeframe)
        assert frame["date"].iloc[-1] < current_time
        return min(max_leverage, max(1.0, 0.004 * current_rate / frame["atr"].iloc[-1]))


class WithoutStop(ColumnOnlyStrategy):
    """ "No stop", as very many users of futures write it."""

    stoploss = -0.99
    minimal_roi = {"0": 0.2}  # noqa: RUF012

    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        return 100.0


class OwnConditions(ColumnOnlyStrategy):
    """Enters and leaves by indicators of its own as well, made after FreqAI's columns."""

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe = super().populate_indicators(dataframe, metadata)
        dataframe["rsi"] = ta.RSI(dataframe, timeperiod=14)
        return dataframe

    def populate_entry_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        df = super().populate_entry_trend(df, metadata)
        df.loc[df["rsi"] > 55, "enter_long"] = 0
        df.loc[df["rsi"] < 45, "enter_short"] = 0
        return df

    def populate_exit_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        df = super().populate_exit_trend(df, metadata)
        df.loc[df["rsi"] > 60, "exit_long"] = 1
        df.loc[df["rsi"] < 40, "exit_short"] = 1
        return df


class LeavesForTheOtherSide(OwnConditions):
    """Leaves a trade where the policy would enter the other side, as many do."""

    def populate_exit_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        df = super().populate_exit_trend(df, metadata)
        df.loc[df["&-action"] == 3, "exit_long"] = 1
        df.loc[df["&-action"] == 1, "exit_short"] = 1
        return df


class OwnStake(ColumnOnlyStrategy):
    def custom_stake_amount(self, pair, current_time, proposed_stake, **kwargs):
        return proposed_stake / (1 + current_time.hour % 3)


class Raises(ColumnOnlyStrategy):
    def leverage(self, **kwargs):
        raise KeyError("atr")


class CannotBeRun(ColumnOnlyStrategy):
    def populate_entry_trend(self, df: DataFrame, metadata: dict) -> DataFrame:
        if (df["&-action"] == 1).all():
            raise ValueError("a policy never enters everywhere")
        return super().populate_entry_trend(df, metadata)
