"""Closed trades, as records to report and compare."""

from __future__ import annotations

from typing import NamedTuple

from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason, Fill


class ClosedTrade(NamedTuple):
    """One trade, with freqtrade's words for its fields.

    :ivar open_ms: opening time of the entry candle, milliseconds since 1970 UTC; ``close_ms`` of the exit candle
    :ivar profit_ratio: profit after costs as a share of the stake
    """

    pair: str
    is_short: bool
    open_ms: int
    close_ms: int
    open_rate: float
    close_rate: float
    exit_reason: str
    profit_ratio: float


def closed_trade(pair: str, fill: Fill, close_ms: int, timeframe_ms: int) -> ClosedTrade:
    """The record of a fill that closed a trade, of one environment.

    :param close_ms: opening time of the candle of the fill
    """
    return ClosedTrade(
        pair=pair,
        is_short=fill.side < 0,
        open_ms=int(close_ms - fill.held_candles * timeframe_ms),
        close_ms=int(close_ms),
        open_rate=float(fill.open_rate),
        close_rate=float(fill.close_rate),
        exit_reason=EXIT_REASON_NAMES[ExitReason(int(fill.reason))],
        profit_ratio=float(fill.profit_ratio),
    )
