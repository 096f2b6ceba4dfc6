"""The trading rules: fills, fees, leverage, stop-loss, ROI, trailing stop, funding, forced exits.

One branch-free function over an array namespace, so that a single environment (Python numbers), a batch of them
(NumPy) and, later, a device (torch) run the same lines. The clock is the one of freqtrade's backtester: the action
of candle k fills at its open, then its high and low test the exits. Money is float64.

Formulas (freqtrade ``LocalTrade.calc_profit_ratio``), with s = side, f = fee, L = leverage, F = funding a unit:
``Vo = Po * (1 + s*f)``, ``Vc = Pc * (1 - s*f) + s*F``, ``profit ratio = s * (Vc / Vo - 1) * L``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from mtfscalper.trading.actions import Action
from mtfscalper.trading.namespace import Namespace

# Equity cannot reach zero: its logarithm is the reward. A stop beyond liquidation is refused, so that a floor this
# low is met only by a gap that wipes out the stake.
EQUITY_FLOOR = 1e-6


class RulesError(ValueError):
    """The rules of the strategy cannot be traded or cannot be simulated. Names value, accepted, remedy."""


class ExitReason(IntEnum):
    """Why a trade was closed; :data:`EXIT_REASON_NAMES` gives freqtrade's words."""

    NONE = 0
    EXIT_SIGNAL = 1
    MAX_DURATION = 2
    STOP_LOSS = 3
    ROI = 4
    TRAILING_STOP_LOSS = 5
    FORCE_EXIT = 6


EXIT_REASON_NAMES = {reason: reason.name.lower() for reason in ExitReason}

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


class Candle(NamedTuple):
    """One candle of each environment: prices in quote currency, float64.

    :ivar funding: funding due on one unit of the asset at this candle's open (mark price x rate), else 0
    :ivar price_scale: price ticks in one unit of the quote currency, e.g. 100.0 for a tick of 0.01
    """

    open: Any
    high: Any
    low: Any
    close: Any
    funding: Any
    price_scale: Any


class Account(NamedTuple):
    """What an environment owns.

    :ivar side: +1 long, -1 short, 0 flat
    :ivar held_candles: candles since the entry candle
    :ivar price_scale: price ticks in one unit of quote currency at the entry: a trade keeps its ticks
    :ivar stop_trailed: whether the stop has moved since the entry
    :ivar best_profit: highest profit ratio seen at opens, the entry's included
    :ivar funding: funding received (negative: paid) on one unit of the asset since the entry
    :ivar stake: equity put into the open trade
    :ivar equity: equity without the open trade's profit, 1.0 at the start
    """

    side: Any
    leverage: Any
    open_rate: Any
    price_scale: Any
    stop_rate: Any
    stop_trailed: Any
    held_candles: Any
    best_profit: Any
    funding: Any
    stake: Any
    equity: Any


class Fill(NamedTuple):
    """What happened to an environment's trade in one candle; fields of no event are zero."""

    entered: Any
    exited: Any
    reason: Any
    side: Any
    open_rate: Any
    close_rate: Any
    held_candles: Any
    profit_ratio: Any


FLAT = Account(
    side=0.0,
    leverage=1.0,
    open_rate=1.0,
    price_scale=1.0,
    stop_rate=0.0,
    stop_trailed=False,
    held_candles=0.0,
    best_profit=0.0,
    funding=0.0,
    stake=0.0,
    equity=1.0,
)


def profit_ratio(rules: TradingRules, account: Account, rate: Any) -> Any:
    """Profit of the open trade if closed at ``rate``, as a share of the stake, fees of both sides included.

    :return: leveraged ratio; 0 when flat
    """
    side, fee = account.side, rules.fee_ratio
    open_value = account.open_rate * (1 + side * fee)
    close_value = rate * (1 - side * fee) + side * account.funding
    return side * (close_value / open_value - 1) * account.leverage


def equity_at(xp: Namespace, rules: TradingRules, account: Account, rate: Any) -> Any:
    """Equity with the open trade closed at ``rate``."""
    return marked_equity(xp, rules, account, profit_ratio(rules, account, rate))


def marked_equity(xp: Namespace, rules: TradingRules, account: Account, profit: Any) -> Any:
    """Equity with the open trade closed at a profit ratio."""
    return xp.maximum(account.equity + _profit(rules, account, profit), EQUITY_FLOOR)


