"""What a bot notes of itself, and what a backtest finds of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import time_machine
from freqtrade.persistence import LocalTrade
from sqlalchemy.exc import SQLAlchemyError

from mtfscalper.freqai import bot_journal, bot_record
from mtfscalper.freqai.bot_journal import NOT_FILLED, BotJournal, Journal, Pass, has_journal, read_journal
from mtfscalper.freqai.bot_record import BotRecord, bots_timerange
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.decision_record import DecisionRecord, Question, bots_decisions, records_folder
from mtfscalper.freqai.trade_differences import Scene, compare

PAIR = "BTC/USDT:USDT"
START_MS, CANDLE_MS = 1_725_235_200_000, 300_000
SIDE = "long"


def at(candle: float) -> int:
    return START_MS + int(candle * CANDLE_MS)


def write(folder: Path, *lines: dict[str, Any], day: str = "2024-09-02") -> None:
    folder.mkdir(exist_ok=True)
    with (folder / f"dry_run_{day}.jsonl").open("a") as file:
        file.writelines(f"{json.dumps(line)}\n" for line in lines)


def one_pass(row: int, policy: str = "a", *, at_ms: int | None = None, do_predict: int = 1) -> dict[str, Any]:
    columns = {ACTION_COLUMN: 1.0, "do_predict": float(do_predict)}
    moment = at(row + 1.01) if at_ms is None else at_ms
    return {
        "kind": "pass",
        "at_ms": moment,
        "pair": PAIR,
        "row_ms": at(row),
        "prices": [1, 2, 3, 4],
        "columns": columns,
        "policy": policy,
        "locks": [],
    }


def one_trade(entry: float, end: float | None, reason: str | None = "rl_exit") -> dict[str, Any]:
    closed = None if end is None else at(end)
    return {"kind": "trade", "pair": PAIR, "side": SIDE, "opened_ms": at(entry), "open_rate": 1.0} | {
        "filled_ms": at(entry),
        "closed_ms": closed,
        "close_rate": 1.0,
        "exit_reason": reason,
    }


def ask(folder: Path, entry: float, candle: int, *, leave: bool = False) -> None:
    record = DecisionRecord(folder, "dry_run", "Mine")
    record.add(Question(PAIR, at(candle), at(entry), SIDE, 0.01, 0.02, 1, 0.25, leave, "a"))
    record.close()


def read(folder: Path) -> BotRecord:
    return BotRecord(folder, "dry_run", CANDLE_MS)


def test_a_bots_answer_is_given_for_its_own_trades_as_long_as_it_had_them(tmp_path: Path) -> None:
    write(tmp_path, *(one_pass(row) for row in range(20)), one_trade(3.02, 6.02), one_trade(8.1, None))
    ask(tmp_path, 3.02, 4)
    ask(tmp_path, 3.02, 6, leave=True)
    ask(tmp_path, 8.1, 9)
    record = read(tmp_path)
    given = [record.had(PAIR, at(3), SIDE, at(candle)) for candle in (4, 5, 6, 7)]
    assert given == [True, True, True, False]
    answer = record.answer(PAIR, at(3), SIDE, at(6))
    assert answer.decision is not None
    assert (answer.decision.leave, answer.decision.probability, answer.policy) == (True, 0.25, "a")
    # It was not asked there, and held.
    assert record.answer(PAIR, at(3), SIDE, at(5)).decision is None
    assert not record.had(PAIR, at(3), "short", at(4))
    assert not record.had("ETH/USDT:USDT", at(3), SIDE, at(4))
    # Open at its end.
    assert record.had(PAIR, at(8), SIDE, at(1000))
    assert record.leaving[PAIR, at(3), SIDE] == {at(6)}


def test_where_the_record_of_a_trade_is_gone_the_policies_are_asked(tmp_path: Path) -> None:
    stopped, decided, downtime = one_trade(3, 4, "stop_loss"), one_trade(6, 7), one_trade(30, 39)
    write(tmp_path, *(one_pass(row) for row in (*range(20), 39)), stopped, decided, downtime)
    record = read(tmp_path)
    # A stop may come before the question; while it was down, nobody asked.
    assert record.had(PAIR, at(3), SIDE, at(4))
    assert record.had(PAIR, at(30), SIDE, at(35))
    assert not record.had(PAIR, at(6), SIDE, at(7))


class CountedPasses(list[Pass]):
    """Counts how often they are gone through."""

    times = 0

    def __iter__(self) -> Iterator[Pass]:
        self.times += 1
        return super().__iter__()


def test_the_passes_are_not_gone_through_again_for_each_trade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path, *(one_pass(row) for row in range(300)), *(one_trade(entry, entry + 3) for entry in range(0, 300, 5))
    )
    journal = read_journal(tmp_path, "dry_run")
    assert len(journal.trades) == 60
    passes = CountedPasses(journal.passes)
    monkeypatch.setattr(bot_record, "read_journal", lambda *_: journal._replace(passes=passes))
    record = read(tmp_path)
    for trade in journal.trades:
        # Nothing is on record of any.
        assert not record.had(PAIR, trade.opened_ms, SIDE, trade.opened_ms)
        assert record.stop_ms == at(300)
        assert record.start_ms == at(0)
        assert len(record.decided_passes(PAIR)) == 300
    assert passes.times < 10
    scene = Scene(CANDLE_MS, record.journal, {PAIR: {at(row): (1, 2, 3, 4) for row in range(300)}}, {}, 9, frozenset())
    later = [trade._replace(opened_ms=trade.opened_ms + CANDLE_MS) for trade in journal.trades]
    assert len(compare(journal.trades, later, scene).differences) > 100
    assert passes.times < 20


def test_a_backtest_reads_the_bots_record_once_and_again_when_the_bot_has_written_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"user_data_dir": str(tmp_path), "freqai": {"identifier": "test"}, "timeframe": "5m"}
    folder = records_folder(config)
    folder.mkdir(parents=True)
    write(folder, one_pass(0), one_pass(1))
    reads: list[Path] = []
    real = bot_record.read_journal

    def read_journal(folder: Path, kind: str) -> Journal:
        reads.append(folder)
        return real(folder, kind)

    monkeypatch.setattr(bot_record, "read_journal", read_journal)
    assert bots_timerange(config) == "20240902-20240902T0015"
    assert BotRecord.from_config(config).stop_ms == at(2)
    assert len(reads) == 1
    write(folder, one_pass(2))
    assert BotRecord.from_config(config).stop_ms == at(3)
    assert len(reads) == 2


def test_a_trade_whose_entry_was_not_filled_was_none(tmp_path: Path) -> None:
    write(tmp_path, one_trade(3, 4, NOT_FILLED))
    assert not read(tmp_path).had(PAIR, at(3), SIDE, at(3))


def test_a_row_counts_as_it_was_decided_on_in_time(tmp_path: Path) -> None:
    again = one_pass(3, at_ms=at(4.5), do_predict=0)
    write(tmp_path, one_pass(2), one_pass(3), again, one_pass(4, do_predict=0), one_pass(4, at_ms=at(5.5)))
    write(tmp_path, one_pass(5, at_ms=at(7)))
    found = {one.row_ms: one for one in read(tmp_path).decided_passes(PAIR)}
    # After the end of its candle nothing could be entered by row 5.
    assert list(found) == [at(2), at(3), at(4)]
    assert all(one.columns["do_predict"] == 1 for one in found.values())
    assert found[at(3)].at_ms == at(4.01)


def test_it_is_known_which_policy_was_in_force_also_while_the_bot_was_down(tmp_path: Path) -> None:
    write(tmp_path, one_pass(0, ""), one_pass(1, "a"), one_pass(2, "a"), one_pass(6, "b"), one_pass(7, ""))
    record = read(tmp_path)
    in_force = [record.policy_in_force(PAIR, at(row)) for row in (0, 1, 4, 6, 9)]
    assert in_force[0] is None
    assert [found[0] for found in in_force[1:] if found] == ["a", "a", "b", "b"]
    assert in_force[2] == ("a", at(1), at(6))
    assert record.start_ms == at(1)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, {"kind": "start", "at_ms": 1}, one_pass(1))
    path = tmp_path / "dry_run_2024-09-02.jsonl"
    path.write_text(path.read_text() + '{"kind": "pass", "at_m')
    journal = BotJournal(tmp_path, "dry_run")
    frame = pd.DataFrame({name: [1.0] for name in ("open", "high", "low", "close", ACTION_COLUMN, "do_predict")})
    journal.note_pass(PAIR, frame.assign(date=pd.Timestamp(at(2), unit="ms", tz="UTC")), "b")
    kept = read_journal(tmp_path, "dry_run")
    assert [one.policy for one in kept.passes] == ["a", "b"]
    assert len(kept.starts_ms) == 2
    assert "1 lines are damaged" in caplog.text
    assert not has_journal(tmp_path, "live")


def test_a_journal_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    journal = BotJournal(tmp_path / "file" / "folder", "dry_run")
    frame = pd.DataFrame({name: [1.0] for name in ("open", "high", "low", "close", ACTION_COLUMN, "do_predict")})
    for _ in range(3):
        journal.note_pass(PAIR, frame.assign(date=pd.Timestamp(at(2), unit="ms", tz="UTC")), "b")
    assert caplog.text.count("The bot's journal cannot be written") == 1


def test_a_line_that_a_full_disk_cut_off_takes_no_other_one_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = BotJournal(tmp_path, "dry_run")
    frame = pd.DataFrame({name: [1.0] for name in ("open", "high", "low", "close", ACTION_COLUMN, "do_predict")})

    def note(row: int) -> None:
        journal.note_pass(PAIR, frame.assign(date=pd.Timestamp(at(row), unit="ms", tz="UTC")), "b")

    note(1)
    real = Path.open

    class Full:
        """A file of which the disk has room for a part of a line."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None:
            self._file.close()

        def tell(self) -> int:
            return int(self._file.tell())

        def write(self, text: str) -> None:
            self._file.write(text[:20])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *arguments, **more: Full(real(*arguments, **more)))
        note(2)
    note(3)
    assert [one.row_ms for one in read_journal(tmp_path, "dry_run").passes] == [at(1), at(3)]
    assert "1 lines are damaged" in caplog.text


