"""Processes with one identifier: a backtest waits for a backtest, nobody for a bot, and what is in use stays."""

import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai import sharing
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.sharing import Process, Readers, Writers

PAIR = "BTC/USDT:USDT"
OTHER_PAIR = "ETH/USDT:USDT"
# What another process does until its input ends.
OTHER_PROCESS = """
import sys
from pathlib import Path
from freqtrade.enums import RunMode
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.sharing import Readers, Writers

root, work = Path(sys.argv[1]), sys.argv[2]
archive = Archive("test", root, root / "locks")
def wait():
    print("ready", flush=True)
    sys.stdin.read()
if work == "pair":
    with Writers(archive).of_pair("BTC/USDT:USDT"):
        wait()
elif work == "bot":
    Writers(archive).begin(RunMode.DRY_RUN)
    wait()
else:
    class Strategy: pass
    strategy = Strategy()
    Readers(archive).note(strategy, "BTC/USDT:USDT", "in use by another")
    wait()
"""


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive("test", tmp_path, tmp_path / "locks")


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bot's lock is held until its process ends; here until its test does."""
    monkeypatch.setattr(sharing, "_held", [])
    monkeypatch.setattr(sharing, "_noted", {})
    monkeypatch.setattr(sharing, "_LOOK_SECONDS", 0.2)
    monkeypatch.setattr(sharing, "_TOLD_EVERY_SECONDS", 0.3)


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Start another process that has a pair, an identifier or a plan."""
    started: list[subprocess.Popen[str]] = []

    def start(work: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path), work]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mtfscalper.freqai.sharing"]


# ---------------------------------------------------------------------- writers


@pytest.mark.parametrize("end", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_a_backtest_waits_for_a_backtest_and_names_it_again_and_again(
    archive: Archive,
    other_process: Callable[[str], "subprocess.Popen[str]"],
    caplog: pytest.LogCaptureFixture,
    end: signal.Signals | None,
) -> None:
    caplog.set_level(logging.INFO)
    process = other_process("pair")
    went_on = threading.Event()

    def work() -> None:
        with Writers(archive).of_pair(PAIR):
            went_on.set()

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 120
    while len(lines(caplog)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not went_on.is_set()
    if end is None:
        process.communicate("")
    else:
        process.send_signal(end)
        process.wait()
    assert went_on.wait(120)
    thread.join()
    assert set(lines(caplog)) == {
        f"Waiting for process {process.pid} (-c {archive.root} pair), which works on {PAIR} under the identifier "
        "'test'. With another identifier nothing would wait."
    }


def test_a_backtest_of_another_pair_does_not_wait(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"], caplog: pytest.LogCaptureFixture
) -> None:
    other_process("pair")
    with Writers(archive).of_pair(OTHER_PAIR):
        pass
    assert lines(caplog) == []


@pytest.mark.parametrize("runmode", [RunMode.BACKTEST, RunMode.HYPEROPT, RunMode.UTIL_NO_EXCHANGE, RunMode.DRY_RUN])
def test_nothing_starts_beside_a_bot_and_its_process_is_named(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"], runmode: RunMode
) -> None:
    process = other_process("bot")
    with pytest.raises(
        OperationalException,
        match=rf"freqai.identifier is 'test', which a running bot uses: process {process.pid} \(-c .* bot\); accepted: "
        r"an identifier that no bot uses; remedy: name another freqai.identifier, or stop the bot",
    ):
        Writers(archive).begin(runmode)
    process.kill()
    process.wait()
    Writers(archive).begin(runmode)


def test_a_backtest_stops_before_its_next_pair_once_a_bot_was_started(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    writers = Writers(archive)
    writers.begin(RunMode.BACKTEST)
    other_process("bot")
    with pytest.raises(OperationalException, match="which a running bot uses"), writers.of_pair(PAIR):
        pytest.fail("it writes beside a bot")


def test_a_bot_waits_for_the_backtest_that_was_there_before(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    process = other_process("pair")
    began = threading.Event()
    thread = threading.Thread(target=lambda: (Writers(archive).begin(RunMode.DRY_RUN), began.set()))
    thread.start()
    assert not began.wait(1)
    process.communicate("")
    assert began.wait(120)
    thread.join()
    assert f"Waiting for process {process.pid}" in lines(caplog)[0]


def test_a_process_never_meets_its_own_locks(archive: Archive, caplog: pytest.LogCaptureFixture) -> None:
    """A bot reloads its config, FreqUI makes one backtest after the other, all in one process."""
    for _ in range(2):
        Writers(archive).begin(RunMode.DRY_RUN)
        with Writers(archive).of_pair(PAIR), Writers(archive).of_pair(PAIR):
            pass
    Writers(archive).begin(RunMode.BACKTEST)
    assert lines(caplog) == []


def test_where_no_lock_can_be_had_a_run_goes_on_and_says_so(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    Writers(archive).begin(RunMode.BACKTEST)
    with Writers(archive).of_pair(PAIR):
        pass
    [line] = lines(caplog)
    assert f"{archive.locks} cannot be locked (Read-only file system)" in line


# ---------------------------------------------------------------------- readers


class Strategy:
    """Stands for one that trades."""


def test_the_plans_of_living_processes_are_in_use_and_notes_of_dead_ones_are_removed(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    process = other_process("reader")
    own = Strategy()
    Readers(archive).note(own, PAIR, "first")
    Readers(archive).note(own, OTHER_PAIR, "other pair's")
    second = Strategy()
    Readers(archive).note(second, PAIR, "second")
    assert Readers(archive).plans(PAIR) == {"first", "second", "in use by another"}
    Readers(archive).note(own, PAIR, "first's next")
    assert Readers(archive).plans(PAIR) == {"first's next", "second", "in use by another"}
    del second
    Readers(archive).note(own, PAIR, "first's next")
    process.kill()
    process.wait()
    assert Readers(archive).plans(PAIR) == {"first's next"}
    assert len(list(archive.in_use.iterdir())) == 1


def test_a_process_takes_its_note_along(
    archive: Archive, other_process: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    process = other_process("reader")
    assert len(list(archive.in_use.iterdir())) == 1
    process.communicate("")
    assert list(archive.in_use.iterdir()) == []


@pytest.mark.parametrize(("days", "is_in_use"), [(1, True), (8, False)])
def test_a_process_elsewhere_is_taken_for_living_for_a_week(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, days: float, is_in_use: bool
) -> None:
    own = Strategy()
    monkeypatch.setattr(sharing.socket, "gethostname", lambda: "elsewhere")
    Readers(archive).note(own, PAIR, "plan")
    monkeypatch.setattr(sharing.socket, "gethostname", lambda: "here")
    [note] = archive.in_use.iterdir()
    written = note.stat().st_mtime
    monkeypatch.setattr(sharing.time, "time", lambda: written + days * 86_400)
    assert Readers(archive).plans(PAIR) == ({"plan"} if is_in_use else set())


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"process": 3}', '{"process": {}, "plans": []}'])
def test_a_damaged_note_protects_nothing_and_is_removed(archive: Archive, content: str) -> None:
    archive.in_use.mkdir(parents=True)
    note = archive.in_use / "here-1.json"
    note.write_text(content)
    assert Readers(archive).plans(PAIR) == set()
    assert not note.exists()


def test_another_process_with_the_number_of_a_dead_one_is_not_taken_for_it() -> None:
    this = Process.this()
    assert this.may_live(time.time())
    assert not this._replace(started=this.started - 3600).may_live(time.time())
    assert json.loads(json.dumps(this._asdict())) == this._asdict()


@pytest.mark.skipif(not sharing._boot(), reason="the system names no start of the machine")
def test_a_clock_that_is_set_ends_no_process_and_a_start_of_the_machine_ends_them_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    this = Process.this()
    booted = psutil.boot_time()
    # As a clock that is set two hours ahead: psutil reckons from the start of the machine.
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 7200)
    assert psutil.Process().create_time() == pytest.approx(this.started + 7200)
    assert this.may_live(time.time())
    assert not this._replace(started=this.started - 3600).may_live(time.time())
    # What an earlier version wrote.
    assert not this._replace(boot="").may_live(time.time())
    monkeypatch.setattr(sharing, "_boot", lambda: "another")
    assert not this.may_live(time.time())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--db-url", "sqlite:///a.sqlite"], "--db-url sqlite:///a.sqlite"),
        (["--db-url", "postgresql://me:hunter2@db/trades"], "--db-url 'postgresql://***'"),
        (["--db-url=mysql://db/trades?password=hunter2"], "'--db-url=mysql://***'"),
        (["--config", "https://me:hunter2@host/config.json"], "--config 'https://***@host/config.json'"),
    ],
)
def test_what_others_are_told_of_a_command_holds_no_password(
    words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/freqtrade", "trade", *words])
    assert Process.this().command == f"freqtrade trade {shown}"


def test_a_bot_waits_for_another_ones_download_with_a_line_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sharing, "_LOOK_SECONDS", 0.0)
    first, second = sharing.Download(tmp_path), sharing.Download(tmp_path)
    first.begin()
    waiting = threading.Thread(target=second.begin)
    waiting.start()
    while "which downloads candles into the same directory" not in caplog.text:
        assert waiting.is_alive()
    first.end()
    waiting.join(120)
    assert not waiting.is_alive()
    # The second has it now, and the first goes on without at the end of its patience.
    monkeypatch.setattr(sharing, "_DOWNLOAD_SECONDS", 0.0)
    first.begin()
    assert not first._lock.is_locked
    second.end()
    second.end()
    first.begin()
    assert first._lock.is_locked
    first.end()
