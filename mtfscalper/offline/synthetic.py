"""A seeded synthetic market of perpetual futures.

It is a stage set: it lets the demo, the tests and the benchmarks run on every machine without anybody's data.
Its trends are built in and more persistent than those of real candles, so a profit made here is **no
evidence** that a strategy earns anything on a real market.

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
import json
import logging
import math
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.enums import CandleType
from freqtrade.misc import pair_to_filename
from numpy.typing import NDArray

from mtfscalper.artefacts import file_hash, write_atomically, write_json
from mtfscalper.offline import ReplayError

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

GENERATOR_VERSION = 1
"""Raise it with every change that alters candles: markets on disk are then rebuilt."""

DEFAULT_SEED = 42
DEFAULT_START = datetime(2024, 8, 15, tzinfo=UTC)
DEFAULT_STOP = datetime(2024, 11, 5, tzinfo=UTC)
DEFAULT_PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
MANIFEST_NAME = "synthetic_market.json"

TIMEFRAME_MINUTES = {"5m": 5, "15m": 15, "1h": 60}
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
    :ivar price_decimals: decimals of the tick size (1 means a tick of 0.1)
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


def generate_market(
    seed: int = DEFAULT_SEED,
    start: datetime = DEFAULT_START,
    stop: datetime = DEFAULT_STOP,
    pairs: Sequence[str] = DEFAULT_PAIRS,
) -> dict[str, pd.DataFrame]:
    """Generate gap-free five-minute candles.

    The candles of a pair depend on the seed and the period, not on the other pairs asked for.

    :param seed: any non-negative integer; the same seed gives the same candles
    :param start: open of the first candle, a full hour; without a timezone it is taken as UTC
    :param stop: end of the last candle, a full hour
    :param pairs: pairs out of :data:`INSTRUMENTS`
    :return: per pair a frame as freqtrade stores it: ``date`` (datetime64[ms, UTC]), ``open``, ``high``,
        ``low``, ``close`` on the pair's tick, ``volume`` in base currency
    :raises ReplayError: when the seed, the period or a pair cannot be generated
    """
    start, stop = _check_request(seed, start, stop, pairs)
    dates = _dates(start, stop, "5m")
    factor = market_factor(seed, dates)
    return {pair: _pair_candles(seed, pair, dates, factor) for pair in pairs}


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


def aggregate(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Aggregate five-minute candles exactly.

    :param candles: gap-free five-minute candles that begin on a boundary of ``timeframe``
    :param timeframe: one of :data:`TIMEFRAME_MINUTES`
    :return: candles of the longer timeframe with the same columns and dtypes
    """
    period = candles["date"].dt.floor(f"{TIMEFRAME_MINUTES[timeframe]}min")
    aggregated = (
        candles.groupby(period)
        .agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
        .reset_index()
    )
    # The sum of numbers with three decimals has three decimals; floating point adds more.
    aggregated["volume"] = aggregated["volume"].round(VOLUME_DECIMALS)
    return aggregated


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


def funding_rates(seed: int, pair: str, start: datetime, stop: datetime) -> pd.DataFrame:
    """Draw the eight-hourly funding rates.

    :param seed: seed of the market
    :param pair: name of the pair
    :param start: open of the first candle
    :param stop: end of the last candle
    :return: rows at 00:00, 08:00 and 16:00 UTC with the rate in ``open``, the other columns zero
    """
    dates = _dates(start, stop, "1h")
    dates = dates[dates.hour % 8 == 0]
    rng = _stream(seed, f"{pair} funding")
    premium = _autoregression(rng.normal(size=len(dates)), half_life_candles=6, deviation=4e-4)
    # Binance: rate = premium + clamp(interest - premium, -0.05 %, 0.05 %), https://www.binance.com/en/support/faq/360033525031
    rates = premium + np.clip(1e-4 - premium, -5e-4, 5e-4)
    frame = pd.DataFrame({"date": dates, "open": rates.round(8)})
    frame[["high", "low", "close", "volume"]] = 0.0
    return frame


def write_market(
    datadir: Path,
    seed: int = DEFAULT_SEED,
    start: datetime = DEFAULT_START,
    stop: datetime = DEFAULT_STOP,
    pairs: Sequence[str] = DEFAULT_PAIRS,
) -> bool:
    """Write the market under ``datadir`` in freqtrade's layout, unless it is there already.

    :param datadir: a freqtrade data directory; candles go to ``futures/``, the manifest to
        ``synthetic_market.json``
    :param seed: see :func:`generate_market`
    :param start: see :func:`generate_market`
    :param stop: see :func:`generate_market`
    :param pairs: see :func:`generate_market`
    :return: whether files were written (False: those on disk match the request and their hashes)
    :raises ReplayError: when the market cannot be generated, or the directory holds candles of another origin
    """
    start, stop = _check_request(seed, start, stop, pairs)
    request = {
        "generator_version": GENERATOR_VERSION,
        "seed": seed,
        "start": start.isoformat(),
        "stop": stop.isoformat(),
        "pairs": list(pairs),
    }
    manifest_path = datadir / MANIFEST_NAME
    stored = _read_manifest(manifest_path)
    reason = _difference(datadir, request, stored)
    if reason is None:
        return False
    _refuse_foreign_candles(datadir, stored)
    logger.info("Writing the synthetic market to %s: %s.", datadir, reason)

    folder = datadir / "futures"
    frames = dict(_market_files(seed, start, stop, pairs))
    for name in set(stored.get("files", {})) - set(frames):
        (folder / name).unlink(missing_ok=True)
    # Announced without hashes first: after an interruption the next call knows the files, and that they are unfinished.
    write_json(manifest_path, {**request, "files": dict.fromkeys(frames, "")})
    for name, frame in frames.items():
        write_atomically(folder / name, partial(frame.to_feather, compression="lz4", compression_level=9))
    write_json(manifest_path, {**request, "files": {name: file_hash(folder / name) for name in frames}})
    return True


