"""What tests remember of candles is what freqtrade would read and make of them now."""

import logging
import os
from pathlib import Path

import freqtrade.strategy
import numpy as np
import pandas as pd
import pytest
from candles_read_once import remember
from freqtrade.configuration import TimeRange
from freqtrade.data.history import load_pair_history
from freqtrade.data.history.datahandlers import featherdatahandler
from freqtrade.enums import CandleType
from freqtrade.optimize import backtesting
from freqtrade.strategy import strategy_helper

PAIR = "BTC/USDT:USDT"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    remember()
    path = tmp_path / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    path.parent.mkdir()
    write(path, 1.25)
    return path


def write(path: Path, rate: float) -> None:
    dates = pd.date_range("2024-09-01", periods=20, freq="5min", tz="UTC")
    pd.DataFrame({"date": dates, "open": rate, "high": rate, "low": rate, "close": rate, "volume": 1.0}).to_feather(
        path
    )


def read(path: Path, first: str = "20240901") -> pd.DataFrame:
    return load_pair_history(
        PAIR, "5m", path.parents[1], timerange=TimeRange.parse_timerange(f"{first}-"), candle_type=CandleType.FUTURES
    )


def test_a_file_is_read_once_until_it_changes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    handler = featherdatahandler.FeatherDataHandler
    real = handler._ohlcv_load
    monkeypatch.setattr(handler, "_ohlcv_load", lambda *args, **more: (reads.append(file), real(*args, **more))[1])
    first = read(file)
    again = read(file)
    pd.testing.assert_frame_equal(again, first)
    assert len(reads) == 1
    # What one run does to its candles no other sees.
    again.loc[3, "close"] = 9.0
    again["more"] = 1
    pd.testing.assert_frame_equal(read(file), first)
    status = os.stat(file)
    write(file, 2.25)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert set(read(file)["close"]) == {2.25}
    assert len(reads) == 2
    # Another part of it is another reading.
    read(file, "20240902")
    assert len(reads) == 3


def test_what_a_reading_logs_is_logged_each_time(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            read(file, "20240801")
        told.append([(record.name, record.levelno, record.getMessage()) for record in caplog.records])
    assert "data starts at 2024-09-01 00:00:00" in told[0][0][2]
    assert told[1] == told[0]


def test_the_steps_of_prices_are_worked_out_once_and_leave_the_same_columns(file: Path) -> None:
    frames = [read(file), read(file)]
    sizes = [backtesting.get_tick_size_over_time(frame) for frame in frames]
    assert "max_count" in frames[0]
    pd.testing.assert_frame_equal(*frames)
    pd.testing.assert_series_equal(*sizes)
    assert sizes[0].tolist() == [0.01]
    write(file, 1.5)
    assert backtesting.get_tick_size_over_time(read(file)).tolist() == [0.1]


def test_timeframes_are_merged_once_until_a_value_of_theirs_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    remember()
    dates = pd.date_range("2024-09-01", periods=36, freq="5min", tz="UTC")
    own = pd.DataFrame({"date": dates, "close": np.arange(36.0), "tag": ["a", None] * 18, "n": np.arange(36)})
    longer = pd.DataFrame({"date": dates[::3], "rsi": np.random.default_rng(1).normal(size=12)})
    changed = longer.assign(rsi=longer["rsi"].where(longer["rsi"].index != 5, 0.0))
    renamed = longer.rename(columns={"rsi": "mfi"})
    merges: list[int] = []
    real = strategy_helper._merge_prepared_informative_pair
    monkeypatch.setattr(
        strategy_helper,
        "_merge_prepared_informative_pair",
        lambda *args, **more: (merges.append(1), real(*args, **more))[1],
    )
    frames = [own, own.assign(tag="b"), own.assign(n=1), own.astype({"n": "int32"}), own.set_index(own.index + 1)]
    for n, (left, right) in enumerate([*((one, longer) for one in frames), (own, changed), (own, renamed)]):
        plain = strategy_helper.merge_informative_pair(left, right, "5m", "15m", ffill=True)
        for _ in range(2):
            merged = freqtrade.strategy.merge_informative_pair(left, right, "5m", "15m", ffill=True)
            pd.testing.assert_frame_equal(merged, plain)
            merged["close"] = 0.0
        assert len(merges) == 2 * (n + 1)
    without = freqtrade.strategy.merge_informative_pair(own, longer, "5m", "15m", ffill=False)
    assert without["rsi_15m"].isna().any()
