"""Which candles of an exchange's answer can be true."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mtfscalper.freqai.live_candles import (
    CLOSE,
    DATE,
    HIGH,
    LOW,
    OPEN,
    RECENT,
    VOLUME,
    Rows,
    Sifted,
    as_rows,
    frame_rows,
    sift,
    sift_frame,
)

FIVE_MINUTES_MS = 300_000
FIRST_MS = 1_725_000_000_000
N = 30
NOW_MS = FIRST_MS + N * FIVE_MINUTES_MS
REAL = Path(__file__).parents[3] / "shared" / "data" / "binance" / "futures"


def sound(n: int = N, price: float = 100.0) -> Rows:
    closes = price * (1 + 0.001 * np.sin(np.arange(n)))
    opens = np.append(price, closes[:-1])
    rows = np.empty((n, 6))
    rows[:, DATE] = FIRST_MS + FIVE_MINUTES_MS * np.arange(n)
    rows[:, OPEN], rows[:, CLOSE], rows[:, VOLUME] = opens, closes, 5.0
    rows[:, HIGH], rows[:, LOW] = np.maximum(opens, closes) * 1.0005, np.minimum(opens, closes) * 0.9995
    return rows


def sifted(rows: Rows, **others: object) -> Sifted:
    return sift(rows, FIVE_MINUTES_MS, NOW_MS, **others)  # type: ignore[arg-type]


def changed(at: int, **values: float) -> Rows:
    rows = sound()
    for name, value in values.items():
        rows[at, {"date": DATE, "open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE, "volume": VOLUME}[name]] = value
    return rows


def test_sound_candles_stay_as_they_are() -> None:
    found = sifted(sound())
    assert found.is_as_sent
    assert (found.refused, found.doubts) == ((), ())
    np.testing.assert_array_equal(found.rows, sound())


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"close": np.nan}, "without all numbers"),
        ({"high": np.inf}, "without all numbers"),
        ({"date": np.nan}, "without all numbers"),
        ({"date": 1.0}, "older than any"),
        ({"date": NOW_MS + 3_600_000.0}, "of the future"),
        ({"low": 0.0}, "a price that is none"),
        ({"open": -100.0}, "a price that is none"),
        ({"volume": -1.0}, "a price that is none"),
        ({"high": 99.0, "low": 101.0}, "a high below its low"),
        ({"high": 1e8}, "ten times off"),
        ({"low": 1e-4}, "ten times off"),
        ({"open": 1e8, "high": 1e8, "low": 1e8, "close": 1e8}, "ten times off"),
    ],
)
@pytest.mark.parametrize("at", [0, 12, N - 1])
def test_a_candle_that_cannot_be_true_is_left_out_and_named(values: dict[str, float], why: str, at: int) -> None:
    found = sifted(changed(at, **values))
    [refused] = found.refused
    assert why in refused
    assert refused.startswith("1 candle ")
    assert not found.is_as_sent
    np.testing.assert_array_equal(found.rows, np.delete(sound(), at, axis=0))


def test_a_price_that_stays_is_a_move_and_no_spike() -> None:
    """One candle later it is confirmed; the first one alone is not."""
    moved = sound()
    moved[15:, OPEN : CLOSE + 1] *= 20
    assert sifted(moved).refused == ()
    assert len(sifted(moved[:17]).rows) == 17
    assert len(sifted(moved[:16]).rows) == 15


def test_the_first_candle_of_a_short_answer_is_judged_by_what_was_before() -> None:
    spike = changed(N - 1, open=1e8, high=1e8, low=1e8, close=1e8)[-1:]
    before = sound()[:-1, CLOSE][-5:].tolist()
    assert len(sifted(spike, before=before).rows) == 0
    assert len(sifted(sound()[-1:], before=before).rows) == 1


def test_of_a_candle_sent_twice_the_last_stands() -> None:
    other = sound()[10].copy()
    other[CLOSE] = 100.01
    found = sifted(np.vstack([sound(), other]))
    [doubt] = found.doubts
    assert "1 candle sent twice with different numbers" in doubt
    assert len(found.rows) == N
    assert found.rows[10, CLOSE] == 100.01
    # The same again is nothing to tell.
    again = sifted(np.vstack([sound(), sound()[10]]))
    assert (again.refused, again.doubts, len(again.rows)) == ((), (), N)


def test_a_high_or_low_that_leaves_out_the_close_is_widened() -> None:
    found = sifted(changed(7, high=99.97, low=99.96))
    [doubt] = found.doubts
    assert "widened" in doubt
    assert found.rows[7, HIGH] == sound()[7, [OPEN, CLOSE]].max()
    assert found.rows[7, LOW] == min(99.96, sound()[7, [OPEN, CLOSE]].min())


def test_what_is_doubtful_or_missing_is_told_while_it_is_new_and_traded_as_it_is() -> None:
    wick = changed(20, low=40.0)
    found = sifted(wick)
    assert found.is_as_sent
    assert "1 candle with a far high or low" in found.doubts[0]
    assert "3 candles missing (after" in sifted(np.delete(sound(), [8, 9, 10], axis=0)).doubts[0]
    more = np.delete(sound(RECENT + 2), 1, axis=0)
    assert sift(more, FIVE_MINUTES_MS, int(more[-1, DATE])).doubts == ()


def test_what_is_no_table_of_numbers_is_refused_whole() -> None:
    """ccxt takes half a JSON text for a list of candles, one for each of its letters."""
    half = [[1, None, None, None, None, None], [7, None, None, None, None, None], None, "x", [3], ["a"] * 6]
    found = sifted(as_rows(half))  # type: ignore[arg-type]
    assert len(found.rows) == 0
    assert found.refused == ("6 candles without all numbers (1970-01-01 00:00 and others)",)


def test_a_frame_is_filled_as_freqtrade_fills_one() -> None:
    frame = pd.DataFrame(changed(12, close=-1.0)[:, 1:], columns=["open", "high", "low", "close", "volume"])
    frame.insert(0, "date", pd.to_datetime(sound()[:, DATE].astype("int64"), unit="ms", utc=True))
    left, found = sift_frame(frame, "BTC/USDT:USDT", "5m", datetime.fromtimestamp(NOW_MS / 1000, UTC))
    assert len(found.refused) == 1
    assert left["date"].tolist() == frame["date"].tolist()
    flat = left.iloc[12]
    assert flat[["open", "high", "low", "close"]].tolist() == [frame["close"].iloc[11]] * 4
    assert flat["volume"] == 0
    assert sift_frame(left, "BTC/USDT:USDT", "5m", datetime.fromtimestamp(NOW_MS / 1000, UTC))[0] is left


@pytest.mark.skipif(not REAL.is_dir(), reason="no stored candles of Binance beside the repository")
def test_of_eight_months_of_real_candles_none_is_refused_or_doubted() -> None:
    n_candles = 0
    for path in sorted(REAL.glob("*-futures.feather")):
        frame, timeframe = pd.read_feather(path), path.stem.split("-")[1]
        rows = frame_rows(frame)
        for stop in range(1000, len(rows) + 1, 1000):
            answer = rows[stop - 1000 : stop]
            found = sift(answer, {"5m": 1, "15m": 3, "1h": 12}[timeframe] * FIVE_MINUTES_MS, int(answer[-1, DATE]))
            assert (found.refused, found.doubts) == ((), ()), path.name
            n_candles += len(answer)
    assert n_candles > 390_000
