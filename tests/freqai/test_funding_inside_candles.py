"""Funding that falls inside a candle, where no tape has a place for it, is named."""

import numpy as np
import pandas as pd
import pytest

from mtfscalper.freqai.funding import Funding

PAIR = "BTC/USDT:USDT"


def due(timeframe: str, hours: int, caplog: pytest.LogCaptureFixture) -> np.ndarray:
    """Funding of one at each funding time, at the opens of six candles."""
    funding = Funding({"trading_mode": "futures", "timeframe": timeframe}, None)
    times = pd.date_range("2024-01-01", periods=13, freq=f"{hours}h", tz="UTC")
    funding._due_by_pair[PAIR] = pd.Series(1.0, index=times)
    caplog.clear()
    dates = pd.Series(pd.date_range("2024-01-01", periods=6, freq=pd.Timedelta(timeframe), tz="UTC"))
    funding.due(PAIR, dates)
    return funding.due(PAIR, dates)


def test_funding_times_inside_candles_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    assert due("4h", 1, caplog).tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    (record,) = caplog.records
    assert "9 of 13 funding times lie inside candles of 4h" in record.getMessage()
    assert "at most 0 days 01:00:00" in record.getMessage()


@pytest.mark.parametrize(("timeframe", "hours"), [("5min", 1), ("1h", 1), ("4h", 8), ("1h", 4)])
def test_funding_at_the_opens_of_candles_is_not(timeframe: str, hours: int, caplog: pytest.LogCaptureFixture) -> None:
    due(timeframe.replace("min", "m"), hours, caplog)
    assert caplog.records == []
