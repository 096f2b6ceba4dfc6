"""A copy of the candles that ends before the locked ones: what a trial cannot read, it cannot learn from."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from freqtrade.data.history import get_datahandler
from freqtrade.data.history.datahandlers.idatahandler import IDataHandler
from freqtrade.enums import CandleType, TradingMode
from freqtrade.exchange import timeframe_to_msecs
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.freqai.fingerprint import frame_hash
from mtfscalper.search.errors import StudyError

# Of a study's trials, beside their candles: figures, logs, and policies until a trial ends.
_BESIDE_BYTES = 100 * 2**20


class CandleFile(NamedTuple):
    """One file of candles, as freqtrade names it."""

    pair: str
    timeframe: str
    candle_type: CandleType

    @property
    def timeframe_ms(self) -> int:
        """Length of a candle."""
        return int(timeframe_to_msecs(self.timeframe))

    def __str__(self) -> str:
        return f"{self.pair} {self.timeframe} {self.candle_type}"


def candle_files(config: Mapping[str, Any], datadir: Path, pairs: Collection[str]) -> list[CandleFile]:
    """The files of pairs in a data directory, in one order.

    :param config: the freqtrade config
    """
    handler, mode = _handler(config, datadir), TradingMode(config.get("trading_mode", TradingMode.SPOT))
    found = (CandleFile(*each) for each in handler.ohlcv_get_available_data(datadir, mode))
    return sorted((file for file in found if file.pair in pairs), key=str)


def cut_candles(config: Mapping[str, Any], source: Path, target: Path, pairs: Collection[str], lock_ms: int) -> str:
    """Copy the candles of pairs that end before the locked ones.

    :param config: the freqtrade config
    :param target: a folder that does not exist; it is there whole or not at all
    :param lock_ms: no candle that ends later is copied, milliseconds since 1970
    :return: a hash of what was copied
    :raises StudyError: if the disk has no space for them, or there are none
    """
    check_space(config, source, target, pairs)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    reader, writer = _handler(config, source), _handler(config, partial)
    (partial / "futures").mkdir(parents=True)
    hashes = {}
    for file in candle_files(config, source, pairs):
        frame = _loaded(reader, file)
        kept = frame[_dates_ms(frame) + file.timeframe_ms <= lock_ms].reset_index(drop=True)
        if len(kept):
            writer.ohlcv_store(file.pair, file.timeframe, kept, file.candle_type)
            hashes[str(file)] = frame_hash(kept)
    check_cut(config, partial, pairs, lock_ms)
    partial.replace(target)
    return artefacts.value_hash(hashes)


def check_space(config: Mapping[str, Any], source: Path, target: Path, pairs: Collection[str]) -> None:
    """
    :param target: of the copy; it need not exist
    :raises StudyError: if the disk has no space for the candles of pairs and what trials write beside them
    """
    handler = _handler(config, source)
    # As whole files: what is cut off is little, and its place in a compressed file is not known.
    files = (handler._pair_data_filename(source, *file) for file in candle_files(config, source, pairs))
    candle_bytes = sum(path.stat().st_size for path in files if path.is_file())
    place = next(folder for folder in target.absolute().parents if folder.is_dir())
    free, needed = shutil.disk_usage(place).free, candle_bytes + _BESIDE_BYTES
    if free < needed:
        raise StudyError(
            f"a study needs {_megabytes(needed)} in {target.parent}, {_megabytes(candle_bytes)} of them for the "
            f"candles that it copies from {source}, and {_megabytes(free)} are free there; accepted: a disk with as "
            "much space; remedy: make space, or name a user directory on another disk with --userdir"
        )


def check_cut(config: Mapping[str, Any], folder: Path, pairs: Collection[str], lock_ms: int) -> None:
    """
    :raises StudyError: if a file of a study's candles goes on into the locked ones
    """
    reader, files = _handler(config, folder), candle_files(config, folder, pairs)
    if not files:
        raise StudyError(
            f"{folder} holds no candles of {', '.join(sorted(pairs))}; accepted: what mtfscalper study run copied "
            "there; remedy: begin another study"
        )
    for file in files:
        dates = _dates_ms(_loaded(reader, file))
        if len(dates) and int(dates[-1]) + file.timeframe_ms > lock_ms:
            raise StudyError(
                f"{folder}: {file} goes on to {_moment(int(dates[-1]))}, into the candles that are locked from "
                f"{_moment(lock_ms)} on; accepted: candles that end before; remedy: begin another study"
            )


def locked_candles(config: Mapping[str, Any], source: Path, copy: Path, lock_ms: int, end_ms: int, copied: str) -> str:
    """A hash of the locked candles, if those before them still are the ones that a study began with.

    Candles that were added since, earlier or later ones or those of another timeframe, make no difference.

    :param source: where all candles lie now
    :param copy: of those before the lock, as :func:`cut_candles` made it
    :param end_ms: of the locked ones, milliseconds since 1970
    :param copied: the hash that it gave
    :raises StudyError: if a file is missing, or holds others
    """
    reader, kept = _handler(config, source), _handler(config, copy)
    mode = TradingMode(config.get("trading_mode", TradingMode.SPOT))
    files = sorted((CandleFile(*each) for each in kept.ohlcv_get_available_data(copy, mode)), key=str)
    before, locked, others = {}, {}, []
    for file in files:
        frame, own = _loaded(reader, file), _loaded(kept, file)
        if frame.empty:
            others.append(f"{file} (missing)")
            continue
        dates, own_dates = _dates_ms(frame), _dates_ms(own)
        is_before = (dates + file.timeframe_ms <= lock_ms) & (dates >= own_dates[0])
        before[str(file)] = frame_hash(frame[is_before].reset_index(drop=True))
        is_locked = (dates + file.timeframe_ms > lock_ms) & (dates < end_ms)
        locked[str(file)] = frame_hash(frame[is_locked].reset_index(drop=True))
        if not _opens(frame[is_before]).equals(_opens(own)):
            others.append(str(file))
    if artefacts.value_hash(before) != copied:
        raise StudyError(
            f"the candles in {source} before {_moment(lock_ms)} are others than those that the study began with, which "
            f"lie in {copy}{': ' * bool(others)}{', '.join(others)}; accepted: the same, from which its trials were "
            "trained; remedy: put the files back as they were, or begin another study"
        )
    return artefacts.value_hash(locked)


def _opens(frame: DataFrame) -> DataFrame:
    """The opens of candles, or funding rates, whichever name these are stored under."""
    return frame.rename(columns={"funding_rate": "open"})[["date", "open"]].reset_index(drop=True)


def span_ms(config: Mapping[str, Any], datadir: Path, pairs: Collection[str], timeframe: str) -> tuple[int, int]:
    """From when on, and until when, there are candles of all pairs, milliseconds since 1970.

    :param timeframe: of the candles
    :raises StudyError: if a pair has none
    """
    reader, kind = _handler(config, datadir), CandleType(config["candle_type_def"])
    spans = []
    for pair in pairs:
        file = CandleFile(pair, timeframe, kind)
        dates = _dates_ms(_loaded(reader, file))
        if not len(dates):
            raise StudyError(
                f"{datadir} holds no candles of {file}; accepted: candles of every pair of the config; remedy: "
                "download them with freqtrade download-data, or name the folder with --datadir"
            )
        spans.append((int(dates[0]), int(dates[-1]) + file.timeframe_ms))
    firsts, ends = zip(*spans, strict=True)
    return max(firsts), min(ends)


def _handler(config: Mapping[str, Any], datadir: Path) -> IDataHandler:
    return get_datahandler(datadir, config.get("dataformat_ohlcv", "feather"))


def _loaded(handler: IDataHandler, file: CandleFile) -> DataFrame:
    # As they are: freqtrade's own reading fills gaps.
    return handler._ohlcv_load(file.pair, file.timeframe, None, file.candle_type)


def _dates_ms(frame: DataFrame) -> npt.NDArray[np.int64]:
    if frame.empty:
        return np.zeros(0, dtype=np.int64)
    dates: npt.NDArray[np.int64] = frame["date"].dt.as_unit("ms").astype("int64").to_numpy()
    return dates


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 10**6:,.1f} MB"


def _moment(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"
