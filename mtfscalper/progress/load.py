"""What a machine is doing at the moment, cheaply enough to be asked every second."""

from __future__ import annotations

import psutil
import pynvml

_GB = 1e9


def machine_load(gpu: bool) -> str:
    """Load of processors, memory, and the first GPU, in one line.

    :param gpu: whether to ask for a GPU; one that does not answer is left out
    """
    memory = psutil.virtual_memory()
    parts = [
        f"CPU {psutil.cpu_percent():.0f} %",
        f"memory {(memory.total - memory.available) / _GB:.1f} of {memory.total / _GB:.1f} GB",
    ]
    if gpu and (said := _gpu_load()):
        parts.append(said)
    return " · ".join(parts)


def _gpu_load() -> str | None:
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        used, memory = pynvml.nvmlDeviceGetUtilizationRates(handle), pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:
        # A GPU of another maker, or a driver that does not tell.
        return None
    return f"GPU {used.gpu} %, {int(memory.used) / _GB:.1f} of {int(memory.total) / _GB:.1f} GB"