def _profit(rules: TradingRules, account: Account, ratio: Any) -> Any:
    # freqtrade's ratio refers to the open value with its fee, the stake to the open value without.
    return ratio * account.stake * (1 + account.side * rules.fee_ratio)


def see_open(xp: Namespace, rules: TradingRules, account: Account, open_rate: Any) -> Account:
    """Update the best profit with the open of the candle about to be decided."""
    return see_profit(xp, account, profit_ratio(rules, account, open_rate))


def see_profit(xp: Namespace, account: Account, profit: Any) -> Account:
    """Update the best profit with the one at the open of the candle about to be decided."""
    best = xp.maximum(account.best_profit, profit)
    return account._replace(best_profit=xp.where(account.side == 0, 0.0 * best, best))


def step(xp: Namespace, rules: TradingRules, account: Account, action: Any, candle: Candle) -> tuple[Account, Fill]:
    """Carry out one action at a candle's open, then let the candle test the exits.

    Invalid actions do nothing. A trade that is entered is tested from its entry candle on, one that leaves cannot
    re-enter in the same candle.

    :param xp: the array namespace of every other argument
    :param account: accounts at the candle's open
    :param action: members of :class:`Action`
    :return: the accounts after the candle, and what was filled
    """
    account, entered = _enter(xp, rules, account, action, candle)
    in_trade = account.side != 0
    account = account._replace(funding=account.funding - account.side * candle.funding)

    wanted = xp.logical_or(
        xp.logical_and(account.side > 0, action == _LONG_EXIT),
        xp.logical_and(account.side < 0, action == _SHORT_EXIT),
    )
    expired = xp.logical_and(in_trade, account.held_candles >= rules.max_trade_duration_candles)

    bound = xp.where(account.side < 0, candle.low, candle.high)
    bound_profit = _rounded(xp, profit_ratio(rules, account, bound))
    account = _trail(xp, rules, account, candle, bound, bound_profit)
    stopped, stop_fill = _stop(xp, rules, account, candle, bound_profit)
    reached, roi_fill = _roi(xp, rules, account, candle, bound_profit)

    trailed = account.stop_trailed
    reason = xp.where(
        wanted,
        _EXIT_SIGNAL,
        xp.where(
            expired,
            _MAX_DURATION,
            xp.where(
                xp.logical_and(stopped, xp.logical_not(trailed)),
                _STOP_LOSS,
                xp.where(reached, _ROI, xp.where(stopped, _TRAILING_STOP_LOSS, _NONE)),
            ),
        ),
    )
    reason = xp.where(in_trade, reason, _NONE)
    close_rate = xp.where(
        xp.logical_or(wanted, expired),
        candle.open,
        xp.where(reason == _ROI, roi_fill, stop_fill),
    )
    close_rate = _nearest_tick(xp, close_rate, account.price_scale)
    # An order outside the candle is not filled and lapses, as under an unfilledtimeout of one candle: the worst case
    # of a trailing stop can lie there.
    within = xp.logical_and(candle.low <= close_rate, close_rate <= candle.high)
    reason = xp.where(within, reason, _NONE)
    exited = reason != _NONE
    fill = _fill(xp, rules, account, entered, exited, reason, close_rate)
    held = account._replace(held_candles=xp.where(in_trade, account.held_candles + 1.0, account.held_candles))
    return _close(xp, rules, held, fill), fill


def force_exit(xp: Namespace, rules: TradingRules, account: Account, candle: Candle) -> tuple[Account, Fill]:
    """The last candle, as the backtester ends its data: what survives the exits is closed at the candle's open.

    :return: flat accounts, and what was filled
    """
    tested, fill = step(xp, rules, account, _NEUTRAL, candle)
    survives = tested.side != 0
    tested = tested._replace(held_candles=account.held_candles)
    close_rate = _nearest_tick(xp, candle.open, tested.price_scale)
    forced = _fill(xp, rules, tested, fill.entered, survives, _FORCE_EXIT, close_rate)
    last = Fill(*(xp.where(survives, ours, theirs) for ours, theirs in zip(forced, fill, strict=True)))
    return _close(xp, rules, tested, forced), last


