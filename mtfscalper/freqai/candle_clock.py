"""Which candle a moment belongs to, on every timeframe that an exchange has."""

from __future__ import annotations

from datetime import UTC, datetime

from freqtrade.exchange import timeframe_to_seconds

_WEEK_MS = 7 * 86_400_000
# 1970 began on a Thursday, and a week's candle opens on a Monday.
_FIRST_MONDAY_MS = 4 * 86_400_000


def candle_open_ms(timeframe_ms: int, moment_ms: int) -> int:
    """When the candle of a moment opened; both in milliseconds since 1970.

    :param timeframe_ms: of candles of equal length: months have :func:`candle_open`
    """
    phase = _FIRST_MONDAY_MS if timeframe_ms % _WEEK_MS == 0 else 0
    return (moment_ms - phase) // timeframe_ms * timeframe_ms + phase


def candle_open(timeframe: str, moment: datetime) -> datetime:
    """When the candle of a moment opened.

    :param timeframe: as freqtrade writes it
    :param moment: with its time zone
    """
    if timeframe.endswith("M"):
        months = _months(moment) // int(timeframe[:-1]) * int(timeframe[:-1])
        return datetime(months // 12, months % 12 + 1, 1, tzinfo=UTC)
    opened_ms = candle_open_ms(timeframe_to_seconds(timeframe) * 1000, milliseconds(moment))
    return datetime.fromtimestamp(opened_ms / 1000, UTC)


def candles_between(timeframe: str, first: datetime, last: datetime) -> int:
    """Candles that opened after that of a first moment, up to that of a last one.

    :param timeframe: as freqtrade writes it
    """
    if timeframe.endswith("M"):
        months = int(timeframe[:-1])
        return _months(last) // months - _months(first) // months
    timeframe_ms = timeframe_to_seconds(timeframe) * 1000
    opens = [candle_open_ms(timeframe_ms, milliseconds(moment)) for moment in (first, last)]
    return (opens[1] - opens[0]) // timeframe_ms


def milliseconds(moment: datetime) -> int:
    """A moment in milliseconds since 1970."""
    return int(moment.timestamp() * 1000)


def _months(moment: datetime) -> int:
    utc = moment.astimezone(UTC)
    return utc.year * 12 + utc.month - 1
