"""Entries re-lived alone: each from its own candle under the rules, whatever other trades are open.

Nobody is asked on the way: a trade lives until a stop, the ROI table, the strategy's own signal, the longest duration
or the end of the candles closes it. All entries of a market are stepped at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.account import FLAT, Account, Candle, Fill
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, put_members, take_members
from mtfscalper.trading.rules import force_exit, step
from mtfscalper.trading.trading_rules import TradingRules

# More candles than any data has: after so many, a trade is never left.
NEVER = 2**40
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


class Entries(NamedTuple):
    """Entries on one market, arrays of shape (n,).

    :ivar is_short: bool
    :ivar first: the candle of the entry; any but the last, at whose open survivors are closed
    :ivar open_rate: that was filled, which an order of the strategy's own may have moved from the open
    :ivar leverage: None for that of the rules or the candle
    :ivar leave_after: candles after which the trade is left at the open, if it lives so long; None for never
    """

    is_short: npt.NDArray[np.bool_]
    first: _Ints
    open_rate: _Floats
    leverage: _Floats | None = None
    leave_after: _Ints | None = None


class Exits(NamedTuple):
    """How the entries end, arrays of shape (n,).

    :ivar candle: the candle of the exit
    :ivar reason: members of :class:`mtfscalper.trading.account.ExitReason`
    """

    candle: _Ints
    close_rate: _Floats
    profit_ratio: _Floats
    reason: _Ints


def relive(entries: Entries, candles: Candle, rules: TradingRules) -> Exits:
    """Let each entry live alone.

    :param candles: without gaps, as columns of shape (n_candles,)
    :param rules: of the entries, and of what ends them
    :raises ValueError: for an entry that is not on the candles, or on the last one
    """
    n, last = len(entries.first), len(candles.open) - 1
    if n and not (entries.first.min() >= 0 and entries.first.max() < last):
        raise ValueError(
            f"entries at candles {entries.first.min()} to {entries.first.max()} cannot be re-lived on {last + 1} "
            f"candles; accepted: candles 0 to {last - 1}; remedy: hand over the candles that they were made on"
        )
    if entries.leverage is not None:
        rules = replace(rules, leverage_long=None, leverage_short=None)
    # Every trade has an account of its own, which can always afford it.
    accounts = Account(*(np.full(n, value) for value in FLAT))
    ends = Exits(np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
    alive, held = np.arange(n), 0
    while len(alive):
        at, is_short = entries.first[alive] + held, entries.is_short[alive]
        candle = Candle(*(None if column is None else column[at] for column in candles))
        if entries.leverage is not None:
            leverage = entries.leverage[alive]
            candle = candle._replace(long_leverage=leverage, short_leverage=leverage)
        action = np.full(len(alive), int(Action.NEUTRAL))
        if held == 0:
            candle = candle._replace(open=entries.open_rate[alive])
            action = np.where(is_short, int(Action.SHORT_ENTER), int(Action.LONG_ENTER))
        elif entries.leave_after is not None:
            leave = np.where(is_short, int(Action.SHORT_EXIT), int(Action.LONG_EXIT))
            action = np.where(entries.leave_after[alive] == held, leave, action)
        before = take_members(accounts, alive)
        after, fill = step(NUMPY, rules, before, action, candle)
        is_last = at == last
        if is_last.any():
            _, forced = force_exit(NUMPY, rules, before, candle)
            fill = Fill(*(np.where(is_last, of_end, of_step) for of_end, of_step in zip(forced, fill, strict=True)))
        accounts = put_members(NUMPY, accounts, alive, after)
        closed = alive[fill.exited]
        ends.candle[closed] = at[fill.exited]
        ends.close_rate[closed] = fill.close_rate[fill.exited]
        ends.profit_ratio[closed] = fill.profit_ratio[fill.exited]
        ends.reason[closed] = fill.reason[fill.exited]
        alive, held = alive[~fill.exited], held + 1
    return ends