def test_what_of_a_trade_could_not_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trade = LocalTrade(  # type: ignore[no-untyped-call]
        pair=PAIR, open_date=datetime(2024, 9, 2, tzinfo=UTC), open_rate=1.0, is_open=True, fee_open=0, fee_close=0
    )

    class Trades:
        """freqtrade's, of a bot with one trade."""

        session = None

        @staticmethod
        def get_trades_proxy(*, pair: str, is_open: bool, close_date: datetime | None = None) -> list[LocalTrade]:
            return [trade] if trade.is_open == is_open else []

    monkeypatch.setattr(bot_journal, "Trade", Trades)
    journal = BotJournal(tmp_path, "dry_run")
    journal.note_trades(PAIR)
    trade.is_open, trade.close_date, trade.close_rate = False, datetime(2024, 9, 2, 1, tzinfo=UTC), 2.0

    def full(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        journal.note_trades(PAIR)
    assert [one.closed_ms for one in read_journal(tmp_path, "dry_run").trades] == [None]
    journal.note_trades(PAIR)
    assert [one.close_rate for one in read_journal(tmp_path, "dry_run").trades] == [2.0]


def test_a_clock_that_was_ahead_hides_no_trade_that_closes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    since: list[datetime] = []

    class Trades:
        """freqtrade's, of a bot without one."""

        session = None

        @staticmethod
        def get_trades_proxy(*, pair: str, is_open: bool, close_date: datetime | None = None) -> list[LocalTrade]:
            since.extend([] if close_date is None else [close_date])
            return []

    monkeypatch.setattr(bot_journal, "Trade", Trades)
    frame = pd.DataFrame({name: [1.0] for name in ("open", "high", "low", "close", ACTION_COLUMN, "do_predict")})
    frame = frame.assign(date=pd.Timestamp(at(2), unit="ms", tz="UTC"))
    now, journal = datetime(2024, 9, 2, 1, tzinfo=UTC), BotJournal(tmp_path, "dry_run")
    with time_machine.travel(now + timedelta(days=400), tick=False):
        journal.note_pass(PAIR, frame, "b")
    # The clock is set while the bot runs, or before it is started again.
    for bot in (journal, BotJournal(tmp_path, "dry_run")):
        since.clear()
        with time_machine.travel(now, tick=False):
            bot.note_trades(PAIR)
        assert since[0] <= now


def test_a_database_that_fails_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Locked:
        """freqtrade's trades, or locks of pairs."""

        session = None

        @staticmethod
        def get_trades_proxy(**_: object) -> list[LocalTrade]:
            raise SQLAlchemyError("database is locked")

        @staticmethod
        def get_pair_locks(_: str) -> list[object]:
            raise SQLAlchemyError("database is locked")

    monkeypatch.setattr(bot_journal, "Trade", Locked)
    monkeypatch.setattr(bot_journal, "PairLocks", Locked)
    journal = BotJournal(tmp_path, "dry_run")
    frame = pd.DataFrame({name: [1.0] for name in ("open", "high", "low", "close", ACTION_COLUMN, "do_predict")})
    journal.note_pass(PAIR, frame.assign(date=pd.Timestamp(at(2), unit="ms", tz="UTC")), "b")
    journal.close()
    assert [one.row_ms for one in read_journal(tmp_path, "dry_run").passes] == [at(2)]
    assert caplog.text.count("database is locked") == 1


@pytest.mark.parametrize("lacking", [["policy", "falls_back"], ["falls_back"]])
def test_what_an_earlier_version_recorded_stays_readable(tmp_path: Path, lacking: list[str]) -> None:
    ask(tmp_path, 3, 4)
    [path] = tmp_path.glob("*.feather")
    with pa.OSFile(str(path)) as source:
        old = pa.ipc.open_file(source).read_all().drop_columns(lacking)
    path.unlink()
    with pa.ipc.new_file(str(path), old.schema) as writer:
        writer.write_table(old)
    [read] = bots_decisions(tmp_path, "dry_run")
    assert (read.candle_ms, read.falls_back) == (at(4), False)
    assert ("policy" in lacking) == (read.policy == "")
