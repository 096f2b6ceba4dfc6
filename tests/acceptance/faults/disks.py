"""Disks with little room, and users who may not write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.homes import Ended

DISK_BYTES = 48 * 2**20
IS_ROOT = os.name != "nt" and os.geteuid() == 0
NOBODY = 65534


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own.

    :raises pytest.skip.Exception: where none may be mounted
    """
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def free_bytes(disk: Path) -> int:
    stat = os.statvfs(disk)
    return stat.f_bavail * stat.f_frsize


def leave(disk: Path, n_bytes: int) -> None:
    """Fill a disk up to the last bytes."""
    with (disk / "filler").open("wb") as file:
        while (more := free_bytes(disk) - n_bytes) > 0:
            file.write(bytes(min(more, 2**20)))
            file.flush()


def why_not_stopped_well(ended: Ended) -> str | None:
    """What is wrong with a backtest that had no room."""
    said = [line for line in ended.output.splitlines() if " - ERROR - " in line]
    if "Traceback" in ended.output:
        return f"a traceback: {ended.output[-2500:]}"
    if ended.status in (0, -9) or len(said) != 1 or "No space left on device" not in said[0]:
        return f"exit status {ended.status}, {len(said)} messages: {ended.output[-2500:]}"
    return None if "remedy: free space" in said[0] else f"no remedy: {said[0]}"


def somebody() -> list[str]:
    """What makes a command that of a user without rights of its own."""
    if not IS_ROOT:
        return []
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    try:
        tried = subprocess.run(
            [*command, sys.executable, "-c", "import freqtrade"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("root may write anywhere, and there is no setpriv to become somebody else")
    if tried.returncode != 0:
        pytest.skip(f"root may write anywhere, and nobody cannot run this Python: {tried.stderr.strip()[-200:]}")
    return command


def give_to_somebody(folder: Path) -> None:
    """Let everything in a folder belong to the user of :func:`somebody`."""
    if IS_ROOT:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
