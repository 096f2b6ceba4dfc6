"""A seeded synthetic market of perpetual futures, in the files that freqtrade reads.

It is a stage set: it lets the demo, the tests and the benchmarks run on every machine without anybody's data.
Its trends are built in and more persistent than those of real candles, so a profit made here is **no
evidence** that a strategy earns anything on a real market. How its prices come about is told in
:mod:`mtfscalper.offline.price_process`.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.enums import CandleType
from freqtrade.misc import pair_to_filename

from mtfscalper.artefacts import file_hash, write_atomically, write_json
from mtfscalper.offline import DEFAULT_PAIRS, DEFAULT_SEED, ReplayError
from mtfscalper.offline.price_process import (
    INSTRUMENTS,
    VOLUME_DECIMALS,
    funding_rates,
    mark_candles,
    market_factor,
    pair_candles,
)

logger = logging.getLogger(__name__)

GENERATOR_VERSION = 1
"""Raise it with every change that alters candles: markets on disk are then rebuilt."""

DEFAULT_START = datetime(2024, 8, 15, tzinfo=UTC)
DEFAULT_STOP = datetime(2024, 11, 5, tzinfo=UTC)
MANIFEST_NAME = "synthetic_market.json"

TIMEFRAME_MINUTES = {"5m": 5, "15m": 15, "1h": 60}


def generate_market(
    seed: int = DEFAULT_SEED,
    start: datetime = DEFAULT_START,
    stop: datetime = DEFAULT_STOP,
    pairs: Sequence[str] = DEFAULT_PAIRS,
) -> dict[str, pd.DataFrame]:
    """Generate gap-free five-minute candles.

    The candles of a pair depend on the seed, the start and the stop, not on the other pairs asked for.

    :param seed: any non-negative integer; the same seed gives the same candles
    :param start: open of the first candle, a full hour; without a timezone it is taken as UTC
    :param stop: end of the last candle, a full hour
    :param pairs: pairs out of :data:`INSTRUMENTS`
    :return: per pair a frame as freqtrade stores it: ``date`` (datetime64[ms, UTC]), ``open``, ``high``,
        ``low``, ``close`` on the pair's price step, ``volume`` in base currency
    :raises ReplayError: when the seed, a date or a pair cannot be generated
    """
    start, stop = _check_request(seed, start, stop, pairs)
    dates = pd.date_range(start, stop, freq="5min", inclusive="left", unit="ms", name="date")
    factor = market_factor(seed, dates)
    return {pair: pair_candles(seed, pair, dates, factor) for pair in pairs}


def aggregate(candles: pd.DataFrame, timeframe: str) -> pd.DataFrame:
    """Aggregate five-minute candles exactly.

    :param candles: gap-free five-minute candles that begin on a boundary of ``timeframe``
    :param timeframe: one of :data:`TIMEFRAME_MINUTES`
    :return: candles of the longer timeframe with the same columns and dtypes
    """
    opens = candles["date"].dt.floor(f"{TIMEFRAME_MINUTES[timeframe]}min")
    aggregated = (
        candles.groupby(opens)
        .agg({"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"})
        .reset_index()
    )
    # The sum of numbers with three decimals has three decimals; floating point adds more.
    aggregated["volume"] = aggregated["volume"].round(VOLUME_DECIMALS)
    return aggregated


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
        frames = {timeframe: aggregate(candles, timeframe) for timeframe in TIMEFRAME_MINUTES}
        for timeframe, frame in frames.items():
            yield f"{name}-{timeframe}-{CandleType.FUTURES}.feather", frame
        yield f"{name}-1h-{CandleType.MARK}.feather", mark_candles(seed, pair, frames["1h"])
        # With the rate in ``open``, as in the files that people have: freqtrade 2026.9 reads those too, although it
        # writes a column named ``funding_rate``.
        hours = pd.DatetimeIndex(frames["1h"]["date"])
        yield f"{name}-1h-{CandleType.FUNDING_RATE}.feather", funding_rates(seed, pair, hours)


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
