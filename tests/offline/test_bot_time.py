"""Who sleeps on a simulated clock, and for how long."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest

from mtfscalper.offline import bot_time
from mtfscalper.offline.bot_time import BUSY_SPEED, Lockstep, Multiple
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock

START = datetime(2024, 10, 1, 8, 30, tzinfo=UTC)
NEVER = threading.Event


@pytest.fixture
def clock(tmp_path: Path) -> SimulatedClock:
    clock = SimulatedClock.create(tmp_path / "clock", START, speed=None)
    clock.run_until(START + timedelta(days=1000))
    return clock


@pytest.fixture
def in_thread() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    threads = []

    def start(work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()


def seconds_passed(clock: SimulatedClock) -> float:
    return (clock.now() - START).total_seconds()


def test_in_lockstep_the_main_threads_sleep_is_over_at_once_and_to_the_nanosecond(clock: SimulatedClock) -> None:
    pace = Lockstep(clock)
    pace.sleep(86_400)
    pace.sleep(0.5)
    assert clock.now_ns() == int(START.timestamp()) * 10**9 + 86_400_500_000_000


def test_in_lockstep_other_threads_have_their_turn_before_the_main_one_goes_on(
    clock: SimulatedClock, in_thread: Callable[[Callable[[], None]], threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is.
    monkeypatch.setattr(bot_time, "BUSY_AFTER_SECONDS", 120)
    pace, stop, waiting = Lockstep(clock), threading.Event(), threading.Event()
    seen: list[float] = []

    def work() -> None:
        while not stop.is_set():
            waiting.set()
            pace.wait(stop, 1)
            seen.append(seconds_passed(clock))

    in_thread(work)
    waiting.wait(120)
    while not any(follower.event for follower in pace._followers.values()):
        pass
    for expected in (15, 30, 45):
        pace.sleep(15)
        assert seen[-1] == expected
    # Not due, it sleeps on.
    pace.sleep(0.5)
    assert seen == [15, 30, 45]
    stop.set()
    with stop._cond:  # type: ignore[attr-defined]
        stop._cond.notify_all()  # type: ignore[attr-defined]


def test_while_a_thread_is_busy_time_passes_at_a_bounded_speed(
    clock: SimulatedClock, in_thread: Callable[[Callable[[], None]], threading.Thread]
) -> None:
    pace, works, done = Lockstep(clock), threading.Event(), threading.Event()

    def train() -> None:
        pace.wait(NEVER(), 1)
        works.set()
        done.wait(120)

    thread = in_thread(train)
    while not any(follower.event for follower in pace._followers.values()):
        pass
    pace.sleep(15)
    works.wait(120)
    began = time.monotonic()
    pace.sleep(12)
    elapsed = time.monotonic() - began
    assert seconds_passed(clock) == 27
    assert elapsed >= 12 / BUSY_SPEED * 0.9
    done.set()
    thread.join(120)
    pace.sleep(86_400)
    assert seconds_passed(clock) == 86_427


def test_a_thread_that_the_main_one_waits_for_does_not_sleep_for_ever(clock: SimulatedClock) -> None:
    pace = Lockstep(clock)
    thread = threading.Thread(target=lambda: pace.wait(NEVER(), 0.05), daemon=True)
    thread.start()
    # As freqtrade does when it ends: nobody moves the clock meanwhile.
    thread.join(120)
    assert not thread.is_alive()
    assert clock.now() == START


def test_a_waiting_thread_hears_of_its_event_at_once(
    clock: SimulatedClock, in_thread: Callable[[Callable[[], None]], threading.Thread]
) -> None:
    pace, event, heard = Lockstep(clock), threading.Event(), []
    thread = in_thread(lambda: heard.append(pace.wait(event, 3600)))
    event.set()
    thread.join(120)
    assert heard == [True]


def test_at_the_limit_the_main_thread_is_held_and_goes_on_when_it_is_raised(clock: SimulatedClock) -> None:
    pace = Lockstep(clock)
    clock.run_until(START + timedelta(minutes=1))
    raiser = threading.Thread(
        target=lambda: (_until(lambda: clock.is_at_limit), clock.run_until(START + timedelta(hours=1))), daemon=True
    )
    raiser.start()
    pace.sleep(120)
    assert seconds_passed(clock) == 120
    raiser.join(120)


def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        pass


def test_at_a_multiple_a_sleep_lasts_its_fraction(tmp_path: Path) -> None:
    clock = SimulatedClock.create(tmp_path / "clock", START, speed=1000)
    clock.run_until(START + timedelta(days=1))
    before_ns, began = clock.now_ns(), time.monotonic()
    Multiple(clock, 1000).sleep(100)
    assert clock.now_ns() - before_ns >= 100 * 10**9
    assert time.monotonic() - began >= 0.1
    assert not Multiple(clock, 1000).wait(NEVER(), 10)


@pytest.mark.parametrize("speed", [None, 1000])
def test_a_bot_that_is_ended_while_the_clock_is_held_does_not_sleep_for_ever(tmp_path: Path, speed: int | None) -> None:
    clock = SimulatedClock.create(tmp_path / "clock", START, speed)
    (Lockstep(clock) if speed is None else Multiple(clock, speed)).sleep(0.2)
    assert clock.now() == START


# A process whose every clock is simulated.
PROGRAM = """
import os, pathlib, sched, threading, time
true_time, true_sleep = time.time, time.sleep
from mtfscalper.offline.bot_time import install
from mtfscalper.offline.simulated_clock import CLOCK_VARIABLE, SimulatedClock
clock = SimulatedClock(pathlib.Path(os.environ[CLOCK_VARIABLE]))
install(clock)
import datetime
from time import sleep
from freqtrade.util.ft_ttlcache import FtTTLCache

