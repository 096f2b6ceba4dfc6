"""Trainings on a Ray cluster: the same bits as here, whatever happens to the nodes, and nothing is left behind."""

from __future__ import annotations

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from marked_processes import RUN, may_take_to_stop, processes_with
from ray_nodes import Nodes, kill_marked, nodes
from ray_run import BAD, N_JOBS

import mtfscalper

pytest.importorskip("ray", reason="Ray is not installed; `make acceptance` installs it where it has a wheel")
pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

HERE = Path(__file__).parent
SCRIPT = HERE / "ray_run.py"
PATHS = os.pathsep.join(map(str, (HERE.parent, HERE, Path(mtfscalper.__file__).parents[1])))
ENVIRONMENT = {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Of a short name: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="rlt-", dir="/tmp", ignore_cleanup_errors=True) as made:
        yield Path(made)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the trainings give in one process, one after the other."""
    result = tmp_path_factory.mktemp("inline") / "result"
    run = subprocess.run(command(result, "inline"), env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    outcomes, _ = pickle.loads(result.read_bytes())
    assert outcomes[0] != outcomes[1]
    return list(outcomes)


def command(result: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(result), *arguments]


class Run:
    """A run that is under way."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.output = ""
        self.process = subprocess.Popen(
            words,
            env=environment | ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        # Processes that leave its session are found by what they have inherited.

    def await_trainings(self, count: int) -> None:
        """Wait until so many trainings have learned something and go on."""
        assert self.process.stdout is not None
        while len(set(re.findall(r"^updated (.*)$", self.output, re.MULTILINE))) < count:
            line = self.process.stdout.readline()
            assert line, self.output
            self.output += line

    def wait(self) -> int:
        """Wait for its end."""
        self.output += self.process.communicate()[0]
        return self.process.returncode


# ---------------------------------------------------------------------- several nodes


@pytest.fixture
def cluster(folder: Path) -> Iterator[tuple[Nodes, list[str]]]:
    with nodes(folder, 2) as made:
        yield made


def run_on(cluster: Nodes, result: Path, *more: str) -> Run:
    words = cluster.command(0, command(result, cluster.address, *more))
    return Run(words, cluster.environment(0))


def test_a_node_lost_in_mid_training_changes_no_weight(
    cluster: tuple[Nodes, list[str]], folder: Path, inline: list[Any]
) -> None:
    running, (first, _) = cluster
    result = folder / "result"
    run = run_on(running, result, "--bad")
    # Each node runs one: both are in the middle.
    run.await_trainings(2)
    kill_marked(first)
    assert run.wait() == 0, run.output
    outcomes, _ = pickle.loads(result.read_bytes())
    good = [number for number in range(N_JOBS) if number != BAD]
    assert [outcomes[number] for number in good] == [inline[number] for number in good], run.output
    assert run.output.count("It is trained again, from its beginning.") == 1, run.output
    # The one that raises says what, and where in the node's process.
    said, note = outcomes[BAD]
    assert said
    assert "In the process of the training:\nTraceback" in note


# Read by Python as it starts: a node where another torch is installed, as far as anybody can ask.
OTHER_TORCH = """
import importlib.metadata as metadata
version = metadata.version
metadata.version = lambda name: "0.0.99" if name == "torch" else version(name)
"""


def test_a_node_with_another_version_is_named_before_anything_is_trained(folder: Path) -> None:
    with nodes(folder, 0) as (running, _):
        (folder / "other").mkdir()
        (folder / "other" / "sitecustomize.py").write_text(OTHER_TORCH)
        other = running.add(PYTHONPATH=str(folder / "other"))
        refused = run_on(running, folder / "result")
        assert refused.wait() != 0
        ip = running.ip(other)
    [said] = [line for line in refused.output.splitlines() if "ClusterError: " in line]
    assert f"node {ip} " in said
    assert f"torch 0.0.99 (here {version('torch')})" in said
    assert "remedy: install what is here there too" in said
    assert "updated" not in refused.output


# ---------------------------------------------------------------------- one machine


def local_run(folder: Path) -> tuple[Run, str]:
    """A run on a cluster of this machine alone, and what all its processes have inherited."""
    mark = f"mtfscalper-{os.getpid()}-{time.monotonic_ns()}"
    environment = os.environ | {RUN: mark, "HOME": str(folder)}
    return Run(command(folder / "result", "local"), environment), mark


def scratch_folders() -> set[Path]:
    return set(Path("/tmp").glob("rl-*/session_*"))


def test_a_cluster_of_this_machine_listens_to_it_alone_and_leaves_nothing(folder: Path, inline: list[Any]) -> None:
    before = scratch_folders()
    run, mark = local_run(folder)
    run.await_trainings(1)
    assert any("raylet" in process.name() for process in processes_with(RUN, mark))
    assert run.wait() == 0, run.output
    outcomes, listening = pickle.loads((folder / "result").read_bytes())
    assert outcomes == inline
    assert listening == {"127.0.0.1"}
    assert processes_with(RUN, mark) == []
    assert scratch_folders() <= before


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_stopped_ends_with_all_its_processes(stop: signal.Signals, folder: Path) -> None:
    run, mark = local_run(folder)
    run.await_trainings(1)
    until = time.monotonic() + may_take_to_stop(len(processes_with(RUN, mark)))
    # Ctrl-C reaches all that the terminal has started.
    (os.killpg if stop == signal.SIGINT else os.kill)(run.process.pid, stop)
    assert run.wait() != 0
    while processes_with(RUN, mark) and time.monotonic() < until:
        time.sleep(0.1)
    assert processes_with(RUN, mark) == [], run.output
    assert "done" not in run.output