def _enter(xp: Namespace, rules: TradingRules, account: Account, action: Any, candle: Candle) -> tuple[Account, Any]:
    available = account.equity * rules.stake_ratio
    stake = available if rules.fixed_stake_ratio is None else 0.0 * available + rules.fixed_stake_ratio
    # As in freqtrade, an equity too small for the stake enters no more; nor does one that is lost.
    affordable = xp.logical_and(stake <= available, account.equity > EQUITY_FLOOR)
    flat = xp.logical_and(account.side == 0, affordable)
    long = xp.logical_and(flat, action == _LONG_ENTER)
    short = xp.logical_and(xp.logical_and(flat, action == _SHORT_ENTER), rules.can_short)
    entered = xp.logical_or(long, short)
    side = xp.where(long, 1.0, xp.where(short, -1.0, account.side))
    leverage = xp.where(entered, xp.where(short, rules.leverage_short, rules.leverage_long), account.leverage)
    stop = _stop_rate(xp, side, leverage, candle.open, rules.stoploss_ratio, candle.price_scale)
    opened = account._replace(
        side=side,
        leverage=leverage,
        open_rate=xp.where(entered, candle.open, account.open_rate),
        price_scale=xp.where(entered, candle.price_scale, account.price_scale),
        stop_rate=xp.where(entered, stop, account.stop_rate),
        stop_trailed=xp.logical_and(account.stop_trailed, xp.logical_not(entered)),
        held_candles=xp.where(entered, 0.0, account.held_candles),
        funding=xp.where(entered, 0.0, account.funding),
        stake=xp.where(entered, stake, account.stake),
    )
    # The round trip's fees are the first profit there is to see.
    return opened._replace(
        best_profit=xp.where(entered, profit_ratio(rules, opened, candle.open), account.best_profit)
    ), entered


def _stop_rate(xp: Namespace, side: Any, leverage: Any, rate: Any, distance_ratio: Any, price_scale: Any) -> Any:
    """Stop at a distance from a rate, rounded to a tick: up for a long, down for a short."""
    raw = rate * (1 - side * distance_ratio / leverage)
    ticks = xp.round(raw * price_scale)
    nearest = ticks / price_scale
    # Compared as decimals would compare: a rate that is a tick stays, whatever its binary noise.
    up = xp.where(nearest < raw, (ticks + 1) / price_scale, nearest)
    down = xp.where(nearest > raw, (ticks - 1) / price_scale, nearest)
    return xp.where(side < 0, down, up)


def _nearest_tick(xp: Namespace, rate: Any, price_scale: Any) -> Any:
    """A rate rounded to a tick, halves up."""
    ticks = xp.round(rate * price_scale)
    # Compared as decimals would compare: half a tick is a quotient of whole numbers, free of the product's noise.
    ticks = xp.where(rate >= (2 * ticks + 1) / (2 * price_scale), ticks + 1, ticks)
    ticks = xp.where(rate < (2 * ticks - 1) / (2 * price_scale), ticks - 1, ticks)
    return ticks / price_scale


def _trail(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, bound: Any, bound_profit: Any
) -> Account:
    """Raise the stop from this candle's best price, before its worst price tests it."""
    if not rules.trailing_stop:
        return account
    side = account.side
    armed = xp.where(side < 0, account.stop_rate > candle.high, account.stop_rate < candle.low)
    armed = xp.logical_and(armed, side != 0)
    if rules.trailing_only_offset_is_reached:
        armed = xp.logical_and(armed, bound_profit >= rules.trailing_stop_positive_offset)
    distance = _trailing_distance(xp, rules, bound_profit)
    stop = _stop_rate(xp, side, account.leverage, bound, distance, account.price_scale)
    better = xp.where(side < 0, stop < account.stop_rate, stop > account.stop_rate)
    moved = xp.logical_and(armed, better)
    return account._replace(
        stop_rate=xp.where(moved, stop, account.stop_rate), stop_trailed=xp.logical_or(account.stop_trailed, moved)
    )


def _stop(xp: Namespace, rules: TradingRules, account: Account, candle: Candle, bound_profit: Any) -> tuple[Any, Any]:
    """Whether the candle touches the stop, and the rate at which it fills."""
    side, stop = account.side, account.stop_rate
    touched = xp.where(side < 0, candle.high >= stop, candle.low <= stop)
    # Gapped over: the whole candle lies beyond the stop.
    beyond = xp.where(side < 0, stop < candle.low, stop > candle.high)
    fill = xp.where(beyond, candle.open, stop)
    if rules.trailing_stop:
        worst = _worst_trailing_rate(xp, rules, account, candle, bound_profit)
        at_entry = xp.logical_and(account.stop_trailed, account.held_candles == 0)
        fill = xp.where(xp.logical_and(at_entry, xp.logical_not(beyond)), worst, fill)
    return xp.logical_and(touched, side != 0), fill


