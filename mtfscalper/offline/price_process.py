"""How the prices of the synthetic market move: from a seed and dates to candles.

The market is one common factor, which every pair follows with its own noise::

    regimes (up, down, range) ─► drift ──┐
    volatility (slow + fast + hour) ─────┼─► factor steps ─► β · factor + own steps ─► candles of a pair
    jumps ───────────────────────────────┘

* **Regimes** form a semi-Markov chain with durations of hours to days. A trend drifts with a strength of its
  own, a range pulls the price back to where the range began.
* **Volatility** is stochastic: the logarithm is the sum of two autoregressions (half-lives of two days and
  one hour) and a profile by hour of day; a jump raises it for the hours that follow.
* **Candles** are read off a path of 60 sub-steps, so high and low belong to the same path as open and close.
* **Volume** grows with the range of the candle; by hour it falls from midnight into a trough at 05:00 UTC and
  climbs to a peak at 14:00 UTC, as on real exchanges.
"""

import itertools
import math
import zlib
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

CANDLES_PER_HOUR = 12
SUB_STEPS = 60
VOLUME_DECIMALS = 3

FACTOR_VOLATILITY = 9.2e-4
"""Typical standard deviation of the factor's five-minute log return."""

TREND_DRIFT = 0.14 * FACTOR_VOLATILITY
"""Log return a median trend adds per five-minute candle: about 15 bps an hour."""

RANGE_REVERSION = math.log(2) / (8 * CANDLES_PER_HOUR)
"""Share of the distance to the range's anchor that is pulled back per candle (half-life of eight hours)."""

JUMPS_PER_CANDLE = 1.5 / (24 * CANDLES_PER_HOUR)

HOURLY_VOLUME = np.array(
    [
        *(1.02, 0.95, 0.87, 0.77, 0.70, 0.67, 0.70, 0.76, 0.81, 0.83, 0.86, 0.93),
        *(1.10, 1.45, 1.80, 1.66, 1.42, 1.27, 1.11, 1.02, 0.96, 0.90, 0.90, 0.96),
    ]
)
"""Volume by hour of day (UTC) relative to the average hour."""


class Instrument(NamedTuple):
    """What distinguishes one pair from another.

    :ivar first_price: price before the first candle, in quote currency
    :ivar price_decimals: decimals of the price step (1 means a step of 0.1)
    :ivar mean_volume: typical volume of a five-minute candle, in base currency
    :ivar beta: how strongly the pair follows the market factor
    :ivar own_volatility: typical standard deviation of the pair's own noise, relative to the factor's
    """

    first_price: float
    price_decimals: int
    mean_volume: float
    beta: float
    own_volatility: float


INSTRUMENTS = {
    "BTC/USDT:USDT": Instrument(58_700.0, 1, 480.0, 1.0, 0.12),
    "ETH/USDT:USDT": Instrument(2_640.0, 2, 7_600.0, 1.25, 0.85),
    "SOL/USDT:USDT": Instrument(143.0, 2, 70_000.0, 1.45, 1.15),
    "XRP/USDT:USDT": Instrument(0.56, 4, 14_000_000.0, 1.4, 1.25),
}


class Regime(IntEnum):
    """What the market factor does; the value is the sign of its drift."""

    DOWN_TREND = -1
    RANGE = 0
    UP_TREND = 1


TREND_MEAN_HOURS = 16.0
RANGE_MEAN_HOURS = 10.0
"""Mean duration of a regime beyond its first two hours."""

REVERSAL_PROBABILITY = 0.35
"""How often the opposite trend follows a trend; a range follows otherwise."""

BALANCE_LOG_RETURN = 0.25
"""After trends that sum to this log return, the next one out of a range turns back with probability 0.88."""


class MarketFactor(NamedTuple):
    """The movement all pairs share.

    :ivar regimes: :class:`Regime` of every candle, shape (n_candles,)
    :ivar log_volatility: log volatility relative to the typical one, shape (n_candles,)
    :ivar steps: log returns of the sub-steps, shape (n_candles, SUB_STEPS)
    """

    regimes: NDArray[np.int8]
    log_volatility: Array
    steps: Array


