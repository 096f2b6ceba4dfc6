"""Torch's threads, bounded by the processors of the process; what "auto" means for ``precision`` and ``compile``."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from mtfscalper import machine
from mtfscalper.machine import compiles_on, give_back_memory, has_bf16, precision_on, usable_processors

AFFINITY = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")


def in_a_process_of_its_own(code: str) -> str:
    """Standard output and errors of some code, each line a result; torch's inter-op threads are set but once."""
    preamble = "import logging, os, torch\nlogging.basicConfig(format='%(levelname)s %(message)s')\n"
    preamble += "from mtfscalper.machine import set_torch_threads, usable_processors\n"
    process = subprocess.run(
        [sys.executable, "-c", preamble + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout.strip()


@pytest.mark.parametrize("turn", [1, 2])
def test_a_test_computes_on_one_thread_whatever_the_one_before_it_has_set(turn: int) -> None:
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)


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
        "import mtfscalper.machine\nmtfscalper.machine.usable_processors = lambda: 2\n"
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
    monkeypatch.setattr(machine, "usable_processors", lambda: processors)
    monkeypatch.setattr(machine.torch, "set_num_threads", lambda n: torch_now.update(intraop=n))
    monkeypatch.setattr(machine.torch, "set_num_interop_threads", lambda n: torch_now.update(interop=n))
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: torch_now["intraop"])
    monkeypatch.setattr(machine.torch, "get_num_interop_threads", lambda: torch_now["interop"])
    assert machine.set_torch_threads(*asked) == in_force


@AFFINITY
def test_processors_outside_the_affinity_mask_do_not_count() -> None:
    assert usable_processors() == len(os.sched_getaffinity(0))


def test_without_affinity_masks_all_processors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_processors() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("there", [True, False])
def test_auto_precision_is_bf16_where_the_device_has_it(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda device: there)
    assert precision_on("auto", CPU) == ("bf16" if there else "fp32")
    assert (precision_on("bf16", CPU), precision_on("fp32", CPU)) == ("bf16", "fp32")


@pytest.mark.skipif(platform.system() != "Linux", reason="reads the processor's flags from /proc/cpuinfo")
def test_the_processor_says_whether_it_has_bf16() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_bf16(CPU) == bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    assert not has_bf16(torch.device("mps"))


def test_auto_compiles_on_a_gpu_alone() -> None:
    assert [compiles_on(value, CPU) for value in ("auto", True, False)] == [False, True, False]
    assert [compiles_on(value, CUDA) for value in ("auto", True, False)] == [True, True, False]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries know no such call")
def test_freed_memory_goes_back_to_the_system() -> None:
    # Blocks too small for maps of their own; every tenth lives on, and above them all the last one does.
    blocks = [bytearray(60_000) for _ in range(4000)]
    last = bytearray(60_000)
    for index in range(len(blocks)):
        if index % 10:
            blocks[index] = bytearray()
    process = psutil.Process()
    before = process.memory_info().rss
    give_back_memory()
    assert before - process.memory_info().rss > 100e6
    assert len(last) == len(blocks[0]) == 60_000


def test_what_holds_only_itself_goes_at_once_and_looking_for_it_stays_cheap() -> None:
    printed = in_a_process_of_its_own(
        "import gc, weakref\n"
        "from mtfscalper.machine import give_back_memory\n"
        "class Held: pass\n"
        "def gone_at_once():\n"
        "    held = Held()\n"
        "    held.itself = held\n"
        "    gone = weakref.ref(held)\n"
        "    del held\n"
        "    give_back_memory()\n"
        "    return gone() is None\n"
        "gc.disable()\n"
        # What becomes garbage after the first call must not be among what it froze.
        "print(gone_at_once(), gone_at_once())\n"
        "print(len(gc.get_objects()) < gc.get_freeze_count() / 10)\n"
    )
    assert printed.split() == ["True", "True", "True"]