def _market_files(
    seed: int, start: datetime, stop: datetime, pairs: Sequence[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    for pair, candles in generate_market(seed, start, stop, pairs).items():
        name = pair_to_filename(pair)
        for timeframe in TIMEFRAME_MINUTES:
            frame = candles if timeframe == "5m" else aggregate(candles, timeframe)
            yield f"{name}-{timeframe}-{CandleType.FUTURES}.feather", frame
        # ``frame`` is the last, the hourly one.
        yield f"{name}-1h-{CandleType.MARK}.feather", mark_candles(seed, pair, frame)
        # In ``open``, as in every file people have; freqtrade 2026.9 reads that, and writes a column of its own.
        yield f"{name}-1h-{CandleType.FUNDING_RATE}.feather", funding_rates(seed, pair, start, stop)


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return {}
    return manifest


def _difference(datadir: Path, request: dict[str, Any], stored: dict[str, Any]) -> str | None:
    """Say how the market on disk differs from the requested one, None where it does not."""
    if not stored:
        return f"no readable {MANIFEST_NAME}"
    for key, value in request.items():
        if stored.get(key) != value:
            return f"{key} is {value!r}, {MANIFEST_NAME} has {stored.get(key)!r}"
    for name, digest in stored["files"].items():
        path = datadir / "futures" / name
        if not path.exists():
            return f"{name} is missing"
        if file_hash(path) != digest:
            return f"{name} does not match its hash"
    return None


def _refuse_foreign_candles(datadir: Path, stored: dict[str, Any]) -> None:
    present = {path.name for path in (datadir / "futures").glob("*.feather")}
    foreign = sorted(present - set(stored.get("files", {})))
    if foreign:
        raise ReplayError(
            f"datadir {datadir} holds {len(foreign)} candle files that are not of the synthetic market "
            f"({foreign[0]}, …); accepted is an empty directory or one with this market's {MANIFEST_NAME}. "
            "Choose another directory with --datadir."
        )


def _check_request(seed: int, start: datetime, stop: datetime, pairs: Sequence[str]) -> tuple[datetime, datetime]:
    """Return start and stop in UTC, or raise :class:`ReplayError`."""
    if seed < 0:
        raise ReplayError(f"seed of the synthetic market is {seed}; choose an integer of 0 or more")
    start, stop = (
        moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC) for moment in (start, stop)
    )
    for name, moment in (("start", start), ("stop", stop)):
        if moment.timestamp() % 3600:
            raise ReplayError(
                f"{name} of the synthetic market is {moment.isoformat()}; choose a full hour, "
                f"such as {moment.replace(minute=0, second=0, microsecond=0).isoformat()}"
            )
    if stop - start < timedelta(hours=8):
        raise ReplayError(
            f"the synthetic market runs from {start.isoformat()} to {stop.isoformat()}; "
            "choose a stop at least 8 hours after the start"
        )
    unknown = [pair for pair in pairs if pair not in INSTRUMENTS]
    if unknown or not pairs or len(set(pairs)) != len(pairs):
        raise ReplayError(
            f"pairs of the synthetic market are {list(pairs)}; choose one or more of "
            f"{', '.join(INSTRUMENTS)}, each once"
        )
    return start, stop


def _dates(start: datetime, stop: datetime, timeframe: str) -> pd.DatetimeIndex:
    minutes = TIMEFRAME_MINUTES[timeframe]
    return pd.date_range(start, stop, freq=f"{minutes}min", inclusive="left", unit="ms", name="date")


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


def _pair_candles(seed: int, pair: str, dates: pd.DatetimeIndex, factor: MarketFactor) -> pd.DataFrame:
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
    tick = 10.0**-instrument.price_decimals

    def on_tick(prices: Array) -> Array:
        return np.maximum(prices, tick).round(instrument.price_decimals)

    closes = on_tick(np.exp(path[:, -1]))
    previous_closes = np.concatenate(([on_tick(np.array(instrument.first_price))], closes[:-1]))
    # The first trade of a candle is the last of the previous one, or a tick away from it.
    opens = on_tick(previous_closes + tick * rng.choice([-1, 0, 1], size=n_candles, p=[0.2, 0.6, 0.2]))
    highs = np.maximum(on_tick(np.exp(path.max(axis=1))), np.maximum(opens, closes))
    lows = np.minimum(on_tick(np.exp(path.min(axis=1))), np.minimum(opens, closes))

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
