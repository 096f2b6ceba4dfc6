"""What other programs use of the processors: what was timed beside them is told as such."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

from mtfscalper.monitoring.sampler import machine_busy_seconds

# Of a core: with as much, other programs may be why something was slow, or another way the faster one.
BUSY_CORES = 0.3


class Others(NamedTuple):
    """Other programs, over some time.

    :ivar cores: processors that they used, in the mean
    :ivar waiting: programs that ran or waited for a processor, in the mean of the last minute: on a full machine more
        than there are processors
    :ivar busiest: the one of them that used most, its name and process id; empty where none used much
    """

    cores: float
    waiting: float = 0.0
    busiest: str = ""

    @property
    def is_busy(self) -> bool:
        """Whether they use so much that a timing says less."""
        return self.cores >= BUSY_CORES


class OthersClock:
    """Processor time of everything but this process and its descendants, from now on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began, self._before = clock(), others_seconds()

    def cores(self) -> float:
        """Processors that were used since the start, in the mean."""
        return max(0.0, (others_seconds() - self._before) / max(self._clock() - self._began, 1e-3))


def look_around(seconds: float = 1.0, wait: Callable[[float], None] = time.sleep) -> Others:
    """What other programs use now.

    :param seconds: how long to look
    """
    before, clock = _seconds_by_process(), OthersClock()
    wait(seconds)
    cores = clock.cores()
    own = {process.pid for process in _tree()}
    grown = {
        (pid, name): used - before.get((pid, name), used)
        for (pid, name), used in _seconds_by_process().items()
        if pid not in own
    }
    (pid, name), used = max(grown.items(), key=lambda item: item[1], default=((0, ""), 0.0))
    busiest = f"{name} (process {pid})" if used >= BUSY_CORES / 2 * seconds else ""
    return Others(cores, psutil.getloadavg()[0], busiest)


def others_seconds() -> float:
    """Processor time of everything but this process and its descendants, since the machine's start.

    Descendants that have ended count where they were waited for.
    """
    own = 0.0
    for process in _tree():
        try:
            own += sum(process.cpu_times()[:4])
        except psutil.Error:
            # It ended between the list and the question; what it used is its parent's from now on.
            continue
    return machine_busy_seconds() - own


def _tree() -> list[psutil.Process]:
    this = psutil.Process()
    return [this, *this.children(recursive=True)]


def _seconds_by_process() -> dict[tuple[int, str], float]:
    found = psutil.process_iter(["pid", "name", "cpu_times"])
    return {
        (info["pid"], info["name"]): info["cpu_times"].user + info["cpu_times"].system
        for info in (process.info for process in found)
        if info["cpu_times"] is not None
    }
