"""The classic multi-timeframe entry signals, for the strategy and for training alike.

Two steps, because freqtrade hands over each timeframe's candles separately and merges them itself:
:func:`timeframe_state` reads one timeframe's candles; :func:`classic_signals` combines the states of all three,
each merged to the base timeframe only after its candle has closed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import talib

LONG_SIGNAL = "classic_long"
SHORT_SIGNAL = "classic_short"

# The columns timeframe_state adds.
STATE_COLUMNS = ("mtf_trend", "mtf_adx", "mtf_rsi", "mtf_direction", "mtf_atr_ratio", "mtf_long_ema_side")


@dataclass(frozen=True)
class SignalPeriods:
    """Lengths of the indicators, in candles of their timeframe."""

    ema_fast: int = 9
    ema_slow: int = 21
    ema_long: int = 200
    adx: int = 14
    rsi: int = 14
    atr: int = 14


@dataclass(frozen=True)
class SignalThresholds:
    """When the combined states make a signal.

    :ivar adx_min: trend strength asked of the three timeframes, base first
    :ivar rsi_long: RSI band in which a long may be entered; shorts mirror it around 50
    :ivar atr_ratio_min: least ATR over close of the base timeframe: a market too quiet cannot pay its fees
    :ivar atr_ratio_max: largest ATR over close: a market too wild
    """

    adx_min: tuple[float, float, float] = (20.0, 18.0, 15.0)
    rsi_long: tuple[float, float] = (45.0, 70.0)
    atr_ratio_min: float = 0.0008
    atr_ratio_max: float = 0.02


PERIODS = SignalPeriods()
THRESHOLDS = SignalThresholds()


def timeframe_state(candles: pd.DataFrame, periods: SignalPeriods = PERIODS) -> pd.DataFrame:
    """Trend, strength, momentum and volatility of one timeframe.

    :param candles: open, high, low, close; one row a candle
    :return: :data:`STATE_COLUMNS` on the same index: trend -1/0/+1 (fast EMA against slow), ADX and RSI in 0..100,
        direction of the candle -1/0/+1, ATR over close, side of the close to the long EMA -1/0/+1; NaN while an
        indicator warms up
    """
    close = candles["close"].to_numpy(dtype=np.float64)
    high = candles["high"].to_numpy(dtype=np.float64)
    low = candles["low"].to_numpy(dtype=np.float64)
    open_rate = candles["open"].to_numpy(dtype=np.float64)
    values = {
        "mtf_trend": np.sign(talib.EMA(close, periods.ema_fast) - talib.EMA(close, periods.ema_slow)),
        "mtf_adx": talib.ADX(high, low, close, periods.adx),
        "mtf_rsi": talib.RSI(close, periods.rsi),
        "mtf_direction": np.sign(close - open_rate),
        "mtf_atr_ratio": talib.ATR(high, low, close, periods.atr) / close,
        "mtf_long_ema_side": np.sign(close - talib.EMA(close, periods.ema_long)),
    }
    return pd.DataFrame(values, index=candles.index)


def classic_signals(
    base: pd.DataFrame,
    middle: pd.DataFrame,
    high: pd.DataFrame,
    thresholds: SignalThresholds = THRESHOLDS,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Long and short entry signals at each base candle's close.

    A long asks for: rising trend and enough strength on all three timeframes, the close above the long EMA of the
    base timeframe, a rising candle, RSI within its band, and volatility within its band. A short mirrors it.

    :param base: :func:`timeframe_state` of the base timeframe (5m), shape (n_candles, ...)
    :param middle: that of the middle timeframe (15m), merged to the base rows after its candles closed
    :param high: that of the high timeframe (1h), merged likewise
    :return: two boolean arrays of shape (n_candles,), never both true; false where an indicator is NaN
    """
    states = (base, middle, high)
    rsi = base["mtf_rsi"].to_numpy()
    direction = base["mtf_direction"].to_numpy()
    atr = base["mtf_atr_ratio"].to_numpy()
    ema_side = base["mtf_long_ema_side"].to_numpy()
    low, top = thresholds.rsi_long
    strong = (atr >= thresholds.atr_ratio_min) & (atr <= thresholds.atr_ratio_max)
    for state, adx_min in zip(states, thresholds.adx_min, strict=True):
        strong &= state["mtf_adx"].to_numpy() >= adx_min
    long = strong & (ema_side > 0) & (direction > 0) & (rsi >= low) & (rsi <= top)
    short = strong & (ema_side < 0) & (direction < 0) & (rsi >= 100 - top) & (rsi <= 100 - low)
    for state in states:
        trend = state["mtf_trend"].to_numpy()
        long &= trend > 0
        short &= trend < 0
    return long, short
