"""The trading rules: fills, fees, leverage, stop-loss, ROI, trailing stop, funding, forced exits.

One branch-free function over an array namespace, so that a single environment (Python numbers), a batch of them
(NumPy) and, later, a device (torch) run the same lines. The clock is the one of freqtrade's backtester: the action
of candle k fills at its open, then its high and low test the exits. Money is float64.

Formulas (freqtrade ``LocalTrade.calc_profit_ratio``), with s = side, f = fee, L = leverage, F = funding a unit:
``Vo = Po * (1 + s*f)``, ``Vc = Pc * (1 - s*f) + s*F``, ``profit ratio = s * (Vc / Vo - 1) * L``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mtfscalper.trading.account import FLAT, Account, Candle, ExitReason, Fill
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import Array, Namespace

# Equity cannot reach zero: its logarithm is the reward. A stop beyond liquidation is refused, so that a floor this
# low is met only by a gap that wipes out the stake.
EQUITY_FLOOR = 1e-6


class RulesError(ValueError):
    """The rules of the strategy cannot be traded or cannot be simulated. Names value, accepted, remedy."""


# Plain numbers: an array library asks every member of an enum whether it is an array.
_NONE, _EXIT_SIGNAL, _MAX_DURATION, _STOP_LOSS, _ROI, _TRAILING_STOP_LOSS, _FORCE_EXIT = map(int, ExitReason)
_NEUTRAL, _LONG_ENTER, _LONG_EXIT, _SHORT_ENTER, _SHORT_EXIT = map(int, Action)


@dataclass(frozen=True)
class TradingRules:
    """What will be traded: read from the config and the strategy object, never retyped.

    :ivar fee_ratio: fee of each side, e.g. 0.0005
    :ivar leverage_long: leverage of long trades, >= 1
    :ivar leverage_short: leverage of short trades, >= 1
    :ivar stoploss_ratio: loss of the stake (leverage included) at which the stop lies, e.g. 0.02
    :ivar minimal_roi: (minutes since entry, profit ratio) in rising minutes; empty for none
    :ivar trailing_stop_positive: distance of the trailing stop once in profit, None for ``stoploss_ratio``
    :ivar max_trade_duration_candles: candles after which a trade is closed at the open
    :ivar timeframe_minutes: length of a candle
    :ivar stake_ratio: share of the equity that may be staked, and is, so that profits compound
    :ivar fixed_stake_ratio: the same stake on every trade instead, as a share of the equity at the start
    :ivar max_drawdown_ratio: loss from the peak of equity that ends an episode
    :ivar liquidation_ratio: loss of the stake at which the exchange liquidates; 1 on spot
    """

    fee_ratio: float
    stoploss_ratio: float
    max_trade_duration_candles: int
    timeframe_minutes: int
    leverage_long: float = 1.0
    leverage_short: float = 1.0
    minimal_roi: tuple[tuple[int, float], ...] = ()
    trailing_stop: bool = False
    trailing_stop_positive: float | None = None
    trailing_stop_positive_offset: float = 0.0
    trailing_only_offset_is_reached: bool = False
    can_short: bool = True
    stake_ratio: float = 1.0
    fixed_stake_ratio: float | None = None
    max_drawdown_ratio: float = 0.5
    liquidation_ratio: float = 1.0

    def __post_init__(self) -> None:
        checks = (
            ("fee_ratio", 0 <= self.fee_ratio < 0.1, "a ratio in [0, 0.1)"),
            ("stoploss_ratio", 0 < self.stoploss_ratio <= 1, "a ratio in (0, 1]"),
            ("leverage_long", self.leverage_long >= 1, "a number >= 1"),
            ("leverage_short", self.leverage_short >= 1, "a number >= 1"),
            ("stake_ratio", 0 < self.stake_ratio <= 1, "a ratio in (0, 1]"),
            (
                "fixed_stake_ratio",
                self.fixed_stake_ratio is None or 0 < self.fixed_stake_ratio <= self.stake_ratio,
                f"a ratio in (0, stake_ratio = {self.stake_ratio:g}], or None to stake that share of the equity",
            ),
            ("max_trade_duration_candles", self.max_trade_duration_candles >= 1, "an integer >= 1"),
            ("timeframe_minutes", self.timeframe_minutes >= 1, "an integer >= 1"),
            ("minimal_roi", list(self.minimal_roi) == sorted(self.minimal_roi), "pairs in rising minutes"),
        )
        for name, holds, accepted in checks:
            if not holds:
                raise RulesError(
                    f"{name} is {getattr(self, name)!r}; accepted: {accepted}; remedy: correct the strategy"
                )
        if self.stoploss_ratio >= self.liquidation_ratio:
            raise RulesError(
                f"stoploss is -{self.stoploss_ratio:g} of the stake, beyond liquidation at "
                f"-{self.liquidation_ratio:.4g} with leverage {max(self.leverage_long, self.leverage_short):g}; "
                "accepted: a stop before liquidation; "
                "remedy: tighten the strategy's stoploss or lower its leverage"
            )


class _Unit(NamedTuple):
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


class _Extremes(NamedTuple):
    """A candle as the trades on it see it.

    Rates times the side compare alike for longs and shorts: the higher, the better for the trade.

    :ivar in_trade: whether there is a trade
    :ivar worst: the candle's worst rate, times the side
    :ivar best: the candle's best rate, times the side
    :ivar best_profit: profit ratio at the best rate, rounded
    """

    in_trade: Array
    worst: Array
    best: Array
    best_profit: Array


def profit_ratio(rules: TradingRules, account: Account, rate: Array) -> Array:
    """Profit of the open trade if closed at ``rate``, as a share of the stake, fees of both sides included.

    :return: leveraged ratio; 0 when flat
    """
    return _profit_ratio(account, _unit(rules, account), rate)


def _unit(rules: TradingRules, account: Account) -> _Unit:
    side = account.side
    fee = side * rules.fee_ratio
    paid = 1 + fee
    return _Unit(paid, 1 - fee, account.open_rate * paid, side * account.funding)


def _profit_ratio(account: Account, unit: _Unit, rate: Array) -> Array:
    return _ratio(account, unit, rate * unit.kept + unit.received)


def _ratio(account: Account, unit: _Unit, close_value: Array) -> Array:
    return account.side * (close_value / unit.open_value - 1) * account.leverage


def _equity(xp: Namespace, account: Account, profit: Array, paid: Array) -> Array:
    # freqtrade's ratio refers to the open value with its fee, the stake to the open value without.
    return xp.maximum(account.equity + profit * account.stake * paid, EQUITY_FLOOR)


def see_profit(xp: Namespace, account: Account, profit: Array) -> Account:
    """Update the best profit with the one at the open of the candle about to be decided."""
    return account._replace(best_profit=xp.maximum(account.best_profit, profit))


def mark(xp: Namespace, rules: TradingRules, account: Account, open_rate: Array) -> tuple[Account, Array, Array]:
    """What a trade is worth if closed at the open of the candle about to be decided.

    :return: the account that has seen this profit, the profit ratio, and the equity
    """
    unit = _unit(rules, account)
    profit = _profit_ratio(account, unit, open_rate)
    return see_profit(xp, account, profit), profit, _equity(xp, account, profit, unit.paid)


def step(xp: Namespace, rules: TradingRules, account: Account, action: Array, candle: Candle) -> tuple[Account, Fill]:
    """Carry out one action at a candle's open, then let the candle test the exits.

    Invalid actions do nothing. A trade that is entered is tested from its entry candle on, one that leaves cannot
    re-enter in the same candle.

    :param xp: the array namespace of every other argument
    :param account: accounts at the candle's open
    :param action: members of :class:`Action`
    :return: the accounts after the candle, and what was filled
    """
    account, entered, unit = _enter(xp, rules, account, action, candle)
    extremes = _extremes(xp, account, unit, candle)
    account = _trail(xp, rules, account, extremes)

    wanted = action == xp.where(account.side < 0, _SHORT_EXIT, _LONG_EXIT)
    expired = account.held_candles >= rules.max_trade_duration_candles
    stopped, stop_fill = _stop(xp, rules, account, candle, extremes)
    reached, roi_fill = _roi(xp, rules, account, candle, unit, extremes)

    stopped_first = xp.logical_and(stopped, xp.logical_not(account.stop_trailed))
    later = xp.where(reached, _ROI, xp.where(stopped, _TRAILING_STOP_LOSS, _NONE))
    reason = xp.where(expired, _MAX_DURATION, xp.where(stopped_first, _STOP_LOSS, later))
    reason = xp.where(wanted, _EXIT_SIGNAL, reason)
    at_candle = xp.where(reason == _ROI, roi_fill, stop_fill)
    close_rate = xp.where(xp.logical_or(wanted, expired), candle.open, at_candle)
    close_rate = _nearest_price_step(xp, close_rate, account.price_scale)
    # An order outside the candle is not filled and lapses, as under an unfilledtimeout of one candle: the worst case
    # of a trailing stop can lie there.
    within = xp.logical_and(candle.low <= close_rate, close_rate <= candle.high)
    reason = xp.where(xp.logical_and(extremes.in_trade, within), reason, _NONE)
    fill = _fill(xp, account, entered, reason != _NONE, reason, close_rate, _profit_ratio(account, unit, close_rate))
    held = account._replace(held_candles=account.held_candles + extremes.in_trade)
    return _close(xp, held, fill, unit), fill


def force_exit(xp: Namespace, rules: TradingRules, account: Account, candle: Candle) -> tuple[Account, Fill]:
    """The last candle, as the backtester ends its data: what survives the exits is closed at the candle's open.

    :return: flat accounts, and what was filled
    """
    tested, fill = step(xp, rules, account, _NEUTRAL, candle)
    survives = tested.side != 0
    tested = tested._replace(held_candles=xp.where(survives, account.held_candles, tested.held_candles))
    unit = _unit(rules, tested)
    close_rate = _nearest_price_step(xp, candle.open, tested.price_scale)
    profit = _profit_ratio(tested, unit, close_rate)
    forced = _fill(xp, tested, fill.entered, survives, _FORCE_EXIT, close_rate, profit)
    return _close(xp, tested, forced, unit), Fill(*xp.where_each(survives, forced, fill))


def _enter(
    xp: Namespace, rules: TradingRules, account: Account, action: Array, candle: Candle
) -> tuple[Account, Array, _Unit]:
    """Open the trades that are asked for and permitted, and pay the funding of every trade.

    What :func:`_close` makes of a flat account, no entry needs to reset.
    """
    flat = xp.logical_and(account.side == 0, account.equity > EQUITY_FLOOR)
    stake = account.equity * rules.stake_ratio
    if rules.fixed_stake_ratio is not None:
        # As in freqtrade, an equity too small for the stake enters no more.
        flat = xp.logical_and(flat, stake >= rules.fixed_stake_ratio)
        stake = rules.fixed_stake_ratio
    entered, side, leverage = xp.logical_and(flat, action == _LONG_ENTER), 1.0, rules.leverage_long
    if rules.can_short:
        short = xp.logical_and(flat, action == _SHORT_ENTER)
        entered, side = xp.logical_or(entered, short), xp.where(short, -1.0, 1.0)
        if rules.leverage_short != rules.leverage_long:
            leverage = xp.where(short, rules.leverage_short, rules.leverage_long)
    stop = _stop_rate(xp, side, leverage, candle.open, rules.stoploss_ratio, candle.price_scale)
    side, leverage, open_rate, price_scale, stop_rate, held_candles, stake = xp.where_each(
        entered,
        (side, leverage, candle.open, candle.price_scale, stop, 0.0, stake),
        (
            account.side,
            account.leverage,
            account.open_rate,
            account.price_scale,
            account.stop_rate,
            account.held_candles,
            account.stake,
        ),
    )
    opened = Account(
        side=side,
        leverage=leverage,
        open_rate=open_rate,
        price_scale=price_scale,
        stop_rate=stop_rate,
        stop_trailed=account.stop_trailed,
        held_candles=held_candles,
        best_profit=account.best_profit,
        funding=account.funding - side * candle.funding,
        stake=stake,
        equity=account.equity,
    )
    unit = _unit(rules, opened)
    # The round trip's fees are the first profit there is to see.
    fees = _ratio(opened, unit, candle.open * unit.kept)
    return opened._replace(best_profit=xp.where(entered, fees, account.best_profit)), entered, unit


def _extremes(xp: Namespace, account: Account, unit: _Unit, candle: Candle) -> _Extremes:
    side = account.side
    low, high = side * candle.low, side * candle.high
    best = xp.maximum(low, high)
    profit = _profit_ratio(account, unit, side * best)
    # freqtrade compares ratios rounded to eight decimals.
    return _Extremes(side != 0, xp.minimum(low, high), best, xp.round(profit * 1e8) / 1e8)


def _stop_rate(
    xp: Namespace, side: Array, leverage: Array, rate: Array, distance_ratio: Array, price_scale: Array
) -> Array:
    """Stop at a distance from a rate, rounded to a price step: up for a long, down for a short."""
    raw = rate * (1 - side * distance_ratio / leverage)
    steps = xp.round(raw * price_scale)
    # Compared as decimals would compare: a rate on a price step stays, whatever its binary noise.
    falls_short = side * (steps / price_scale) < side * raw
    return (steps + side * falls_short) / price_scale


def _nearest_price_step(xp: Namespace, rate: Array, price_scale: Array) -> Array:
    """A rate rounded to a price step, halves up."""
    steps = xp.floor(rate * price_scale)
    # Compared as decimals would compare: half a step is a quotient, free of the product's noise.
    return (steps + (rate >= (steps + 0.5) / price_scale)) / price_scale


def _trail(xp: Namespace, rules: TradingRules, account: Account, extremes: _Extremes) -> Account:
    """Raise the stop from this candle's best price, before its worst price tests it."""
    if not rules.trailing_stop:
        return account
    side = account.side
    distance = _trailing_distance(xp, rules, extremes.best_profit)
    stop = _stop_rate(xp, side, account.leverage, side * extremes.best, distance, account.price_scale)
    current = side * account.stop_rate
    moved = xp.logical_and(current < extremes.worst, side * stop > current)
    if rules.trailing_only_offset_is_reached:
        moved = xp.logical_and(moved, extremes.best_profit >= rules.trailing_stop_positive_offset)
    return account._replace(
        stop_rate=xp.where(moved, stop, account.stop_rate), stop_trailed=xp.logical_or(account.stop_trailed, moved)
    )


