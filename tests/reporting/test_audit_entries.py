"""Entries that were not made: what they are called, and how often one of them counts."""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from test_audit_causes import SEEN

from mtfscalper.reporting.audit import bot
from mtfscalper.reporting.audit.causes import Seen
from mtfscalper.reporting.audit.entries import Absent, Market, Signals, missing_entries
from mtfscalper.reporting.audit.locks import Lock, Locks

A, B = "A/B", "C/B"
# An entry that nobody makes would be held for so many candles.
LIFE = 10


def market(*locks: Lock, slots: float = math.inf) -> Market:
    return Market(-1, 1000, 1, slots, Locks(locks), lambda _: True, lambda *_: False, frozenset(), 0)


def trade(pair: str, entry: int, stop: int) -> Seen:
    return SEEN._replace(pair=pair, entry_ms=entry, exit_ms=stop)


def absent(of_market: Market, trades: Iterable[Seen] = (), missed: Iterable[int] = (), **sides: list[int]) -> Absent:
    """Longs of pair A at the candles ``a``, of pair B at ``b``."""
    signals = {
        pair: Signals(dict.fromkeys(sides.get(name, ()), "long"), frozenset(range(1000)), frozenset(missed))
        for name, pair in (("a", A), ("b", B))
    }
    return missing_entries(list(trades), signals, of_market, lambda _, __, candle: candle + LIFE)


def counted(found: Absent) -> list[tuple[str, int, str]]:
    return [(one.pair, one.departure.at_ms, one.departure.cause.value) for one in found.entries]


def test_what_a_lock_stops_is_the_one_trade_that_it_would_have_been() -> None:
    lock = Lock("*", "*", 10, 60, "too many losses")
    found = absent(market(lock), a=[5, 10, 12, 13, 20, 21, 40, 61])
    protection = [(A, 10, "protection"), (A, 21, "protection"), (A, 40, "protection")]
    assert counted(found) == [(A, 5, "refused entry"), *protection, (A, 61, "refused entry")]
    [note] = found.notes
    assert note.startswith("protection: 3 entries, by 6 signals")


def test_a_trade_that_was_made_ends_what_a_lock_stopped() -> None:
    locks = (Lock(A, "*", 10, 11, "first"), Lock(A, "*", 18, 18, "second"))
    found = absent(market(*locks), [trade(A, 13, 15)], a=[10, 11, 18])
    assert counted(found) == [(A, 10, "protection"), (A, 18, "protection")]


def test_locks_are_found_whatever_their_order_and_without_going_through_them_all() -> None:
    class Counting(Lock):
        looks: ClassVar[Counter[str]] = Counter()

        @property
        def last_ms(self) -> int:  # type: ignore[override]
            self.looks["all"] += 1
            return self[3]

    long = Counting(A, "*", 0, 5000, "long")
    locks = Locks([*(Counting(A, "*", 10 * at, 10 * at + 1, "short") for at in range(1, 1000)), long])
    assert locks.at(A, "long", 4321) == long
    assert locks.at(A, "long", 5001) == (A, "*", 5000, 5001, "short")
    assert locks.at(A, "long", 5003) is None
    assert locks.at(B, "long", 4321) is None
    assert Locks([Lock("*", "short", 0, 9, "")]).at(A, "long", 5) is None
    assert Locks([Lock("*", "short", 0, 9, "")]).at(A, "short", 9) is not None
    Counting.looks.clear()
    locks.at(A, "long", 4321)
    assert Counting.looks["all"] <= 4


def test_an_entry_at_a_missed_candle_counts_apart_from_one_that_was_refused() -> None:
    found = absent(market(), missed=range(20, 60), a=[10, 20, 22, 30, 31, 70])
    assert counted(found) == [
        (A, 10, "refused entry"),
        (A, 20, "entry at a missed candle"),
        (A, 31, "entry at a missed candle"),
        (A, 70, "refused entry"),
    ]
    assert "made no pass in time" in found.entries[1].departure.seen
    assert found.notes[0].startswith("entry at a missed candle: 2 entries, by 4 signals")


def test_at_missed_candles_open_trades_slots_and_locks_hold() -> None:
    one_slot = market(Lock(A, "*", 40, 41, "locked"), slots=1)
    found = absent(one_slot, [trade(B, 5, 15)], missed=range(60), a=[10, 20, 40], b=[15, 22, 50])
    assert counted(found) == [
        (A, 10, "slot"),
        # B was in trade; and at 22 a backtest would be in A's.
        (A, 20, "entry at a missed candle"),
        (B, 22, "slot"),
        (A, 40, "protection"),
        (B, 50, "entry at a missed candle"),
    ]


def test_a_trade_that_a_backtest_would_have_had_fills_no_slot_of_the_bots_own_passes() -> None:
    found = absent(market(slots=1), missed=[20], a=[20], b=[22])
    assert counted(found) == [(A, 20, "entry at a missed candle"), (B, 22, "refused entry")]


@pytest.mark.parametrize("has_locks", [True, False])
def test_the_locks_of_a_bots_database_are_read(tmp_path: Path, *, has_locks: bool) -> None:
    path = tmp_path / "bot.sqlite"
    with sqlite3.connect(path) as connection:
        if has_locks:
            connection.execute("CREATE TABLE pairlocks (pair, side, reason, lock_time, lock_end_time, active)")
            times = "1970-01-01 00:00:01.500000", "1970-01-01 00:00:03.000000"
            connection.executemany(
                "INSERT INTO pairlocks VALUES (?, ?, ?, ?, ?, ?)", [(A, "*", "why", *times, 1), (B, "*", "", *times, 0)]
            )
    connection.close()
    found: list[Any] = [
        (one["pair"], one["side"], one["lock_timestamp"], one["lock_end_timestamp"], one["reason"])
        for one in bot._locks(path)
    ]
    assert found == ([(A, "*", 1500, 2999, "why")] if has_locks else [])
