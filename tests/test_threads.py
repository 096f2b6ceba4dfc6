"""Torch's threads: bounded by the processors of the process, inter-op threads once a process."""

import os
import subprocess
import sys

import pytest

from mtfscalper import threads
from mtfscalper.threads import usable_processors

AFFINITY = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")


def in_a_process_of_its_own(code: str) -> str:
    """Standard output and errors of some code, each line a result; torch's inter-op threads are set but once."""
    preamble = "import logging, os, torch\nlogging.basicConfig(format='%(levelname)s %(message)s')\n"
    preamble += "from mtfscalper.threads import set_torch_threads, usable_processors\n"
    process = subprocess.run(
        [sys.executable, "-c", preamble + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout.strip()


@AFFINITY
def test_threads_are_clamped_to_the_processors_the_process_may_use() -> None:
    assert (
        in_a_process_of_its_own(
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
            "print(usable_processors(), *set_torch_threads(64, 64), torch.get_num_threads(), "
            "torch.get_num_interop_threads())"
        )
        == "1 1 1 1 1"
    )


def test_a_second_call_with_other_inter_op_threads_warns_and_keeps_the_first() -> None:
    output = in_a_process_of_its_own(
        # Two processors, so that two numbers of threads can be asked for on any machine.
        "import mtfscalper.threads\nmtfscalper.threads.usable_processors = lambda: 2\n"
        "print(*set_torch_threads(1, 1))\nprint(*set_torch_threads(1, 1))\nprint(*set_torch_threads(2, 2), flush=True)"
    ).splitlines()
    warnings = [line for line in output if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "torch already runs 1 inter-op threads in this process" in warnings[0]
    assert "interop_threads 2 cannot be set; restart the process" in warnings[0]
    # The third call still changes the intra-op threads.
    assert [line for line in output if line not in warnings] == ["1 1", "1 1", "2 1"]


@pytest.mark.parametrize(
    ("asked", "processors", "in_force"),
    [((8, 2), 4, (4, 2)), ((3, 9), 4, (3, 4)), ((1, 1), 4, (1, 1)), ((0, 0), 4, (1, 1))],
)
def test_what_is_asked_is_given_within_one_and_the_processors(
    monkeypatch: pytest.MonkeyPatch, asked: tuple[int, int], processors: int, in_force: tuple[int, int]
) -> None:
    torch_now = {"intraop": 99, "interop": 99}
    monkeypatch.setattr(threads, "usable_processors", lambda: processors)
    monkeypatch.setattr(threads.torch, "set_num_threads", lambda n: torch_now.update(intraop=n))
    monkeypatch.setattr(threads.torch, "set_num_interop_threads", lambda n: torch_now.update(interop=n))
    monkeypatch.setattr(threads.torch, "get_num_threads", lambda: torch_now["intraop"])
    monkeypatch.setattr(threads.torch, "get_num_interop_threads", lambda: torch_now["interop"])
    assert threads.set_torch_threads(*asked) == in_force


@AFFINITY
def test_processors_outside_the_affinity_mask_do_not_count() -> None:
    assert usable_processors() == len(os.sched_getaffinity(0))


def test_without_affinity_masks_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1