def shown():
    return [time.time(), true_time(), time.time_ns() / 1e9, datetime.datetime.now(datetime.UTC).timestamp()]

assert shown() == [clock.now_ns() / 1e9] * 4, shown()
monotonic = time.monotonic()
cache = FtTTLCache(10, 300)
cache["rate"] = 1
sleep(299)
assert "rate" in cache
sleep(2)
assert "rate" not in cache
assert shown() == [clock.now_ns() / 1e9] * 4, shown()
assert time.monotonic() - monotonic < 301, "the monotonic clock is true"

# A library's own waiting is true: the clock stands still.
before = clock.now_ns()
schedule = sched.scheduler(time.monotonic, time.sleep)
schedule.enter(0.05, 1, lambda: None)
schedule.run()
assert clock.now_ns() == before

# Another thread's sleep waits for the main thread's.
woken = []
thread = threading.Thread(target=lambda: (time.sleep(3600), woken.append(clock.now_ns())))
thread.start()
while not woken:
    time.sleep(60)
thread.join()
assert woken[0] - before >= 3600 * 10**9
print("went well")
"""


def test_a_process_on_the_clock_is_told_its_time_by_every_function(clock: SimulatedClock, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {CLOCK_VARIABLE: str(clock.path)}
    process = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False, timeout=240
    )
    assert process.stdout == "went well\n", process.stderr


def test_the_launcher_without_a_clock_names_the_command_to_use() -> None:
    environment = {name: value for name, value in os.environ.items() if name != CLOCK_VARIABLE}
    process = subprocess.run(
        [sys.executable, "-m", "mtfscalper.offline.bot", "trade"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert process.returncode == 1
    assert "mtfscalper dry-run" in process.stderr


@pytest.fixture
def waiting_freqtrade(clock: SimulatedClock, tmp_path: Path) -> dict[str, str]:
    """An environment in which freqtrade says that it runs, and waits; and the clock."""
    (tmp_path / "freqtrade").mkdir()
    (tmp_path / "freqtrade" / "__init__.py").touch()
    (tmp_path / "freqtrade" / "main.py").write_text(
        "import os, threading\ndef main(_):\n    print('runs', os.getpid(), flush=True)\n    threading.Event().wait()\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {CLOCK_VARIABLE: str(clock.path), "PYTHONPATH": path}


BOT = f"{sys.executable} -m mtfscalper.offline.bot trade"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signal of Ctrl-C for one process")
def test_a_bot_started_from_a_shell_in_the_background_hears_of_ctrl_c(waiting_freqtrade: dict[str, str]) -> None:
    command = ["/bin/sh", "-c", f"trap '' INT; exec {BOT}"]
    with subprocess.Popen(
        command, env=waiting_freqtrade, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("runs")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(120) == -signal.SIGINT
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="a process of Windows keeps its parent's number when that has ended")
def test_a_bot_ends_with_the_process_that_drives_it(waiting_freqtrade: dict[str, str]) -> None:
    # The shell, which is not replaced by the bot, drives it.
    with subprocess.Popen(
        ["/bin/sh", "-c", f"{BOT}; true"],
        env=waiting_freqtrade,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as shell:
        assert shell.stdout is not None
        bot = psutil.Process(int(shell.stdout.readline().split()[1]))
        assert bot.parent() == psutil.Process(shell.pid)
        shell.kill()
        try:
            bot.wait(120)
        finally:
            with suppress(psutil.NoSuchProcess):
                bot.kill()
