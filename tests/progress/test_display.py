"""What people see of a run, on a terminal and without one."""

from __future__ import annotations

import io
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from rich.logging import RichHandler

from mtfscalper.progress import words
from mtfscalper.progress.display import LINE_SECONDS, RunWatch, has_display
from mtfscalper.progress.load import machine_load
from mtfscalper.progress.run import RunProgress
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.watching import TrainingState

STATE = TrainingState(
    "BTC/USDT:USDT 2024-10-01",
    "",
    timesteps=4096,
    timesteps_planned=32768,
    updated=True,
    entropy=0.3125,
    evaluation=Evaluation(4096, 0.0123, 7, 0.5, 0.1),
    best=Evaluation(2048, 0.0265, 5, 0.6, 0.1),
)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def terminal(width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30, _environ={"TERM": "xterm"})


def watch_on(console: Console | None, clock: Clock) -> RunWatch:
    run = RunProgress(clock)
    run.expect({STATE.name, "BTC/USDT:USDT 2024-10-08", "ETH/USDT:USDT 2024-10-01", "ETH/USDT:USDT 2024-10-08"})
    return RunWatch(run, console, clock=clock)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_display_says_all_of_it(clock: Clock) -> None:
    console = terminal()
    watch = watch_on(console, clock)
    watch(STATE._replace(timesteps=0, updated=False))
    clock.seconds = 2.0
    watch(STATE)
    console.print(watch.drawn())
    text = shown(console)
    for said in (
        "Training BTC/USDT:USDT 2024-10-01 (1 of 4)",
        "3%",
        "1 min 02 s left of the whole run",
        "4,096 of 32,768 samples · 2,048 samples/s",
        "evaluation +0.0123 (7 trades), best +0.0265 (5 trades) · entropy 0.312",
        "CPU ",
        "memory ",
    ):
        assert said in text, text


def test_trainings_at_once_have_a_row_each_and_one_total(clock: Clock) -> None:
    console = terminal(120)
    watch = watch_on(console, clock)
    other = STATE._replace(name="ETH/USDT:USDT 2024-10-01", timesteps=16384)
    for state in (STATE, other):
        watch(state._replace(timesteps=0, updated=False))
    clock.seconds = 2.0
    for state in (STATE, other):
        watch(state)
    console.print(watch.drawn())
    text = shown(console)
    for said in (
        "Training 2 at once, of 4 in all",
        "16%",
        " 12% BTC/USDT:USDT 2024-10-01 (1 of 4) · evaluation +0.0123 (7 trades), best +0.0265 (5 trades)",
        " 50% ETH/USDT:USDT 2024-10-01 (2 of 4) · evaluation +0.0123 (7 trades)",
        "11 s left of the whole run · 10,240 samples/s",
    ):
        assert said in text, text
    watch(other._replace(has_ended=True))
    console = terminal(120)
    console.print(watch.drawn())
    assert "Training BTC/USDT:USDT 2024-10-01 (1 of 4)" in shown(console)
    assert "ETH" not in shown(console)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_many_trainings_at_once_take_a_row_for_the_first_few(width: int, clock: Clock) -> None:
    console = terminal(width)
    watch = watch_on(console, clock)
    for number in range(12):
        watch(STATE._replace(name=f"BTC/USDT:USDT {number}"))
    assert len(console.render_lines(watch.drawn())) <= 15
    console.print(watch.drawn())
    assert "and 4 more" in shown(console)


