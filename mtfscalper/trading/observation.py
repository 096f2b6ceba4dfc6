"""Account state to observation vector.

Everything here can be computed from the trade and closed candles, in training and in ``custom_exit`` alike.
"""

from __future__ import annotations

from typing import NamedTuple

from mtfscalper.trading.account import Account
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.rules import TradingRules, profit_ratio

# The order is the layout of the vector.
ACCOUNT_FIELDS = ("side", "profit", "best_profit", "held", "long_permitted", "short_permitted")
N_ACCOUNT = len(ACCOUNT_FIELDS)

# Profits are shown in units of the profit aimed at, and clipped: a bounded input for the network.
PROFIT_BOUND = 20.0


class TradeView(NamedTuple):
    """How a trade is shown.

    :ivar profit_aim: the unit of profits, a ratio
    :ivar state_info: whether profits and age are shown at all (``add_state_info``)
    """

    profit_aim: float
    state_info: bool = True


def account_state(
    xp: Namespace,
    rules: TradingRules,
    view: TradeView,
    account: Account,
    open_rate: Array,
    long_permitted: Array,
    short_permitted: Array,
) -> tuple[Array, ...]:
    """The trade as the policy sees it at a candle's open.

    :param account: account whose ``best_profit`` has seen ``open_rate``
    :param open_rate: open of the candle about to be decided
    :return: one value for each of :data:`ACCOUNT_FIELDS`: side -1/0/+1, profits in units of the aim within +-20,
        candles held over the longest duration in [0, 1], entry permissions 0/1; what is not shown is 0
    """
    profit = profit_ratio(rules, account, open_rate)
    return trade_state(xp, rules, view, account, profit, long_permitted, short_permitted)


def trade_state(
    xp: Namespace,
    rules: TradingRules,
    view: TradeView,
    account: Account,
    profit: Array,
    long_permitted: Array,
    short_permitted: Array,
) -> tuple[Array, ...]:
    """:func:`account_state` of a trade whose profit ratio at the open is known already."""
    if not view.state_info:
        hidden = 0.0 * account.side
        return account.side, hidden, hidden, hidden, long_permitted, short_permitted
    in_trade = account.side != 0
    return (
        account.side,
        xp.where(in_trade, _clipped(xp, profit / view.profit_aim), 0.0),
        xp.where(in_trade, _clipped(xp, account.best_profit / view.profit_aim), 0.0),
        xp.minimum(account.held_candles / rules.max_trade_duration_candles, 1.0),
        long_permitted,
        short_permitted,
    )


def _clipped(xp: Namespace, value: Array) -> Array:
    return xp.minimum(xp.maximum(value, -PROFIT_BOUND), PROFIT_BOUND)
