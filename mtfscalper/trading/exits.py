"""How a candle tests the exits of open trades: expiry, liquidation, stop-loss, trailing stop, ROI.

Branch-free over an array namespace, as the rest of the trading rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from mtfscalper.trading.account import Account, Candle, ExitReason, changed
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.rates import Unit, distant_stop_rate, nearest_price_step, unit_profit_ratio
from mtfscalper.trading.trading_rules import TradingRules

# Plain numbers: an array library asks every member of an enum whether it is an array.
_NONE, _EXIT_SIGNAL, _MAX_DURATION, _STOP_LOSS, _ROI, _TRAILING_STOP_LOSS, _, _LIQUIDATION = map(int, ExitReason)


class _Extremes(NamedTuple):
    """A candle as the trades on it see it.

    Rates times the side compare alike for longs and shorts: the higher, the better for the trade.

    :ivar worst: the candle's worst rate, times the side
    :ivar best: the candle's best rate, times the side
    :ivar best_profit: profit ratio at the best rate, rounded
    """

    worst: Array
    best: Array
    best_profit: Array


def exits_in_candle(
    xp: Namespace,
    rules: TradingRules,
    account: Account,
    candle: Candle,
    unit: Unit,
    in_trade: Array,
    entered: Array,
    wanted: Array,
) -> tuple[Account, Array, Array]:
    """Let a candle test the exits of the trades that are open in it.

    :param in_trade: whether there is a trade
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
    if may_liquidate(rules, candle):
        liquidated, stop_fill = _liquidation(xp, account, candle, extremes, stopped, stop_fill)
        later = xp.where(liquidated, _LIQUIDATION, later)
    reason = xp.where(expired, _MAX_DURATION, xp.where(stopped_first, _STOP_LOSS, later))
    reason = xp.where(wanted, _EXIT_SIGNAL, reason)

    def filled() -> tuple[Array, Array]:
        at_candle = xp.where(reason == _ROI, roi_fill, stop_fill)
        close_rate = xp.where(xp.logical_or(wanted, expired), candle.open, at_candle)
        close_rate = nearest_price_step(xp, close_rate, account.price_scale)
        # An order outside the candle is not filled and lapses, as under an unfilledtimeout of one candle: the worst
        # case of a trailing stop can lie there.
        within = xp.logical_and(candle.low <= close_rate, close_rate <= candle.high)
        return xp.where(xp.logical_and(in_trade, within), reason, _NONE), close_rate

    return account, *xp.if_any(reason != _NONE, filled, (reason, candle.open))


def may_liquidate(rules: TradingRules, candle: Candle) -> bool:
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


def _extremes(xp: Namespace, account: Account, unit: Unit, candle: Candle) -> _Extremes:
    side = account.side
    low, high = side * candle.low, side * candle.high
    best = xp.maximum(low, high)
    profit = unit_profit_ratio(account, unit, side * best)
    # freqtrade compares ratios rounded to eight decimals.
    return _Extremes(xp.minimum(low, high), best, xp.round(profit * 1e8) / 1e8)


def _trail(xp: Namespace, rules: TradingRules, account: Account, extremes: _Extremes) -> Account:
    """Raise the stop from this candle's best price, before its worst price tests it."""
    if not rules.trailing_stop:
        return account
    side = account.side
    current = side * account.stop_rate
    may_move = current < extremes.worst
    if rules.trailing_only_offset_is_reached:
        may_move = xp.logical_and(may_move, extremes.best_profit >= rules.trailing_stop_positive_offset)

    def trailed() -> Account:
        distance = _trailing_distance(xp, rules, extremes.best_profit)
        stop = distant_stop_rate(xp, side, account.leverage, side * extremes.best, distance, account.price_scale)
        moved = xp.logical_and(may_move, side * stop > current)
        return changed(
            account,
            stop_rate=xp.where(moved, stop, account.stop_rate),
            stop_trailed=xp.logical_or(account.stop_trailed, moved),
        )

    return cast(Account, xp.if_any(may_move, trailed, account))


def _stop(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, extremes: _Extremes
) -> tuple[Array, Array]:
    """Whether the candle touches the stop, and the rate at which it fills."""
    stop = account.side * account.stop_rate
    fill = account.stop_rate
    if rules.trailing_stop:
        at_entry = xp.logical_and(account.stop_trailed, account.held_candles == 0)

        def at_worst() -> Array:
            worst = _worst_trailing_rate(xp, rules, account, candle, extremes)
            return xp.where(at_entry, worst, account.stop_rate)

        fill = xp.if_any(at_entry, at_worst, fill)
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
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, unit: Unit, extremes: _Extremes
) -> tuple[Array, Array]:
    """Whether the candle's best price reaches the ROI table's entry for the trade's age, and the fill."""
    if not rules.minimal_roi:
        return xp.logical_and(account.side != 0, False), candle.open
    minutes = account.held_candles * rules.timeframe_minutes
    target = _of_age(xp, rules.minimal_roi, minutes)
    reached = extremes.best_profit > target
    if (first := rules.minimal_roi[0][0]) > 0:
        reached = xp.logical_and(reached, minutes >= first)
    fill = xp.if_any(reached, lambda: _roi_rate(xp, rules, account, candle, unit, target, minutes), candle.open)
    return reached, fill


def _roi_rate(
    xp: Namespace,
    rules: TradingRules,
    account: Account,
    candle: Candle,
    unit: Unit,
    target: Array,
    minutes: Array,
) -> Array:
    """The rate at which a trade fills whose profit reaches the ROI table's entry.

    :param target: that entry's profit ratio
    :param minutes: age of the trade
    """
    side = account.side
    # Solves profit_ratio(rate) == target for the rate. Exactly between two price steps, which takes a round target
    # without fees, freqtrade's rounding follows the binary noise of the trade's amount; here it is up.
    rate = ((1 + side * target / account.leverage) * unit.open_value - unit.received) / unit.kept
    begins: Array = False
    for start, _ in rules.minimal_roi:
        if start > 0 and start % rules.timeframe_minutes == 0:
            begins = xp.logical_or(begins, minutes == start)
    at_open = xp.logical_and(begins, side * candle.open > side * rate)
    # -1 in freqtrade's table means: leave, whatever the profit.
    leaves = [(start, ratio == -1 and start % rules.timeframe_minutes == 0) for start, ratio in rules.minimal_roi]
    if any(leave for _, leave in leaves):
        at_open = xp.logical_or(at_open, _of_age(xp, [(start, float(leave)) for start, leave in leaves], minutes) == 1)
    inside = xp.minimum(xp.maximum(rate, candle.low), candle.high)
    return xp.where(at_open, candle.open, inside)


def _of_age(xp: Namespace, table: Sequence[tuple[int, float]], minutes: Array) -> Array:
    """Of the values of a table by minutes since the entry, the one for a trade's age."""
    value: Array = table[0][1]
    for start, later in table[1:]:
        value = xp.where(minutes >= start, later, value)
    return value
