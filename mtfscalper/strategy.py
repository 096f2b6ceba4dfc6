"""What a strategy may import: the signals, the policy's columns, and the policy's word on open trades.

Everything here can be imported without torch. Nothing else of the package is promised to strategies.
"""

from mtfscalper.freqai.columns import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    FALLBACK_COLUMN,
    LONG_ENTER_COLUMN,
    PREDICTION_COLUMNS,
    SHORT_ENTER_COLUMN,
    declare_prediction_columns,
)
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.policy_exits import PolicyExits
from mtfscalper.freqai.strategy_rules import settings_of_strategy as settings_of_config
from mtfscalper.freqai.trade_decisions import PROBABILITY_KEY, TradeDecisions
from mtfscalper.freqai.unsimulated import carries_out_policy
from mtfscalper.market.signals import (
    LONG_SIGNAL,
    SHORT_SIGNAL,
    STATE_COLUMNS,
    SignalPeriods,
    SignalThresholds,
    classic_signals,
    timeframe_state,
)
from mtfscalper.trading.actions import Action

__all__ = [
    "ACTION_COLUMN",
    "EXIT_COLUMN",
    "FALLBACK_COLUMN",
    "LONG_ENTER_COLUMN",
    "LONG_SIGNAL",
    "PREDICTION_COLUMNS",
    "PROBABILITY_KEY",
    "SHORT_ENTER_COLUMN",
    "SHORT_SIGNAL",
    "STATE_COLUMNS",
    "Action",
    "ExitDecision",
    "PolicyExits",
    "SignalPeriods",
    "SignalThresholds",
    "TradeDecisions",
    "carries_out_policy",
    "classic_signals",
    "declare_prediction_columns",
    "settings_of_config",
    "timeframe_state",
]
