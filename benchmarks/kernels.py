"""What a GPU was doing while something ran: kernels, the time that any of them took, and launches of graphs."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile


class KernelTimes(NamedTuple):
    """Of one run.

    :ivar wall_seconds: that it took, under the profiler
    :ivar kernel_seconds: in which at least one kernel ran
    :ivar n_graph_launches: a launch of a graph starts many kernels
    """

    wall_seconds: float
    kernel_seconds: float
    n_kernels: int
    n_graph_launches: int


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union of intervals.

    :param intervals: start and length of each
    """
    spans = np.array(sorted((start, start + length) for start, length in intervals)).reshape(-1, 2)
    if not len(spans):
        return 0.0
    starts, ends = spans[:, 0], np.maximum.accumulate(spans[:, 1])
    # What each interval adds to those that began before it.
    before = np.concatenate([starts[:1], ends[:-1]])
    return float((ends - np.maximum(starts, before)).sum())


def kernel_times(events: Iterable[Mapping[str, Any]], wall_seconds: float) -> KernelTimes:
    """
    :param events: of a Chrome trace of torch's profiler; times in microseconds
    """
    intervals, n_launches = [], 0
    for event in events:
        if event.get("cat") == "kernel":
            intervals.append((event["ts"], event["dur"]))
        elif str(event.get("name")).startswith("cudaGraphLaunch"):
            n_launches += 1
    return KernelTimes(wall_seconds, 1e-6 * covered(intervals), len(intervals), n_launches)


def profiled(run: Callable[[], object]) -> KernelTimes:
    """Run something on a GPU once, and say what ran there."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        wall_seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    times = kernel_times(events, wall_seconds)
    if not times.n_kernels:
        raise RuntimeError("torch's profiler saw no kernel; remedy: CUPTI must be installed and permitted")
    return times
