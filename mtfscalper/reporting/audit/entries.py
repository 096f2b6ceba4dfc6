"""Entries that training assumed and a run did not make, and those that it made beside them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from mtfscalper.freqai.bot_journal import NOT_FILLED, Journal
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.predictions import EXPIRED
from mtfscalper.freqai.strategy_rules import tradable_ratio
from mtfscalper.reporting.audit.causes import Cause, Departure, Seen
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.trading.actions import Action

_SIDES = {int(Action.LONG_ENTER): "long", int(Action.SHORT_ENTER): "short"}


class Signals(NamedTuple):
    """What a pair's trades were to be entered on. Moments are milliseconds since 1970.

    :ivar sides: the side to enter, by the candle at whose open that is
    :ivar known: the candles about which that is known
    """

    sides: Mapping[int, str]
    known: frozenset[int]


class Lock(NamedTuple):
    """A time in which a pair may not be entered, both ends included."""

    pair: str
    side: str
    first_ms: int
    last_ms: int
    reason: str


class Missing(NamedTuple):
    """An entry that was not made."""

    pair: str
    side: str
    departure: Departure


def signals_of_columns(columns: pd.DataFrame, timeframe_ms: int) -> Signals:
    """What the policy's columns enter.

    :param columns: one row a candle, with ``date``, the action and ``do_predict``
    """
    if columns.empty:
        return Signals({}, frozenset())
    rows = pd.DatetimeIndex(columns["date"]).as_unit("ms").astype("int64") + timeframe_ms
    decided = columns["do_predict"].to_numpy() == 1
    actions = columns[ACTION_COLUMN].to_numpy()
    sides = {
        int(candle): _SIDES[int(action)]
        for candle, action, counts in zip(rows, actions, decided, strict=True)
        if counts and int(action) in _SIDES
    }
    return Signals(sides, frozenset(rows.tolist()))


def signals_of_bot(record: BotRecord, pair: str, timeframe_ms: int) -> Signals:
    """What a bot's columns entered at the candles that it decided at."""
    passes = record.decided_passes(pair)
    sides = {
        one.row_ms + timeframe_ms: _SIDES[int(one.columns[ACTION_COLUMN])]
        for one in passes
        if one.columns.get("do_predict") == 1 and int(one.columns.get(ACTION_COLUMN, 0)) in _SIDES
    }
    return Signals(sides, frozenset(one.row_ms + timeframe_ms for one in passes))


def locks_of_backtest(result: RunResult) -> list[Lock]:
    """The locks of a backtest."""
    return [
        Lock(lock["pair"], lock["side"], int(lock["lock_timestamp"]), int(lock["lock_end_timestamp"]), lock["reason"])
        for lock in result.stats.get("locks") or ()
    ]


def locks_of_bot(journal: Journal, timeframe_ms: int) -> list[Lock]:
    """The locks of a bot, as it noted them at its passes."""
    return [
        Lock(one.pair, "*", one.row_ms + timeframe_ms, one.row_ms + timeframe_ms, ", ".join(one.locks))
        for one in journal.passes
        if one.locks
    ]


class Market(NamedTuple):
    """What an entry needs.

    :ivar slots: trades that may be open at once
    :ivar has_stake: whether the wallet had a stake left at a candle
    :ivar was_down: whether a bot was stopped between its decision about a pair at a candle and its entry
    :ivar unfilled: pairs and candles of entry orders that were not filled, None where only their number is known
    :ivar n_unfilled: their number
    """

    first_ms: int
    last_ms: int
    timeframe_ms: int
    slots: float
    locks: Sequence[Lock]
    has_stake: Callable[[int], bool]
    was_down: Callable[[str, int], bool]
    unfilled: frozenset[tuple[str, int]] | None
    n_unfilled: int


def market_of_backtest(result: RunResult, timeframe_ms: int) -> Market:
    """What the entries of a backtest needed."""
    stats = result.stats
    n_unfilled = sum(int(stats.get(name) or 0) for name in ("timedout_entry_orders", "canceled_trade_entries"))
    return Market(
        result.first_ms,
        result.last_ms,
        timeframe_ms,
        result.slots,
        locks_of_backtest(result),
        lambda candle: _has_stake(result, candle),
        lambda pair, candle: False,
        None,
        n_unfilled,
    )


def market_of_bot(result: RunResult, record: BotRecord, timeframe_ms: int) -> Market:
    """What the entries of a bot needed."""
    unfilled = frozenset(record.key(trade)[:2] for trade in record.journal.trades if trade.exit_reason == NOT_FILLED)
    passed_ms = {(one.pair, one.row_ms + timeframe_ms): one.at_ms for one in record.journal.passes}

    def was_down(pair: str, candle: int) -> bool:
        decided_ms = passed_ms[(pair, candle)]
        return any(decided_ms <= start < candle + 2 * timeframe_ms for start in record.journal.starts_ms)

    return Market(
        result.first_ms,
        result.last_ms,
        timeframe_ms,
        result.slots,
        locks_of_bot(record.journal, timeframe_ms),
        lambda _: True,
        was_down,
        unfilled,
        len(unfilled),
    )


