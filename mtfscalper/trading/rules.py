"""The trading rules: entries, fills, fees, leverage, funding, forced exits; the exits themselves stand in ``exits``.

One branch-free function over an array namespace, so that a single environment (Python numbers), a batch of them
(NumPy) and one on a device (torch) run the same lines. What nobody needs, a namespace may leave out (``if_any``). The
clock is the one of freqtrade's backtester: the action of candle k fills at its open, then its high and low test the
exits. Money is float64.
"""

from __future__ import annotations

from typing import cast

from mtfscalper.trading.account import FLAT, Account, Candle, ExitReason, Fill, changed
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import Array, Namespace
from mtfscalper.trading.exits import exits_in_candle, may_liquidate
from mtfscalper.trading.rates import distant_stop_rate, nearest_price_step, unit_of, unit_profit_ratio, value_ratio
from mtfscalper.trading.trading_rules import TradingRules

# Equity cannot reach zero: its logarithm is the reward. A floor this low is met only by a gap that wipes out the stake.
EQUITY_FLOOR = 1e-6


# Plain numbers: an array library asks every member of an enum whether it is an array.
_NONE, _FORCE_EXIT = int(ExitReason.NONE), int(ExitReason.FORCE_EXIT)
_, _LONG_ENTER, _LONG_EXIT, _SHORT_ENTER, _SHORT_EXIT = map(int, Action)


def profit_ratio(rules: TradingRules, account: Account, rate: Array) -> Array:
    """Profit of the open trade if closed at ``rate``, as a share of the stake, fees of both sides included.

    :return: leveraged ratio; 0 when flat
    """
    return unit_profit_ratio(account, unit_of(rules, account), rate)


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

    def marked() -> tuple[Account, Array, Array]:
        unit = unit_of(rules, account)
        profit = unit_profit_ratio(account, unit, open_rate)
        return see_profit(xp, account, profit), profit, _equity(xp, account, profit, unit.paid)

    return cast(
        tuple[Account, Array, Array],
        xp.if_any(account.side != 0, marked, (account, 0.0 * account.side, account.equity)),
    )


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
    in_trade = account.side != 0
    nothing = 0.0 * account.side
    after: tuple[Account, Fill] = xp.if_any(
        in_trade,
        lambda: _go_through(xp, rules, account, in_trade, entered, action, candle),
        (account, Fill(entered, in_trade, _NONE * in_trade, nothing, nothing, nothing, nothing, nothing)),
    )
    return after


def _go_through(
    xp: Namespace,
    rules: TradingRules,
    account: Account,
    in_trade: Array,
    entered: Array,
    action: Array,
    candle: Candle,
) -> tuple[Account, Fill]:
    """Let trades go through a candle: pay the funding, test the exits, close those that leave.

    :param in_trade: whether there is a trade
    :param entered: whether the trade was entered at this candle's open
    """
    opened: Account = xp.if_any(
        candle.funding != 0, lambda: changed(account, funding=_settled_funding(account, candle)), account
    )
    unit = unit_of(rules, opened)

    def after_fees() -> Account:
        # The round trip's fees are the first profit there is to see.
        fees = value_ratio(opened, unit, candle.open * unit.kept)
        return changed(opened, best_profit=xp.where(entered, fees, opened.best_profit))

    tested: Account = xp.if_any(entered, after_fees, opened)
    wanted = action == xp.where(tested.side < 0, _SHORT_EXIT, _LONG_EXIT)
    tested, reason, close_rate = exits_in_candle(xp, rules, tested, candle, unit, in_trade, entered, wanted)
    held = changed(tested, held_candles=tested.held_candles + in_trade)
    if candle.funding_within is not None:
        # Due of those that live through the candle: freqtrade dates an exit within it at its open.
        held = changed(held, funding=held.funding - held.side * candle.funding_within)
    exited = reason != _NONE

    def closed() -> tuple[Account, Fill]:
        profit = unit_profit_ratio(tested, unit, close_rate)
        fill = _fill(xp, tested, entered, exited, reason, close_rate, profit)
        kept = xp.where_each(fill.exited, FLAT[:-1], held[:-1])
        return Account._make([*kept, _equity(xp, tested, fill.profit_ratio, unit.paid)]), fill

    nothing = 0.0 * close_rate
    unfilled = Fill(entered, exited, reason, nothing, nothing, nothing, nothing, nothing)
    after: tuple[Account, Fill] = xp.if_any(exited, closed, (held, unfilled))
    return after


