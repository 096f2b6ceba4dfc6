"""Entries that training assumed and a run did not make, and those that it made beside them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from mtfscalper.freqai.bot_journal import NOT_FILLED
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.predictions import EXPIRED
from mtfscalper.freqai.strategy_rules import tradable_ratio
from mtfscalper.reporting.audit.causes import Cause, Departure, Seen
from mtfscalper.reporting.audit.locks import Locks, locks_of_backtest, locks_of_bot
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.trading.actions import Action

_NEVER = 2**62
# What a flat account's action enters.
SIDES = {int(Action.LONG_ENTER): "long", int(Action.SHORT_ENTER): "short"}


class Signals(NamedTuple):
    """What a pair's trades were to be entered on. Moments are milliseconds since 1970.

    :ivar sides: the side to enter, by the candle at whose open that is
    :ivar known: the candles at which that was decided in time
    :ivar missed: candles at which a bot made no pass in time: what it would have entered is worked out afterwards
    """

    sides: Mapping[int, str]
    known: frozenset[int]
    missed: frozenset[int] = frozenset()

    def with_missed(self, other: Signals | None) -> Signals:
        """With what would have been entered at missed candles, where there are any."""
        return self if other is None else Signals({**self.sides, **other.sides}, self.known, other.missed)


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
        int(candle): SIDES[int(action)]
        for candle, action, counts in zip(rows, actions, decided, strict=True)
        if counts and int(action) in SIDES
    }
    return Signals(sides, frozenset(rows.tolist()))


def signals_of_bot(record: BotRecord, pair: str, timeframe_ms: int) -> Signals:
    """What a bot's columns entered at the candles that it decided at."""
    passes = record.decided_passes(pair)
    sides = {
        one.row_ms + timeframe_ms: SIDES[int(one.columns[ACTION_COLUMN])]
        for one in passes
        if one.is_decided and int(one.columns.get(ACTION_COLUMN, 0)) in SIDES
    }
    return Signals(sides, frozenset(one.row_ms + timeframe_ms for one in passes))


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
    locks: Locks
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
    passed_ms = {(one.pair, one.row_ms + timeframe_ms): one.at_ms for one in record.counting.values()}

    def was_down(pair: str, candle: int) -> bool:
        decided_ms = passed_ms[(pair, candle)]
        return any(decided_ms <= start < candle + 2 * timeframe_ms for start in record.journal.starts_ms)

    return Market(
        result.first_ms,
        result.last_ms,
        timeframe_ms,
        result.slots,
        locks_of_bot(result, record, timeframe_ms),
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


class Absent(NamedTuple):
    """The entries of the columns that were not made.

    :ivar notes: how they were counted, one sentence each
    """

    entries: tuple[Missing, ...]
    notes: tuple[str, ...]


# Causes that last for many candles: what they stop is looked at as the one trade that it would have been.
_LASTING = (Cause.PROTECTION, Cause.MISSED_ENTRY)

# The candle of the exit of an entry at a candle, held to its stop, ROI or longest duration: pair, side, candle.
Ends = Callable[[str, str, int], int]


def missing_entries(trades: Sequence[Seen], signals: Mapping[str, Signals], market: Market, ends: Ends) -> Absent:
    """Entries of the columns at which a pair was flat and none was made, and why.

    A pair is not flat in the candle of an exit: training enters nothing there. What is not made for the same cause
    candle after candle is one entry. What a lock or a missed candle stopped would have held its pair until its end:
    what either of them stops meanwhile is the same entry.
    """
    held = {pair: _Held(trade for trade in trades if trade.pair == pair) for pair in signals}
    all_held = _Held(trades)
    found: list[Missing] = []
    n_unfilled = market.n_unfilled
    last: dict[str, tuple[int, str, Cause]] = {}
    # By pair: what a lasting cause stopped last, and how many signals were the same entry.
    stopped: dict[str, _Stopped] = {}
    n_signals: Counter[Cause] = Counter()
    for candle, pair, side in sorted((at, pair, one.sides[at]) for pair, one in signals.items() for at in one.sides):
        if not market.first_ms < candle < market.last_ms or held[pair].is_open(candle):
            continue
        living = {other: one for other, one in stopped.items() if one.lives(candle, held[other])}
        is_missed, n_open = candle in signals[pair].missed, all_held.n_open(candle)
        if is_missed:
            n_open += sum(one.is_missed for other, one in living.items() if other != pair)
        unmade = _Unmade(pair, side, candle, n_open, is_missed)
        cause, why = _why_not_made(unmade, market, n_unfilled)
        goes_on = last.get(pair) == (candle - market.timeframe_ms, side, cause)
        last[pair] = candle, side, cause
        if cause in _LASTING:
            n_signals[cause] += 1
            if pair in living:
                continue
            n_before = held[pair].n_entered(candle)
            stopped[pair] = _Stopped(cause is Cause.MISSED_ENTRY, ends(pair, side, candle), n_before)
        elif goes_on:
            continue
        n_unfilled -= cause is Cause.NOT_FILLED
        departure = Departure(cause, candle, f"{side} entered as the candle opens", f"no trade: {why}")
        found.append(Missing(pair, side, departure))
    n_entries = Counter(one.departure.cause for one in found)
    notes = [
        f"{cause}: {n_entries[cause]} entries, by {n_signals[cause]} signals: an entry that was stopped would have "
        "held its pair until its stop, ROI or longest duration, and what is signalled until then is counted with it"
        for cause in _LASTING
        if n_signals[cause] > n_entries[cause]
    ]
    return Absent(tuple(found), tuple(notes))


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


def expired_entries(trades: Sequence[Seen], record: BotRecord, timeframe_ms: int) -> dict[int, Departure]:
    """Trades of a bot that were entered by an expired policy, by their position."""
    expired = defaultdict(set)
    for one in record.counting.values():
        if one.columns.get("do_predict") == EXPIRED:
            expired[one.pair].add(one.row_ms + timeframe_ms)
    return {
        at: Departure(Cause.STALE, trade.entry_ms, "an expired policy enters nothing", f"{trade.side} entered")
        for at, trade in enumerate(trades)
        if trade.entry_ms in expired[trade.pair]
    }


class _Held:
    """When trades were open, the candles of entry and exit included."""

    def __init__(self, trades: Iterable[Seen]) -> None:
        spans = [(trade.entry_ms, _NEVER if trade.exit_ms is None else trade.exit_ms) for trade in trades]
        self._entries = sorted(entry for entry, _ in spans)
        self._exits = sorted(end for _, end in spans)

    def n_entered(self, candle: int) -> int:
        """Trades that were entered at a candle, or before it."""
        return bisect_right(self._entries, candle)

    def n_open(self, candle: int) -> int:
        """Trades that were open at a candle."""
        return self.n_entered(candle) - bisect_left(self._exits, candle)

    def is_open(self, candle: int) -> bool:
        """Whether any was."""
        return self.n_open(candle) > 0


class _Stopped(NamedTuple):
    """An entry that a lasting cause stopped.

    :ivar is_missed: whether a backtest of the candles makes it
    :ivar end_ms: the candle of its exit, if it had been made
    :ivar n_before: trades of the pair that had been entered by then
    """

    is_missed: bool
    end_ms: int
    n_before: int

    def lives(self, candle: int, held: _Held) -> bool:
        """Whether it would be open at a candle: the run has entered no other trade of the pair since."""
        return candle <= self.end_ms and held.n_entered(candle) == self.n_before


class _Unmade(NamedTuple):
    """An entry that was not made.

    :ivar n_open: trades of other pairs that were open, and those that a backtest would have had open instead
    :ivar is_missed: whether a bot made no pass in time
    """

    pair: str
    side: str
    candle: int
    n_open: int
    is_missed: bool


def _why_not_made(unmade: _Unmade, market: Market, n_unfilled: int) -> tuple[Cause, str]:
    pair, side, candle, n_open, is_missed = unmade
    if lock := market.locks.at(pair, side, candle):
        until = f" until {moment(lock.last_ms)}" if lock.last_ms > lock.first_ms else ""
        return Cause.PROTECTION, f"{lock.pair} was locked{until} ({lock.reason})"
    if n_open >= market.slots:
        return Cause.SLOT, f"{n_open} others were open, and max_open_trades is {market.slots:g}"
    if is_missed:
        return Cause.MISSED_ENTRY, "the bot made no pass in time, and a backtest of the same candles enters"
    if market.was_down(pair, candle):
        return Cause.MISSED_ENTRY, "the bot was stopped before it entered"
    if not market.has_stake(candle):
        return Cause.NO_STAKE, "the wallet had no stake left"
    if (pair, candle) in market.unfilled if market.unfilled is not None else n_unfilled > 0:
        return Cause.NOT_FILLED, "its order was not filled in time"
    return Cause.REFUSED, "the strategy refused it (confirm_trade_entry, custom_stake_amount or its own signals)"