def _has_stake(result: RunResult, candle: int) -> bool:
    """Whether a fixed stake was left, by the trades that had ended and those that were open."""
    stake = result.stats.get("stake_amount")
    if not isinstance(stake, int | float):
        return True
    trades = result.trades
    if trades.empty:
        return result.starting_balance >= stake
    ended = trades["close_timestamp"] < candle
    is_open = (trades["open_timestamp"] < candle) & ~ended
    balance = result.starting_balance + trades.loc[ended, "profit_abs"].sum()
    usable = balance * tradable_ratio(result.config)
    return bool(usable - trades.loc[is_open, "stake_amount"].sum() >= stake)


def missing_entries(trades: Sequence[Seen], signals: Mapping[str, Signals], market: Market) -> list[Missing]:
    """Entries of the columns at which a pair was flat and none was made, and why.

    A pair is not flat in the candle of an exit: training enters nothing there. What is not made for the same cause
    candle after candle is one entry.
    """
    found = list[Missing]()
    n_unfilled = market.n_unfilled
    for pair, of_pair in signals.items():
        held = _held(trade for trade in trades if trade.pair == pair)
        last: tuple[int, str, Cause] | None = None
        for candle, side in sorted(of_pair.sides.items()):
            if not market.first_ms < candle < market.last_ms:
                continue
            if any(first <= candle <= last for first, last in held):
                continue
            cause, why = _why_not_made(pair, side, candle, trades, market, n_unfilled)
            goes_on = last == (candle - market.timeframe_ms, side, cause)
            last = candle, side, cause
            if goes_on:
                continue
            n_unfilled -= cause is Cause.NOT_FILLED
            departure = Departure(cause, candle, f"{side} entered as the candle opens", f"no trade: {why}")
            found.append(Missing(pair, side, departure))
    return found


def own_entries(trades: Sequence[Seen], signals: Mapping[str, Signals]) -> dict[int, Departure]:
    """Trades that the columns did not enter, by their position."""
    found = {}
    for at, trade in enumerate(trades):
        of_pair = signals.get(trade.pair)
        if of_pair is None or trade.entry_ms not in of_pair.known:
            continue
        wanted = of_pair.sides.get(trade.entry_ms)
        if wanted != trade.side:
            expected = f"{wanted} entered" if wanted else "nothing is entered"
            found[at] = Departure(Cause.OWN_ENTRY, trade.entry_ms, expected, f"{trade.side} entered")
    return found


def expired_entries(trades: Sequence[Seen], journal: Journal, timeframe_ms: int) -> dict[int, Departure]:
    """Trades of a bot that were entered by an expired policy, by their position."""
    expired = defaultdict(set)
    for one in journal.passes:
        if one.columns.get("do_predict") == EXPIRED:
            expired[one.pair].add(one.row_ms + timeframe_ms)
    return {
        at: Departure(Cause.STALE, trade.entry_ms, "an expired policy enters nothing", f"{trade.side} entered")
        for at, trade in enumerate(trades)
        if trade.entry_ms in expired[trade.pair]
    }


def _held(trades: Iterable[Seen]) -> list[tuple[int, int]]:
    return [(trade.entry_ms, 2**62 if trade.exit_ms is None else trade.exit_ms) for trade in trades]


def _why_not_made(
    pair: str, side: str, candle: int, trades: Sequence[Seen], market: Market, n_unfilled: int
) -> tuple[Cause, str]:
    for lock in market.locks:
        if lock.pair in (pair, "*") and lock.side in (side, "*") and lock.first_ms <= candle <= lock.last_ms:
            until = f" until {moment(lock.last_ms)}" if lock.last_ms > lock.first_ms else ""
            return Cause.PROTECTION, f"{lock.pair} was locked{until} ({lock.reason})"
    n_open = sum(
        trade.entry_ms <= candle and (trade.exit_ms is None or candle <= trade.exit_ms)
        for trade in trades
        if trade.pair != pair
    )
    if n_open >= market.slots:
        return Cause.SLOT, f"{n_open} others were open, and max_open_trades is {market.slots:g}"
    if market.was_down(pair, candle):
        return Cause.MISSED, "the bot was stopped before it entered"
    if not market.has_stake(candle):
        return Cause.NO_STAKE, "the wallet had no stake left"
    if (pair, candle) in market.unfilled if market.unfilled is not None else n_unfilled > 0:
        return Cause.NOT_FILLED, "its order was not filled in time"
    return Cause.REFUSED, "the strategy refused it (confirm_trade_entry, custom_stake_amount or its own signals)"
