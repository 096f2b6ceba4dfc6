"""The tape: raw prices and signals by position, gaps as segments, nothing that is not a number."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from freqtrade.data.btanalysis import get_tick_size_over_time
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import (
    ENTRY_COLUMNS,
    EXIT_COLUMNS,
    GATE_COLUMNS,
    PRICE_COLUMNS,
    MarketTape,
    TapeError,
    price_scale,
)
from mtfscalper.offline.synthetic import DEFAULT_START, generate_market

PAIR = "BTC/USDT:USDT"
FIVE_MINUTES_MS = 300_000
REAL_DATA = Path(os.environ.get("MTFSCALPER_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def candles(n: int = 6, start: str = "2024-10-01", **columns: Any) -> pd.DataFrame:
    """Candles whose every value tells its row: row i opens at 100 + i."""
    opens = 100.0 + np.arange(n)
    values = {
        "date": pd.date_range(start, periods=n, freq="5min", tz="UTC"),
        "open": opens,
        "high": opens + 0.5,
        "low": opens - 0.5,
        "close": opens + 0.25,
        LONG_SIGNAL: np.zeros(n, dtype=int),
        SHORT_SIGNAL: np.zeros(n, dtype=int),
    }
    return pd.DataFrame(values | columns)


def tape_of(frame: pd.DataFrame, features: npt.ArrayLike | None = None, **arguments: Any) -> MarketTape:
    if features is None:
        features = np.arange(2.0 * len(frame)).reshape(len(frame), 2)
    if "price_scale" not in frame:
        frame = frame.assign(price_scale=price_scale(frame, 1.0))
    arguments = {"pair": PAIR, "timeframe_ms": FIVE_MINUTES_MS, "signals_needed": True} | arguments
    return MarketTape.from_frame(frame, features, **arguments)


# ---------------------------------------------------------------------- what is on it


def test_prices_and_features_are_taken_by_position_whatever_the_index() -> None:
    frame = candles(4)
    frame.index = pd.Index([30, 10, 20, 10])
    features = pd.DataFrame({"a": [0.0, 1.0, 2.0, 3.0], "b": [9.0, 8.0, 7.0, 6.0]}, index=[3, 2, 1, 0])
    tape = tape_of(frame, features)
    assert tape.open.tolist() == [100.0, 101.0, 102.0, 103.0]
    assert tape.high.tolist() == [100.5, 101.5, 102.5, 103.5]
    assert tape.low.tolist() == [99.5, 100.5, 101.5, 102.5]
    assert tape.close.tolist() == [100.25, 101.25, 102.25, 103.25]
    assert tape.features.tolist() == [[0, 9], [1, 8], [2, 7], [3, 6]]
    assert len(tape) == 4
    assert tape.n_features == 2


def test_signals_are_taken_by_position_and_missing_ones_count_as_none() -> None:
    frame = candles(4, **{LONG_SIGNAL: [0, 1, np.nan, 0], SHORT_SIGNAL: [1, 0, 0, np.nan]})
    frame.index = pd.Index([3, 2, 1, 0])
    tape = tape_of(frame)
    assert tape.long_signal.tolist() == [False, True, False, False]
    assert tape.short_signal.tolist() == [True, False, False, False]


def test_a_candle_with_both_signals_has_neither_as_in_freqtrade() -> None:
    tape = tape_of(candles(3, **{LONG_SIGNAL: [1, 1, 0], SHORT_SIGNAL: [1, 0, 1]}))
    assert tape.long_signal.tolist() == [False, True, False]
    assert tape.short_signal.tolist() == [False, False, True]


def test_money_is_float64_and_features_are_float32() -> None:
    frame = candles(3).astype(dict.fromkeys(PRICE_COLUMNS, np.float32))
    tape = tape_of(frame, np.ones((3, 2), dtype=np.float64))
    money = (tape.open, tape.high, tape.low, tape.close, tape.funding, tape.price_scale)
    assert {values.dtype for values in money} == {np.dtype(np.float64)}
    assert tape.features.dtype == np.float32
    assert tape.dates_ms.dtype == np.int64
    assert (tape.long_signal.dtype, tape.usable.dtype) == (np.bool_, np.bool_)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_dates_are_milliseconds_whatever_their_unit(unit: str) -> None:
    frame = candles(2)
    frame["date"] = frame["date"].dt.as_unit(unit)
    assert tape_of(frame).dates_ms.tolist() == [1_727_740_800_000, 1_727_741_100_000]


def test_funding_is_none_unless_the_frame_has_it() -> None:
    assert tape_of(candles(2)).funding.tolist() == [0.0, 0.0]
    assert tape_of(candles(2, funding=[0.0, -0.25])).funding.tolist() == [0.0, -0.25]


def test_a_price_scale_in_the_frame_comes_first() -> None:
    assert tape_of(candles(2)).price_scale.tolist() == [100.0, 100.0]
    assert tape_of(candles(2, price_scale=[10.0, 1000.0])).price_scale.tolist() == [10.0, 1000.0]


def test_rows_that_cannot_be_used_hold_zeros() -> None:
    features = np.array([[1.0, 2.0], [np.nan, 5.0], [np.inf, -np.inf], [7.0, 8.0]])
    tape = tape_of(candles(4), features, usable=[True, False, False, True])
    assert tape.usable.tolist() == [True, False, False, True]
    assert tape.features.tolist() == [[1, 2], [0, 0], [0, 0], [7, 8]]


def test_features_of_the_caller_are_left_as_they_were() -> None:
    features = np.ones((3, 2), dtype=np.float32)
    tape_of(candles(3), features, usable=[True, False, True])
    assert features.tolist() == [[1, 1]] * 3


# ---------------------------------------------------------------------- gaps


def test_candles_without_a_gap_are_one_segment() -> None:
    assert tape_of(candles(5)).segments == ((0, 5),)


def test_a_missing_candle_ends_a_segment() -> None:
    frame = candles(8).drop(index=[3, 6])
    # Rows 0-2, 4-5 and 7 of the eight.
    tape = tape_of(frame)
    assert tape.segments == ((0, 3), (3, 5), (5, 6))
    assert [part.open.tolist() for part in tape.split()] == [[100, 101, 102], [104, 105], [107]]


def test_each_part_of_a_split_is_one_segment_of_its_own() -> None:
    parts = tape_of(candles(8).drop(index=[3, 6])).split()
    assert [part.segments for part in parts] == [((0, 3),), ((0, 2),), ((0, 1),)]


@given(st.sets(st.integers(0, 29), min_size=1), st.data())
def test_rows_cut_every_array_alike_and_find_the_segments_anew(kept: set[int], data: st.DataObject) -> None:
    frame = candles(30, funding=np.arange(30.0), **{LONG_SIGNAL: np.arange(30) % 2}).loc[sorted(kept)]
    start = data.draw(st.integers(0, len(frame)))
    stop = data.draw(st.integers(start, len(frame)))
    features = np.arange(2.0 * len(frame)).reshape(-1, 2)
    cut = tape_of(frame, features).rows(start, stop)
    if start == stop:
        assert len(cut) == 0
        assert cut.segments == ()
        return
    # The scale is a month's: the cut keeps what the month showed.
    again = tape_of(frame.iloc[start:stop].assign(price_scale=cut.price_scale), features[start:stop])
    for field in fields(MarketTape):
        np.testing.assert_array_equal(getattr(cut, field.name), getattr(again, field.name), err_msg=field.name)


def test_a_tape_without_features_is_otherwise_the_same() -> None:
    tape = tape_of(candles(8, **{LONG_SIGNAL: [0, 1] * 4}).drop(index=[3]))
    bare = tape.without_features()
    assert bare.features.shape == (7, 0)
    for field in fields(MarketTape):
        if field.name != "features":
            np.testing.assert_array_equal(getattr(bare, field.name), getattr(tape, field.name))


def test_an_empty_frame_makes_an_empty_tape() -> None:
    tape = tape_of(candles(0), np.empty((0, 3)))
    assert (len(tape), tape.n_features, tape.segments) == (0, 3, ())


# ---------------------------------------------------------------------- refusals


def refusal(frame: pd.DataFrame, features: npt.ArrayLike | None = None, **arguments: Any) -> str:
    with pytest.raises(TapeError) as error:
        tape_of(frame, features, **arguments)
    message = str(error.value)
    assert message.startswith(f"{PAIR}: ")
    assert "accepted: " in message
    return message


@pytest.mark.parametrize("column", PRICE_COLUMNS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -1.0])
def test_a_price_that_is_no_positive_number_is_refused_with_its_candle(column: str, value: float) -> None:
    frame = candles(4)
    frame.loc[2, column] = value
    message = refusal(frame)
    assert f"{column} of the candle at 2024-10-01 00:10:00+00:00 is {value}" in message
    assert "(1 such candles)" in message
    assert "remedy: download the pair's candles again" in message


def test_a_candle_whose_high_is_below_its_low_is_refused() -> None:
    frame = candles(4)
    frame.loc[1:2, ["high", "low"]] = [[100.0, 100.5], [102.0, 102.5]]
    message = refusal(frame)
    assert "the candle at 2024-10-01 00:05:00+00:00 has a high of 100.0 below its low of 100.5 (2 such" in message
    # Of one rate it has no extent, and is a candle all the same.
    assert len(tape_of(candles(4, high=100.0, low=100.0))) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_a_used_feature_that_float32_cannot_hold_is_refused_with_its_candle(value: float) -> None:
    features = np.ones((4, 3))
    features[2, 1] = value
    with np.errstate(over="ignore"):
        message = refusal(candles(4), features)
    assert "feature 1 of the candle at 2024-10-01 00:10:00+00:00 is " in message
    assert "(1 such values)" in message
    assert "remedy: " in message


@pytest.mark.parametrize(("column", "value"), [("funding", np.nan), ("funding", np.inf), ("price_scale", np.nan)])
def test_funding_or_scale_that_is_no_number_is_refused_with_its_candle(column: str, value: float) -> None:
    message = refusal(candles(3, **{column: [1.0, value, 1.0]}))
    assert f"{column} of the candle at 2024-10-01 00:05:00+00:00 is {value}" in message


@pytest.mark.parametrize("scale", [0.0, -10.0])
def test_a_scale_that_is_not_positive_is_refused(scale: float) -> None:
    assert f"price_scale of the candle at 2024-10-01 00:00:00+00:00 is {scale}" in refusal(
        candles(2, price_scale=[scale, 10.0])
    )


@pytest.mark.parametrize("shape", [(3, 2), (5, 2), (4,), (4, 2, 1)])
def test_features_of_another_length_or_shape_are_refused(shape: tuple[int, ...]) -> None:
    message = refusal(candles(4), np.zeros(shape))
    assert f"features have shape {shape}; accepted: one row for each of 4 candles" in message


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 1, 2], [3, 2, 1, 0]])
def test_dates_that_do_not_rise_are_refused_with_the_first_that_does_not(order: list[int]) -> None:
    frame = candles(4).iloc[order]
    bad = next(row for row in range(1, 4) if order[row] <= order[row - 1])
    message = refusal(frame)
    assert f"the date of row {bad} is {frame['date'].iloc[bad]}, not later than the row before" in message


def test_a_missing_date_is_refused() -> None:
    frame = candles(3)
    frame.loc[1, "date"] = pd.NaT
    assert "the date of row 1 is NaT" in refusal(frame)


@pytest.mark.parametrize("missing", [[LONG_SIGNAL], [SHORT_SIGNAL], [LONG_SIGNAL, SHORT_SIGNAL]])
def test_missing_signals_are_refused_where_the_entry_mode_reads_them(missing: list[str]) -> None:
    frame = candles(3).drop(columns=missing)
    message = refusal(frame)
    assert " and ".join(missing) in message
    assert "freqai.rl_config.entry_mode" in message
    tape = tape_of(frame, signals_needed=False)
    assert not tape.long_signal.any()
    assert not tape.short_signal.any()


# ---------------------------------------------------------------------- price scale


def freqtrade_price_scale(frame: pd.DataFrame, exchange_scale: float = 1.0) -> npt.NDArray[np.float64]:
    """What ``Backtesting.get_pair_precision`` reads at each candle, as ticks in a unit."""
    ticks = get_tick_size_over_time(frame[["date", *PRICE_COLUMNS]].copy())
    found = [ticks.asof(date) for date in frame["date"]]
    return np.array([exchange_scale if np.isnan(tick) else np.rint(1 / tick) for tick in found], dtype=np.float64)


def scale_of(frame: pd.DataFrame, exchange_scale: float = 1.0) -> npt.NDArray[np.float64]:
    return price_scale(frame, exchange_scale)


def test_a_month_shows_its_most_decimals_on_all_its_candles() -> None:
    frame = candles(4, start="2024-10-31 23:50")
    frame[list(PRICE_COLUMNS)] = [[1.5, 2, 1, 2], [1.25, 2, 1, 2], [1, 3.125, 1, 2], [4, 4, 4, 4]]
    # Two candles of October with two decimals at most, two of November with three.
    assert scale_of(frame).tolist() == [100.0, 100.0, 1000.0, 1000.0]


def test_a_month_of_whole_prices_keeps_the_ticks_of_the_month_before() -> None:
    frame = candles(3)
    frame["date"] = pd.to_datetime(["2024-10-31", "2024-11-01", "2025-01-01"], utc=True)
    frame[list(PRICE_COLUMNS)] = [[1.25, 2, 1, 2], [3, 3, 3, 3], [4, 4, 4, 4]]
    assert scale_of(frame, 10.0).tolist() == freqtrade_price_scale(frame, 10.0).tolist() == [100.0, 100.0, 100.0]


def test_whole_prices_from_the_start_have_the_ticks_of_the_exchange() -> None:
    frame = candles(2, start="2024-10-31 23:55")
    frame[list(PRICE_COLUMNS)] = [[100, 100, 100, 100], [1.25, 2, 1, 2]]
    assert scale_of(frame, 10.0).tolist() == freqtrade_price_scale(frame, 10.0).tolist() == [10.0, 100.0]
    assert scale_of(frame).tolist() == [1.0, 100.0]


def test_binary_noise_is_no_decimal() -> None:
    frame = candles(1)
    # 0.30000000000000004 is 0.3 to fourteen digits.
    frame[list(PRICE_COLUMNS)] = 0.1 + 0.2
    assert scale_of(frame).tolist() == freqtrade_price_scale(frame).tolist() == [10.0]


def test_tiny_prices_keep_all_their_decimals() -> None:
    frame = candles(1)
    frame[list(PRICE_COLUMNS)] = 0.00000012345678
    assert scale_of(frame).tolist() == freqtrade_price_scale(frame).tolist() == [1e14]


_PRICE: st.SearchStrategy[float] = st.one_of(
    st.floats(1e-6, 1e6, allow_nan=False),
    st.integers(1, 10**9).flatmap(lambda ticks: st.integers(0, 8).map(lambda places: ticks / 10**places)),
)


@hypothesis_settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(_PRICE, _PRICE, _PRICE, _PRICE), min_size=1, max_size=6), st.integers(1, 40))
def test_the_scale_is_the_one_of_freqtrades_backtester_on_any_prices(
    rows: list[tuple[float, float, float, float]], days_between: int
) -> None:
    frame = pd.DataFrame(rows, columns=list(PRICE_COLUMNS))
    frame["date"] = pd.date_range("2024-01-15", periods=len(rows), freq=f"{days_between}D", tz="UTC")
    np.testing.assert_array_equal(scale_of(frame), freqtrade_price_scale(frame))


def test_the_scale_is_the_one_of_freqtrades_backtester_on_the_synthetic_market() -> None:
    market = generate_market(stop=DEFAULT_START + pd.Timedelta(days=2))
    assert {pair: set(scale_of(frame)) for pair, frame in market.items()} == {
        "BTC/USDT:USDT": {10.0},
        "ETH/USDT:USDT": {100.0},
    }
    for frame in market.values():
        np.testing.assert_array_equal(scale_of(frame), freqtrade_price_scale(frame))


def test_the_scale_is_the_one_of_freqtrades_backtester_on_real_candles() -> None:
    files = sorted(REAL_DATA.rglob("*-5m-futures.feather"))
    if not files:
        pytest.skip("no real candles: set MTFSCALPER_REAL_DATA to a folder with *-5m-futures.feather files")
    scales = set()
    for file in files:
        # Every seventh candle: enough to show the decimals of every month.
        frame = pd.read_feather(file).iloc[::7]
        scale = scale_of(frame)
        np.testing.assert_array_equal(scale, freqtrade_price_scale(frame), err_msg=file.name)
        scales |= set(scale)
    assert len(scales) > 1


# ---------------------------------------------------------------------- digest


def changed(column: str, value: Any) -> Callable[[], MarketTape]:
    def build() -> MarketTape:
        frame = candles(4, funding=np.zeros(4), price_scale=np.full(4, 100.0))
        frame.loc[2, column] = value
        return tape_of(frame)

    return build


CHANGES: dict[str, Callable[[], MarketTape]] = {
    "pair": lambda: tape_of(candles(4), pair="ETH/USDT:USDT"),
    "timeframe": lambda: tape_of(candles(4), timeframe_ms=60_000),
    "dates": lambda: tape_of(candles(4, start="2024-10-02")),
    "open": changed("open", 102.01),
    "high": changed("high", 102.51),
    "low": changed("low", 101.49),
    "close": changed("close", 102.26),
    "funding": changed("funding", 1e-12),
    "funding_within": lambda: tape_of(candles(4, funding_within=1e-12)),
    "price_scale": changed("price_scale", 1000.0),
    "long_signal": changed(LONG_SIGNAL, 1),
    "short_signal": changed(SHORT_SIGNAL, 1),
    "features": lambda: tape_of(candles(4), np.arange(8.0).reshape(4, 2) + np.eye(4, 2) * 1e-3),
    "usable": lambda: tape_of(candles(4), usable=[False, True, True, True]),
    "order of features": lambda: tape_of(candles(4), np.arange(8.0).reshape(4, 2)[:, ::-1]),
    "length": lambda: tape_of(candles(4)).rows(0, 3),
    **{
        name: lambda name=name: tape_of(candles(4, **{name: name in GATE_COLUMNS}))
        for name in (*GATE_COLUMNS, *EXIT_COLUMNS, *ENTRY_COLUMNS)
    },
}


@pytest.mark.parametrize("what", CHANGES)
def test_the_digest_changes_with_everything(what: str) -> None:
    assert CHANGES[what]().digest() != tape_of(candles(4)).digest()


def test_the_digest_of_the_same_candles_is_the_same() -> None:
    assert tape_of(candles(4)).digest() == tape_of(candles(4)).digest()
    assert tape_of(candles(6)).rows(0, 4).digest() == tape_of(candles(4)).digest()


def test_every_change_is_tried_on_the_digest() -> None:
    arrays = {field.name for field in fields(MarketTape)} - {"pair", "timeframe_ms", "dates_ms", "segments"}
    assert arrays <= set(CHANGES)


# ---------------------------------------------------------------------- on disk


def saved_tape(path: Path) -> MarketTape:
    frame = candles(50, funding=np.linspace(0, 1, 50), price_scale=np.full(50, 100.0))
    frame.loc[20:, "date"] += pd.Timedelta(hours=1)
    frame.loc[[3, 9], LONG_SIGNAL] = 1
    frame.loc[7, SHORT_SIGNAL] = 1
    tape = tape_of(frame, np.random.default_rng(0).normal(size=(50, 3)), usable=np.arange(50) != 4)
    tape.save(path)
    return tape


@pytest.mark.parametrize("cut", [lambda tape: tape, lambda tape: tape.rows(5, 30), MarketTape.without_features])
def test_a_saved_tape_comes_back_as_it_was(tmp_path: Path, cut: Callable[[MarketTape], MarketTape]) -> None:
    tape = cut(saved_tape(tmp_path / "whole"))
    tape.save(tmp_path / "tape")
    loaded = MarketTape.load(tmp_path / "tape")
    for field in fields(MarketTape):
        had, has = getattr(tape, field.name), getattr(loaded, field.name)
        if not isinstance(had, np.ndarray):
            assert has == had
            assert type(has) is type(had)
            continue
        np.testing.assert_array_equal(has, had)
        assert (has.dtype, has.shape) == (had.dtype, had.shape)
    assert len(loaded.segments) == 2
    assert loaded.digest() == tape.digest()


def test_a_loaded_tape_is_mapped_from_its_one_file_and_cannot_be_written(tmp_path: Path) -> None:
    saved_tape(tmp_path / "tape")
    assert [path.name for path in tmp_path.iterdir()] == ["tape"]
    loaded = MarketTape.load(tmp_path / "tape")
    for name in ("open", "features", "usable"):
        array: Any = getattr(loaded, name)
        assert type(array) is np.ndarray
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        assert isinstance(base, np.memmap)
        assert array.ctypes.data % 64 == 0
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_of_a_damaged_tape_nothing_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tape"
    saved_tape(path)
    whole = path.read_bytes()
    for at in (0, 20, 60, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(TapeError, match=r"tape cannot be read: it .*; remedy: save the tape again"):
            MarketTape.load(path)
    for length in (0, 10, 30, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TapeError, match="cannot be read"):
            MarketTape.load(path)


def test_a_foreign_file_a_folder_and_nothing_are_no_tapes(tmp_path: Path) -> None:
    candles(3).to_feather(tmp_path / "candles.feather")
    for name in ("candles.feather", "missing", "."):
        with pytest.raises(TapeError, match=r"cannot be read: .*; accepted: a file that"):
            MarketTape.load(tmp_path / name)


def test_a_save_that_fails_leaves_the_tape_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tape = saved_tape(tmp_path / "tape")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tape.rows(0, 5).save(tmp_path / "tape")
    assert [path.name for path in tmp_path.iterdir()] == ["tape"]
    assert len(MarketTape.load(tmp_path / "tape")) == 50
