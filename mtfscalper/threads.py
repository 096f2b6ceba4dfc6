"""Torch's intra-op and inter-op threads."""

from __future__ import annotations

import logging
import os
from typing import NamedTuple

import torch

logger = logging.getLogger(__name__)


class TorchThreads(NamedTuple):
    """Threads in force in this process."""

    intraop: int
    interop: int


def usable_processors() -> int:
    """Processors this process may run on, its affinity mask included."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