def test_without_a_terminal_a_line_a_minute_names_all_that_train(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_on(None, clock)
    with caplog.at_level(logging.INFO):
        for number in range(12):
            watch(STATE._replace(name=f"A {number}", timesteps=0, updated=False))
        clock.seconds += LINE_SECONDS
        watch(STATE._replace(name="A 3"))
    [line] = lines(caplog)
    assert line.startswith(
        "12 trainings at once: A 0 (1 of 16) 0%, A 1 (2 of 16) 0%, A 2 (3 of 16) 0%, A 3 (4 of 16) 12%"
    )
    assert line.endswith("A 7 (8 of 16) 0% and 4 more · 68 samples/s · 2 h 07 min left of the whole run.")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_display_is_as_high_at_any_width(width: int, clock: Clock) -> None:
    console = terminal(width)
    watch = watch_on(console, clock)
    watch(STATE)
    assert len(console.render_lines(watch.drawn())) <= 9


def test_log_lines_stand_above_the_display_whole(clock: Clock) -> None:
    console = terminal(200)
    watch = watch_on(console, clock)
    logger = logging.getLogger("someone")
    handler = RichHandler(console=console, show_path=False, show_time=False)
    logger.addHandler(handler)
    try:
        with watch.shown():
            watch(STATE)
            logger.warning("a warning while it trains")
            print("and what somebody prints", file=sys.stdout)
    finally:
        logger.removeHandler(handler)
    said = [line for line in shown(console).splitlines() if "a warning while it trains" in line]
    # Cleared before, and not written into a frame.
    assert len(said) == 1
    assert "│" not in said[0]
    assert "and what somebody prints" in shown(console)


def test_a_handler_that_holds_the_terminal_itself_prints_above_the_display_too(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", real)
    monkeypatch.setattr(sys, "stderr", real)
    handler = logging.StreamHandler(real)
    logging.root.addHandler(handler)
    console = terminal()
    try:
        with watch_on(console, clock).shown():
            logging.getLogger("someone").warning("torn?")
        assert handler.stream is real
    finally:
        logging.root.removeHandler(handler)
    assert "torn?" in shown(console)
    assert real.getvalue() == ""


def test_without_a_terminal_a_line_a_minute_says_all_of_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    watch = watch_on(Console(file=io.StringIO()), clock)
    with caplog.at_level(logging.INFO), watch.shown():
        watch(STATE._replace(timesteps=0, updated=False))
        for _ in range(10):
            clock.seconds += LINE_SECONDS / 4
            watch(STATE._replace(updated=clock.seconds == LINE_SECONDS))
    assert len(caplog.records) == 2
    assert lines(caplog)[0] == (
        "Training BTC/USDT:USDT 2024-10-01 (1 of 4): 4,096 of 32,768 samples, 68 samples/s · evaluation +0.0123 (7 "
        "trades), best +0.0265 (5 trades) · entropy 0.312 · 31 min 00 s left of the whole run."
    )


def test_beside_a_display_the_log_still_has_every_line_marked_as_shown_already(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_on(terminal(), clock)
    job: Any = SimpleNamespace(name=STATE.name, train=[0] * 900, evaluation=[0] * 80, judging=[0] * 20)
    with caplog.at_level(logging.INFO):
        with watch.shown():
            watch.begin(job)
            watch(STATE)
            clock.seconds += LINE_SECONDS
            watch(STATE)
        watch.begin(job)
    assert lines(caplog)[0] == f"Starting training {STATE.name}: 900 candles, 80 held out, 20 to judge; 1 of 4."
    assert lines(caplog)[1].startswith(f"Training {STATE.name} (1 of 4): 4,096 of 32,768 samples")
    assert [vars(record)["is_displayed"] for record in caplog.records] == [True, True, False]


@pytest.mark.parametrize("width", [1, 8, 20])
def test_a_very_narrow_terminal_breaks_nothing(width: int, clock: Clock) -> None:
    console = terminal(width)
    watch = watch_on(console, clock)
    with watch.shown():
        watch(STATE)
        console.print("a line")
    assert max(len(line) for line in shown(console).splitlines()) < 1000


def test_without_colours_the_display_has_none(clock: Clock) -> None:
    colours = {"TERM": "xterm-256color", "NO_COLOR": "1"}
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=30, _environ=colours)
    watch = watch_on(console, clock)
    watch(STATE)
    console.print(watch.drawn())
    assert not re.search(r"\x1b\[[0-9;]*3[0-8]", shown(console))


def test_a_file_and_a_dumb_terminal_have_no_display() -> None:
    assert has_display(terminal())
    assert not has_display(Console(file=io.StringIO()))
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    assert not has_display(dumb)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert words.duration(seconds) == said


def test_a_gpu_that_does_not_answer_is_left_out() -> None:
    assert "GPU" not in machine_load(gpu=False)
    assert machine_load(gpu=True).startswith("CPU ")