def market_factor(seed: int, dates: pd.DatetimeIndex) -> MarketFactor:
    """Draw the movement that all pairs share.

    :param seed: seed of the market
    :param dates: opens of the five-minute candles
    :return: regimes, volatility and steps of the factor
    """
    rng = _stream(seed, "factor")
    n_candles = len(dates)
    regimes, drift = _regime_path(rng, n_candles)

    jump_rows = np.flatnonzero(rng.random(n_candles) < JUMPS_PER_CANDLE)
    excitement = np.zeros(n_candles)
    excitement[jump_rows] = 0.6
    log_volatility = (
        _autoregression(rng.normal(size=n_candles), half_life_candles=48 * CANDLES_PER_HOUR, deviation=0.38)
        + _autoregression(rng.normal(size=n_candles), half_life_candles=CANDLES_PER_HOUR, deviation=0.40)
        + _decaying_sum(excitement, 0.5 ** (1 / (3 * CANDLES_PER_HOUR)))
        # A square root is roughly how volatility follows volume by hour of day.
        + 0.5 * np.log(HOURLY_VOLUME[dates.hour])
    )

    volatility = FACTOR_VOLATILITY * np.exp(log_volatility)
    noise = rng.normal(size=(n_candles, SUB_STEPS)) * (volatility / math.sqrt(SUB_STEPS))[:, None]
    sizes = rng.choice([-1.0, 1.0], jump_rows.size) * rng.lognormal(math.log(2.5), 0.3, jump_rows.size)
    noise[jump_rows, rng.integers(SUB_STEPS, size=jump_rows.size)] += sizes * volatility[jump_rows]

    pull = _range_pull(regimes, noise.sum(axis=1) + drift)
    return MarketFactor(regimes, log_volatility, noise + ((drift + pull) / SUB_STEPS)[:, None])


def pair_candles(seed: int, pair: str, dates: pd.DatetimeIndex, factor: MarketFactor) -> pd.DataFrame:
    """Draw the five-minute candles of a pair, which do not depend on other pairs.

    :param seed: seed of the market
    :param pair: one of :data:`INSTRUMENTS`
    :param dates: opens of the candles
    :param factor: the movement all pairs share, on the same dates
    :return: ``date``, ``open``, ``high``, ``low``, ``close`` on the pair's price step, ``volume`` in base currency
    """
    rng = _stream(seed, f"{pair} candles")
    instrument = INSTRUMENTS[pair]
    n_candles = len(dates)

    own_log_volatility = 0.6 * factor.log_volatility + _autoregression(
        rng.normal(size=n_candles), half_life_candles=6 * CANDLES_PER_HOUR, deviation=0.3
    )
    own_volatility = FACTOR_VOLATILITY * instrument.own_volatility * np.exp(own_log_volatility)
    own_steps = rng.normal(size=factor.steps.shape) * (own_volatility / math.sqrt(SUB_STEPS))[:, None]
    steps = instrument.beta * factor.steps + own_steps

    path = math.log(instrument.first_price) + np.cumsum(steps).reshape(steps.shape)
    price_step = 10.0**-instrument.price_decimals

    def on_step(prices: Array) -> Array:
        return np.maximum(prices, price_step).round(instrument.price_decimals)

    closes = on_step(np.exp(path[:, -1]))
    previous_closes = np.concatenate(([on_step(np.array(instrument.first_price))], closes[:-1]))
    # The first trade of a candle is the last of the previous one, or a price step away from it.
    opens = on_step(previous_closes + price_step * rng.choice([-1, 0, 1], size=n_candles, p=[0.2, 0.6, 0.2]))
    highs = np.maximum(on_step(np.exp(path.max(axis=1))), np.maximum(opens, closes))
    lows = np.minimum(on_step(np.exp(path.min(axis=1))), np.minimum(opens, closes))

    # Relative to the range a candle of typical volatility has: 1.6 standard deviations (Parkinson 1980).
    typical_range = 1.6 * FACTOR_VOLATILITY * math.hypot(instrument.beta, instrument.own_volatility)
    relative_range = (highs - lows) / closes / typical_range
    log_activity = (
        0.9 * np.log(relative_range + 0.05)
        + 0.5 * np.log(HOURLY_VOLUME[dates.hour])
        + _autoregression(rng.normal(size=n_candles), half_life_candles=24 * CANDLES_PER_HOUR, deviation=0.35)
        + rng.normal(0.0, 0.3, size=n_candles)
    )
    volumes = np.maximum(instrument.mean_volume * np.exp(log_activity), 1.0).round(VOLUME_DECIMALS)

    return pd.DataFrame({"date": dates, "open": opens, "high": highs, "low": lows, "close": closes, "volume": volumes})


