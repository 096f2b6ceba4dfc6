"""What writers of ours left behind as they were killed."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)


def remove_stray_files(paths: Iterable[Path]) -> None:
    """Remove what writers of ours left behind as they were killed; a process that still runs keeps its own.

    :param paths: of files with names of writers, others among them
    """
    for path in paths:
        found = re.search(r"\.(\d+)\.tmp$", path.name)
        if found and not _is_being_written(path, int(found[1])):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s, left by a process that was killed, cannot be removed (%s).", path, error)


def _is_being_written(path: Path, pid: int) -> bool:
    try:
        # A process that began after the file was written has another's number.
        return psutil.Process(pid).create_time() <= path.stat().st_mtime
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False
