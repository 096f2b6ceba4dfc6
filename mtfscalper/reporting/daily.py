"""Trades marked daily: what each earned on each day of its life, at the days' first opens (UTC)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.run_result import DAY_MS
from mtfscalper.reporting.trades import funding_due
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.rules import profit_ratio
from mtfscalper.trading.trading_rules import TradingRules


def daily_profits(
    trades: pd.DataFrame, tapes: Mapping[str, MarketTape], rules: Mapping[str, TradingRules]
) -> pd.DataFrame:
    """What each trade earned on each day that it touches: its profit if closed at the end of the day, less that before.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param rules: by pair, of which the fee counts
    :return: ``trade`` (its position), ``day`` (since 1970), ``profit_ratio`` (of the stake) and ``profit`` (stake
        currency); over its days a trade's sums are its own
    """
    parts = [_empty()]
    for pair, where in trades.groupby("pair").indices.items():
        parts.append(_of_pair(trades.iloc[where], np.asarray(where, dtype=np.intp), tapes[str(pair)], rules[str(pair)]))
    return pd.concat(parts, ignore_index=True).sort_values(["trade", "day"], ignore_index=True)


def _empty() -> pd.DataFrame:
    counts, shares = np.zeros(0, dtype=np.int64), np.zeros(0)
    return pd.DataFrame({"trade": counts, "day": counts, "profit_ratio": shares, "profit": shares})


def _of_pair(
    trades: pd.DataFrame, positions: npt.NDArray[np.intp], tape: MarketTape, rules: TradingRules
) -> pd.DataFrame:
    first_day = trades["open_ms"].to_numpy() // DAY_MS
    n_days = trades["close_ms"].to_numpy() // DAY_MS - first_day + 1
    row = np.repeat(np.arange(len(trades)), n_days)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(n_days) - n_days, n_days)
    day = first_day[row] + nth
    is_last = nth == n_days[row] - 1

    lived = trades.iloc[row]
    side = np.where(lived["is_short"], -1.0, 1.0)
    # The first candle of the next day; the day of the exit has the trade's own profit.
    end = np.minimum(np.searchsorted(tape.dates_ms, (day + 1) * DAY_MS), len(tape) - 1)
    due = funding_due(tape, lived["open_ms"].to_numpy(), tape.dates_ms[end] - 1)
    account = FLAT._replace(
        side=side,
        leverage=lived["leverage"].to_numpy(),
        open_rate=lived["open_rate"].to_numpy(),
        funding=-side * due,
    )
    marked = np.where(is_last, lived["profit_ratio"].to_numpy(), profit_ratio(rules, account, tape.open[end]))
    before = np.where(nth == 0, 0.0, np.roll(marked, 1))
    ratio = marked - before
    value = lived["stake"].to_numpy() * (1 + side * lived["fee_ratio"].to_numpy())
    # Rounded by freqtrade to eight decimals: the rest falls on the last day, so that sums are the trades' own.
    profit = ratio * value
    rest = lived["profit"].to_numpy() - lived["profit_ratio"].to_numpy() * value
    return pd.DataFrame(
        {"trade": positions[row], "day": day, "profit_ratio": ratio, "profit": profit + np.where(is_last, rest, 0.0)}
    )


def by_day(days: npt.NDArray[np.int64], values: npt.NDArray[np.float64], first: int, n: int) -> npt.NDArray[np.float64]:
    """Sums of values by day, for ``n`` days from a first one on."""
    return np.bincount(days - first, weights=values, minlength=n)[:n].astype(np.float64)


def daily_differences(marks: pd.DataFrame, others: pd.DataFrame) -> pd.Series[float]:
    """Profits of each day less those of the same entries with other exits, as shares of the stakes.

    :param marks: as :func:`daily_profits` gives them
    :param others: of the same entries, too
    :return: index ``day`` (since 1970), of the days on which either holds a trade
    """
    ours, theirs = (of.groupby("day")["profit_ratio"].sum() for of in (marks, others))
    return ours.sub(theirs, fill_value=0.0).sort_index()


def begun_by_day(trades: pd.DataFrame) -> pd.Series[int]:
    """How many trades begin on each day on which any does; index the day, since 1970.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    """
    return (trades["open_ms"] // DAY_MS).value_counts()
