"""The machine at hand: processors, devices, memory and torch's threads; what "auto" means for precision and others."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import psutil
import torch

logger = logging.getLogger(__name__)

# Products of matrices in bfloat16 are instructions of the processor, not float32 with rounding around it.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")


class TorchThreads(NamedTuple):
    """Threads in force in this process."""

    intraop: int
    interop: int


def usable_processors() -> int:
    """Processors this process may run on, its affinity mask included."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def why_device_is_missing(device: str) -> str | None:
    """Why torch cannot compute on a device here, None if it can; "auto" always can.

    stable-baselines3 would quietly take the processor for "cuda" without a GPU.

    :param device: "auto", "cpu", "mps", "cuda" or "cuda:N"
    """
    kind, _, number = device.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        return "this machine has no Apple GPU that torch can use"
    if kind != "cuda":
        return None
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU on this machine"
    if number and int(number) >= torch.cuda.device_count():
        return f"torch finds {torch.cuda.device_count()} CUDA GPUs on this machine, numbered from 0"
    return None


def memory_bytes(device: torch.device) -> int:
    """Memory of a device, in all: a GPU's own, else the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch compute on one intra-op thread while the block runs.

    Its other threads wait for their next share by spinning, some milliseconds after each product: meanwhile they would
    keep processors from worker processes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def give_back_memory() -> None:
    """Let the system have the memory that this process no longer uses; for a process that lives for months.

    Python looks for objects that hold each other alone only when a quarter of all objects are new: of a bot's 760,000,
    most of them modules and markets, that is every eight hours or so, and what has piled up by then lies between what
    lives on. So what lives at the first call is never looked at again, which makes looking cheap, and each call looks.

    Between small blocks that live on, glibc keeps what large frames have left, and such a process grows, although it
    holds no more than on its first day. Other C libraries do not know this call.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def set_torch_threads(cpu_count: int, interop_threads: int) -> TorchThreads:
    """Set torch's threads, clamped to the processors this process may use.

    Intra-op threads can be set at any time. Inter-op threads can be set once per process, before torch first runs
    such work: a later call with another number keeps the first and says so.

    :param cpu_count: intra-op threads wanted, >= 1
    :param interop_threads: inter-op threads wanted, >= 1
    :return: what is in force now
    """
    processors = usable_processors()
    intraop = max(1, min(cpu_count, processors))
    interop = max(1, min(interop_threads, processors))
    torch.set_num_threads(intraop)
    if torch.get_num_interop_threads() != interop:
        try:
            torch.set_num_interop_threads(interop)
        except RuntimeError:
            logger.warning(
                "torch already runs %d inter-op threads in this process, so that interop_threads %d cannot be set; "
                "restart the process to change it.",
                torch.get_num_interop_threads(),
                interop,
            )
    return TorchThreads(torch.get_num_threads(), torch.get_num_interop_threads())


def has_bf16(device: torch.device) -> bool:
    """Whether torch multiplies matrices in bfloat16 by a device's own instructions.

    On a processor oneDNN does; without it a product in bfloat16 is a plain loop.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _BF16_INSTRUCTIONS)
    return False


def precision_on(precision: str, device: torch.device) -> Literal["fp32", "bf16"]:
    """The precision that a setting means: "auto" is bfloat16 where the device has it, else float32.

    Decisions are made in float32 either way; docs/learning.md compares what the two learn.
    """
    if precision == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    return "bf16" if precision == "bf16" else "fp32"


def compiles_on(compile_setting: bool | str, device: torch.device) -> bool:
    """Whether a setting means ``torch.compile``: "auto" does where launching kernels takes the time, on a GPU.

    On a CPU the loss is a small part of an update, and compiling takes longer than it saves
    (docs/benchmark-training.md).
    """
    return device.type == "cuda" if compile_setting == "auto" else bool(compile_setting)
