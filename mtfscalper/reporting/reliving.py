"""The entries of a run re-lived alone, as trades: see :mod:`mtfscalper.trading.reliving`.

The rules are those of training, which freqtrade's own backtester judges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.envs.episodes import candles_of
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.trades import with_exits
from mtfscalper.trading import reliving
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.trading.trading_rules import TradingRules


class ExitSignals(NamedTuple):
    """A strategy's own exits on the candles of a pair.

    :ivar long: whether the close of the candle ends a long at the next open, bool, shape (n_candles,), as ``short``
    """

    long: npt.NDArray[np.bool_]
    short: npt.NDArray[np.bool_]


def relive(
    entries: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
    *,
    leave_after: npt.NDArray[np.int64] | None = None,
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
    ends = reliving.Exits(np.zeros(n, np.int64), np.zeros(n), np.zeros(n), np.zeros(n, np.int64))
    close_ms = np.zeros(n, dtype=np.int64)
    for pair, where in entries.groupby("pair").indices.items():
        tape, of_pair = tapes[str(pair)], entries.iloc[where]
        begun = reliving.Entries(
            is_short=of_pair["is_short"].to_numpy(dtype=bool),
            first=np.searchsorted(tape.dates_ms, of_pair["open_ms"].to_numpy()),
            open_rate=of_pair["open_rate"].to_numpy(dtype=np.float64),
            leverage=of_pair["leverage"].to_numpy(dtype=np.float64),
            leave_after=None if leave_after is None else leave_after[where],
        )
        candles = candles_of([tape])
        if signals is not None and str(pair) in signals:
            own = signals[str(pair)]
            # A signal at the close of row k - 1 is carried out at the open of candle k.
            candles = candles._replace(long_exit=np.roll(own.long, 1), short_exit=np.roll(own.short, 1))
        of_ends = reliving.relive(begun, candles, rules[str(pair)])
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
