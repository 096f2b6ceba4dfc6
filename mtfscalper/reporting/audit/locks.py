"""The times in which pairs might not be entered: a strategy's protections, and locks by hand."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.reporting.run_result import RunResult

# Of all pairs, or of both sides.
EVERY = "*"


class Lock(NamedTuple):
    """A time in which a pair may not be entered, both ends included; milliseconds since 1970."""

    pair: str
    side: str
    first_ms: int
    last_ms: int
    reason: str


class Locks:
    """Locks, found by pair, side and candle without going through all of them."""

    def __init__(self, locks: Iterable[Lock]) -> None:
        by_key: dict[tuple[str, str], list[Lock]] = defaultdict(list)
        for lock in sorted(locks, key=lambda one: one.first_ms):
            by_key[lock.pair, lock.side].append(lock)
        self._firsts = {key: [lock.first_ms for lock in of_key] for key, of_key in by_key.items()}
        self._longest: dict[tuple[str, str], list[Lock]] = {}
        for key, of_key in by_key.items():
            # Of those that have begun, the one that ends last.
            longest = self._longest[key] = of_key[:1]
            for lock in of_key[1:]:
                longest.append(max(longest[-1], lock, key=lambda one: one.last_ms))

    def at(self, pair: str, side: str, candle: int) -> Lock | None:
        """A lock that covers an entry, None where there is none."""
        for key in ((pair, side), (pair, EVERY), (EVERY, side), (EVERY, EVERY)):
            begun = bisect_right(self._firsts.get(key, ()), candle)
            if begun and (lock := self._longest[key][begun - 1]).last_ms >= candle:
                return lock
        return None


def locks_of_backtest(result: RunResult) -> Locks:
    """The locks of a backtest."""
    return Locks(_of_stats(result))


def locks_of_bot(result: RunResult, record: BotRecord, timeframe_ms: int) -> Locks:
    """The locks of a bot: as its database holds them, and as it noted them at the passes by which it traded."""
    noted = (
        Lock(one.pair, EVERY, one.row_ms + timeframe_ms, one.row_ms + timeframe_ms, ", ".join(one.locks))
        for one in record.counting.values()
        if one.locks
    )
    return Locks([*_of_stats(result), *noted])


def _of_stats(result: RunResult) -> list[Lock]:
    return [
        Lock(lock["pair"], lock["side"], int(lock["lock_timestamp"]), int(lock["lock_end_timestamp"]), lock["reason"])
        for lock in result.stats.get("locks") or ()
    ]
