"""The classic signals: which states make one, and the states of a timeframe against TA-Lib and by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given
from hypothesis import strategies as st

from mtfscalper.market.signals import (
    STATE_COLUMNS,
    THRESHOLDS,
    SignalPeriods,
    SignalThresholds,
    classic_signals,
    timeframe_state,
)
from mtfscalper.offline.synthetic import DEFAULT_START, generate_market

# A state in the middle of every band: a long on any timeframe; its mirror image is a short.
RISING = {
    "mtf_trend": 1.0,
    "mtf_adx": 30.0,
    "mtf_rsi": 60.0,
    "mtf_direction": 1.0,
    "mtf_atr_ratio": 0.002,
    "mtf_long_ema_side": 1.0,
}
BASE, MIDDLE, HIGH = 0, 1, 2


def mirrored(state: dict[str, float]) -> dict[str, float]:
    turned = {name: -state[name] for name in ("mtf_trend", "mtf_direction", "mtf_long_ema_side")}
    return state | turned | {"mtf_rsi": 100.0 - state["mtf_rsi"]}


def signals_of(*states: dict[str, float], thresholds: SignalThresholds = THRESHOLDS) -> tuple[bool, bool]:
    """Long and short of a single candle."""
    long, short = classic_signals(*(pd.DataFrame([state]) for state in states), thresholds=thresholds)
    return bool(long[0]), bool(short[0])


def with_state(timeframe: int, state: dict[str, float], **values: float) -> list[dict[str, float]]:
    states = [state, state, state]
    states[timeframe] = state | values
    return states


# ---------------------------------------------------------------------- which states make a signal


def test_all_timeframes_rising_make_a_long() -> None:
    assert signals_of(RISING, RISING, RISING) == (True, False)


def test_all_timeframes_falling_make_a_short() -> None:
    assert signals_of(*[mirrored(RISING)] * 3) == (False, True)


# (timeframe, values of its state, whether the long stands)
CASES: list[tuple[int, dict[str, float], bool]] = [
    (BASE, {"mtf_trend": 0.0}, False),
    (BASE, {"mtf_trend": -1.0}, False),
    (MIDDLE, {"mtf_trend": -1.0}, False),
    (HIGH, {"mtf_trend": -1.0}, False),
    (HIGH, {"mtf_trend": 0.0}, False),
    (BASE, {"mtf_adx": 20.0}, True),
    (BASE, {"mtf_adx": 19.99}, False),
    (MIDDLE, {"mtf_adx": 18.0}, True),
    (MIDDLE, {"mtf_adx": 17.99}, False),
    (HIGH, {"mtf_adx": 15.0}, True),
    (HIGH, {"mtf_adx": 14.99}, False),
    (BASE, {"mtf_rsi": 45.0}, True),
    (BASE, {"mtf_rsi": 44.99}, False),
    (BASE, {"mtf_rsi": 70.0}, True),
    (BASE, {"mtf_rsi": 70.01}, False),
    (MIDDLE, {"mtf_rsi": 99.0}, True),
    (BASE, {"mtf_direction": 0.0}, False),
    (BASE, {"mtf_direction": -1.0}, False),
    (HIGH, {"mtf_direction": -1.0}, True),
    (BASE, {"mtf_atr_ratio": 0.0008}, True),
    (BASE, {"mtf_atr_ratio": 0.00079}, False),
    (BASE, {"mtf_atr_ratio": 0.02}, True),
    (BASE, {"mtf_atr_ratio": 0.0201}, False),
    (MIDDLE, {"mtf_atr_ratio": 0.5}, True),
    (BASE, {"mtf_long_ema_side": 0.0}, False),
    (BASE, {"mtf_long_ema_side": -1.0}, False),
    (HIGH, {"mtf_long_ema_side": -1.0}, True),
]


@pytest.mark.parametrize(("timeframe", "values", "stands"), CASES)
def test_a_long_asks_for_each_condition_on_its_timeframe(
    timeframe: int, values: dict[str, float], stands: bool
) -> None:
    assert signals_of(*with_state(timeframe, RISING, **values)) == (stands, False)


@pytest.mark.parametrize(("timeframe", "values", "stands"), CASES)
def test_a_short_asks_for_the_mirror_image(timeframe: int, values: dict[str, float], stands: bool) -> None:
    states = [mirrored(state) for state in with_state(timeframe, RISING, **values)]
    assert signals_of(*states) == (False, stands)


@pytest.mark.parametrize("timeframe", [BASE, MIDDLE, HIGH])
@pytest.mark.parametrize("column", ["mtf_trend", "mtf_adx"])
def test_an_indicator_that_warms_up_gives_no_signal(timeframe: int, column: str) -> None:
    for state in (RISING, mirrored(RISING)):
        assert signals_of(*with_state(timeframe, state, **{column: np.nan})) == (False, False)


@pytest.mark.parametrize("column", STATE_COLUMNS)
def test_any_indicator_of_the_base_timeframe_that_warms_up_gives_no_signal(column: str) -> None:
    for state in (RISING, mirrored(RISING)):
        assert signals_of(*with_state(BASE, state, **{column: np.nan})) == (False, False)


def test_thresholds_given_are_the_ones_used() -> None:
    weak = RISING | {"mtf_adx": 5.0, "mtf_rsi": 85.0, "mtf_atr_ratio": 0.0001}
    loose = SignalThresholds(adx_min=(5.0, 5.0, 5.0), rsi_long=(40.0, 90.0), atr_ratio_min=0.0, atr_ratio_max=1.0)
    assert signals_of(weak, weak, weak) == (False, False)
    assert signals_of(weak, weak, weak, thresholds=loose) == (True, False)
    assert signals_of(*[mirrored(weak)] * 3, thresholds=loose) == (False, True)
    for strict in (
        SignalThresholds(adx_min=(31.0, 0.0, 0.0)),
        SignalThresholds(adx_min=(0.0, 31.0, 0.0)),
        SignalThresholds(adx_min=(0.0, 0.0, 31.0)),
        SignalThresholds(rsi_long=(61.0, 70.0)),
        SignalThresholds(rsi_long=(45.0, 59.0)),
        SignalThresholds(atr_ratio_min=0.0021),
        SignalThresholds(atr_ratio_max=0.0019),
    ):
        assert signals_of(RISING, RISING, RISING, thresholds=strict) == (False, False)


_STATE = st.fixed_dictionaries(
    {
        "mtf_trend": st.sampled_from([-1.0, 0.0, 1.0, np.nan]),
        "mtf_adx": st.floats(0, 100) | st.just(np.nan),
        "mtf_rsi": st.floats(0, 100) | st.just(50.0),
        "mtf_direction": st.sampled_from([-1.0, 0.0, 1.0]),
        "mtf_atr_ratio": st.floats(0, 0.05) | st.just(0.002),
        "mtf_long_ema_side": st.sampled_from([-1.0, 0.0, 1.0, np.nan]),
    }
)


@given(st.tuples(_STATE, _STATE, _STATE), st.floats(0, 100), st.floats(0, 100), st.booleans())
def test_a_candle_is_never_long_and_short_and_mirroring_it_swaps_the_two(
    states: tuple[dict[str, float], ...], rsi_low: float, rsi_high: float, aligned: bool
) -> None:
    if aligned:
        # Random states seldom agree; these do wherever ADX, RSI and ATR allow.
        agree = {"mtf_trend": 1.0, "mtf_direction": 1.0, "mtf_long_ema_side": 1.0}
        states = tuple(state | agree for state in states)
    # Bands that lie around 50 included: both sides' bands then overlap.
    thresholds = SignalThresholds(adx_min=(0.0, 0.0, 0.0), rsi_long=(rsi_low, rsi_high), atr_ratio_min=0.0)
    long, short = signals_of(*states, thresholds=thresholds)
    assert not (long and short)
    # 100 - (100 - rsi) need not be rsi; a band edge is then on the other side of a rounding error.
    exact = all(100.0 - (100.0 - value) == value for value in (states[BASE]["mtf_rsi"], rsi_low, rsi_high))
    if exact:
        assert signals_of(*map(mirrored, states), thresholds=thresholds) == (short, long)


# ---------------------------------------------------------------------- the state of a timeframe


def random_candles(n: int, seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, n)))
    open_rate = np.concatenate([[100.0], close[:-1]])
    spread = rng.uniform(0, 0.2, n)
    values: dict[str, Any] = {"open": open_rate, "close": close}
    values["high"] = np.maximum(open_rate, close) + spread
    values["low"] = np.minimum(open_rate, close) - spread
    return pd.DataFrame(values)


def test_the_state_is_made_of_ta_libs_numbers() -> None:
    candles = random_candles(1500)
    state = timeframe_state(candles)
    assert tuple(state.columns) == STATE_COLUMNS
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    expected = {
        "mtf_trend": np.sign(talib.EMA(close, 9) - talib.EMA(close, 21)),
        "mtf_adx": talib.ADX(high, low, close, 14),
        "mtf_rsi": talib.RSI(close, 14),
        "mtf_direction": np.sign(close - candles["open"].to_numpy()),
        "mtf_atr_ratio": talib.ATR(high, low, close, 14) / close,
        "mtf_long_ema_side": np.sign(close - talib.EMA(close, 200)),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(state[name], values, err_msg=name)
    # Both sides of everything are there.
    for name in ("mtf_trend", "mtf_direction", "mtf_long_ema_side"):
        assert set(state[name].dropna()) == {-1.0, 1.0}


def test_each_indicator_is_missing_exactly_while_it_warms_up() -> None:
    state = timeframe_state(random_candles(400))
    warm_up = {name: int(state[name].isna().sum()) for name in STATE_COLUMNS}
    # EMA n: n - 1 candles; ADX n: 2 n - 1; RSI n and ATR n: n.
    assert warm_up == {
        "mtf_trend": 20,
        "mtf_adx": 27,
        "mtf_rsi": 14,
        "mtf_direction": 0,
        "mtf_atr_ratio": 14,
        "mtf_long_ema_side": 199,
    }
    for name in STATE_COLUMNS:
        assert state[name].iloc[warm_up[name] :].notna().all()


def test_a_steady_climb_has_the_numbers_worked_by_hand() -> None:
    # Each candle opens at the last close, gains 1 and has no wicks.
    close = 100.0 + np.arange(1, 61)
    candles = pd.DataFrame({"open": close - 1, "high": close, "low": close - 1, "close": close})
    last = timeframe_state(candles, SignalPeriods(ema_long=50)).iloc[-1]
    assert last["mtf_trend"] == 1.0
    assert last["mtf_direction"] == 1.0
    assert last["mtf_long_ema_side"] == 1.0
    # No loss: 100 - 100 / (1 + gain / 0). No downward movement: DX is 100 on every candle.
    assert last["mtf_rsi"] == pytest.approx(100.0)
    assert last["mtf_adx"] == pytest.approx(100.0)
    # The true range is 1 on every candle.
    assert last["mtf_atr_ratio"] == pytest.approx(1 / 160)


def test_a_flat_market_has_no_trend_and_no_direction() -> None:
    candles = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), np.full(300, 50.0)))
    last = timeframe_state(candles).iloc[-1]
    assert (last["mtf_trend"], last["mtf_direction"], last["mtf_atr_ratio"], last["mtf_long_ema_side"]) == (0, 0, 0, 0)


def test_periods_given_are_the_ones_used() -> None:
    candles = random_candles(100)
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    state = timeframe_state(candles, SignalPeriods(ema_fast=3, ema_slow=5, ema_long=8, adx=4, rsi=6, atr=7))
    np.testing.assert_array_equal(state["mtf_trend"], np.sign(talib.EMA(close, 3) - talib.EMA(close, 5)))
    np.testing.assert_array_equal(state["mtf_long_ema_side"], np.sign(close - talib.EMA(close, 8)))
    np.testing.assert_array_equal(state["mtf_adx"], talib.ADX(high, low, close, 4))
    np.testing.assert_array_equal(state["mtf_rsi"], talib.RSI(close, 6))
    np.testing.assert_array_equal(state["mtf_atr_ratio"], talib.ATR(high, low, close, 7) / close)


def test_the_state_keeps_the_index_of_its_candles() -> None:
    candles = random_candles(30)
    candles.index = pd.RangeIndex(1000, 1030)
    assert timeframe_state(candles).index.equals(candles.index)


def test_too_few_candles_give_a_state_without_numbers() -> None:
    state = timeframe_state(random_candles(5))
    assert len(state) == 5
    assert state.drop(columns="mtf_direction").isna().all(axis=None)


@given(st.integers(30, 299))
def test_later_candles_change_no_earlier_state(cut: int) -> None:
    candles = random_candles(300)
    whole = timeframe_state(candles).iloc[:cut]
    pd.testing.assert_frame_equal(timeframe_state(candles.iloc[:cut]), whole, check_exact=True)


def test_a_market_upside_down_has_its_longs_and_shorts_swapped() -> None:
    candles = generate_market(stop=DEFAULT_START + pd.Timedelta(days=4))["BTC/USDT:USDT"]
    level = 2 * candles["close"].mean()
    # A constant less the price: every move turned round, high and low changing places.
    upside_down = pd.DataFrame(
        {"open": level - candles["open"], "high": level - candles["low"], "low": level - candles["high"]}
    ).assign(close=level - candles["close"])
    loose = SignalThresholds(adx_min=(10.0, 10.0, 10.0), atr_ratio_min=0.0, atr_ratio_max=1.0)
    state, turned = timeframe_state(candles), timeframe_state(upside_down)
    long, short = classic_signals(state, state, state, thresholds=loose)
    turned_long, turned_short = classic_signals(turned, turned, turned, thresholds=loose)
    assert long.sum() > 20
    assert short.sum() > 20
    np.testing.assert_array_equal(long, turned_short)
    np.testing.assert_array_equal(short, turned_long)
