"""The candles that a run was traded on, read again from its data directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_pair_history
from freqtrade.exchange import Exchange, timeframe_to_msecs

from mtfscalper.freqai.candles import CandleSource
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.run_result import DAY_SECONDS, ReportError, RunResult


def tapes_of_run(
    result: RunResult, config: dict[str, Any], exchange: Exchange, *, checked: bool = True
) -> dict[str, MarketTape]:
    """The candles of each pair from the run's first to its last, with funding and price steps, by pair.

    :param config: for freqtrade's classes
    :param checked: whether each trade must have been entered at a rate of its candle, as a backtest's is
    :raises ReportError: if a traded pair has none, or others than the run
    """
    source = CandleSource(config, DataProvider(config, exchange))
    tapes = {}
    for pair in result.pairs:
        frame = _loaded(result, pair)
        if not frame.empty:
            tapes[pair] = _tape(result, pair, source.candles(pair, frame).frame)
    if checked:
        _check(result, tapes)
    return tapes


def _loaded(result: RunResult, pair: str) -> pd.DataFrame:
    """The candles that freqtrade had loaded, up to a few at the start."""
    days = float(result.freqai.get("train_period_days", 0))
    # The last candle too, which freqtrade's timerange includes.
    first, last = int(result.first_ms / 1000 - days * DAY_SECONDS), result.last_ms // 1000
    frame: pd.DataFrame = load_pair_history(
        pair=pair,
        timeframe=result.timeframe,
        datadir=result.datadir,
        timerange=TimeRange("date", "date", first, last),
        data_format=result.data_format,
        candle_type=result.candle_type,
    )
    return frame


def _tape(result: RunResult, pair: str, frame: pd.DataFrame) -> MarketTape:
    # Price steps are seen in all the candles that were loaded; trades live on those of the run.
    dates_ms = pd.DatetimeIndex(frame["date"]).as_unit("ms").astype("int64").to_numpy()
    inside = frame[(dates_ms >= result.first_ms) & (dates_ms <= result.last_ms)].reset_index(drop=True)
    return MarketTape.from_frame(
        inside,
        np.empty((len(inside), 0), dtype=np.float32),
        pair=pair,
        timeframe_ms=timeframe_to_msecs(result.timeframe),
        signals_needed=False,
    )


def _check(result: RunResult, tapes: Mapping[str, MarketTape]) -> None:
    """Refuse candles that the trades cannot have been made on."""
    remedy = f"accepted: the candles of the backtest; received: {result.datadir}; remedy: name them with --datadir"
    for pair, trades in result.trades.groupby("pair") if len(result.trades) else ():
        tape = tapes.get(str(pair))
        if tape is None:
            raise ReportError(f"{pair} was traded, and there are no candles of it; {remedy}")
        filled_ms, rates = _first_fills(trades)
        opened = filled_ms // tape.timeframe_ms * tape.timeframe_ms
        at = np.minimum(np.searchsorted(tape.dates_ms, opened), len(tape) - 1)
        known = tape.dates_ms[at] == opened
        # A step of the exchange beside the candle is rounding, not another market.
        slack = rates * 1e-4
        inside = known & (rates >= tape.low[at] - slack) & (rates <= tape.high[at] + slack)
        if not inside.all():
            raise ReportError(
                f"{pair}: {int((~inside).sum())} of {len(trades)} trades were entered at rates that their candles do "
                f"not reach; {remedy}"
            )


def _first_fills(trades: pd.DataFrame) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """When and at what rate each trade was first filled: an order may wait, and others may follow it."""
    fills = []
    for row in trades.to_dict("records"):
        orders = row["orders"] if isinstance(row.get("orders"), list) else []
        first = next((order for order in orders if order.get("ft_is_entry") and order["order_filled_timestamp"]), None)
        fills.append(
            (row["open_timestamp"], row["open_rate"])
            if first is None
            else (first["order_filled_timestamp"], first["safe_price"])
        )
    moments, rates = zip(*fills, strict=True)
    return np.array(moments, dtype=np.int64), np.array(rates, dtype=np.float64)
