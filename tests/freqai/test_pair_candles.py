"""A pair's candles are made in one place: every tape of a run has the same prices, price steps and funding."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ccxt import DECIMAL_PLACES, SIGNIFICANT_DIGITS, TICK_SIZE
from freqai_runs import PAIR, FreqtradeBacktest, Watch

from mtfscalper.freqai.candles import CandleSource, PairCandles, exchange_price_scale
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import PRICE_COLUMNS, MarketTape, TapeError

FIVE_MINUTES = pd.Timedelta(minutes=5)


def whole_candles(n: int = 8) -> pd.DataFrame:
    """Candles of whole prices, which show no price steps of their own."""
    dates = pd.date_range("2024-10-31 23:40", periods=n, freq="5min", tz="UTC")
    rates = {name: 100.0 + np.arange(n) for name in PRICE_COLUMNS}
    return pd.DataFrame({"date": dates, **rates, LONG_SIGNAL: np.arange(n) % 2, SHORT_SIGNAL: 0})


def spot_candles(frame: pd.DataFrame, entry_mode: Any = "gated") -> PairCandles:
    """What a source makes of a frame, on an exchange with a price step of 0.01."""
    exchange = SimpleNamespace(get_precision_price=lambda pair: 0.01, precision_mode_price=TICK_SIZE)
    source = CandleSource({"timeframe": "5m"}, SimpleNamespace(_exchange=exchange))  # type: ignore[arg-type]
    source.signals_needed = entry_mode != "agent"
    return source.candles(PAIR, frame)


def features(rows: pd.DataFrame) -> np.ndarray:
    return np.arange(2.0 * len(rows)).reshape(len(rows), 2)


def test_tapes_of_training_and_of_a_period_have_the_price_steps_of_the_exchange() -> None:
    frame = whole_candles()
    candles = spot_candles(frame)
    training = candles.tape(frame[:4], features(frame[:4]))
    period = candles.tape(frame[4:6], features(frame[4:6]), with_next=True)
    assert training.price_scale.tolist() == [100.0] * 4
    assert period.price_scale.tolist() == [100.0] * 3


def test_a_training_on_a_part_of_a_month_sees_the_price_steps_of_the_whole_month() -> None:
    frame = whole_candles()
    # Shown by the last candle of October alone.
    frame.loc[3, "close"] = 103.125
    assert spot_candles(frame).tape(frame[:2], features(frame[:2])).price_scale.tolist() == [1000.0, 1000.0]


def test_a_tape_holds_the_candles_own_prices_and_the_rows_signals_and_features() -> None:
    frame = whole_candles()
    # A strategy that changes its prices, and has dropped a row without features.
    rows = frame.drop(index=2).iloc[:4].assign(close=1.0, open=1.0)
    usable = np.array([True, False, True, True])
    tape = spot_candles(frame).tape(rows, features(rows), usable, with_next=True)
    assert tape.close.tolist() == [100.0, 101.0, 103.0, 104.0, 105.0]
    assert tape.long_signal.tolist() == [False, True, True, False, False]
    assert tape.usable.tolist() == [True, False, True, True, False]
    np.testing.assert_array_equal(tape.features[[0, 2, 3]], features(rows)[[0, 2, 3]])
    assert tape.segments == ((0, 2), (2, 5))


def test_after_the_last_candle_there_is_no_next_one() -> None:
    frame = whole_candles()
    assert len(spot_candles(frame).tape(frame[5:], features(frame[5:]), with_next=True)) == 3


def test_signals_are_asked_for_where_the_entry_mode_reads_them() -> None:
    frame = whole_candles().drop(columns=[LONG_SIGNAL, SHORT_SIGNAL])
    with pytest.raises(TapeError, match=r"has no column classic_long and classic_short"):
        spot_candles(frame).tape(frame, features(frame))
    assert not spot_candles(frame, "agent").tape(frame, features(frame)).long_signal.any()


def test_a_row_without_a_candle_is_refused() -> None:
    frame = whole_candles()
    rows = frame.assign(date=frame["date"] + 5 * FIVE_MINUTES)
    with pytest.raises(TapeError, match=r"5 of 8 rows have a date that is none of the pair's candles; accepted: .*"):
        spot_candles(frame).tape(rows, features(rows))


def test_all_tapes_of_a_backtest_agree_on_every_candle(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On whole prices, where a tape that inferred price steps from its own rows would find 1 in a unit."""
    shutil.copytree(market, tmp_path / "market")
    for file in (tmp_path / "market" / "futures").glob("BTC_USDT_USDT-*-futures.feather"):
        frame = pd.read_feather(file)
        frame[list(PRICE_COLUMNS)] = frame[list(PRICE_COLUMNS)].round(0)
        frame.to_feather(file)
    Watch(monkeypatch)
    real = MarketTape.from_frame
    tapes: list[MarketTape] = []

    def from_frame(*arguments: Any, **keywords: Any) -> MarketTape:
        tapes.append(real(*arguments, **keywords))
        return tapes[-1]

    monkeypatch.setattr(MarketTape, "from_frame", from_frame)
    run = FreqtradeBacktest(tmp_path, tmp_path / "market")
    run.run()
    # Of each period: training, evaluation, prediction.
    assert len(tapes) == 9
    (scale,) = exchange_price_scale(run.backtesting.exchange, PAIR, np.ones(1))
    assert scale > 1.0
    known: dict[int, tuple[float, ...]] = {}
    met_again = 0
    for tape in tapes:
        assert set(tape.price_scale) == {scale}
        columns = (tape.dates_ms, tape.open, tape.high, tape.low, tape.close, tape.price_scale, tape.funding)
        for date_ms, *candle in zip(*(column.tolist() for column in columns), strict=True):
            met_again += date_ms in known
            assert known.setdefault(date_ms, tuple(candle)) == tuple(candle)
    assert met_again > 500


@pytest.mark.parametrize(
    ("precision", "mode", "scale"),
    [
        (0.1, TICK_SIZE, 10.0),
        (1e-5, TICK_SIZE, 1e5),
        (0.25, TICK_SIZE, 4.0),
        (5.0, TICK_SIZE, 0.2),
        (3, DECIMAL_PLACES, 1000.0),
        # 123.45, as five digits.
        (5, SIGNIFICANT_DIGITS, 100.0),
        # freqtrade rounds no rate.
        (None, TICK_SIZE, 1e8),
    ],
)
def test_the_exchanges_price_steps_are_counted_in_a_unit(precision: float | None, mode: int, scale: float) -> None:
    exchange = SimpleNamespace(get_precision_price=lambda pair: precision, precision_mode_price=mode)
    assert exchange_price_scale(exchange, PAIR, np.array([123.45])).tolist() == [scale]  # type: ignore[arg-type]