def mark_candles(seed: int, pair: str, hourly: pd.DataFrame) -> pd.DataFrame:
    """Derive hourly mark-price candles, which stay within a few basis points of the futures candles.

    :param seed: seed of the market
    :param pair: name of the pair
    :param hourly: one-hour futures candles
    :return: one-hour candles of the mark price, volume zero as on the exchange
    """
    rng = _stream(seed, f"{pair} mark")
    basis = 1 + _autoregression(rng.normal(size=len(hourly) + 1), half_life_candles=6, deviation=1e-4)
    before, after = basis[:-1], basis[1:]
    opens, closes = hourly["open"] * before, hourly["close"] * after
    mean = (before + after) / 2
    return pd.DataFrame(
        {
            "date": hourly["date"],
            "open": opens.round(8),
            "high": np.maximum(hourly["high"] * mean, np.maximum(opens, closes)).round(8),
            "low": np.minimum(hourly["low"] * mean, np.minimum(opens, closes)).round(8),
            "close": closes.round(8),
            "volume": 0.0,
        }
    )


def funding_rates(seed: int, pair: str, hours: pd.DatetimeIndex) -> pd.DataFrame:
    """Draw the eight-hourly funding rates.

    :param seed: seed of the market
    :param pair: name of the pair
    :param hours: every full hour of the market
    :return: rows at 00:00, 08:00 and 16:00 UTC with the rate in ``open``, the other columns zero
    """
    dates = hours[hours.hour % 8 == 0]
    rng = _stream(seed, f"{pair} funding")
    premium = _autoregression(rng.normal(size=len(dates)), half_life_candles=6, deviation=4e-4)
    # Binance: rate = premium + clamp(interest - premium, -0.05 %, 0.05 %), https://www.binance.com/en/support/faq/360033525031
    rates = premium + np.clip(1e-4 - premium, -5e-4, 5e-4)
    frame = pd.DataFrame({"date": dates, "open": rates.round(8)})
    frame[["high", "low", "close", "volume"]] = 0.0
    return frame


def _stream(seed: int, name: str) -> np.random.Generator:
    """Give every part of the market its own random numbers, so that none shifts another."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _autoregression(noise: Array, half_life_candles: float, deviation: float) -> Array:
    """Filter white noise into a stationary AR(1) process.

    :param noise: standard normal numbers, shape (n,)
    :param half_life_candles: steps after which half of a deviation is left
    :param deviation: standard deviation of the process
    :return: shape (n,)
    """
    phi = 0.5 ** (1 / half_life_candles)
    # x_0 = ε_0 and x_t = φ·x_(t-1) + sqrt(1 - φ²)·ε_t have unit variance throughout.
    innovations = noise * math.sqrt(1 - phi**2)
    innovations[0] = noise[0]
    return deviation * _decaying_sum(innovations, phi)


def _decaying_sum(values: Array, phi: float) -> Array:
    """Compute y_t = values_t + φ·y_(t-1)."""
    return np.fromiter(itertools.accumulate(values.tolist(), lambda y, value: value + phi * y), np.float64)


def _regime_path(rng: np.random.Generator, n_candles: int) -> tuple[NDArray[np.int8], Array]:
    """Draw the regimes and the drift of every candle (log return), both of shape (n_candles,)."""
    regimes = np.empty(n_candles, dtype=np.int8)
    drift = np.empty(n_candles)
    regime, begin, trended = Regime.RANGE, 0, 0.0
    while begin < n_candles:
        mean_hours = RANGE_MEAN_HOURS if regime == Regime.RANGE else TREND_MEAN_HOURS
        length = math.ceil((2 + rng.gamma(2.0, mean_hours / 2)) * CANDLES_PER_HOUR)
        strength = TREND_DRIFT * rng.lognormal(0.0, 0.3)
        regimes[begin : begin + length] = regime
        drift[begin : begin + length] = regime * strength
        begin += length
        trended += regime * strength * length

        if regime == Regime.RANGE:
            # Without a pull to the middle a period of weeks can be all boom or crash, and holding one side
            # throughout would beat every strategy.
            up_probability = 0.5 - 0.5 * math.tanh(trended / BALANCE_LOG_RETURN)
            regime = Regime.UP_TREND if rng.random() < up_probability else Regime.DOWN_TREND
        else:
            regime = Regime(-regime) if rng.random() < REVERSAL_PROBABILITY else Regime.RANGE
    return regimes, drift


def _range_pull(regimes: NDArray[np.int8], returns: Array) -> Array:
    """Compute the log return that pulls a range back to its anchor, the level at which the range began."""
    pull = np.zeros(len(returns))
    level = anchor = 0.0
    previous = None
    for index, (regime, change) in enumerate(zip(regimes.tolist(), returns.tolist(), strict=True)):
        if regime == Regime.RANGE:
            if previous != Regime.RANGE:
                anchor = level
            pull[index] = RANGE_REVERSION * (anchor - level)
        level += change + pull[index]
        previous = regime
    return pull
