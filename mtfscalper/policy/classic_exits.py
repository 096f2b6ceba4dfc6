"""Entries re-lived alone under the rules: what they would have earned with classic exits.

The rival of a policy: the same entry, from the same account with the same stake, held until a stop, the ROI table, the
strategy's own exit signal, the longest duration or the end of the candles closes it. Nobody is asked on the way, and
every entry has an account of its own, so that trades that overlap are all lived.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import FLAT, Account, Fill
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY
from mtfscalper.trading.rules import force_exit, step
from mtfscalper.trading.trades import ClosedTrade, closed_trade
from mtfscalper.trading.trading_rules import TradingRules


class Entry(NamedTuple):
    """An entry at the open of a candle.

    :ivar open_ms: of the candle, milliseconds since 1970
    """

    open_ms: int
    is_short: bool


def relive(tape: MarketTape, rules: TradingRules, entries: Sequence[Entry]) -> list[ClosedTrade]:
    """The trade that each entry would have been under the rules alone.

    A gap in the candles ends a trade at the open of the last one before it, as it ends an episode.

    :param entries: in any order, of candles of the tape
    :return: in their order
    :raises ValueError: for an entry that is not on the tape, on the last candle before a gap, or that the rules refuse
    """
    if not entries:
        return []
    at = np.searchsorted(tape.dates_ms, [entry.open_ms for entry in entries])
    last = _last_of_segment(tape)[np.minimum(at, len(tape) - 1)]
    for entry, candle, end in zip(entries, at, last, strict=True):
        if candle >= end or tape.dates_ms[candle] != entry.open_ms:
            raise ValueError(_no_trade(tape, entry, "no candle of it opens then with another one after it"))
    candles = candles_of([tape])
    is_short = np.array([entry.is_short for entry in entries])
    account = Account(*(np.zeros(len(entries)) + float(value) for value in FLAT))
    action = np.where(is_short, int(Action.SHORT_ENTER), int(Action.LONG_ENTER))
    trades: dict[int, ClosedTrade] = {}
    alive, candle = np.arange(len(entries)), at
    while len(alive):
        now = candles._replace(
            **{
                name: column[candle]
                for name, column in zip(candles._fields, candles, strict=True)
                if column is not None
            }
        )
        ends = candle == last[alive]
        _, forced = force_exit(NUMPY, rules, account, now)
        account, stepped = step(NUMPY, rules, account, action, now)
        fill = Fill(*(np.where(ends, *pair) for pair in zip(forced, stepped, strict=True)))
        refused = (account.side == 0) & ~fill.exited
        if refused.any():
            raise ValueError(_no_trade(tape, entries[int(alive[refused][0])], "the rules let none be entered there"))
        for place in np.flatnonzero(fill.exited):
            one = Fill(*(column[place].item() for column in fill))
            close_ms = int(tape.dates_ms[candle[place]])
            trades[int(alive[place])] = closed_trade(tape.pair, one, close_ms, tape.timeframe_ms)
        goes_on = ~fill.exited
        alive, candle = alive[goes_on], candle[goes_on] + 1
        account = Account(*(column[goes_on] for column in account))
        action = np.full(len(alive), int(Action.NEUTRAL))
    return [trades[number] for number in range(len(entries))]


def _last_of_segment(tape: MarketTape) -> np.ndarray:
    """For each candle the last one before a gap, shape (n_candles,)."""
    last = np.zeros(len(tape), dtype=np.int64)
    for start, stop in tape.segments:
        last[start:stop] = stop - 1
    return last


def _no_trade(tape: MarketTape, entry: Entry, why: str) -> str:
    side = "short" if entry.is_short else "long"
    return (
        f"{tape.pair}: a {side} entered at {entry.open_ms} (milliseconds since 1970) cannot be re-lived on a tape of "
        f"{len(tape)} candles: {why}; accepted: entries that were made on its candles; remedy: hand over the tape that "
        "they were made on"
    )
