"""How a bot is judged from what it last told of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from mtfscalper.cli import main
from mtfscalper.freqai.health import HEALTH_NAME, BotHealth, PairHealth
from mtfscalper.freqai.sharing import Process
from mtfscalper.monitoring import bot_status
from mtfscalper.monitoring.bot_status import Level, Status, prometheus, show, worst

PAIR, OTHER_PAIR = "BTC/USDT:USDT", "ETH/USDT:USDT"
ROOT = Path(__file__).parents[2]
# A bot on a simulated clock: it lives in another year.
NOW = 1_700_000_000.0
SOUND = PairHealth(
    trained_at=NOW - 1800,
    expires_at=NOW + 3600,
    retrain_at=NOW + 1800,
    n_features=183,
    ended_at=NOW - 1700,
    seconds=95,
    candle_at=NOW - 400,
    do_predict=1,
    action="LONG_ENTER",
    probability=0.61,
)


def bot(**changes: Any) -> BotHealth:
    health = BotHealth(
        identifier="mine",
        process=Process.this()._asdict(),
        runmode="dry_run",
        at=NOW,
        looked_at=NOW - 20,
        candle_seconds=300,
        retrain_seconds=3600,
        pairs={PAIR: SOUND, OTHER_PAIR: replace(SOUND, action="NEUTRAL", probability=0.9)},
    )
    return replace(health, **changes)


def status_of(health: BotHealth, folder: Path, age: float = 0.0) -> Status:
    """
    :param age: seconds since it was written
    """
    health.write(folder)
    now = time.time()
    os.utime(folder / HEALTH_NAME, (now - age, now - age))
    with pytest.MonkeyPatch.context() as patch:
        # It is looked at in the same moment, however slow the machine is.
        patch.setattr(bot_status, "time", SimpleNamespace(time=lambda: now))
        return Status.of(folder)


def gone() -> dict[str, Any]:
    return {**Process.this()._asdict(), "started": 1.0}


@pytest.mark.parametrize(
    ("changes", "level", "said"),
    [
        ({}, Level.OK, None),
        ({"troubles": {"training X": "X: training fails"}}, Level.WARNING, "X: training fails"),
        ({"trains": False}, Level.WARNING, "training thread has ended"),
        ({"pairs": {PAIR: PairHealth()}}, Level.WARNING, f"{PAIR}: no policy has been trained yet"),
        ({"pairs": {PAIR: replace(SOUND, retrain_at=NOW - 7300)}}, Level.WARNING, "overdue by 2 h"),
        ({"pairs": {PAIR: replace(SOUND, retrain_at=NOW - 7300, training_since=NOW - 7300)}}, Level.OK, None),
        ({"pairs": {PAIR: replace(SOUND, retrain_at=NOW - 7100)}}, Level.OK, None),
        ({"pairs": {PAIR: replace(SOUND, expires_at=NOW - 1)}}, Level.CRITICAL, f"{PAIR}: its policy has expired"),
        ({"pairs": {PAIR: replace(SOUND, expires_at=0.0)}}, Level.OK, None),
        ({"process": gone()}, Level.CRITICAL, "is gone: it was killed, or it crashed"),
        ({"stopped_at": NOW - 5}, Level.CRITICAL, "was stopped at 2023-11-14 22:13:15 UTC"),
        (
            {"pairs": {PAIR: replace(SOUND, candle_at=NOW - 1300)}},
            Level.CRITICAL,
            f"{PAIR}: no candle of it was analysed",
        ),
        ({"pairs": {PAIR: replace(SOUND, candle_at=NOW - 1270)}}, Level.OK, None),
        # One that has never been analysed, and one that joined the whitelist just now, long after it was on it last.
        (
            {"pairs": {PAIR: replace(SOUND, candle_at=0.0, met_at=NOW - 1000)}},
            Level.CRITICAL,
            "in the 16 min since the bot began to trade it",
        ),
        ({"pairs": {PAIR: replace(SOUND, candle_at=0.0, met_at=NOW - 970)}}, Level.OK, None),
        ({"pairs": {PAIR: replace(SOUND, candle_at=NOW - 9999, met_at=NOW - 970)}}, Level.OK, None),
        # A pair that has left the whitelist with a trade open is neither entered nor trained.
        ({"pairs": {PAIR: PairHealth(is_listed=False)}}, Level.OK, None),
        ({"pairs": {PAIR: replace(SOUND, retrain_at=0.0, expires_at=NOW - 1, is_listed=False)}}, Level.OK, None),
        (
            {"pairs": {PAIR: replace(SOUND, candle_at=NOW - 1300, is_listed=False)}},
            Level.CRITICAL,
            f"{PAIR}: no candle of it was analysed",
        ),
        ({"looked_at": NOW - 970}, Level.CRITICAL, "no candle was analysed for 16 min"),
        ({"looked_at": NOW - 950}, Level.OK, None),
    ],
)
def test_what_is_wrong_with_a_bot_decides_the_exit_status(
    changes: dict[str, Any], level: Level, said: str | None, tmp_path: Path
) -> None:
    status = status_of(bot(**changes), tmp_path)
    assert status.level is level
    assert len(status.findings) == (said is not None)
    assert said is None or said in status.findings[0].text


def test_a_bot_that_writes_no_more_is_found_by_the_age_of_its_file(tmp_path: Path) -> None:
    assert status_of(bot(), tmp_path, age=900).level is Level.OK
    assert status_of(bot(), tmp_path, age=1000).level is Level.CRITICAL
    # And its policy expires meanwhile.
    assert "expired" in status_of(bot(), tmp_path, age=3700).findings[1].text


@pytest.mark.parametrize("content", [None, "{", "[]", '{"pairs": {}}', '{"pairs": {"X": {"colour": 1}}}'])
def test_what_cannot_be_read_is_unknown(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / HEALTH_NAME).write_text(content)
    status = Status.of(tmp_path)
    assert status.level is Level.UNKNOWN
    assert str(tmp_path / HEALTH_NAME) in status.findings[0].text


def test_of_several_bots_the_worst_counts(tmp_path: Path) -> None:
    fine, warned, dead = (
        status_of(bot(**changes), tmp_path) for changes in ({}, {"trains": False}, {"process": gone()})
    )
    unknown = Status.of(tmp_path / "none")
    assert worst([fine, warned]) is Level.WARNING
    assert worst([fine, unknown, dead]) is Level.CRITICAL
    assert worst([warned, unknown]) is Level.UNKNOWN


def test_the_table_shows_each_pair(tmp_path: Path) -> None:
    pairs = {
        PAIR: replace(SOUND, asked_at=NOW - 100, leave_probability=0.25),
        OTHER_PAIR: replace(SOUND, error="ValueError: no", n_failures=3, do_predict=2, action="NEUTRAL"),
        "SOL": replace(SOUND, is_listed=False),
    }
    console = Console(record=True, width=160, highlight=False)
    show(status_of(bot(pairs=pairs, troubles={"x": "ETH: training fails"}), tmp_path), console)
    text = console.export_text()
    print(text)
    lines = {line.split()[0]: line.rstrip() for line in text.splitlines() if line.strip()}
    assert lines["WARNING"].endswith("last candle analysed 20 s ago")
    for word in (
        "30 min",
        "183",
        "in 30 min",
        "well, in 95 s, 28 min ago",
        "long enter, 0.61, of 22:06",
        "hold, p(leave) 0.25",
    ):
        assert word in lines[PAIR]
    for word in ("attempt 4", "failed 28 min ago", "nothing, 0.61, of 22:06, do_predict 2"):
        assert word in lines[OTHER_PAIR]
    assert "none: off the whitelist" in lines["SOL"]
    assert "• ETH: training fails" in text


def test_a_guarded_bot_says_who_ends_its_trades(tmp_path: Path) -> None:
    pairs = {PAIR: replace(SOUND, falls_back=True), OTHER_PAIR: replace(SOUND, falls_back=False)}
    status = status_of(bot(pairs=pairs), tmp_path)
    console = Console(record=True, width=200, highlight=False)
    show(status, console)
    show(status_of(bot(), tmp_path / "unguarded"), console)
    guarded, unguarded = console.export_text().split("\nOK  unguarded", 1)
    lines = {line.split()[0]: line.rstrip() for line in guarded.splitlines() if line.strip()}
    assert lines["pair"].endswith("ends trades")
    assert lines[PAIR].endswith("the rules (fallback)")
    assert lines[OTHER_PAIR].endswith("the policy")
    assert "ends trades" not in unguarded
    figures = prometheus([status]).splitlines()
    for pair, value in ((PAIR, 1), (OTHER_PAIR, 0)):
        assert f'mtfscalper_falls_back{{identifier="{tmp_path.name}",pair="{pair}"}} {value}' in figures
    assert "mtfscalper_falls_back" not in prometheus([Status.of(tmp_path / "unguarded")])


def test_prometheus_reads_the_figures(tmp_path: Path) -> None:
    text = prometheus([status_of(bot(identifier='my "bot"'), tmp_path / 'my "bot"'), Status.of(tmp_path / "none")])
    lines = text.splitlines()
    assert 'mtfscalper_status{identifier="my \\"bot\\""} 0' in lines
    assert 'mtfscalper_status{identifier="none"} 3' in lines
    assert f'mtfscalper_model_trained_timestamp_seconds{{identifier="my \\"bot\\"",pair="{PAIR}"}} 1699998200' in lines
    assert f'mtfscalper_decision_probability{{identifier="my \\"bot\\"",pair="{PAIR}"}} 0.61' in lines
    assert f'mtfscalper_listed{{identifier="my \\"bot\\"",pair="{PAIR}"}} 1' in lines
    assert text.endswith("\n")
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 15
    assert all(line.startswith(("# HELP ", "# TYPE ", *(f"{name}{{" for name in names))) for line in lines)


# ---------------------------------------------------------------------- the command


@pytest.fixture
def userdir(tmp_path: Path) -> Path:
    bot().write(tmp_path / "models" / "mine")
    bot(stopped_at=NOW).write(tmp_path / "models" / "other")
    return tmp_path


def test_the_command_looks_at_every_bot_or_at_one(userdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--userdir", str(userdir)]) == Level.CRITICAL
    assert main(["status", "--userdir", str(userdir), "--identifier", "mine"]) == Level.OK
    assert main(["status", "--userdir", str(userdir), "--identifier", "third"]) == Level.UNKNOWN
    assert main(["status", "--userdir", str(userdir / "models")]) == Level.UNKNOWN
    config = userdir / "config.json"
    config.write_text('{"freqai": {"identifier": "mine"}, /* a comment */ "user_data_dir": ' + f'"{userdir}"}}')
    assert main(["status", "--config", str(config)]) == Level.OK
    config.write_text("{}")
    assert main(["status", "--config", str(config)]) == Level.UNKNOWN
    assert "no freqai.identifier can be read" in capsys.readouterr().err


def test_the_command_is_light_and_writes_nothing(userdir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in userdir.rglob("*")}
    program = (
        "import sys; from mtfscalper.cli import main; status = main(sys.argv[1:]); "
        "print(sorted({'torch', 'pandas', 'ccxt', 'stable_baselines3'} & set(sys.modules)), file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", program, "status", "--userdir", str(userdir), "--prometheus"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "[]\n")
    assert 'mtfscalper_up{identifier="mine"} 1' in done.stdout.splitlines()
    assert {path: path.stat().st_mtime_ns for path in userdir.rglob("*")} == before
