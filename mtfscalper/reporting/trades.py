"""Trades as a report compares them: those of a backtest and those that were re-lived, in one form."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.market.tape import MarketTape

# One row a trade. Money is in stake currency: ``profit = gross - fees + funding``; ``funding`` is negative if it was
# paid. ``profit_ratio`` is freqtrade's, a share of the stake after costs, leverage included. ``close_ms`` is the candle
# of the exit, as ``open_ms`` is that of the entry; ``held_candles`` lie between the two.
COLUMNS = (
    *("pair", "is_short", "leverage", "stake", "fee_ratio", "open_ms", "close_ms", "open_rate", "close_rate"),
    *("held_candles", "profit_ratio", "profit", "gross", "fees", "funding", "exit_reason"),
)


def trades_of_freqtrade(trades: pd.DataFrame, timeframe_ms: int) -> pd.DataFrame:
    """The trades of a backtest, with :data:`COLUMNS`.

    :param trades: as freqtrade exports them
    """
    if trades.empty:
        return pd.DataFrame({name: [] for name in COLUMNS})
    amount = trades["amount"].astype(float)
    fees = amount * (trades["open_rate"] * trades["fee_open"] + trades["close_rate"] * trades["fee_close"])
    opened, closed = (
        trades[f"{name}_date"].dt.as_unit("ms").astype("int64") // timeframe_ms * timeframe_ms
        for name in ("open", "close")
    )
    funding = trades["funding_fees"].fillna(0.0).astype(float)
    profit = trades["profit_abs"].astype(float)
    frame = pd.DataFrame(
        {
            "pair": trades["pair"],
            "is_short": trades["is_short"].astype(bool),
            "leverage": trades["leverage"].astype(float),
            "stake": trades["stake_amount"].astype(float),
            "fee_ratio": trades["fee_open"].astype(float),
            "open_ms": opened,
            "close_ms": closed,
            "open_rate": trades["open_rate"].astype(float),
            "close_rate": trades["close_rate"].astype(float),
            "held_candles": (closed - opened) // timeframe_ms,
            "profit_ratio": trades["profit_ratio"].astype(float),
            "profit": profit,
            "gross": profit + fees - funding,
            "fees": fees,
            "funding": funding,
            "exit_reason": trades["exit_reason"].astype(str),
        }
    )
    return frame.reset_index(drop=True)


def with_exits(entries: pd.DataFrame, tapes: dict[str, MarketTape], exits: pd.DataFrame) -> pd.DataFrame:
    """The same entries with other exits, with :data:`COLUMNS`.

    :param entries: with :data:`COLUMNS`
    :param exits: ``close_ms``, ``close_rate``, ``profit_ratio`` and ``exit_reason``, one row an entry
    """
    side = np.where(entries["is_short"], -1.0, 1.0)
    stake, fee_ratio = entries["stake"].to_numpy(), entries["fee_ratio"].to_numpy()
    amount = stake * entries["leverage"].to_numpy() / entries["open_rate"].to_numpy()
    close_ms, close_rate = exits["close_ms"].to_numpy(), exits["close_rate"].to_numpy()
    funding = np.zeros(len(entries))
    timeframe_ms = 1
    for pair, where in entries.groupby("pair").indices.items():
        tape = tapes[str(pair)]
        timeframe_ms = tape.timeframe_ms
        due = funding_due(tape, entries["open_ms"].to_numpy()[where], close_ms[where])
        funding[where] = -side[where] * amount[where] * due
    # freqtrade's ratio refers to the open value with its fee, the stake to the open value without.
    profit = exits["profit_ratio"].to_numpy() * stake * (1 + side * fee_ratio)
    fees = amount * (entries["open_rate"].to_numpy() + close_rate) * fee_ratio
    changed: dict[str, Any] = {
        "close_ms": close_ms,
        "close_rate": close_rate,
        "held_candles": (close_ms - entries["open_ms"].to_numpy()) // timeframe_ms,
        "profit_ratio": exits["profit_ratio"].to_numpy(),
        "profit": profit,
        "gross": profit + fees - funding,
        "fees": fees,
        "funding": funding,
        "exit_reason": exits["exit_reason"].to_numpy(),
    }
    return entries.assign(**changed)


def funding_due(
    tape: MarketTape, first_ms: npt.NDArray[np.int64], last_ms: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Funding due on one unit of the asset from the open of a first candle to that of a last one, both included.

    :return: quote currency, a long's to pay, shape (n,)
    """
    total = np.concatenate([[0.0], np.cumsum(tape.funding)])
    first = np.searchsorted(tape.dates_ms, first_ms)
    stop = np.searchsorted(tape.dates_ms, last_ms, side="right")
    due = total[stop] - total[first]
    if tape.funding_within is not None:
        within = np.concatenate([[0.0], np.cumsum(tape.funding_within)])
        # Of the candles that were over by then.
        over = np.searchsorted(tape.dates_ms + tape.timeframe_ms - 1, last_ms, side="right")
        due = due + within[np.maximum(over, first)] - within[first]
    return np.asarray(due)
