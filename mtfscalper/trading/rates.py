"""Rates: what one unit of the asset in a trade is worth at them, and on which price steps they lie.

Formulas (freqtrade ``LocalTrade.calc_profit_ratio``), with s = side, f = fee, L = leverage, F = funding a unit:
``Vo = Po * (1 + s*f)``, ``Vc = Pc * (1 - s*f) + s*F``, ``profit ratio = s * (Vc / Vo - 1) * L``.
"""

from __future__ import annotations

from typing import NamedTuple

from mtfscalper.trading.account import Account
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.trading_rules import TradingRules


class Unit(NamedTuple):
    """What one unit of the asset in a trade is worth.

    :ivar paid: 1 + s*f, a rate with the fee of the entry
    :ivar kept: 1 - s*f, what the fee of the exit leaves of a rate
    :ivar open_value: Vo
    :ivar received: s*F
    """

    paid: Array
    kept: Array
    open_value: Array
    received: Array


def unit_of(rules: TradingRules, account: Account) -> Unit:
    """What one unit in an account's trade is worth; quote currency."""
    side = account.side
    fee = side * rules.fee_ratio
    paid = 1 + fee
    return Unit(paid, 1 - fee, account.open_rate * paid, side * account.funding)


def unit_profit_ratio(account: Account, unit: Unit, rate: Array) -> Array:
    """The profit of a trade that is closed at a rate, over what it staked."""
    return value_ratio(account, unit, rate * unit.kept + unit.received)


def value_ratio(account: Account, unit: Unit, close_value: Array) -> Array:
    """The same for the value that closing leaves, Vc."""
    return account.side * (close_value / unit.open_value - 1) * account.leverage


def distant_stop_rate(
    xp: Namespace, side: Array, leverage: Array, rate: Array, distance_ratio: Array, price_scale: Array
) -> Array:
    """Stop at a distance from a rate, rounded to a price step: up for a long, down for a short."""
    raw = rate * (1 - side * distance_ratio / leverage)
    steps = xp.round(raw * price_scale)
    # Compared as decimals would compare: a rate on a price step stays, whatever its binary noise.
    falls_short = side * (steps / price_scale) < side * raw
    return (steps + side * falls_short) / price_scale


def nearest_price_step(xp: Namespace, rate: Array, price_scale: Array) -> Array:
    """A rate rounded to a price step, halves up."""
    steps = xp.floor(rate * price_scale)
    # Compared as decimals would compare: half a step is a quotient, free of the product's noise.
    return (steps + (rate >= (steps + 0.5) / price_scale)) / price_scale