def _stop(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, extremes: _Extremes
) -> tuple[Array, Array]:
    """Whether the candle touches the stop, and the rate at which it fills."""
    stop = account.side * account.stop_rate
    fill = account.stop_rate
    if rules.trailing_stop:
        at_entry = xp.logical_and(account.stop_trailed, account.held_candles == 0)
        fill = xp.where(at_entry, _worst_trailing_rate(xp, rules, account, candle, extremes), fill)
    # Gapped over: the whole candle lies beyond the stop.
    beyond = stop > extremes.best
    return stop >= extremes.worst, xp.where(beyond, candle.open, fill)


def _trailing_distance(xp: Namespace, rules: TradingRules, best_profit: Array) -> Array:
    """How far the trailing stop follows the candle's best price."""
    if rules.trailing_stop_positive is None:
        return rules.stoploss_ratio
    return xp.where(
        best_profit > rules.trailing_stop_positive_offset, rules.trailing_stop_positive, rules.stoploss_ratio
    )


def _worst_trailing_rate(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, extremes: _Extremes
) -> Array:
    """Fill of a trailing stop in its entry candle: the price arms it and turns at once."""
    side = account.side
    if rules.trailing_only_offset_is_reached and rules.trailing_stop_positive:
        rate = candle.open * (
            1 + side * rules.trailing_stop_positive_offset - side * rules.trailing_stop_positive / account.leverage
        )
    else:
        # The distance in force is the one that set the stop.
        distance = _trailing_distance(xp, rules, extremes.best_profit)
        rate = candle.open * (1 - side * distance / account.leverage)
    return side * xp.maximum(side * rate, extremes.worst)


