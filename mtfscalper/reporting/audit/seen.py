"""The trades of a run as an audit looks at them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mtfscalper.freqai.candle_clock import candle_open_ms
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.audit.causes import Seen


def seen_trades(
    trades: pd.DataFrame, tapes: Mapping[str, MarketTape], timeframe_ms: int
) -> tuple[pd.DataFrame, list[Seen]]:
    """Those of a run's trades that the data have the candles of, with one after the entry.

    :param trades: as freqtrade exports them; ``close_timestamp`` is missing where a trade is open
    :return: their rows, with an end for what is open, and the trades in the same order
    """
    opens = {pair: dict(zip(tape.dates_ms.tolist(), tape.open.tolist(), strict=True)) for pair, tape in tapes.items()}
    rows, found = [], []
    for at, row in enumerate(trades.to_dict("records")):
        trade = _seen(row, opens.get(row["pair"], {}), timeframe_ms)
        if trade is not None and trade.filled_ms < tapes[trade.pair].dates_ms[-1]:
            rows.append(at)
            found.append(trade)
    made = trades.iloc[rows].reset_index(drop=True)
    if len(made):
        is_open = made["close_timestamp"].isna()
        last = {pair: pd.Timestamp(int(tape.dates_ms[-1]), unit="ms", tz="UTC") for pair, tape in tapes.items()}
        made = made.assign(
            close_date=made["close_date"].where(~is_open, made["pair"].map(last)).astype("datetime64[ms, UTC]"),
            close_rate=made["close_rate"].where(~is_open, made["open_rate"]),
            **{name: made[name].fillna(0.0) for name in ("profit_ratio", "profit_abs")},
        )
    return made, found


def _seen(row: dict[Any, Any], opens: Mapping[int, float], timeframe_ms: int) -> Seen | None:
    opened_ms = int(row["open_timestamp"])
    entry_ms = candle_open_ms(timeframe_ms, opened_ms)
    side = "short" if row["is_short"] else "long"
    entry_side = "sell" if row["is_short"] else "buy"
    orders = row["orders"] if isinstance(row.get("orders"), list) else []
    filled = [order for order in orders if order.get("order_filled_timestamp")]
    entries = [order for order in filled if order["ft_order_side"] == entry_side]
    filled_ms = candle_open_ms(timeframe_ms, int(entries[0]["order_filled_timestamp"])) if entries else entry_ms
    is_open = pd.isna(row["close_timestamp"])
    exit_ms = None if is_open else candle_open_ms(timeframe_ms, int(row["close_timestamp"]))
    if filled_ms not in opens or entry_ms not in opens or (exit_ms is not None and exit_ms not in opens):
        return None
    # One entry, and one exit where it has ended.
    usual = 1 if is_open else 2
    adjusted = sorted(int(order["order_filled_timestamp"]) for order in filled)[1:-1] if len(filled) > usual else []
    if len(filled) > usual and not adjusted:
        adjusted = [int(filled[-1]["order_filled_timestamp"])]
    return Seen(
        pair=row["pair"],
        side=side,
        opened_ms=opened_ms,
        entry_ms=entry_ms,
        filled_ms=filled_ms,
        open_rate=float(row["open_rate"]),
        market_rate=opens[entry_ms],
        exit_ms=exit_ms,
        close_rate=0.0 if is_open else float(row["close_rate"]),
        reason="" if is_open else str(row["exit_reason"]),
        profit_ratio=None if is_open else float(row["profit_ratio"]),
        initial_stop=float(row.get("initial_stop_loss_abs") or 0.0),
        last_stop=float(row.get("stop_loss_abs") or 0.0),
        adjusted_ms=candle_open_ms(timeframe_ms, adjusted[0]) if adjusted else None,
        leverage=float(row["leverage"] or 1.0),
    )
