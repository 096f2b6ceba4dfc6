"""Files that only grow: one JSON record a line, on disk before whoever wrote it goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock

# Of a line that cannot be read: what it holds.
UNREADABLE = "unreadable"


class Ledger:
    """A file of records that are added and never changed. Several processes may add to it."""

    def __init__(self, path: Path) -> None:
        """
        :param path: which need not be there
        """
        self.path = path
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))

    def records(self) -> list[dict[str, Any]]:
        """All that was added, the oldest first.

        A line that cannot be read, as one that a power cut has cut off, is ``{"unreadable": LINE}``: what was done is
        not known, and that something was is.
        """
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [_record(line) for line in text.splitlines() if line.strip()]

    def add(self, record: dict[str, Any]) -> None:
        """Add a record, and return once it is on disk.

        :raises OSError: if it cannot be written
        :raises ValueError: if it holds a number that JSON has none for
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock, self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    # The one before was cut off.
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())


def _record(line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {UNREADABLE: line}