def _roi(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, unit: _Unit, extremes: _Extremes
) -> tuple[Array, Array]:
    """Whether the candle's best price reaches the ROI table's entry for the trade's age, and the fill."""
    if not rules.minimal_roi:
        return xp.logical_and(extremes.in_trade, False), candle.open
    side, minutes = account.side, account.held_candles * rules.timeframe_minutes
    starts, ratios = zip(*rules.minimal_roi, strict=True)
    target = _of_age(xp, starts, ratios, minutes)
    reached = extremes.best_profit > target
    if starts[0] > 0:
        reached = xp.logical_and(reached, minutes >= starts[0])

    # Solves profit_ratio(rate) == target for the rate. Exactly between two price steps, which takes a round target
    # without fees, freqtrade's rounding follows the binary noise of the trade's amount; here it is up.
    rate = ((1 + side * target / account.leverage) * unit.open_value - unit.received) / unit.kept
    begins: Array = False
    for start in starts:
        if start > 0 and start % rules.timeframe_minutes == 0:
            begins = xp.logical_or(begins, minutes == start)
    at_open = xp.logical_and(begins, side * candle.open > side * rate)
    if -1 in ratios:
        # -1 in freqtrade's table means: leave, whatever the profit.
        leaves = [float(ratio == -1 and start % rules.timeframe_minutes == 0) for start, ratio in rules.minimal_roi]
        at_open = xp.logical_or(at_open, _of_age(xp, starts, leaves, minutes) == 1)
    inside = xp.minimum(xp.maximum(rate, candle.low), candle.high)
    return reached, xp.where(at_open, candle.open, inside)


def _of_age(xp: Namespace, starts: Sequence[int], values: Sequence[float], minutes: Array) -> Array:
    """Of the values that belong to the entries of the ROI table, the one for a trade's age."""
    value: Array = values[0]
    for start, later in zip(starts[1:], values[1:], strict=True):
        value = xp.where(minutes >= start, later, value)
    return value


def _fill(
    xp: Namespace, account: Account, entered: Array, exited: Array, reason: Array, close_rate: Array, profit: Array
) -> Fill:
    nothing = 0.0 * close_rate
    return Fill(
        entered,
        exited,
        reason,
        *xp.where_each(
            exited,
            (account.side, account.open_rate, close_rate, account.held_candles, profit),
            (nothing, nothing, nothing, nothing, nothing),
        ),
    )


def _close(xp: Namespace, account: Account, fill: Fill, unit: _Unit) -> Account:
    """Settle the trades that were exited; the others' profit in the fill is 0."""
    equity = _equity(xp, account, fill.profit_ratio, unit.paid)
    return Account._make([*xp.where_each(fill.exited, FLAT[:-1], account[:-1]), equity])
