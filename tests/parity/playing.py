"""A script played under our rules, and the comparison of its trades with those of freqtrade."""

from __future__ import annotations

import math

import numpy as np
from builders import tape_candles

from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import force_exit, mark, step
from mtfscalper.trading.trades import ClosedTrade, closed_trade
from mtfscalper.trading.trading_rules import TradingRules

PROFIT_TOLERANCE = 1e-12


def play_tape(
    tape: MarketTape, rules: TradingRules, actions: np.ndarray
) -> tuple[list[ClosedTrade], list[float], float]:
    """The trades of a script under our rules, what each added to the equity, and the final equity.

    :param actions: decision at the open of every candle, members of ``Action``
    """
    account, trades, profits = FLAT, [], []
    rows = tape_candles(tape)
    for k in range(1, len(rows)):
        account, _, _ = mark(SCALAR, rules, account, rows[k].open)
        before = account.equity
        if k == len(rows) - 1:
            account, fill = force_exit(SCALAR, rules, account, rows[k])
        else:
            account, fill = step(SCALAR, rules, account, int(actions[k]), rows[k])
        if fill.exited:
            trades.append(closed_trade(tape.pair, fill, int(tape.dates_ms[k]), tape.timeframe_ms))
            profits.append(account.equity - before)
    return trades, profits, account.equity


def assert_same_trades(ours: list[ClosedTrade], expected: list[ClosedTrade], rules: TradingRules | None = None) -> None:
    """All fields equal, profit ratios within 1e-12; a difference names the rules and the trade of either side.

    :raises AssertionError: at the first trade that differs
    """
    for number in range(max(len(ours), len(expected))):
        mine = ours[number] if number < len(ours) else None
        theirs = expected[number] if number < len(expected) else None
        if mine is None or theirs is None or not _same(mine, theirs):
            raise AssertionError(
                f"trade {number} of {len(ours)} here, {len(expected)} in freqtrade\n"
                f"rules:     {rules}\nfreqtrade: {theirs}\nours:      {mine}"
            )


def _same(ours: ClosedTrade, expected: ClosedTrade) -> bool:
    return ours[:-1] == expected[:-1] and math.isclose(
        ours.profit_ratio, expected.profit_ratio, rel_tol=0, abs_tol=PROFIT_TOLERANCE
    )
