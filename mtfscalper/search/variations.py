"""A run traded on worse terms: higher fees, later entries, and the exits that its policy chose.

Nobody is asked again. A trade that its policy left is left at the same candle; one that the rules ended lives by the
rules, on the new terms, and is left at the next open where they would have let it live. The same entries with classic
exits are re-lived on the same terms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.reliving import relive
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.trading.trading_rules import TradingRules

# Within a candle, after what is decided at its open.
_BY_RULES = tuple(
    EXIT_REASON_NAMES[reason]
    for reason in (ExitReason.STOP_LOSS, ExitReason.ROI, ExitReason.TRAILING_STOP_LOSS, ExitReason.LIQUIDATION)
)
# freqtrade's word for a stop that stands on the exchange.
_STOPS = ("stoploss_on_exchange", *_BY_RULES)


class Varied(NamedTuple):
    """A run on other terms.

    :ivar trades: the run's, with :data:`mtfscalper.reporting.trades.COLUMNS`
    :ivar classic: the same entries with classic exits
    """

    trades: pd.DataFrame
    classic: pd.DataFrame

    @property
    def difference(self) -> float:
        """What the run earned more than classic exits, all trades together, as shares of the stakes."""
        return float(self.trades["profit_ratio"].sum() - self.classic["profit_ratio"].sum())


def dearer(rules: Mapping[str, TradingRules], fee_factor: float) -> dict[str, TradingRules]:
    """The same rules with higher fees."""
    return {pair: replace(one, fee_ratio=one.fee_ratio * fee_factor) for pair, one in rules.items()}


def varied(
    trades: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
    *,
    fee_factor: float = 1.0,
    late_candles: int = 0,
) -> Varied:
    """Trade a run's entries on other terms.

    A later entry is made at the open of its candle, and is not left before the next one: there a policy is first asked.
    One whose candle the market no longer has is not made.

    :param trades: the run's, with :data:`mtfscalper.reporting.trades.COLUMNS`
    :param tapes: the candles of the run, by pair
    :param rules: what ends trades, by pair
    """
    rules = dearer(rules, fee_factor)
    held = trades["held_candles"].to_numpy(dtype=np.int64)
    by_rules = trades["exit_reason"].isin(_STOPS).to_numpy()
    entries = trades.assign(fee_ratio=trades["fee_ratio"] * fee_factor, leave_after=held + by_rules)
    if late_candles:
        entries = _later(entries, tapes, late_candles)
    leave_after = entries.pop("leave_after").to_numpy(dtype=np.int64)
    ours = relive(entries, tapes, rules, leave_after=np.maximum(leave_after, 1))
    return Varied(ours, relive(entries, tapes, rules))


def _later(entries: pd.DataFrame, tapes: Mapping[str, MarketTape], candles: int) -> pd.DataFrame:
    parts = []
    for pair, of_pair in entries.groupby("pair", sort=False):
        tape = tapes[str(pair)]
        at = np.searchsorted(tape.dates_ms, of_pair["open_ms"].to_numpy()) + candles
        # At the last candle's open what is left is closed.
        inside = at < len(tape) - 1
        moved, at = of_pair[inside], at[inside]
        parts.append(
            moved.assign(open_ms=tape.dates_ms[at], open_rate=tape.open[at], leave_after=moved["leave_after"] - candles)
        )
    return pd.concat(parts) if parts else entries