def force_exit(xp: Namespace, rules: TradingRules, account: Account, candle: Candle) -> tuple[Account, Fill]:
    """The last candle, as the backtester ends its data: what survives the exits is closed at the candle's open.

    :return: flat accounts, of which only the equity is an array, and what was filled
    """
    account = changed(account, funding=_settled_funding(account, candle))
    unit = unit_of(rules, account)
    in_trade = account.side != 0
    nobody = xp.logical_and(in_trade, False)
    account, reason, close_rate = exits_in_candle(
        xp, rules, account, candle, unit, in_trade, entered=nobody, wanted=nobody
    )
    survives = xp.logical_and(in_trade, reason == _NONE)
    reason = xp.where(survives, _FORCE_EXIT, reason)
    close_rate = xp.where(survives, nearest_price_step(xp, candle.open, account.price_scale), close_rate)
    profit = unit_profit_ratio(account, unit, close_rate)
    fill = _fill(xp, account, nobody, reason != _NONE, reason, close_rate, profit)
    return changed(FLAT, equity=_equity(xp, account, fill.profit_ratio, unit.paid)), fill


def _settled_funding(account: Account, candle: Candle) -> Array:
    """The account's funding with what is due on its trade at the candle's open, of one just entered too."""
    return account.funding - account.side * candle.funding


def _enter(
    xp: Namespace, rules: TradingRules, account: Account, action: Array, candle: Candle
) -> tuple[Account, Array]:
    """Open the trades that are asked for and permitted.

    What :func:`step` makes of a flat account, no entry needs to reset.

    :return: the accounts, and whether each has entered
    """
    flat = xp.logical_and(account.side == 0, can_afford_entry(xp, rules, account))
    asked, short = xp.logical_and(flat, action == _LONG_ENTER), False
    if rules.can_short:
        short = xp.logical_and(flat, action == _SHORT_ENTER)
        asked = xp.logical_or(asked, short)
    entered: tuple[Account, Array] = xp.if_any(
        asked, lambda: _open_trades(xp, rules, account, asked, short, candle), (account, asked)
    )
    return entered


def _open_trades(
    xp: Namespace, rules: TradingRules, account: Account, entered: Array, short: Array, candle: Candle
) -> tuple[Account, Array]:
    """Open trades at a candle's open.

    :param entered: whether an entry is asked for and permitted
    :param short: whether it is a short one; False where none can be
    :return: the accounts, and whether each has entered: not where the strategy stakes nothing
    """
    side = xp.where(short, -1.0, 1.0) if rules.can_short else 1.0
    stake = account.equity * rules.stake_ratio if rules.fixed_stake_ratio is None else rules.fixed_stake_ratio
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
    stop = distant_stop_rate(xp, side, leverage, candle.open, rules.stoploss_ratio, candle.price_scale)
    liquidation: Array = 0.0
    if may_liquidate(rules, candle):
        ratio = _of_side(
            xp,
            short,
            rules.liquidation_long if candle.long_liquidation is None else candle.long_liquidation,
            rules.liquidation_short if candle.short_liquidation is None else candle.short_liquidation,
        )
        liquidation = nearest_price_step(xp, candle.open * ratio, candle.price_scale)
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
    opened = changed(
        account,
        side=side,
        leverage=leverage,
        open_rate=open_rate,
        price_scale=price_scale,
        stop_rate=stop_rate,
        liquidation_rate=liquidation_rate,
        held_candles=held_candles,
        stake=stake,
    )
    return opened, entered


def _of_side(xp: Namespace, short: Array, of_long: Array, of_short: Array) -> Array:
    """What holds for an entry of either side; one number where both sides have the same.

    :param short: whether the entry is a short one; False where none can be
    """
    if short is False or of_long is of_short or (isinstance(of_long, float) and of_long == of_short):
        return of_long
    return xp.where(short, of_short, of_long)


def _fill(
    xp: Namespace,
    account: Account,
    entered: Array,
    exited: Array,
    reason: Array,
    close_rate: Array,
    profit: Array,
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
