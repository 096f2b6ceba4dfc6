"""Hybrid scalper: classic multi-timeframe signals open the door, a trained policy decides entries and exits."""

import logging
from datetime import datetime
from functools import reduce

import numpy as np
import talib.abstract as ta
from freqtrade.exceptions import OperationalException
from freqtrade.persistence import Trade
from freqtrade.strategy import DecimalParameter, IntParameter, IStrategy, merge_informative_pair
from pandas import DataFrame

from mtfscalper.strategy import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    LONG_ENTER_COLUMN,
    LONG_SIGNAL,
    SHORT_ENTER_COLUMN,
    SHORT_SIGNAL,
    STATE_COLUMNS,
    Action,
    ExitDecision,
    PolicyExits,
    SignalThresholds,
    carries_out_policy,
    classic_signals,
    declare_prediction_columns,
    timeframe_state,
)

logger = logging.getLogger(__name__)


class MtfScalper_RL_Hybrid(PolicyExits, IStrategy):
    """Enters where a classic 5m/15m/1h signal permits it and the policy agrees; leaves when the policy says so.

    Without FreqAI (``freqai.enabled`` false) it trades the classic signals alone and leaves by stop, ROI, an opposite
    trend or duration: the baseline that the policy has to beat.
    """

    INTERFACE_VERSION = 3
    timeframe = "5m"
    informative_timeframes = ("15m", "1h")
    can_short = True
    process_only_new_candles = True
    startup_candle_count = 400

    # The rules that training reads from here; change them here and nowhere else.
    stoploss = -0.02
    minimal_roi = {"0": 0.04, "120": 0.02, "360": 0.01}
    trailing_stop = False
    use_exit_signal = True
    exit_profit_only = False
    ignore_roi_if_entry_signal = False
    leverage_used = 1.0

    # Classic signals.
    adx_base = IntParameter(10, 40, default=20, space="buy")
    adx_middle = IntParameter(10, 40, default=18, space="buy")
    adx_high = IntParameter(10, 40, default=15, space="buy")
    rsi_low = IntParameter(30, 55, default=45, space="buy")
    rsi_high = IntParameter(56, 85, default=70, space="buy")
    atr_ratio_min = DecimalParameter(0.0, 0.003, default=0.0008, decimals=4, space="buy")
    # Exits; with these defaults the policy's trades are those of its training.
    # Leave when the policy gives leaving at least this probability: 0.5 leaves whenever it prefers to.
    exit_probability_min = DecimalParameter(0.2, 0.95, default=0.5, decimals=2, space="sell")
    # Share of the longest duration in training after which a trade is closed.
    duration_share = DecimalParameter(0.1, 1.0, default=1.0, decimals=2, space="sell")
    # Once a trade has been this far in profit at an open, leave when the profit is gone; 0 never does.
    breakeven_trigger = DecimalParameter(0.0, 0.03, default=0.0, decimals=3, space="sell")

    # In a chart of a backtest the exit's probability and the action are what was answered about each open trade; what
    # happens on single candles is drawn as bars.
    plot_config = {
        "main_plot": {},
        "subplots": {
            "Policy": {
                LONG_ENTER_COLUMN: {"color": "green"},
                SHORT_ENTER_COLUMN: {"color": "red"},
                EXIT_COLUMN: {"color": "orange", "type": "bar"},
            },
            "Action": {ACTION_COLUMN: {"color": "blue", "type": "bar"}},
            "Classic signals": {
                LONG_SIGNAL: {"color": "green", "type": "bar"},
                SHORT_SIGNAL: {"color": "red", "type": "bar"},
            },
        },
    }

    def __init__(self, config: dict) -> None:
        super().__init__(config)
        if self.uses_policy:
            self._check_timeframes(config)

    @property
    def protections(self):
        """Pauses after a run of losses; live always, in backtests with ``--enable-protections``."""
        return [
            {
                "method": "StoplossGuard",
                "lookback_period_candles": 48,
                "trade_limit": 4,
                "stop_duration_candles": 12,
                "only_per_pair": True,
            },
            {
                "method": "MaxDrawdown",
                "lookback_period_candles": 288,
                "trade_limit": 10,
                "stop_duration_candles": 48,
                "max_allowed_drawdown": 0.1,
            },
        ]

    @property
    def max_trade_duration_candles(self) -> int:
        """Longest trade in candles, the same for training and trading."""
        return self.rl_settings.max_trade_duration_candles

    @property
    def uses_policy(self) -> bool:
        """Whether FreqAI takes part."""
        return bool(self.config.get("freqai", {}).get("enabled", False))

    def informative_pairs(self):
        """The higher timeframes of every pair."""
        return [(pair, timeframe) for pair in self.dp.current_whitelist() for timeframe in self.informative_timeframes]

    # ------------------------------------------------------------------ features

    def feature_engineering_expand_all(self, dataframe: DataFrame, period: int, metadata: dict, **kwargs) -> DataFrame:
        """Indicators for every timeframe and every period of ``indicator_periods_candles``."""
        close = dataframe["close"]
        dataframe["%-rsi-period"] = ta.RSI(dataframe, timeperiod=period)
        dataframe["%-adx-period"] = ta.ADX(dataframe, timeperiod=period)
        dataframe["%-mfi-period"] = ta.MFI(dataframe, timeperiod=period)
        dataframe["%-roc-period"] = ta.ROC(dataframe, timeperiod=period)
        dataframe["%-atr-ratio-period"] = ta.ATR(dataframe, timeperiod=period) / close
        dataframe["%-ema-distance-period"] = close / ta.EMA(dataframe, timeperiod=period) - 1
        mean, deviation = close.rolling(period).mean(), close.rolling(period).std()
        # A flat stretch has no deviation, and lies in the middle of its band.
        dataframe["%-bollinger-position-period"] = ((close - mean) / deviation.where(deviation > 0)).fillna(0.0 * mean)
        volume_mean = dataframe["volume"].rolling(period).mean()
        dataframe["%-relative-volume-period"] = (dataframe["volume"] / volume_mean.where(volume_mean > 0)).fillna(
            0.0 * volume_mean
        )
        return dataframe

    def feature_engineering_expand_basic(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        """Indicators for every timeframe, and the state that the classic signals are made of."""
        close, open_rate = dataframe["close"], dataframe["open"]
        span = (dataframe["high"] - dataframe["low"]) / close
        dataframe["%-return"] = close.pct_change()
        dataframe["%-candle-body"] = close / open_rate - 1
        dataframe["%-candle-span"] = span
        dataframe["%-upper-wick"] = (dataframe["high"] - dataframe[["open", "close"]].max(axis=1)) / close
        dataframe["%-macd-histogram"] = ta.MACD(dataframe)["macdhist"] / close
        dataframe["%-ema-9-21"] = ta.EMA(dataframe, timeperiod=9) / ta.EMA(dataframe, timeperiod=21) - 1
        return dataframe.assign(**timeframe_state(dataframe))

    def feature_engineering_standard(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        """Features of the base timeframe alone, and the classic signals that training reads."""
        hour = dataframe["date"].dt.hour + dataframe["date"].dt.minute / 60
        dataframe["%-hour-sine"] = np.sin(2 * np.pi * hour / 24)
        dataframe["%-hour-cosine"] = np.cos(2 * np.pi * hour / 24)
        dataframe["%-weekday"] = dataframe["date"].dt.dayofweek
        # FreqAI merged each timeframe's state after its candles had closed.
        states, suffixes = [], []
        for timeframe in (self.timeframe, *self.informative_timeframes):
            suffix = f"gen_{metadata['pair']}_{timeframe}"
            columns = {f"{name}_{suffix}": name for name in STATE_COLUMNS}
            states.append(dataframe[list(columns)].rename(columns=columns))
            suffixes += list(columns)
        return self._with_signals(dataframe.drop(columns=suffixes), states)

    def set_freqai_targets(self, dataframe: DataFrame, metadata: dict, **kwargs) -> DataFrame:
        """A policy has no targets; its columns are declared here."""
        return declare_prediction_columns(dataframe, fallback=self.rl_settings.fallback is not None)

    # ------------------------------------------------------------------ signals

    def populate_indicators(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """The states of the three timeframes, the classic signals, and the policy's columns."""
        own = dataframe[["date"]].assign(**timeframe_state(dataframe))
        states = [own]
        for timeframe in self.informative_timeframes:
            candles = self.dp.get_pair_dataframe(metadata["pair"], timeframe)
            state = candles[["date"]].assign(**timeframe_state(candles))
            merged = merge_informative_pair(dataframe[["date"]].copy(), state, self.timeframe, timeframe, ffill=True)
            states.append(merged.rename(columns={f"{name}_{timeframe}": name for name in STATE_COLUMNS}))
        dataframe = self._with_signals(dataframe, states)
        # Kept for the thresholds that hyperopt varies, and for a look in FreqUI.
        for timeframe, state in zip((self.timeframe, *self.informative_timeframes), states, strict=True):
            for name in STATE_COLUMNS:
                dataframe[f"{name}_{timeframe}"] = state[name].to_numpy()
        if self.uses_policy:
            dataframe = self.freqai.start(dataframe, metadata, self)
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Enter where the policy entered; without FreqAI, on every classic signal."""
        states = [
            dataframe[[f"{name}_{timeframe}" for name in STATE_COLUMNS]].set_axis(list(STATE_COLUMNS), axis=1)
            for timeframe in (self.timeframe, *self.informative_timeframes)
        ]
        long, short = classic_signals(*states, thresholds=self._thresholds())
        if not self.uses_policy:
            self._enter(dataframe, [long], "enter_long", "classic")
            self._enter(dataframe, [short], "enter_short", "classic")
            return dataframe
        action, trusted = dataframe[ACTION_COLUMN], dataframe["do_predict"] == 1
        agent = self.rl_settings.entry_mode == "agent"
        anywhere = np.ones(len(dataframe), dtype=bool)
        gates = (anywhere, anywhere) if agent else (long, short)
        tag = "rl_agent" if agent else "rl_signal"
        self._enter(dataframe, [trusted, action == Action.LONG_ENTER, gates[0]], "enter_long", tag)
        self._enter(dataframe, [trusted, action == Action.SHORT_ENTER, gates[1]], "enter_short", tag)
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict) -> DataFrame:
        """Leave where the columns say so: the policy in replay mode; without FreqAI a turn of the base trend."""
        if self.uses_policy:
            sure = dataframe[EXIT_COLUMN] >= self.exit_probability_min.value
            leave_long = (dataframe[ACTION_COLUMN] == Action.LONG_EXIT) & sure
            leave_short = (dataframe[ACTION_COLUMN] == Action.SHORT_EXIT) & sure
        else:
            leave_long = dataframe[f"mtf_trend_{self.timeframe}"] < 0
            leave_short = dataframe[f"mtf_trend_{self.timeframe}"] > 0
        dataframe.loc[leave_long, "exit_long"] = 1
        dataframe.loc[leave_short, "exit_short"] = 1
        return dataframe

    # ------------------------------------------------------------------ callbacks

    def policy_leaves(self, decision: ExitDecision) -> bool:
        """Leave when the policy gives leaving the least probability."""
        least = self.exit_probability_min.value
        # At 0.5 the policy's own preference: rounding would decide a tie otherwise.
        return decision.leave if least == 0.5 else decision.probability >= least

    @carries_out_policy
    def custom_exit(
        self, pair: str, trade: Trade, current_time: datetime, current_rate: float, current_profit: float, **kwargs
    ) -> str | None:
        """What the policy did not leave: gains that are gone, and a share of the longest duration."""
        decision = self.policy_decision
        if decision is not None and 0 < self.breakeven_trigger.value <= decision.best_profit and decision.profit <= 0:
            return "breakeven"
        longest = max(1, int(self.max_trade_duration_candles * self.duration_share.value))
        return "max_duration" if self.candles_held(trade, current_time) >= longest else None

    def leverage(
        self,
        pair: str,
        current_time: datetime,
        current_rate: float,
        proposed_leverage: float,
        max_leverage: float,
        entry_tag: str | None,
        side: str,
        **kwargs,
    ) -> float:
        """The same leverage for every trade; training reads it from here."""
        return min(self.leverage_used, max_leverage)

    # ------------------------------------------------------------------ helpers

    def _check_timeframes(self, config: dict) -> None:
        needed = [self.timeframe, *self.informative_timeframes]
        given = config["freqai"]["feature_parameters"].get("include_timeframes", [])
        if missing := [timeframe for timeframe in needed if timeframe not in given]:
            raise OperationalException(
                f"freqai.feature_parameters.include_timeframes is {given}, without {', '.join(missing)}; accepted: a "
                f"list with {', '.join(needed)}, whose candles the classic signals are made of; remedy: add what is "
                "missing"
            )

    def _thresholds(self) -> SignalThresholds:
        return SignalThresholds(
            adx_min=(self.adx_base.value, self.adx_middle.value, self.adx_high.value),
            rsi_long=(self.rsi_low.value, self.rsi_high.value),
            atr_ratio_min=self.atr_ratio_min.value,
        )

    def _with_signals(self, dataframe: DataFrame, states: list[DataFrame]) -> DataFrame:
        long, short = classic_signals(*states, thresholds=self._thresholds())
        return dataframe.assign(**{LONG_SIGNAL: long.astype(int), SHORT_SIGNAL: short.astype(int)})

    @staticmethod
    def _enter(dataframe: DataFrame, conditions: list, column: str, tag: str) -> None:
        where = reduce(lambda left, right: left & right, conditions)
        dataframe.loc[where, [column, "enter_tag"]] = (1, tag)
