"""The trading rules: fills, fees, leverage, stop-loss, ROI, trailing stop, funding, forced exits.

One branch-free function over an array namespace, so that a single environment (Python numbers), a batch of them
(NumPy) and one on a device (torch) run the same lines. The clock is the one of freqtrade's backtester: the action
of candle k fills at its open, then its high and low test the exits. Money is float64.

Formulas (freqtrade ``LocalTrade.calc_profit_ratio``), with s = side, f = fee, L = leverage, F = funding a unit:
``Vo = Po * (1 + s*f)``, ``Vc = Pc * (1 - s*f) + s*F``, ``profit ratio = s * (Vc / Vo - 1) * L``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mtfscalper.trading.account import FLAT, Account, Candle, ExitReason, Fill, changed
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.trading_rules import TradingRules

# Equity cannot reach zero: its logarithm is the reward. A floor this low is met only by a gap that wipes out the stake.
EQUITY_FLOOR = 1e-6


# Plain numbers: an array library asks every member of an enum whether it is an array.
_NONE, _EXIT_SIGNAL, _MAX_DURATION, _STOP_LOSS, _ROI, _TRAILING_STOP_LOSS, _FORCE_EXIT, _LIQUIDATION = map(
    int, ExitReason
)
_, _LONG_ENTER, _LONG_EXIT, _SHORT_ENTER, _SHORT_EXIT = map(int, Action)


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
    return changed(account, best_profit=xp.maximum(account.best_profit, profit))


def mark(xp: Namespace, rules: TradingRules, account: Account, open_rate: Array) -> tuple[Account, Array, Array]:
    """What a trade is worth if closed at the open of the candle about to be decided.

    :return: the account that has seen this profit, the profit ratio, and the equity
    """
    unit = _unit(rules, account)
    profit = _profit_ratio(account, unit, open_rate)
    return see_profit(xp, account, profit), profit, _equity(xp, account, profit, unit.paid)


def may_run_out(rules: TradingRules) -> bool:
    """Whether an account can become too small for another entry before its drawdown ends the episode."""
    return rules.fixed_stake_ratio is not None or rules.max_drawdown_ratio >= 1 - EQUITY_FLOOR


def can_afford_entry(xp: Namespace, rules: TradingRules, account: Account) -> Array:
    """Whether the equity of a flat account is enough to enter at all."""
    enough = account.equity > EQUITY_FLOOR
    if rules.fixed_stake_ratio is not None:
        # As in freqtrade, an equity too small for the stake enters no more.
        enough = xp.logical_and(enough, account.equity * rules.available_ratio >= rules.fixed_stake_ratio)
    return enough


def step(xp: Namespace, rules: TradingRules, account: Account, action: Array, candle: Candle) -> tuple[Account, Fill]:
    """Carry out one action at a candle's open, then let the candle test the exits.

    Invalid actions do nothing. A trade that is entered is tested from its entry candle on, one that leaves cannot
    re-enter in the same candle.

    :param xp: the array namespace of every other argument
    :param account: accounts at the candle's open
    :param action: members of :class:`Action`
    :return: the accounts after the candle, and what was filled
    """
    account, entered = _enter(xp, rules, account, action, candle)
    unit = _unit(rules, account)
    # The round trip's fees are the first profit there is to see.
    fees = _ratio(account, unit, candle.open * unit.kept)
    account = changed(account, best_profit=xp.where(entered, fees, account.best_profit))
    wanted = action == xp.where(account.side < 0, _SHORT_EXIT, _LONG_EXIT)
    account, reason, close_rate = _test_exits(xp, rules, account, candle, unit, entered, wanted)
    fill = _fill(xp, account, entered, reason, close_rate, _profit_ratio(account, unit, close_rate))
    held = changed(account, held_candles=account.held_candles + (account.side != 0))
    if candle.funding_within is not None:
        # Due of those that live through the candle: freqtrade dates an exit within it at its open.
        held = changed(held, funding=held.funding - held.side * candle.funding_within)
    kept = xp.where_each(fill.exited, FLAT[:-1], held[:-1])
    return Account._make([*kept, _equity(xp, account, fill.profit_ratio, unit.paid)]), fill


def force_exit(xp: Namespace, rules: TradingRules, account: Account, candle: Candle) -> tuple[Account, Fill]:
    """The last candle, as the backtester ends its data: what survives the exits is closed at the candle's open.

    :return: flat accounts, of which only the equity is an array, and what was filled
    """
    account = changed(account, funding=_settled_funding(account, account.side, candle))
    unit = _unit(rules, account)
    in_trade = account.side != 0
    nobody = xp.logical_and(in_trade, False)
    account, reason, close_rate = _test_exits(xp, rules, account, candle, unit, entered=nobody, wanted=nobody)
    survives = xp.logical_and(in_trade, reason == _NONE)
    reason = xp.where(survives, _FORCE_EXIT, reason)
    close_rate = xp.where(survives, _nearest_price_step(xp, candle.open, account.price_scale), close_rate)
    fill = _fill(xp, account, nobody, reason, close_rate, _profit_ratio(account, unit, close_rate))
    return changed(FLAT, equity=_equity(xp, account, fill.profit_ratio, unit.paid)), fill


def _settled_funding(account: Account, side: Array, candle: Candle) -> Array:
    """The account's funding with what is due on a trade at the candle's open.

    :param side: of the trade, which may be about to be entered
    """
    return account.funding - side * candle.funding


def _test_exits(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, unit: _Unit, entered: Array, wanted: Array
) -> tuple[Account, Array, Array]:
    """Let a candle test the exits of the trades that are open in it.

    :param entered: whether the trade was entered at this candle's open
    :param wanted: whether the action leaves it there
    :return: the accounts with their stops trailed, why trades are closed, and the rates at which they are
    """
    extremes = _extremes(xp, account, unit, candle)
    account = _trail(xp, rules, account, extremes)
    if candle.long_exit is not None:
        signalled = xp.where(account.side < 0, candle.short_exit, candle.long_exit) != 0
        # A trade that is entered at this open has no signal from before it.
        wanted = xp.logical_or(wanted, xp.logical_and(signalled, xp.logical_not(entered)))
    expired = account.held_candles >= rules.max_trade_duration_candles
    stopped, stop_fill = _stop(xp, rules, account, candle, extremes)
    reached, roi_fill = _roi(xp, rules, account, candle, unit, extremes)

    stopped_first = xp.logical_and(stopped, xp.logical_not(account.stop_trailed))
    later = xp.where(reached, _ROI, xp.where(stopped, _TRAILING_STOP_LOSS, _NONE))
    if _may_liquidate(rules, candle):
        liquidated, stop_fill = _liquidation(xp, account, candle, extremes, stopped, stop_fill)
        later = xp.where(liquidated, _LIQUIDATION, later)
    reason = xp.where(expired, _MAX_DURATION, xp.where(stopped_first, _STOP_LOSS, later))
    reason = xp.where(wanted, _EXIT_SIGNAL, reason)
    at_candle = xp.where(reason == _ROI, roi_fill, stop_fill)
    close_rate = xp.where(xp.logical_or(wanted, expired), candle.open, at_candle)
    close_rate = _nearest_price_step(xp, close_rate, account.price_scale)
    # An order outside the candle is not filled and lapses, as under an unfilledtimeout of one candle: the worst case
    # of a trailing stop can lie there.
    within = xp.logical_and(candle.low <= close_rate, close_rate <= candle.high)
    return account, xp.where(xp.logical_and(extremes.in_trade, within), reason, _NONE), close_rate


def _enter(
    xp: Namespace, rules: TradingRules, account: Account, action: Array, candle: Candle
) -> tuple[Account, Array]:
    """Open the trades that are asked for and permitted, and pay the funding of every trade.

    What :func:`step` makes of a flat account, no entry needs to reset.
    """
    flat = xp.logical_and(account.side == 0, can_afford_entry(xp, rules, account))
    stake = account.equity * rules.stake_ratio if rules.fixed_stake_ratio is None else rules.fixed_stake_ratio
    entered, side, short = xp.logical_and(flat, action == _LONG_ENTER), 1.0, False
    if rules.can_short:
        short = xp.logical_and(flat, action == _SHORT_ENTER)
        entered, side = xp.logical_or(entered, short), xp.where(short, -1.0, 1.0)
    if candle.long_stake is not None:
        wanted = stake * _of_side(xp, short, candle.long_stake, candle.short_stake)
        stake = xp.minimum(wanted, account.equity * rules.available_ratio)
        entered = xp.logical_and(entered, stake > 0)
    leverage = _of_side(
        xp,
        short,
        candle.long_leverage if rules.leverage_long is None else rules.leverage_long,
        candle.short_leverage if rules.leverage_short is None else rules.leverage_short,
    )
    stop = _stop_rate(xp, side, leverage, candle.open, rules.stoploss_ratio, candle.price_scale)
    liquidation: Array = 0.0
    if _may_liquidate(rules, candle):
        ratio = _of_side(
            xp,
            short,
            rules.liquidation_long if candle.long_liquidation is None else candle.long_liquidation,
            rules.liquidation_short if candle.short_liquidation is None else candle.short_liquidation,
        )
        liquidation = _nearest_price_step(xp, candle.open * ratio, candle.price_scale)
    side, leverage, open_rate, price_scale, stop_rate, liquidation_rate, held_candles, stake = xp.where_each(
        entered,
        (side, leverage, candle.open, candle.price_scale, stop, liquidation, 0.0, stake),
        (
            account.side,
            account.leverage,
            account.open_rate,
            account.price_scale,
            account.stop_rate,
            account.liquidation_rate,
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
        liquidation_rate=liquidation_rate,
        stop_trailed=account.stop_trailed,
        held_candles=held_candles,
        best_profit=account.best_profit,
        funding=_settled_funding(account, side, candle),
        stake=stake,
        equity=account.equity,
    )
    return opened, entered


def _of_side(xp: Namespace, short: Array, of_long: Array, of_short: Array) -> Array:
    """What holds for an entry of either side; one number where both sides have the same.

    :param short: whether the entry is a short one; False where none can be
    """
    if short is False or of_long is of_short or (isinstance(of_long, float) and of_long == of_short):
        return of_long
    return xp.where(short, of_short, of_long)


def _may_liquidate(rules: TradingRules, candle: Candle) -> bool:
    """Whether a liquidation can come before a stop anywhere."""
    return bool(rules.liquidation_long or rules.liquidation_short or candle.long_liquidation is not None)


def _liquidation(
    xp: Namespace, account: Account, candle: Candle, extremes: _Extremes, stopped: Array, stop_fill: Array
) -> tuple[Array, Array]:
    """Whether the candle reaches the liquidation and not the stop, and the rate at which either fills.

    As in freqtrade a candle that reaches both fills at the stop, however far beyond the liquidation that lies.
    """
    liquidation = account.side * account.liquidation_rate
    reached = xp.logical_and(account.liquidation_rate != 0, liquidation >= extremes.worst)
    liquidated = xp.logical_and(reached, xp.logical_not(stopped))
    fill = xp.where(liquidation > extremes.best, candle.open, account.liquidation_rate)
    return liquidated, xp.where(liquidated, fill, stop_fill)


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
    return changed(
        account,
        stop_rate=xp.where(moved, stop, account.stop_rate),
        stop_trailed=xp.logical_or(account.stop_trailed, moved),
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


def _fill(xp: Namespace, account: Account, entered: Array, reason: Array, close_rate: Array, profit: Array) -> Fill:
    exited = reason != _NONE
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
