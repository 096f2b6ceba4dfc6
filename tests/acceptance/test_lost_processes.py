"""Processes of trainings that are killed, and runs that are broken off: nothing is orphaned, and nothing changes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from marked_processes import may_take_to_stop
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import TrainingJob

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="processes are ended as groups here"),
]

TESTS = Path(__file__).parents[1]


def jobs(**rl: object) -> list[TrainingJob]:
    settings = tiny_settings(executor="processes", workers=2, threads_per_job=1, **rl)
    env = env_settings_of(settings)
    return [
        TrainingJob(settings, random_tape(seed=seed), random_tape(80, seed=9), env, period=str(seed)) for seed in (1, 2)
    ]


def family(of: int) -> list[psutil.Process]:
    """A process's children and theirs, but for the one that Python keeps to the end of a process."""
    found = psutil.Process(of).children(recursive=True)
    return [one for one in found if "resource_tracker" not in " ".join(one.cmdline())]


def test_a_training_whose_process_is_killed_gives_the_same_at_its_second_try(caplog: pytest.LogCaptureFixture) -> None:
    killed: list[int] = []
    before = set(family(os.getpid()))

    def kill_one(_: Evaluation | None) -> None:
        if not killed:
            training = next(
                one for one in psutil.Process().children() if one not in before and one in family(os.getpid())
            )
            killed.append(training.pid)
            training.kill()

    many = jobs(train_cycles=20)
    with caplog.at_level(logging.WARNING):
        outcomes = run_all(executor_for(many[0].settings), many, kill_one)
    torch.set_num_threads(1)
    for outcome, job in zip(outcomes, many, strict=True):
        assert not isinstance(outcome, Exception)
        model, report = outcome
        assert report.process_id not in killed
        assert same(parameters(model), parameters(job.run()[0]))
    assert f"({killed[0]}) was killed by signal 9, usually because the machine ran out of memory" in caplog.text
    assert not set(family(os.getpid())) - before


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Where temporary files go; sockets among them, whose paths must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


PARENT = """
    import sys
    sys.path[:0] = {paths}
    if __name__ == "__main__":
        from test_lost_processes import executor_for, jobs
        short, _ = jobs()
        endless = jobs(train_cycles=1_000_000, vec_env="subproc")
        trains = [0]
        def told(state):
            if state.timesteps and not state.has_ended and state.timesteps_planned > 10_000:
                trains[0] += 1
                if trains[0] == 1:
                    print("trains", flush=True)
        with executor_for(short.settings).start(None, told) as running:
            for job in (short, *endless):
                running.submit(job)
            try:
                done, outcome = running.next_finished()
                print("finished", done.period, flush=True)
                running.next_finished()
            except KeyboardInterrupt:
                print("broken off", len(running.take_finished()), flush=True)
                raise
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_broken_off_ends_with_all_its_processes(
    how: signal.Signals, tmp_path: Path, scratch: Path
) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(PARENT.format(paths=[str(TESTS), str(Path(__file__).parent)])))
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(scratch)}, text=True
    ) as run:
        assert run.stdout is not None
        said = {run.stdout.readline(), run.stdout.readline()}
        assert said == {"trains\n", "finished 1\n"}
        left = family(run.pid)
        began, may_take = time.monotonic(), may_take_to_stop(len(left))
        os.kill(run.pid, how)
        rest = run.stdout.read()
        run.wait()
        _, alive = psutil.wait_procs(left, timeout=60)
        took = time.monotonic() - began
    # Two processes with the server that their workers are forked from, and two workers each at most.
    assert len(left) >= 4
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
    print(f"{how.name}: all ended within {took:.1f} s")
    assert took <= may_take
    assert not list(scratch.iterdir())
    assert rest == ("broken off 0\n" if how == signal.SIGINT else "")
