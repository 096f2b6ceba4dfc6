"""The record of decisions: one row for each question, in files that are whole and do not grow for ever."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqtrade.enums import RunMode

from mtfscalper import artefacts
from mtfscalper.freqai import decision_record
from mtfscalper.freqai.decision_record import (
    KEPT_FILES,
    SCHEMA,
    DecisionRecord,
    Question,
    bots_decisions,
    newest_decisions,
)

PAIR, OTHER_PAIR = "BTC/USDT:USDT", "ETH/USDT:USDT"
START_MS = 1_725_235_200_000
CANDLE_MS, DAY_MS = 300_000, 86_400_000
FAR_MS = START_MS + 1000 * DAY_MS


def question(number: int = 0, pair: str = PAIR, leave: bool = False) -> Question:
    return Question(
        pair, START_MS + number * CANDLE_MS, START_MS - CANDLE_MS, "long", 0.01, 0.02, number, 0.25, leave=leave
    )


def backtests(folder: Path) -> DecisionRecord:
    return DecisionRecord(folder, "backtest", "Mine")


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.feather"), key=lambda path: path.stat().st_mtime_ns)


def test_a_file_says_what_was_asked_and_answered(tmp_path: Path) -> None:
    record = backtests(tmp_path)
    record.follow(PAIR, "plan")
    for number in range(3):
        record.add(question(number, leave=number == 2), FAR_MS)
    record.close()
    [file] = files(tmp_path)
    assert file.name.startswith("backtest_Mine_")
    frame = pd.read_feather(file)
    assert frame.columns.tolist() == SCHEMA.names
    assert frame["leave"].tolist() == [False, False, True]
    assert frame["held_candles"].tolist() == [0, 1, 2]
    assert (
        frame["candle"].tolist()
        == pd.to_datetime([question(n).candle_ms for n in range(3)], unit="ms", utc=True).tolist()
    )
    assert frame["opened"].unique().tolist() == [pd.Timestamp(START_MS - CANDLE_MS, unit="ms", tz="UTC")]
    assert frame.iloc[0][["pair", "side", "profit", "best_profit", "probability"]].tolist() == [
        *(PAIR, "long", 0.01, 0.02, 0.25)
    ]


def test_a_backtest_writes_when_enough_waits_and_as_its_data_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision_record, "BUFFERED_ROWS", 10)
    record = backtests(tmp_path)
    end_ms = question(25).candle_ms
    for number in range(25):
        record.at_loop(question(number).candle_ms)
        record.add(question(number), end_ms)
        assert len(record._rows) < 10
        assert sum(len(pd.read_feather(path)) for path in files(tmp_path)) == (number + 1) // 10 * 10
    # The last candle begins, and one of its questions comes after that.
    record.at_loop(end_ms)
    [file] = files(tmp_path)
    assert len(pd.read_feather(file)) == 25
    record.add(question(25), end_ms)
    assert pd.read_feather(file)["held_candles"].tolist() == list(range(26))
    assert files(tmp_path) == [file]


def test_the_same_strategy_backtested_again_gets_another_file(tmp_path: Path) -> None:
    record = backtests(tmp_path)
    for _ in range(2):
        for number in range(3):
            record.add(question(number), FAR_MS)
    record.follow(PAIR, "plan")
    record.add(question(7), FAR_MS)
    record.close()
    assert [len(pd.read_feather(path)) for path in files(tmp_path)] == [3, 3, 1]


def test_a_bot_writes_at_once_and_begins_a_file_a_day(tmp_path: Path) -> None:
    record = DecisionRecord(tmp_path, "dry_run", "Mine")
    per_day = DAY_MS // CANDLE_MS
    for number in (*range(4), per_day, per_day + 1):
        record.add(question(number))
        assert record._rows == []
    assert [len(pd.read_feather(path)) for path in files(tmp_path)] == [4, 2]
    # Row by row, and yet in one piece: nothing is looked up in a thousand pieces later.
    with decision_record.pa.OSFile(str(files(tmp_path)[0])) as source:
        assert decision_record.pa.ipc.open_file(source).num_record_batches == 1


def test_a_bot_that_is_started_again_finds_what_it_was_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = DecisionRecord(tmp_path, "dry_run", "Mine")
    asked = [question(7), question(7, OTHER_PAIR), question(8, leave=True)]
    for one in asked:
        record.add(one)
    DecisionRecord(tmp_path, "live", "Mine").add(question(9))
    again = DecisionRecord(tmp_path, "dry_run", "Mine")
    assert [again.answered(one.pair, one.opened_ms, one.candle_ms) for one in asked] == asked
    # Another candle, another trade, and another kind of bot.
    opened_ms = asked[0].opened_ms
    assert again.answered(PAIR, opened_ms, question(6).candle_ms) is None
    assert again.answered(PAIR, opened_ms + 1, question(7).candle_ms) is None
    assert again.answered(PAIR, opened_ms, question(9).candle_ms) is None
    [file] = tmp_path.glob("dry_run*")
    file.write_bytes(file.read_bytes()[:100])
    assert DecisionRecord(tmp_path, "dry_run", "Mine").answered(PAIR, opened_ms, question(7).candle_ms) is None
    assert f"{file} cannot be read" in caplog.text


def copied_anyhow(folder: Path) -> None:
    """As a copy or a backup leaves a directory: the earliest file was written last."""
    for age, path in enumerate(sorted(folder.glob("*.feather"))):
        os.utime(path, (START_MS / 1000 - age, START_MS / 1000 - age))


def test_a_bot_finds_what_it_was_told_in_a_directory_that_was_copied(tmp_path: Path) -> None:
    asked = [question(number) for number in range(8)]
    for number, one in enumerate(asked):
        # Each bot was killed after its first question.
        DecisionRecord(tmp_path, "dry_run", "Mine").add(one)
        [begun] = [path for path in tmp_path.glob("*.feather") if "_2024-" not in path.name]
        begun.rename(tmp_path / f"dry_run_Mine_2024-09-0{number + 1}_00-00-00_1.feather")
    copied_anyhow(tmp_path)
    again = DecisionRecord(tmp_path, "dry_run", "Mine")
    assert again.answered(PAIR, asked[-1].opened_ms, asked[-1].candle_ms) == asked[-1]
    # It keeps in memory no more than it may be asked for.
    assert len(again._before or {}) == 1


def test_of_a_directory_that_was_copied_the_files_that_were_begun_first_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KEPT_FILES, "backtest", 3)
    for day in range(1, 4):
        record = backtests(tmp_path)
        record.follow(PAIR, "plan")
        record.add(question(day), FAR_MS)
        record.close()
        [begun] = [path for path in tmp_path.glob("*.feather") if "_2024-" not in path.name]
        begun.rename(tmp_path / f"backtest_Mine_2024-09-0{day}_00-00-00_1.feather")
    copied_anyhow(tmp_path)
    found = newest_decisions(tmp_path, PAIR, "plan")
    assert found is not None
    assert found["held_candles"].tolist() == [3]
    record = backtests(tmp_path)
    record.add(question(9), FAR_MS)
    record.close()
    assert sorted(int(pd.read_feather(path)["held_candles"].iloc[0]) for path in files(tmp_path)) == [2, 3, 9]


def test_old_files_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KEPT_FILES, "backtest", 3)
    (tmp_path / "live_Mine_2024.feather").touch()
    (tmp_path / ".backtest_Mine.feather.999999999.tmp").touch()
    for number in range(5):
        record = backtests(tmp_path)
        record.add(question(number), FAR_MS)
        record.close()
    kept = [path for path in files(tmp_path) if path.name.startswith("backtest")]
    assert [pd.read_feather(path)["held_candles"].tolist() for path in kept] == [[2], [3], [4]]
    # A bot's are its own, and what a killed writer left is nobody's.
    assert (tmp_path / "live_Mine_2024.feather").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_record_that_cannot_be_written_stops_nothing_and_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(decision_record, "BUFFERED_ROWS", 10)
    record = DecisionRecord(tmp_path, "live", "Mine")
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(artefacts, "write_atomically", full)
        for number in range(50):
            record.add(question(number))
            record.at_loop(0)
        assert len(record._rows) <= 10
    assert caplog.text.count("The record of decisions cannot be written") == 1
    record.at_loop(0)
    [file] = files(tmp_path)
    assert pd.read_feather(file)["held_candles"].tolist()[-1] == 49
    # Nor does a file that something else has damaged.
    file.write_bytes(b"damaged")
    record.add(question(50))
    record.at_loop(0)
    record.at_loop(0)
    assert 50 in pd.read_feather(files(tmp_path)[-1])["held_candles"].tolist()


def test_what_found_no_room_before_midnight_is_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot's answers would be lost in silence, and a backtest of what it did would ask other policies."""
    record = DecisionRecord(tmp_path, "live", "Mine")
    per_day = DAY_MS // CANDLE_MS
    with monkeypatch.context() as patch:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(artefacts, "write_atomically", full)
        for number in (per_day - 2, per_day - 1, per_day):
            record.add(question(number))
    record.add(question(per_day + 1))
    asked = [one.held_candles for one in bots_decisions(tmp_path, "live")]
    assert asked == [per_day - 2, per_day - 1, per_day, per_day + 1]


