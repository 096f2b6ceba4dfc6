"""The frames of pairs that a run has yet to come to: on disk, so that memory holds one pair's features at a time."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
from filelock import FileLock, Timeout

from mtfscalper import artefacts
from mtfscalper.seals import Seals

_PURPOSE = "frame"
_LOCK = "in_use.lock"
# How often a folder is made anew that another process has removed meanwhile.
_TRIES = 10


class FrameShelf:
    """Values by pair, in files of this process. What a process that was killed left is removed by the next one."""

    def __init__(self, folder: Path, seals: Seals) -> None:
        """
        :param folder: of the identifier's shelves
        :param seals: of the user directory, for a value is unpickled
        :raises OSError: if nothing can be written there
        """
        self._seals = seals
        for _ in range(_TRIES):
            # Another process that closes the last shelf removes the folder of all.
            with suppress(FileNotFoundError):
                folder.mkdir(parents=True, exist_ok=True)
                _remove_those_of_the_dead(folder)
                own = tempfile.TemporaryDirectory(prefix=f"{os.getpid()}-", dir=folder, ignore_cleanup_errors=True)
                self._held, self._folder = own, Path(own.name)
                self._lock = FileLock(self._folder / _LOCK, thread_local=False)
                if self._is_locked():
                    return
                own.cleanup()
        raise FileNotFoundError(errno.ENOENT, "others remove what is put there", str(folder))

    def _is_locked(self) -> bool:
        """Whether the folder is this process's for good.

        Until it is locked, a process that looks for what is left of dead ones may take it for such, and remove it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except OSError:
            # No file can be locked there: nobody can tell whose is whose, and nobody removes anything.
            return self._folder.is_dir()
        if (self._folder / _LOCK).exists():
            return True
        self._lock.release()
        return False

    def put(self, pair: str, value: Any) -> None:
        """Keep a value.

        :raises OSError: if it cannot be written
        """
        artefacts.write_bytes(self._path(pair), self._seals.append(_PURPOSE, cloudpickle.dumps(value)))

    def get(self, pair: str) -> Any:
        """The value of a pair, a new one each time."""
        content = self._seals.content(_PURPOSE, self._path(pair).read_bytes())
        assert content is not None, pair
        return pickle.loads(content)

    def close(self) -> None:
        """Remove everything."""
        self._lock.release()
        folder = self._folder.parent
        self._held.cleanup()
        # Others may have theirs in it.
        with suppress(OSError):
            folder.rmdir()

    def _path(self, pair: str) -> Path:
        return self._folder / f"{artefacts.value_hash(pair)}.frame"


def _remove_those_of_the_dead(folder: Path) -> None:
    for shelf in folder.iterdir():
        lock = FileLock(shelf / _LOCK)
        with suppress(Timeout, OSError), lock.acquire(timeout=0):
            shutil.rmtree(shelf, ignore_errors=True)
