"""What other programs use: work of this process and its children is not theirs."""

import itertools
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from mtfscalper.monitoring import others
from mtfscalper.monitoring.others import Others, OthersClock, look_around, others_seconds


@pytest.fixture
def program() -> Iterator["subprocess.Popen[bytes]"]:
    """A child of this process that has used two tenths of a second."""
    spin = "import time\nwhile time.process_time() < 0.2: pass\nprint(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    yield child
    child.kill()
    child.communicate()


def test_a_childs_work_is_not_others(program: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.pid in {process.pid for process in others._tree()}
    monkeypatch.setattr(others, "machine_busy_seconds", lambda: 1000.0)
    monkeypatch.setattr(others, "_tree", lambda: [psutil.Process(program.pid)])
    # Processor time is counted in hundredths.
    assert 1000.0 - others_seconds() >= 0.19


def test_cores_are_seconds_by_second(monkeypatch: pytest.MonkeyPatch) -> None:
    used, now = iter([100.0, 103.0]), iter([10.0, 12.0])
    monkeypatch.setattr(others, "others_seconds", lambda: next(used))
    assert OthersClock(lambda: next(now)).cores() == 1.5


@pytest.mark.parametrize(("cores", "busy"), [(0.0, False), (0.29, False), (0.3, True), (2.0, True)])
def test_a_third_of_a_core_is_busy(cores: float, busy: bool) -> None:
    assert Others(cores).is_busy is busy


def test_the_busiest_other_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = psutil.Process().pid
    looks = iter(
        [
            {(1, "init"): 5.0, (mine, "python"): 1.0, (77, "soak"): 2.0},
            # One that began meanwhile is compared with nothing.
            {(1, "init"): 5.0, (mine, "python"): 9.0, (77, "soak"): 2.9, (78, "new"): 0.5},
        ]
    )
    monkeypatch.setattr(others, "_seconds_by_process", lambda: next(looks))
    used = itertools.count(100.0, 0.9)
    monkeypatch.setattr(others, "others_seconds", lambda: next(used))
    assert look_around(1.0, wait=lambda _: None).busiest == "soak (process 77)"


def test_an_idle_machine_has_no_busiest_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "_seconds_by_process", lambda: {(77, "soak"): 2.0})
    monkeypatch.setattr(others, "others_seconds", lambda: 100.0)
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.25, 7.0, 7.0))
    assert look_around(1.0, wait=lambda _: None) == Others(0.0, 0.25)
