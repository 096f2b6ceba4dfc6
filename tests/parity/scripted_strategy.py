"""A strategy that plays a script: the decisions of a test under the callbacks of the project's own strategy."""

import importlib.util
from pathlib import Path

import numpy as np
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.trading.actions import Action

_FILE = Path(__file__).parents[2] / "strategies" / "MtfScalper_RL_Hybrid.py"
_SPEC = importlib.util.spec_from_file_location(_FILE.stem, _FILE)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
Hybrid = _MODULE.MtfScalper_RL_Hybrid


class ScriptedStrategy(IStrategy):
    """Its columns and rules are set by :class:`backtester.Backtester` before each run.

    :ivar actions: decision at the open of every candle, members of :class:`Action`
    :ivar refused: entries refused since it was last set to 0
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
    refused = 0
    max_trade_duration_candles = 96
    leverage_long = 1.0
    leverage_short = 1.0
    # What it says of its trades at each candle, by date; None where it says the same at all of them.
    terms: DataFrame | None = None

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        dataframe["enter_long"] = self._signal(Action.LONG_ENTER)
        dataframe["enter_short"] = self._signal(Action.SHORT_ENTER)
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        for name, action in (("long", Action.LONG_EXIT), ("short", Action.SHORT_EXIT)):
            dataframe[f"exit_{name}"] = self._signal(action)
            if self.terms is not None and f"{name}_exit" in self.terms:
                # The strategy's own, whatever the script says.
                dataframe[f"exit_{name}"] |= self.terms[f"{name}_exit"].to_numpy(dtype=int)
        return dataframe

    def _signal(self, action: Action) -> np.ndarray:
        # Row k - 1 is acted upon at the open of candle k.
        return np.append(self.actions[1:] == action, False).astype(int)

    # What the script says stands in the columns; the longest duration is left to the project's own callback.
    trade_decisions = None
    duration_share = Hybrid.duration_share
    _longest_candles = Hybrid._longest_candles
    _candle_seconds = Hybrid._candle_seconds
    custom_exit = Hybrid.custom_exit

    def confirm_trade_entry(self, *args, **kwargs):
        confirmed = Hybrid.confirm_trade_entry(self, *args, **kwargs)
        self.refused += not confirmed
        return confirmed

    def leverage(self, pair, current_time, current_rate, proposed_leverage, max_leverage, entry_tag, side, **kwargs):
        if self.terms is not None and f"{side}_leverage" in self.terms:
            return float(self.terms.set_index("date").loc[current_time, f"{side}_leverage"])
        return self.leverage_short if side == "short" else self.leverage_long

    def custom_stake_amount(self, pair, current_time, current_rate, proposed_stake, *args, side, **kwargs):
        if self.terms is not None and f"{side}_stake" in self.terms:
            return proposed_stake * float(self.terms.set_index("date").loc[current_time, f"{side}_stake"])
        return proposed_stake


class LongScriptedStrategy(ScriptedStrategy):
    """The one for spot markets, where freqtrade loads no strategy that can short."""

    can_short = False
