"""Trainings in a process of their own: they can be lost, ended and watched, and leave nothing behind."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from builders import make_tape, random_candles
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.executors import worker_process
from mtfscalper.executors.child import ChildExecutor
from mtfscalper.executors.choice import bots_executor, executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.worker_process import WorkerLostError
from mtfscalper.market.tape import MarketTape, TapeError
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import TrainingJob

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="processes are ended as groups here")

TESTS = Path(__file__).parents[1]


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; sockets among them, whose paths must be short."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def job(tape: MarketTape | None = None, **rl: object) -> TrainingJob:
    settings = tiny_settings(**rl)
    return TrainingJob(settings, tape or random_tape(), random_tape(80, seed=2), env_settings_of(settings))


def long_job() -> TrainingJob:
    """One with worker processes that would train for hours."""
    return job(vec_env="subproc", train_cycles=1_000_000)


def family(of: int) -> list[psutil.Process]:
    """A process's children and theirs, but for the one that Python keeps to the end of a process."""
    found = psutil.Process(of).children(recursive=True)
    return [one for one in found if "resource_tracker" not in " ".join(one.cmdline())]


@pytest.fixture
def started() -> Callable[[], list[psutil.Process]]:
    """The family that a test has started: tests before it may have left a server that workers are forked from."""
    before = set(family(os.getpid()))
    return lambda: [one for one in family(os.getpid()) if one not in before]


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=120)
    return bool(processes) and not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


def unwatched() -> None:
    """Ends nothing."""


def test_it_trains_what_is_trained_here_and_tells_what_is_told_here(
    scratch: Path, caplog: pytest.LogCaptureFixture, started: Callable[[], list[psutil.Process]]
) -> None:
    seen: list[Evaluation | None] = []
    niceness: set[int] = set()
    sessions: set[int] = set()
    too_short = make_tape(random_candles(1, 3), [False] * 3, [False] * 3)

    def look(evaluation: Evaluation | None) -> None:
        seen.append(evaluation)
        niceness.update(one.nice() for one in started())
        sessions.update(os.getsid(one.pid) for one in started())

    jobs = [replace(job(), part="one of two"), job(too_short)]
    with caplog.at_level(logging.INFO):
        (model, report), failed = run_all(ChildExecutor(executor_for(jobs[0].settings), unwatched), jobs, look)
    (here, own_report), _ = run_all(InlineExecutor(), jobs)
    assert same(parameters(model), parameters(here))
    assert report.process_id != own_report.process_id
    assert report.reward_terms == own_report.reward_terms
    told = [evaluation.figures() for evaluation in seen if evaluation is not None]
    assert [{**one, "seconds": 0} for one in told] == [{**one, "seconds": 0} for one in own_report.evaluations]
    # Niceness counts within a session only.
    assert niceness == {min(psutil.Process().nice() + 10, 19)}
    assert sessions == {os.getsid(0)}
    assert "training one of two, with seed" in caplog.text
    assert isinstance(failed, TapeError)
    assert "In the process of the training" in failed.__notes__[0]
    assert "in run" in failed.__notes__[0]
    assert not started()


@pytest.mark.parametrize("how", ["killed", "stopped", "ended"])
def test_however_it_ends_nothing_is_left(
    how: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, started: Callable[[], list[psutil.Process]]
) -> None:
    monkeypatch.setattr(worker_process, "CLOSE_SECONDS", 0.5 if how == "stopped" else 5.0)
    endless = job(train_cycles=1_000_000) if how == "ended" else long_job()
    lost: list[psutil.Process] = []

    class StoppedError(Exception):
        pass

    def check() -> None:
        if lost and how != "killed":
            raise StoppedError

    def at_first_step(_: Evaluation | None) -> None:
        if lost:
            return
        lost.extend(started())
        training = next(one for one in psutil.Process().children() if one in lost)
        if how == "killed":
            training.kill()
        elif how == "stopped":
            # As one that hangs, it hears no signal.
            training.suspend()

    [outcome] = run_all(ChildExecutor(InlineExecutor(), check), [endless], at_first_step)
    # The process; the server that its workers are forked from, and two workers.
    assert len(lost) >= (1 if how == "ended" else 4)
    assert gone(lost)
    assert not list(scratch.iterdir())
    if how == "killed":
        assert isinstance(outcome, WorkerLostError)
        assert "killed by signal 9, usually because the machine ran out of memory; remedy: free memory" in str(outcome)
    else:
        assert isinstance(outcome, StoppedError)


PARENT = """
    import sys
    sys.path[:0] = {paths}
    if __name__ == "__main__":
        from test_child_executor import ChildExecutor, InlineExecutor, long_job, run_all, unwatched
        child = ChildExecutor(InlineExecutor(), unwatched)
        run_all(child, [long_job()], lambda _: print("trains", flush=True))
"""


def test_it_ends_with_the_bot_that_is_killed(tmp_path: Path, scratch: Path) -> None:
    script = tmp_path / "bot.py"
    script.write_text(textwrap.dedent(PARENT.format(paths=[str(TESTS), str(Path(__file__).parent)])))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(scratch)}, text=True
    ) as bot:
        assert bot.stdout is not None
        assert bot.stdout.readline() == "trains\n"
        left = family(bot.pid)
        os.kill(bot.pid, signal.SIGKILL)
    assert len(left) >= 4
    assert gone(left)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("where", "kind"), [("process", ChildExecutor), ("thread", type(executor_for(tiny_settings())))]
)
def test_the_settings_say_where_a_bot_trains(where: str, kind: Callable[..., object]) -> None:
    assert type(bots_executor(tiny_settings(live_training=where), unwatched)) is kind


def test_a_second_sigterm_does_not_break_into_the_end() -> None:
    code = (
        "import atexit, os, signal\n"
        "from mtfscalper.executors.worker import end_at_sigterm\n"
        "atexit.register(lambda: (os.kill(os.getpid(), signal.SIGTERM), print('ended in order')))\n"
        "end_at_sigterm()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (128 + signal.SIGTERM, "ended in order\n", "")