def _trailing_distance(xp: Namespace, rules: TradingRules, bound_profit: Any) -> Any:
    """How far the trailing stop follows the candle's best price."""
    if rules.trailing_stop_positive is None:
        return rules.stoploss_ratio
    return xp.where(
        bound_profit > rules.trailing_stop_positive_offset, rules.trailing_stop_positive, rules.stoploss_ratio
    )


def _worst_trailing_rate(
    xp: Namespace, rules: TradingRules, account: Account, candle: Candle, bound_profit: Any
) -> Any:
    """Fill of a trailing stop in its entry candle: the price arms it and turns at once."""
    side = account.side
    if rules.trailing_only_offset_is_reached and rules.trailing_stop_positive:
        rate = candle.open * (
            1 + side * rules.trailing_stop_positive_offset - side * rules.trailing_stop_positive / account.leverage
        )
    else:
        # The distance in force is the one that set the stop.
        distance = _trailing_distance(xp, rules, bound_profit)
        rate = candle.open * (1 - side * distance / account.leverage)
    return xp.where(side < 0, xp.minimum(candle.high, rate), xp.maximum(candle.low, rate))


def _roi(xp: Namespace, rules: TradingRules, account: Account, candle: Candle, bound_profit: Any) -> tuple[Any, Any]:
    """Whether the candle's best price reaches the ROI table's entry for its age, and the fill."""
    in_trade = account.side != 0
    if not rules.minimal_roi:
        return xp.logical_and(in_trade, False), candle.open
    minutes = account.held_candles * rules.timeframe_minutes
    target = 0.0 * minutes
    starts = 0.0 * minutes
    known = minutes < 0
    for start, ratio in rules.minimal_roi:
        applies = minutes >= start
        target = xp.where(applies, ratio, target)
        starts = xp.where(applies, float(start), starts)
        known = xp.logical_or(known, applies)
    reached = xp.logical_and(xp.logical_and(known, in_trade), bound_profit > target)

    side, fee = account.side, rules.fee_ratio
    open_value = account.open_rate * (1 + side * fee)
    # Solves profit_ratio(rate) == target for the rate. Exactly between two ticks, which takes a round target without
    # fees, freqtrade's rounding follows the binary noise of the trade's amount; here it is up.
    rate = ((1 + side * target / account.leverage) * open_value - side * account.funding) / (1 - side * fee)
    better_open = xp.where(side < 0, candle.open < rate, candle.open > rate)
    on_candle = starts % rules.timeframe_minutes == 0
    begins_now = xp.logical_and(minutes > 0, minutes == starts)
    at_open = xp.logical_or(
        xp.logical_and(begins_now, better_open),
        # -1 in freqtrade's table means: leave, whatever the profit.
        xp.logical_and(target == -1, on_candle),
    )
    inside = xp.minimum(xp.maximum(rate, candle.low), candle.high)
    return reached, xp.where(at_open, candle.open, inside)


def _fill(
    xp: Namespace, rules: TradingRules, account: Account, entered: Any, exited: Any, reason: Any, close_rate: Any
) -> Fill:
    return Fill(
        entered=entered,
        exited=exited,
        reason=reason,
        side=xp.where(exited, account.side, 0.0),
        open_rate=xp.where(exited, account.open_rate, 0.0),
        close_rate=xp.where(exited, close_rate, 0.0),
        held_candles=xp.where(exited, account.held_candles, 0.0),
        profit_ratio=xp.where(exited, profit_ratio(rules, account, close_rate), 0.0),
    )


def _close(xp: Namespace, rules: TradingRules, account: Account, fill: Fill) -> Account:
    """Settle the trades that were exited."""
    exited = fill.exited
    settled = xp.maximum(account.equity + _profit(rules, account, fill.profit_ratio), EQUITY_FLOOR)
    values = {
        name: xp.where(exited, getattr(FLAT, name), getattr(account, name))
        for name in Account._fields
        if name != "equity"
    }
    return Account(**values, equity=xp.where(exited, settled, account.equity))


def _rounded(xp: Namespace, ratio: Any) -> Any:
    # freqtrade compares ratios rounded to eight decimals.
    return xp.round(ratio * 1e8) / 1e8
