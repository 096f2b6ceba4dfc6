"""Entries re-lived alone: each from its own candle under the project's rules, whatever other trades are open.

The rules are those of training, :func:`mtfscalper.trading.rules.step`, which freqtrade's own backtester judges. All
entries of a pair are stepped at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.trades import with_exits
from mtfscalper.trading.account import EXIT_REASON_NAMES, FLAT, Account, Candle, ExitReason
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, put_members, take_members
from mtfscalper.trading.rules import force_exit, step
from mtfscalper.trading.trading_rules import TradingRules

# More candles than any data has.
NEVER = 2**40
# Whole milliseconds and candles, money and flags.
_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


class ExitSignals(NamedTuple):
    """A strategy's own exits on the candles of a pair.

    :ivar long: whether the close of the candle ends a long at the next open, bool, shape (n_candles,), as ``short``
    """

    long: npt.NDArray[np.bool_]
    short: npt.NDArray[np.bool_]


class _Entries(NamedTuple):
    """Entries of one pair, arrays of shape (n,).

    :ivar side: +1 long, -1 short
    :ivar first: the candle of the entry
    :ivar leave_after: candles after which the trade is left at the open
    """

    side: _Floats
    leverage: _Floats
    open_rate: _Floats
    first: _Ints
    leave_after: _Ints


class _Exits(NamedTuple):
    """How the entries end, arrays of shape (n,).

    :ivar candle: the candle of the exit
    """

    candle: _Ints
    close_rate: _Floats
    profit_ratio: _Floats
    reason: _Ints


def relive(
    entries: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
    *,
    leave_after: _Ints | None = None,
    signals: Mapping[str, ExitSignals] | None = None,
) -> pd.DataFrame:
    """Let each entry live alone until its stop, ROI or longest duration, or the end of the candles.

    :param entries: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`; leverage, stake and rate of entry
        are the trade's own
    :param tapes: the candles of the run, by pair
    :param rules: what ends trades, by pair
    :param leave_after: candles after which each trade is left at the open, if it lives so long; shape (n,)
    :param signals: the strategy's own exits, by pair
    :return: the trades, in the order of their entries
    """
    if entries.empty:
        return entries.copy()
    n = len(entries)
    ends = _Exits(np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
    close_ms = np.zeros(n, dtype=np.int64)
    wanted = np.full(n, NEVER) if leave_after is None else leave_after
    for pair, where in entries.groupby("pair").indices.items():
        tape, of_pair = tapes[str(pair)], entries.iloc[where]
        begun = _Entries(
            side=np.where(of_pair["is_short"], -1.0, 1.0),
            leverage=of_pair["leverage"].to_numpy(dtype=np.float64),
            open_rate=of_pair["open_rate"].to_numpy(dtype=np.float64),
            first=np.searchsorted(tape.dates_ms, of_pair["open_ms"].to_numpy()),
            leave_after=wanted[where],
        )
        candles = candles_of([tape])
        if signals is not None and str(pair) in signals:
            own = signals[str(pair)]
            # A signal at the close of row k - 1 is carried out at the open of candle k.
            candles = candles._replace(long_exit=np.roll(own.long, 1), short_exit=np.roll(own.short, 1))
        of_ends = _relive_pair(begun, candles, rules[str(pair)])
        for all_of, found in zip(ends, of_ends, strict=True):
            all_of[where] = found
        close_ms[where] = tape.dates_ms[of_ends.candle]
    reasons = [EXIT_REASON_NAMES[ExitReason(reason)] for reason in ends.reason.tolist()]
    exits = pd.DataFrame(
        {
            "close_ms": close_ms,
            "close_rate": ends.close_rate,
            "profit_ratio": ends.profit_ratio,
            "exit_reason": reasons,
        }
    )
    return with_exits(entries, dict(tapes), exits)


def _relive_pair(begun: _Entries, candles: Candle, rules: TradingRules) -> _Exits:
    n, last = len(begun.first), len(candles.open) - 1
    # Money plays no part: every trade has an account of its own, whose stake is as small as the equity allows.
    rules = replace(
        rules,
        leverage_long=None,
        leverage_short=None,
        can_short=True,
        stake_ratio=1.0,
        fixed_stake_ratio=None,
        available_ratio=1.0,
    )
    accounts = Account(*(np.full(n, value) for value in FLAT))
    ends = _Exits(np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
    alive, held = np.arange(n), 0
    while len(alive):
        at = begun.first[alive] + held
        candle = Candle(*(None if column is None else column[at] for column in candles))
        leverage, side = begun.leverage[alive], begun.side[alive]
        candle = candle._replace(long_leverage=leverage, short_leverage=leverage)
        if held == 0:
            # At the rate that was filled, which an order of the strategy's own may have moved from the open.
            candle = candle._replace(open=begun.open_rate[alive])
            action = np.where(side < 0, Action.SHORT_ENTER, Action.LONG_ENTER)
        else:
            leave = np.where(side < 0, Action.SHORT_EXIT, Action.LONG_EXIT)
            action = np.where(begun.leave_after[alive] == held, leave, Action.NEUTRAL)
        before = take_members(accounts, alive)
        after, fill = step(NUMPY, rules, before, action, candle)
        is_last = at == last
        if held and is_last.any():
            _, forced = force_exit(NUMPY, rules, before, candle)
            fill = type(fill)(
                *(np.where(is_last, of_end, of_step) for of_end, of_step in zip(forced, fill, strict=True))
            )
        accounts = put_members(NUMPY, accounts, alive, after)
        closed = alive[fill.exited]
        ends.candle[closed] = at[fill.exited]
        ends.close_rate[closed] = fill.close_rate[fill.exited]
        ends.profit_ratio[closed] = fill.profit_ratio[fill.exited]
        ends.reason[closed] = fill.reason[fill.exited]
        alive, held = alive[~fill.exited], held + 1
    return ends
