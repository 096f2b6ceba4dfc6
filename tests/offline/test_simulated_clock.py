"""A clock in a file: what it shows, how it moves, and that it outlives whoever moves it."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from mtfscalper.offline import simulated_clock
from mtfscalper.offline.simulated_clock import Movement, SimulatedClock

START = datetime(2024, 10, 1, 8, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "clock"


def test_a_movement_goes_at_its_speed_and_stops_at_its_end() -> None:
    movement = Movement(base_ns=1_000, anchor_ns=500, speed=40, until_ns=2_000)
    assert [movement.at(monotonic_ns) for monotonic_ns in (500, 501, 520, 525, 900)] == [
        1_000,
        1_040,
        1_800,
        2_000,
        2_000,
    ]


def test_a_new_clock_stands_still(path: Path) -> None:
    clock = SimulatedClock.create(path, START, speed=40)
    assert clock.now() == clock.now() == START
    assert clock.is_at_limit


def test_a_clock_runs_at_its_speed_until_its_limit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # By a made-up true time: on a busy machine hours of such a clock pass between two lines.
    true_ns = 10**15
    monkeypatch.setattr(simulated_clock, "time", SimpleNamespace(monotonic_ns=lambda: true_ns))
    clock = SimulatedClock.create(path, START, speed=1_000_000)
    true_ns += 10**9
    assert clock.now() == START
    clock.run_until(START + 1000 * HOUR)
    true_ns += 3_600_000
    assert clock.now() == START + HOUR
    clock.run_until(START + 2 * HOUR)
    assert not clock.is_at_limit
    true_ns += 10**9
    assert clock.is_at_limit
    assert clock.now() == START + 2 * HOUR


def test_a_held_clock_stands_still_and_goes_on_from_there(path: Path) -> None:
    clock = SimulatedClock.create(path, START, speed=1_000_000)
    clock.run_until(START + 1000 * HOUR)
    clock.hold()
    held = clock.now()
    assert clock.now() == held > START
    clock.jump_to(held + HOUR)
    assert clock.now() == held + HOUR
    clock.jump_to(held)
    assert clock.now() == held + HOUR, "never back"
    clock.run_until(held + 2 * HOUR)
    while not clock.is_at_limit:
        pass
    assert clock.now() == held + 2 * HOUR


def test_in_lockstep_it_moves_only_when_it_is_told_and_never_beyond_the_limit(path: Path) -> None:
    clock = SimulatedClock.create(path, START, speed=None)
    clock.run_until(START + HOUR)
    assert clock.now() == START
    clock.advance_to(clock.now_ns() + 60 * 10**9)
    assert clock.now() == START + timedelta(minutes=1)
    clock.advance_to(clock.now_ns() - 60 * 10**9)
    assert clock.now() == START + timedelta(minutes=1)
    clock.advance_to(clock.now_ns() + 7200 * 10**9)
    assert clock.now() == START + HOUR
    clock.run_until(START + 2 * HOUR)
    assert clock.let_pass(90) == 0
    assert clock.now() == START + HOUR + timedelta(seconds=90)


def test_at_a_multiple_who_lets_time_pass_waits_a_fraction(path: Path) -> None:
    assert SimulatedClock.create(path, START, speed=40).let_pass(20) == 0.5


def test_another_process_sees_and_moves_the_same_clock_and_may_be_killed_at_any_moment(path: Path) -> None:
    clock = SimulatedClock.create(path, START, speed=None)
    clock.run_until(START + 1_000_000 * HOUR)
    program = (
        "import sys, pathlib\n"
        "from mtfscalper.offline.simulated_clock import SimulatedClock\n"
        "clock = SimulatedClock(pathlib.Path(sys.argv[1]))\n"
        "print(clock.now(), flush=True)\n"
        "while True: clock.advance_to(clock.now_ns() + 10**9)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(START)
        while clock.now() < START + timedelta(seconds=100):
            pass
        process.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    left = clock.now()
    assert left == clock.now() == SimulatedClock(path).now()
    # Nor does its lock stay.
    clock.advance_to(clock.now_ns() + 10**9)
    assert clock.now() == left + timedelta(seconds=1)


@pytest.mark.parametrize("content", [b"", b"no clock", bytes(96)])
def test_what_is_no_clock_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is no clock.*remedy: remove it"):
        SimulatedClock(path)
