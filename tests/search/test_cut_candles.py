"""The copy of the candles that trials read: it ends before what is locked, and says so."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from mtfscalper.offline.synthetic import write_market
from mtfscalper.search import cut_candles as cut_candles_module
from mtfscalper.search.cut_candles import candle_files, check_cut, cut_candles, locked_candles, span_ms
from mtfscalper.search.errors import StudyError

PAIR, OTHER = "BTC/USDT:USDT", "ETH/USDT:USDT"
CONFIG: dict[str, Any] = {"trading_mode": "futures", "candle_type_def": "futures", "dataformat_ohlcv": "feather"}
LOCK = datetime(2024, 9, 3, tzinfo=UTC)
LOCK_MS = int(LOCK.timestamp() * 1000)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_market(
        folder, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 9, 5, tzinfo=UTC), pairs=(PAIR, OTHER)
    )
    return folder


def ends(folder: Path) -> dict[str, pd.Timestamp]:
    return {path.name: pd.read_feather(path)["date"].iloc[-1] for path in (folder / "futures").iterdir()}


def test_no_file_goes_on_into_what_is_locked_and_nothing_else_is_missing(market: Path, tmp_path: Path) -> None:
    target = tmp_path / "candles"
    cut_candles(CONFIG, market, target, (PAIR, OTHER), LOCK_MS)
    assert ends(target).keys() == ends(market).keys()
    assert {PAIR, OTHER} == {file.pair for file in candle_files(CONFIG, target, (PAIR, OTHER))}
    for name, last in ends(target).items():
        length = pd.Timedelta(name.split("-")[1].replace("m", "min"))
        assert last + length <= LOCK
        whole = pd.read_feather(market / "futures" / name)
        inside = whole[whole["date"] + length <= LOCK].reset_index(drop=True)
        copied = pd.read_feather(target / "futures" / name)
        if "funding" in name:
            # Of an older layout freqtrade keeps the rates alone, under their name.
            inside = inside.rename(columns={"open": "funding_rate"})[["date", "funding_rate"]]
        pd.testing.assert_frame_equal(copied, inside)


def test_a_candle_that_ends_after_the_lock_is_left_out_whenever_it_begins(market: Path, tmp_path: Path) -> None:
    cut_candles(CONFIG, market, tmp_path / "candles", (PAIR,), LOCK_MS - 60_000)
    last = ends(tmp_path / "candles")
    assert last["BTC_USDT_USDT-1h-futures.feather"] == LOCK - pd.Timedelta("2h")
    assert last["BTC_USDT_USDT-5m-futures.feather"] == LOCK - pd.Timedelta("10min")


def test_the_same_candles_have_the_same_hash_and_others_another(market: Path, tmp_path: Path) -> None:
    first, second, longer = (
        cut_candles(CONFIG, market, tmp_path / name, (PAIR,), LOCK_MS + more)
        for name, more in (("first", 0), ("second", 0), ("longer", 3_600_000))
    )
    assert first == second != longer


def test_a_disk_without_space_is_told_of_before_anything_is_copied(
    market: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, asked = 0, []

    def disk_usage(path: Path) -> Any:
        asked.append(path)
        return SimpleNamespace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    target = tmp_path / "studies" / "small" / "candles"
    size = sum(path.stat().st_size for path in (market / "futures").glob("BTC*"))
    assert size > 0
    beside = cut_candles_module._BESIDE_BYTES
    needed, of_candles = ((n + size) / 10**6 for n in (beside, 0))
    free = beside + size - 1
    said = (
        rf"needs {needed:.1f} MB in {target.parent}, {of_candles:.1f} MB of them for the candles that it copies from "
        rf"{market}, and {needed:.1f} MB are free there; accepted: .*; remedy: make space"
    )
    with pytest.raises(StudyError, match=said):
        cut_candles(CONFIG, market, target, (PAIR,), LOCK_MS)
    assert not target.parent.exists()
    # Of the disk that it will lie on, whose folder there is not yet.
    assert asked == [tmp_path]
    free += 1
    cut_candles(CONFIG, market, target, (PAIR,), LOCK_MS)
    assert ends(target)


def test_a_copy_that_was_exchanged_for_all_candles_is_refused(market: Path, tmp_path: Path) -> None:
    target = tmp_path / "candles"
    cut_candles(CONFIG, market, target, (PAIR,), LOCK_MS)
    check_cut(CONFIG, target, (PAIR,), LOCK_MS)
    name = "BTC_USDT_USDT-1h-mark.feather"
    shutil.copy(market / "futures" / name, target / "futures" / name)
    with pytest.raises(StudyError, match=r"BTC/USDT:USDT 1h mark goes on to 2024-09-04 23:00, into the candles"):
        check_cut(CONFIG, target, (PAIR,), LOCK_MS)
    with pytest.raises(StudyError, match=r"holds no candles of ETH/USDT:USDT"):
        check_cut(CONFIG, target, (OTHER,), LOCK_MS)


def test_the_span_is_that_of_all_pairs(market: Path, tmp_path: Path) -> None:
    first, end = span_ms(CONFIG, market, (PAIR, OTHER), "5m")
    assert (first, end) == tuple(int(datetime(2024, 9, day, tzinfo=UTC).timestamp() * 1000) for day in (1, 5))
    with pytest.raises(StudyError, match=r"no candles of XRP/USDT:USDT 5m futures"):
        span_ms(CONFIG, market, (PAIR, "XRP/USDT:USDT"), "5m")


def test_candles_that_were_repaired_are_noticed_and_later_or_other_ones_are_none_of_a_studys(
    market: Path, tmp_path: Path
) -> None:
    source, copy = tmp_path / "data", tmp_path / "candles"
    shutil.copytree(market, source)
    copied, end_ms = cut_candles(CONFIG, source, copy, (PAIR, OTHER), LOCK_MS), LOCK_MS + 86_400_000

    def seen() -> str:
        return locked_candles(CONFIG, source, copy, LOCK_MS, end_ms, copied)

    def change(name: str, at: pd.Timestamp | None, column: str = "close") -> None:
        path = source / "futures" / name
        frame = pd.read_feather(path)
        frame.loc[slice(None) if at is None else frame["date"] == at, column] *= 1.001
        frame.to_feather(path)

    first, file = seen(), "ETH_USDT_USDT-5m-futures.feather"
    whole = (source / "futures" / file).read_bytes()
    assert seen() == first
    # The day after the locked one, and a timeframe that nobody had.
    change(file, LOCK + pd.Timedelta("1D"))
    shutil.copy(source / "futures" / file, source / "futures" / "ETH_USDT_USDT-2h-futures.feather")
    assert seen() == first
    # An earlier day, as somebody who downloads more has.
    frame = pd.read_feather(source / "futures" / file)
    earlier = frame.assign(date=frame["date"] - pd.Timedelta("30D"))
    pd.concat([earlier, frame], ignore_index=True).to_feather(source / "futures" / file)
    assert seen() == first
    change(file, LOCK)
    assert seen() != first
    (source / "futures" / file).write_bytes(whole)
    for column in ("open", "volume"):
        change(file, LOCK - pd.Timedelta("10min"), column)
        with pytest.raises(StudyError, match="before 2024-09-03 00:00 are others than those that the study began with"):
            seen()
        (source / "futures" / file).write_bytes(whole)
    assert seen() == first
    (source / "futures" / file).unlink()
    with pytest.raises(StudyError, match=r"which lie in .*candles: ETH/USDT:USDT 5m futures \(missing\)"):
        seen()
