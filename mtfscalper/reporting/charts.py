"""Stretches of candles that are shown with their trades: a whole run has more candles than a page can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape

# Two days of five-minute candles: more would be thinner than a line on a screen.
CANDLES_SHOWN = 576
# Pairs whose candles are shown, those with the most trades first.
PAIRS_SHOWN = 12
_AROUND = 12


class AskedTrade(NamedTuple):
    """What a policy was asked about one trade, candle by candle, and what it answered.

    :ivar dates_ms: milliseconds since 1970
    :ivar probabilities: of leaving
    """

    dates_ms: list[int]
    probabilities: list[float]
    leaves: list[bool]


class ChosenCandles(NamedTuple):
    """The stretch of a pair's candles in which most trades were entered.

    :ivar of: how many candles the run had
    :ivar rates: open, high, low and close, a row a candle
    :ivar trades: their positions in the run's trades
    :ivar asked: about those trades; empty without a policy or its record
    """

    pair: str
    of: int
    dates_ms: list[int]
    rates: list[list[float]]
    trades: list[int]
    asked: list[AskedTrade]


def chosen_candles(
    trades: pd.DataFrame, tapes: Mapping[str, MarketTape], questions: pd.DataFrame | None
) -> tuple[ChosenCandles, ...]:
    """Choose a stretch of each pair that was traded.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param tapes: the candles of the run, by pair
    :param questions: the record of decisions, None where there is none
    """
    pairs = trades["pair"].value_counts(sort=True).index[:PAIRS_SHOWN] if len(trades) else ()
    return tuple(_chosen(trades[trades["pair"] == pair], tapes[pair], pair, questions) for pair in pairs)


def _chosen(trades: pd.DataFrame, tape: MarketTape, pair: str, questions: pd.DataFrame | None) -> ChosenCandles:
    opened = np.searchsorted(tape.dates_ms, np.sort(trades["open_ms"].to_numpy()))
    # The window that begins a little before one entry and has the most of the others; of equals the latest.
    within = np.searchsorted(opened, opened + CANDLES_SHOWN - 2 * _AROUND) - np.arange(len(opened))
    best = len(within) - 1 - int(np.argmax(within[::-1]))
    first = max(min(int(opened[best]) - _AROUND, len(tape) - CANDLES_SHOWN), 0)
    shown = slice(first, min(first + CANDLES_SHOWN, len(tape)))
    dates_ms = tape.dates_ms[shown]
    inside = trades[(trades["open_ms"] >= dates_ms[0]) & (trades["close_ms"] <= dates_ms[-1])]
    rates = np.stack([tape.open[shown], tape.high[shown], tape.low[shown], tape.close[shown]], axis=1)
    return ChosenCandles(
        pair, len(tape), dates_ms.tolist(), rates.tolist(), inside.index.tolist(), _asked(inside, pair, questions)
    )


def _asked(trades: pd.DataFrame, pair: str, questions: pd.DataFrame | None) -> list[AskedTrade]:
    if questions is None:
        return []
    of_pair = questions[questions["pair"] == pair]
    opened_ms = of_pair["opened"].dt.as_unit("ms").astype("int64")
    of_pair = of_pair.assign(opened_ms=opened_ms, candle_ms=of_pair["candle"].dt.as_unit("ms").astype("int64"))[
        opened_ms.isin(trades["open_ms"])
    ]
    return [
        AskedTrade(rows["candle_ms"].tolist(), rows["probability"].tolist(), rows["leave"].tolist())
        for _, rows in of_pair.sort_values("candle_ms").groupby("opened_ms")
    ]
