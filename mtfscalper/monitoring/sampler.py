"""Watching a process and its descendants from outside: processor time, memory, threads, worker processes.

The sampler only reads what the operating system tells about processes; nothing is asked of the processes themselves.
What happened between two moments is worked out afterwards from a :class:`Recording`, so that processor time can be
attributed to phases that only the watched process knew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
import psutil

INTERVAL_SECONDS = 0.2
# Proportional memory costs a walk over the page tables of every process, with the process held up meanwhile.
PROPORTIONAL_INTERVAL_SECONDS = 2.0
# How long helper processes may take to notice that their parent is gone and to shut down.
END_SECONDS = 15.0
# A thread that used at least this share of a phase was computing in it, not just housekeeping.
COMPUTING_SHARE = 0.25

ROOT = "root"
FORKSERVER = "forkserver"
WORKER = "worker"
OTHER = "other"

Span = tuple[float, float]


class ProcessReading(NamedTuple):
    """One process at one moment.

    :ivar cpu_seconds: processor time since it started
    :ivar rss_bytes: resident memory; pages shared between processes count in each of them
    :ivar pss_bytes: resident memory, shared pages divided among their processes; None where not measured
    :ivar n_threads: threads of the operating system, of the root process alone, else 0
    :ivar thread_seconds: processor time of each thread by id, of the root process alone
    """

    pid: int
    cpu_seconds: float
    rss_bytes: int
    pss_bytes: int | None
    n_threads: int
    thread_seconds: Mapping[int, float]


class Sample(NamedTuple):
    """The tree at one moment.

    :ivar time: seconds since 1970, as in training reports
    :ivar machine_busy_seconds: processor time that the whole machine was busy since its start, all processors
    """

    time: float
    processes: tuple[ProcessReading, ...]
    machine_busy_seconds: float


@dataclass(frozen=True)
class Recording:
    """Everything a sampler saw.

    :ivar root_pid: the process that was watched
    :ivar roles: process id to :data:`ROOT`, :data:`FORKSERVER`, :data:`WORKER` or :data:`OTHER`
    :ivar left_running: descendants still alive :data:`END_SECONDS` after the root had ended
    """

    root_pid: int
    roles: Mapping[int, str] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    left_running: tuple[int, ...] = ()

    def within(self, start: float, stop: float) -> tuple[Sample, ...]:
        """The samples from one moment to another."""
        return tuple(sample for sample in self.samples if start <= sample.time <= stop)

    def workers_in(self, sample: Sample) -> frozenset[int]:
        """The worker processes alive in a sample."""
        return frozenset(reading.pid for reading in sample.processes if self.roles.get(reading.pid) == WORKER)

    def cpu_seconds(self, spans: Sequence[Span], role: str | None = None) -> float:
        """Processor time used in some spans of time.

        Between samples it is taken to be used evenly.

        :param role: of the processes of one role alone
        """
        pids = [pid for pid, has in self.roles.items() if role is None or has == role]
        return sum(_used(*self._cpu_series(pid), spans) for pid in pids)

    def machine_busy_seconds(self, spans: Sequence[Span]) -> float:
        """Processor time the whole machine was busy in some spans of time, this tree included."""
        times = [sample.time for sample in self.samples]
        return _used(times, [sample.machine_busy_seconds for sample in self.samples], spans)

    def computing_threads(self, spans: Sequence[Span]) -> int | None:
        """Threads of the root that used a quarter or more of some spans of time; None where it cannot be seen."""
        series: dict[int, tuple[list[float], list[float]]] = {}
        for sample in self.samples:
            for reading in sample.processes:
                for thread, seconds in reading.thread_seconds.items():
                    times, used = series.setdefault(thread, ([], []))
                    times.append(sample.time)
                    used.append(seconds)
        duration = sum(stop - start for start, stop in spans)
        if not series or duration <= 0:
            return None
        return sum(_used(*values, spans) >= COMPUTING_SHARE * duration for values in series.values())

    def most_threads(self) -> int:
        """The most threads of the operating system that the root had."""
        return max((reading.n_threads for sample in self.samples for reading in sample.processes), default=0)

    def _cpu_series(self, pid: int) -> tuple[list[float], list[float]]:
        times: list[float] = []
        used: list[float] = []
        previous = self.samples[0].time if self.samples else 0.0
        for sample in self.samples:
            for reading in sample.processes:
                if reading.pid == pid:
                    if not times and previous < sample.time:
                        # Born since the last sample: what it used so far, it used since then.
                        times.append(previous)
                        used.append(0.0)
                    times.append(sample.time)
                    used.append(reading.cpu_seconds)
            previous = sample.time
        return times, used


class PeakMemory(NamedTuple):
    """The most memory of a tree.

    :ivar rss_bytes: largest sum of resident memory
    :ivar pss_bytes: largest sum of proportional memory, None where the system does not tell
    :ivar largest_bytes: resident memory of the largest single process
    :ivar largest_role: what that process was
    """

    rss_bytes: int
    pss_bytes: int | None
    largest_bytes: int
    largest_role: str


def peak_memory(recording: Recording) -> PeakMemory:
    """The most memory that was seen in use."""
    rss, pss, largest, role = 0, None, 0, ""
    for sample in recording.samples:
        rss = max(rss, sum(reading.rss_bytes for reading in sample.processes))
        parts = [reading.pss_bytes for reading in sample.processes if reading.pss_bytes is not None]
        if parts and len(parts) == len(sample.processes):
            pss = max(pss or 0, sum(parts))
        for reading in sample.processes:
            if reading.rss_bytes > largest:
                largest, role = reading.rss_bytes, recording.roles.get(reading.pid, OTHER)
    return PeakMemory(rss, pss, largest, role)


class TreeSampler:
    """Records a process and its descendants in a thread, for as long as a ``with`` block lasts.

    :param pid: the process to watch
    :param interval_seconds: time between samples
    """

    def __init__(self, pid: int, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._root = psutil.Process(pid)
        self._interval = interval_seconds
        self._roles: dict[int, str] = {pid: ROOT}
        self._processes: dict[int, psutil.Process] = {pid: self._root}
        self._samples: list[Sample] = []
        self._left: tuple[int, ...] = ()
        self._next_proportional = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tree-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        descendants = [process for pid, process in self._processes.items() if pid != self._root.pid]
        _, alive = psutil.wait_procs(descendants, timeout=END_SECONDS)
        self._left = tuple(sorted(process.pid for process in alive if _is_alive(process)))

    @property
    def recording(self) -> Recording:
        """What was seen so far."""
        return Recording(self._root.pid, dict(self._roles), tuple(self._samples), self._left)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            sample = self._take()
            if sample is None:
                return
            self._samples.append(sample)
            due = max(due + self._interval, time.monotonic())
            self._stop.wait(due - time.monotonic())

    def _take(self) -> Sample | None:
        """One sample, None once the root has ended."""
        try:
            processes = [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return None
        now = time.time()
        proportional = time.monotonic() >= self._next_proportional
        if proportional:
            self._next_proportional = time.monotonic() + PROPORTIONAL_INTERVAL_SECONDS
        readings = [self._read(process, proportional) for process in processes]
        found = tuple(reading for reading in readings if reading is not None)
        if not found or found[0].pid != self._root.pid:
            return None
        return Sample(now, found, machine_busy_seconds())

    def _read(self, process: psutil.Process, proportional: bool) -> ProcessReading | None:
        try:
            with process.oneshot():
                if process.status() == psutil.STATUS_ZOMBIE:
                    return None
                self._processes.setdefault(process.pid, process)
                # Between fork and exec a child still shows its parent's command line: looked at again next time.
                if self._roles.get(process.pid, OTHER) == OTHER:
                    parent = process.parent()
                    self._roles[process.pid] = role_of(process.cmdline(), parent.cmdline() if parent else [])
                cpu, is_root = process.cpu_times(), process.pid == self._root.pid
                return ProcessReading(
                    process.pid,
                    cpu.user + cpu.system,
                    process.memory_info().rss,
                    _pss_bytes(process) if proportional else None,
                    process.num_threads() if is_root else 0,
                    _thread_seconds(process) if is_root else {},
                )
        except psutil.Error:
            # It ended while it was being read.
            return None


def role_of(command_line: Sequence[str], parent_command_line: Sequence[str]) -> str:
    """What a process is, by its command line and its parent's.

    Workers are forked from a forkserver and show its command line; where there is no forkserver they are spawned.
    """
    if "multiprocessing.spawn" in " ".join(command_line):
        return WORKER
    if "multiprocessing.forkserver" not in " ".join(command_line):
        return OTHER
    return WORKER if "multiprocessing.forkserver" in " ".join(parent_command_line) else FORKSERVER


def _used(times: Sequence[float], totals: Sequence[float], spans: Iterable[Span]) -> float:
    """Increase of a running total in some spans of time, evenly between its readings."""
    if not times:
        return 0.0
    edges = np.array([edge for span in spans for edge in span], dtype=np.float64).reshape(-1, 2)
    values = np.interp(edges, times, totals)
    return float((values[:, 1] - values[:, 0]).sum())


def machine_busy_seconds() -> float:
    """Processor time that the whole machine was busy since its start, all processors."""
    times = psutil.cpu_times()._asdict()
    # Time of guests is part of user time. Time stolen from a virtual machine was used by others, and stays in.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(seconds for name, seconds in times.items() if name not in idle))


def _pss_bytes(process: psutil.Process) -> int | None:
    try:
        return getattr(process.memory_full_info(), "pss", None)
    except psutil.AccessDenied:
        return None


def _thread_seconds(process: psutil.Process) -> dict[int, float]:
    try:
        return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}
    except psutil.AccessDenied:
        return {}


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
