"""What the policy sees: the last closed candle, and the account at the open about to be decided.

Everything here can be computed from the trade and closed candles, in training and in ``custom_exit`` alike.
"""

from __future__ import annotations

from typing import NamedTuple

from mtfscalper.trading.account import Account
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.trading_rules import TradingRules

# Observations are float32, which counts exactly up to here: 160 years of five-minute candles. Constant, so that a
# policy fits any tape.
MAX_ROW = 2.0**24
# Profits are shown in units of the profit aimed at, and clipped: a bounded input for the network.
PROFIT_BOUND = 20.0


class Observation(NamedTuple):
    """A compact observation; numbers, or arrays of shape (n,). The order is the layout of the vector.

    :ivar row: position of the last closed candle on the tape; the policy gathers the features it looks back on
    :ivar side: +1 long, -1 short, 0 flat
    :ivar profit: of the open trade at this open, in units of the profit aimed at
    :ivar best_profit: best such profit at opens since the entry
    :ivar held: share of the longest duration that the trade has lasted
    :ivar long_permitted: whether a long entry is permitted, 0 or 1
    :ivar short_permitted: whether a short entry is permitted, 0 or 1
    """

    row: Array
    side: Array
    profit: Array
    best_profit: Array
    held: Array
    long_permitted: Array
    short_permitted: Array

    @classmethod
    def from_columns(cls, observations: Array) -> Observation:
        """
        :param observations: array or tensor of shape (n, 7)
        :return: its columns
        """
        return cls(*observations.T)

    @property
    def account(self) -> tuple[Array, ...]:
        """All but the row: what the network is shown beside the features."""
        return self[1:]


LOWEST = Observation(0, -1, -PROFIT_BOUND, -PROFIT_BOUND, 0, 0, 0)
HIGHEST = Observation(MAX_ROW, 1, PROFIT_BOUND, PROFIT_BOUND, 1, 1, 1)
N_ACCOUNT = len(LOWEST.account)


class TradeView(NamedTuple):
    """How a trade is shown.

    :ivar profit_aim: the unit of profits, a ratio
    :ivar state_info: whether profits and age are shown at all (``add_state_info``)
    """

    profit_aim: float
    state_info: bool = True


def observe(
    xp: Namespace,
    rules: TradingRules,
    view: TradeView,
    row: Array,
    account: Account,
    profit: Array,
    long_permitted: Array,
    short_permitted: Array,
) -> Observation:
    """The observation at the open of the candle after a row.

    :param account: whose ``best_profit`` has seen that open
    :param profit: profit ratio of its trade at that open
    :return: within :data:`LOWEST` and :data:`HIGHEST`; what is not shown is 0
    """
    hidden = 0.0 * account.side
    if not view.state_info:
        return Observation(row, account.side, hidden, hidden, hidden, long_permitted, short_permitted)
    in_trade = account.side != 0

    def shown() -> tuple[Array, Array, Array]:
        return (
            xp.where(in_trade, _clipped(xp, profit / view.profit_aim), 0.0),
            xp.where(in_trade, _clipped(xp, account.best_profit / view.profit_aim), 0.0),
            xp.minimum(account.held_candles / rules.max_trade_duration_candles, 1.0),
        )

    shown_profit, shown_best_profit, held = xp.if_any(in_trade, shown, (hidden, hidden, hidden))
    return Observation(row, account.side, shown_profit, shown_best_profit, held, long_permitted, short_permitted)


def _clipped(xp: Namespace, value: Array) -> Array:
    return xp.minimum(xp.maximum(value, -PROFIT_BOUND), PROFIT_BOUND)
