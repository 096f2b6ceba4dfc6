"""The processes of a run, found by a variable that all of them inherit, whatever groups and sessions they make."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from mtfscalper.machine import usable_processors

RUN = "MTFSCALPER_TEST_RUN"
# Within as many a run that is stopped has ended, with all that it started, on a machine that does nothing else.
STOP_SECONDS = 10.0


def may_take_to_stop(own: int) -> float:
    """Seconds that a run may take to end here and now: as many times longer as others want the processors too.

    :param own: processes of the run, each of which may keep a processor busy
    """
    others = max(0.0, os.getloadavg()[0] - own)
    return STOP_SECONDS * (1.0 + others / usable_processors())


def processes_with(variable: str, value: str) -> list[psutil.Process]:
    """All processes whose environment says so, but for those that have ended and were not asked for their status."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def shared_memory_of(processes: Iterable[psutil.Process]) -> set[Path]:
    """The blocks of shared memory that processes have mapped, by their names as files.

    One whose name is gone already is among them: its memory goes with the last process that has it mapped.
    """
    found = set()
    for process in processes:
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            names = [line.split(maxsplit=5)[5] for line in maps.splitlines() if " /dev/shm/" in line]
            found |= {Path(name.removesuffix(" (deleted)")) for name in names}
    return found
