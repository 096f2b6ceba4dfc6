"""Candles begin where the exchange begins them, on every timeframe."""

from datetime import UTC, datetime

import pytest
from freqtrade.exchange import timeframe_to_msecs

from mtfscalper.freqai.candle_clock import candle_open, candle_open_ms, candles_between


@pytest.mark.parametrize(
    ("timeframe", "opened"),
    [
        ("1m", "2024-10-31T13:44"),
        ("5m", "2024-10-31T13:40"),
        ("1h", "2024-10-31T13:00"),
        ("4h", "2024-10-31T12:00"),
        ("1d", "2024-10-31T00:00"),
        # A Thursday: the week's candle began on Monday, whatever day 1970 began with.
        ("1w", "2024-10-28T00:00"),
        ("1M", "2024-10-01T00:00"),
    ],
)
def test_a_moment_belongs_to_the_candle_that_opened_last(timeframe: str, opened: str) -> None:
    moment = datetime(2024, 10, 31, 13, 44, 59, 999_000, tzinfo=UTC)
    expected = datetime.fromisoformat(opened).replace(tzinfo=UTC)
    assert candle_open(timeframe, moment) == expected
    assert candle_open(timeframe, expected) == expected
    if not timeframe.endswith("M"):
        in_ms = candle_open_ms(timeframe_to_msecs(timeframe), int(moment.timestamp() * 1000))
        assert in_ms == int(expected.timestamp() * 1000)


@pytest.mark.parametrize(
    ("timeframe", "last", "n"),
    [
        ("5m", "2024-01-31T23:59", 0),
        ("5m", "2024-02-01T00:00", 1),
        ("1h", "2024-02-01T02:30", 3),
        ("1d", "2024-02-03T00:00", 3),
        # From Wednesday to the second Monday after it.
        ("1w", "2024-02-12T00:00", 2),
        ("1w", "2024-02-11T23:59", 1),
        ("1M", "2024-12-31T23:59", 11),
        ("1M", "2025-01-01T00:00", 12),
    ],
)
def test_candles_are_counted_by_their_opens(timeframe: str, last: str, n: int) -> None:
    first = datetime(2024, 1, 31, 23, 57, 12, tzinfo=UTC)
    assert candles_between(timeframe, first, datetime.fromisoformat(last).replace(tzinfo=UTC)) == n