@pytest.mark.parametrize(
    ("runmode", "recorded"),
    [
        *((RunMode.BACKTEST, True), (RunMode.DRY_RUN, True), (RunMode.LIVE, True), (RunMode.HYPEROPT, False)),
        *((RunMode.UTIL_NO_EXCHANGE, False), (RunMode.PLOT, False), (RunMode.WEBSERVER, False)),
    ],
)
def test_what_is_no_result_is_not_recorded(tmp_path: Path, runmode: RunMode, recorded: bool) -> None:
    config = {"user_data_dir": tmp_path, "runmode": runmode, "freqai": {"identifier": "mine"}}
    record = DecisionRecord.from_config(config, "Mine")
    assert (record is not None) == recorded
    if record is not None:
        record.add(question(), FAR_MS)
        record.close()
        [file] = files(tmp_path / "decisions" / "mine")
        assert file.name.startswith(runmode.value)
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))])
def test_a_copy_is_another_run(tmp_path: Path, copied: Any) -> None:
    record = backtests(tmp_path)
    record.add(question(1), FAR_MS)
    other = copied(record)
    other.add(question(2), FAR_MS)
    other.close()
    record.close()
    assert [pd.read_feather(path)["held_candles"].tolist() for path in files(tmp_path)] == [[2], [1]]


def test_a_chart_reads_the_newest_backtest_by_its_plan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number, plan in enumerate(("old", "asked for", "asked for", "other")):
        record = backtests(tmp_path)
        record.follow(PAIR, plan)
        record.follow(OTHER_PAIR, plan)
        record.add(question(number), FAR_MS)
        record.add(question(number, OTHER_PAIR), FAR_MS)
        record.close()
    (tmp_path / "backtest_broken.feather").write_bytes(b"broken")
    bot = DecisionRecord(tmp_path, "live", "Mine")
    bot.follow(PAIR, "asked for")
    bot.add(question(9))
    bot.close()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    found = newest_decisions(tmp_path, PAIR, "asked for")
    assert found is not None
    assert found["held_candles"].tolist() == [2]
    assert found["pair"].tolist() == [PAIR]
    assert newest_decisions(tmp_path, PAIR, "unknown") is None
    assert newest_decisions(tmp_path / "nothing", PAIR, "asked for") is None
    assert "backtest_broken.feather cannot be read" in caplog.text
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
