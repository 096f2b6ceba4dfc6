"""The project's strategy for freqtrade's own ``ReinforcementLearner``, for whole_command.py."""

import sys
from pathlib import Path

from pandas import DataFrame

sys.path.insert(0, str(Path(__file__).parents[2] / "strategies"))
from MtfScalper_RL_Hybrid import MtfScalper_RL_Hybrid


class StockHybrid(MtfScalper_RL_Hybrid):
    """The same features and rules; prices for freqtrade's environment, and its actions as signals."""

    def feature_engineering_standard(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        """Also the prices from which freqtrade's environment makes its rewards."""
        dataframe = super().feature_engineering_standard(dataframe, metadata, **kwargs)
        return dataframe.assign(**{f"%-raw_{name}": dataframe[name] for name in ("open", "high", "low", "close")})

    def set_freqai_targets(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        """The one column that freqtrade's learner fills."""
        return dataframe.assign(**{"&-action": 0})

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Enter where the policy enters."""
        trusted = dataframe["do_predict"] == 1
        dataframe.loc[trusted & (dataframe["&-action"] == 1), "enter_long"] = 1
        dataframe.loc[trusted & (dataframe["&-action"] == 3), "enter_short"] = 1
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Leave where the policy leaves."""
        dataframe.loc[dataframe["&-action"] == 2, "exit_long"] = 1
        dataframe.loc[dataframe["&-action"] == 4, "exit_short"] = 1
        return dataframe
