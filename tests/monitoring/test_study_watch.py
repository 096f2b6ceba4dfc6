"""What ``mtfscalper study watch`` shows, and that it changes nothing."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_up_study import BEGAN, NAME, MadeUp, judge, made_up_study, trial
from optuna.trial import TrialState
from rich.console import Console

from mtfscalper import cli
from mtfscalper.monitoring import study_watch
from mtfscalper.monitoring.study_screen import IntervalBar, counts, line, pace, screen, standing
from mtfscalper.monitoring.study_state import Ranked, StudyState, study_state
from mtfscalper.search.installed import is_dashboard_installed
from mtfscalper.search.last_judgement import last_judged

COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING
NOW = BEGAN.timestamp()


def state_of_some() -> StudyState:
    """Two trials an hour, of which four finished and six are left."""
    done = [
        trial(
            0, COMPLETE, 0, 1800, 0.002, interval=[0.001, 0.002, 0.003], samples_per_second=4e4, timesteps=180_000_000
        ),
        trial(1, COMPLETE, 1800, 3600, 0.0015, interval=[-0.001, 0.0015, 0.0025]),
        trial(2, COMPLETE, 3600, 5400, -0.001, interval=[-0.002, -0.001, -0.0005]),
        trial(3, PRUNED, 5400, 7200),
        trial(4, FAIL, 0, 1, error="ValueError: [bold]no[/bold] candles"),
        trial(5, FAIL, 0, 1, set_aside="lost"),
    ]
    running = [
        trial(6, RUNNING, 7200, intermediate=(0.001, 0.002), lease={"worker": "far:1", "until": NOW + 7300}),
        trial(7, RUNNING, 7200, lease={"worker": "far:2", "until": NOW}),
    ]
    return study_state(NAME, [*done, *running], NOW + 7200, asked=10)


def drawn(renderable: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_everything_asked_for_is_on_the_screen(tmp_path: Path) -> None:
    made = made_up_study(tmp_path / "user_data", [0.001], pictures=False)
    judge(made, 0)
    text = drawn(screen(state_of_some(), "CPU 7 %", last_judged(made.folder)))
    for shown in (
        "4 of 10 trials finished: 3 completed, 1 pruned; 1 failed; 1 lost or stopped and run again; 2 running (1",
        "2.0 trials/h · 3 h 00 min left at this pace",
        "40,000 samples/s of a training, 100,000 of the whole study",
        "CPU 7 %",
        "best: trial 0, +0.200 % a day over classic exits, 90 % interval +0.100 % to +0.300 %: above zero; 1 of 2",
        "far:2 lost",
        "gates of trial 0: 2 of 3, not passed; look 1 at",
        "deflated Sharpe ratio",
        "Trial 4 failed: ValueError: [bold]no[/bold] candles",
    ):
        assert " ".join(shown.split()) in " ".join(text.replace("│", " ").split()), shown


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_screen_fits_its_terminal_and_shows_whole_numbers(width: int) -> None:
    lines = drawn(screen(state_of_some(), "CPU 7 %", None), width).splitlines()
    assert {len(line) for line in lines} == {width}
    if width >= 80:
        assert any("+0.200 %   +0.100 % to +0.300 %" in line for line in lines)


def test_an_interval_is_drawn_where_it_lies() -> None:
    def bar(value: float, low: float | None, high: float | None) -> str:
        return IntervalBar(Ranked(0, value, low, high), -0.5, 1.0).drawn(16).plain

    assert bar(0.5, 0.2, 1.0) == "     │ ━━━●━━━━━"
    assert bar(0.1, -0.5, 0.5) == "━━━━━┿●━━━━     "
    assert bar(0.0, None, None) == "     ●          "


def test_a_study_without_trials_says_so() -> None:
    empty = study_state(NAME, [], NOW, asked=None)
    assert counts(empty) == "0 trials finished: 0 completed, 0 pruned; 0 failed; 0 running"
    assert pace(empty) == "– trials/h · time left: nobody said how many trials"
    assert standing(empty) == "no trial has been completed yet"
    assert "no trial has been judged" in drawn(screen(empty, "", None))


def test_a_line_holds_all_of_it() -> None:
    said = line(state_of_some(), "CPU 7 %", None)
    assert "\n" not in said
    for part in ("Study planted: 4 of 10", "2.0 trials/h", "best: trial 0", "not judged yet", "CPU 7 %"):
        assert part in said


# ---------------------------------------------------------------------- the command


def of_three_trials(tmp_path: Path, pictures: bool) -> MadeUp:
    return made_up_study(tmp_path / "user_data", [0.001, None, 0.002], asked=3, pictures=pictures)


@pytest.fixture
def made(tmp_path: Path) -> MadeUp:
    # Drawing pictures takes longer than all else.
    return of_three_trials(tmp_path, pictures=False)


def files_of(made: MadeUp) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in made.userdir.rglob("*") if path.is_file()}


def test_once_prints_the_screen_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = of_three_trials(tmp_path, pictures=True)
    with made.folder.journal.open("ab") as journal:
        # A worker is just writing.
        journal.write(b'{"op_code":4,"worker')
    before = files_of(made)
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--once"]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 trials finished: 2 completed, 1 pruned" in said
    assert "all done" in said
    assert "GB" in said
    assert files_of(made) == before
    assert "\x1b" not in said


def test_without_a_terminal_there_is_a_line_for_each_trial_that_finishes_until_all_have(
    made: MadeUp, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made.study.set_user_attr("mtfscalper:trials", 5)
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) in (2, 4):
            made.study.tell(made.study.ask(), 0.003)

    monkeypatch.setattr(study_watch.time, "sleep", sleep)
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--study", NAME]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [text.partition(" trials")[0] for text in said] == [f"Study {NAME}: {n} of 5" for n in (3, 4, 5)]
    assert looks == [study_watch.LOOK_SECONDS] * 4


def test_on_a_terminal_the_screen_is_drawn_until_all_is_done(made: MadeUp) -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, _environ={"TERM": "xterm"})
    args = cli_arguments(made)
    assert study_watch.watch(args, console) == 0
    assert "all done" in file.getvalue()


def cli_arguments(made: MadeUp) -> Any:
    import argparse

    from mtfscalper.monitoring.study_options import add_watch_arguments

    parser = argparse.ArgumentParser()
    add_watch_arguments(parser)
    return parser.parse_args(["--userdir", str(made.userdir)])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--study", "other"], "the studies of"),
        (["--storage", "postgresql://127.0.0.1:1/none"], "--storage"),
        (["--storage", "nonsense"], "--storage"),
    ],
)
def test_what_is_not_there_is_one_sentence(
    arguments: list[str], said: str, made: MadeUp, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--once", *arguments]) == 2
    [sentence] = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: ")
    assert said in sentence
    assert "remedy" in sentence


def test_a_study_whose_journal_is_missing_gets_none(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    os.remove(made.folder.journal)
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--once"]) == 2
    assert "journal.log is missing" in capsys.readouterr().err
    assert not made.folder.journal.exists()


def test_the_last_judgement_of_a_trial_is_the_one_that_came_to_its_end(made: MadeUp) -> None:
    assert last_judged(made.folder) is None
    judge(made, 0)
    with made.folder.judgements.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"state": "begun", "look": 2}) + "\n")
        file.write('{"state": "done", "look": 2, "judg\n')
        file.write('{"state": "done", "look": 3, "judg')
    found = last_judged(made.folder)
    assert found is not None
    assert (found.trial, found.look, found.passed) == (0, 1, 2)
    assert last_judged(made.folder, trial=2) is None


@pytest.mark.skipif(not is_dashboard_installed(), reason="optuna-dashboard is not installed: make setup")
def test_a_note_is_written_once_until_it_has_something_new_to_say(made: MadeUp) -> None:
    from mtfscalper.search.attachments import write_note

    before = made.folder.journal.read_bytes()
    write_note(made.study, made.folder, 0)
    assert made.folder.journal.read_bytes() == before
    judge(made, 0)
    assert made.folder.journal.read_bytes() != before
