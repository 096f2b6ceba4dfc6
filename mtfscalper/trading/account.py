"""An account, the candles it meets and what is filled: one number each, or arrays of shape (n,) for n accounts.

Rates are in quote currency, ratios are shares of the stake, money is in units of the equity at an episode's start; all
of them are float64.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from mtfscalper.trading.arrays import Array


class ExitReason(IntEnum):
    """Why a trade was closed; :data:`EXIT_REASON_NAMES` gives freqtrade's words."""

    NONE = 0
    EXIT_SIGNAL = 1
    MAX_DURATION = 2
    STOP_LOSS = 3
    ROI = 4
    TRAILING_STOP_LOSS = 5
    FORCE_EXIT = 6
    LIQUIDATION = 7


EXIT_REASON_NAMES = {reason: reason.name.lower() for reason in ExitReason}


class Candle(NamedTuple):
    """One candle.

    :ivar open: rate in quote currency, as ``high``, ``low`` and ``close``
    :ivar funding: quote currency due on one unit of the asset at this candle's open (mark price x rate), else 0
    :ivar price_scale: price steps in one unit of quote currency, e.g. 100.0 for a step of 0.01
    :ivar long_exit: whether the strategy's own exit signal closes a long at the open, as ``short_exit``; None where it
        has none
    :ivar long_leverage: of a long that is entered at the open, as ``short_leverage``; None where it is the same at
        every candle, and stands in the rules
    :ivar long_liquidation: liquidation rate over entry rate of a long that is entered at the open, 0 where its stop
        comes first, as ``short_liquidation``; None as above
    :ivar long_stake: what the strategy stakes on such a long, over what it is proposed, as ``short_stake``; None as
        above
    :ivar funding_within: as ``funding``, due after this candle's open and before the next one's: of candles longer than
        a funding interval; None where there is none
    """

    open: Array
    high: Array
    low: Array
    close: Array
    funding: Array
    price_scale: Array
    long_exit: Array = None
    short_exit: Array = None
    long_leverage: Array = None
    short_leverage: Array = None
    long_liquidation: Array = None
    short_liquidation: Array = None
    long_stake: Array = None
    short_stake: Array = None
    funding_within: Array = None


class Account(NamedTuple):
    """What an account owns: its equity and its open trade, if it has one.

    :ivar side: +1 long, -1 short, 0 flat
    :ivar leverage: of the open trade, >= 1
    :ivar open_rate: rate at which the trade was entered
    :ivar price_scale: price steps in one unit of quote currency at the entry, which a trade keeps
    :ivar stop_rate: rate at which the stop lies
    :ivar liquidation_rate: rate at which the exchange liquidates the trade, 0 where its stop comes first
    :ivar stop_trailed: whether the stop has moved since the entry, bool
    :ivar held_candles: candles since the entry candle, a whole number
    :ivar best_profit: highest profit ratio seen at opens, the entry's included
    :ivar funding: quote currency received (negative: paid) on one unit of the asset since the entry
    :ivar stake: money put into the open trade, 0 when flat
    :ivar equity: money without the open trade's profit, 1.0 at the start
    """

    side: Array
    leverage: Array
    open_rate: Array
    price_scale: Array
    stop_rate: Array
    liquidation_rate: Array
    stop_trailed: Array
    held_candles: Array
    best_profit: Array
    funding: Array
    stake: Array
    equity: Array


class Fill(NamedTuple):
    """What happened to an account's trade in one candle; the fields of a trade that was not closed are 0.

    :ivar entered: whether a trade was entered, bool
    :ivar exited: whether a trade was closed, bool
    :ivar reason: a member of :class:`ExitReason`
    :ivar side: +1 or -1, of the trade that was closed, as everything below
    :ivar open_rate: rate of its entry
    :ivar close_rate: rate of its exit
    :ivar held_candles: candles since its entry candle
    :ivar profit_ratio: profit as a share of the stake, costs and leverage included
    """

    entered: Array
    exited: Array
    reason: Array
    side: Array
    open_rate: Array
    close_rate: Array
    held_candles: Array
    profit_ratio: Array


FLAT = Account(
    side=0.0,
    leverage=1.0,
    open_rate=1.0,
    price_scale=1.0,
    stop_rate=0.0,
    liquidation_rate=0.0,
    stop_trailed=False,
    held_candles=0.0,
    best_profit=0.0,
    funding=0.0,
    stake=0.0,
    equity=1.0,
)

_PLACES = {name: place for place, name in enumerate(Account._fields)}


def changed(account: Account, **fields: Array) -> Account:
    """The account with other values of some fields: what ``_replace`` does, which takes twice as long.

    :raises KeyError: if an account has no such field
    """
    values = list(account)
    for name, value in fields.items():
        values[_PLACES[name]] = value
    return Account._make(values)
