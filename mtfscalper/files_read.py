"""Which files a user's own code reads while it runs: what is made with them holds as long as they are the same.

Python's ``open`` is watched, by which json, yaml, pathlib, pandas and NumPy read, and only where code of the user's
runs. An audit hook would see no more of what is read here, cannot be taken off again, and is asked at every ``id``:
freqtrade's copy of a trade, made at each candle of a backtest, took 79 instead of 49 µs beside one.
"""

from __future__ import annotations

import builtins
import bz2
import hashlib
import io
import lzma
import os
import sys
import sysconfig
import tarfile
import threading
import time
from collections.abc import Container, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

# Of a manifest: the files that were read, by name as :func:`under` gives it.
FILES_READ = "files_read"
# In the place of a hash: there was no such file, and a file that changed while it was read.
MISSING, CHANGED = "missing", "changed"

_SETTLED_NS = 2_000_000_000
_CODE = (".py", ".pyc", ".so", ".pyd")
_PACKAGE = str(Path(__file__).parent) + os.sep
_lock = threading.RLock()
_watches: list[_Watch] = []
# Python's own, while it is watched, and what NumPy reads texts by, which holds on to Python's.
_open: Any = io.open
_open_datasource: Any = np.lib.npyio.DataSource.open
# Modules hold on to it by these names.
_HOLD_IT = ((builtins, "open"), (io, "open"), (bz2, "_builtin_open"), (lzma, "_builtin_open"), (tarfile, "bltn_open"))
# Hashes of files as they were, by path.
_known: dict[str, tuple[tuple[int, ...], str]] = {}
# What the user's code has written itself is nothing that it depends on.
_written: set[str] = set()


class _Watch(NamedTuple):
    """Who wants to know.

    :ivar thread: of the code that is watched
    :ivar sources: files that this code stands in, None for any of the user's
    """

    read: MutableMapping[str, str]
    thread: int
    sources: Container[str] | None


@contextmanager
def watched(read: MutableMapping[str, str], sources: Container[str] | None = None) -> Iterator[None]:
    """Note the files that code of the user's opens to read in this thread: in a bot's others its strategy runs.

    :param read: gets the hash of each by its absolute path, as it was when it was opened
    :param sources: the files that this code stands in, None for any of the user's
    """
    watch = _Watch(read, threading.get_ident(), sources)
    with _lock:
        _watches.append(watch)
        _replace_open(_noting_open, _noting_datasource)
    try:
        yield
    finally:
        with _lock:
            _watches[:] = [each for each in _watches if each is not watch]
            if not _watches:
                _replace_open(_open, _open_datasource)
                _written.clear()


def read_so_far() -> dict[str, str]:
    """What has been noted in this thread by all who watch now."""
    with _lock:
        return {path: found for watch in _of_this_thread() for path, found in watch.read.items()}


def note_all(read: MutableMapping[str, str], found: Mapping[str, str]) -> None:
    """Note files that were read elsewhere too: of one that was another there, both say that it changed."""
    for path, now in found.items():
        read[path] = now if read.get(path, now) == now else CHANGED


def under(read: Mapping[str, str], user_dir: Path) -> dict[str, str]:
    """Files by names that hold where the user directory lies elsewhere.

    :param read: hashes by absolute path
    :param user_dir: freqtrade's user directory
    """
    root = os.path.abspath(user_dir) + os.sep
    return {path.removeprefix(root): found for path, found in sorted(read.items())}


def why_changed(read: Mapping[str, str], user_dir: Path) -> str | None:
    """Which files that a user's code had read are others now, None if all are the same.

    :param read: hashes, by name as :func:`under` gives it
    :param user_dir: freqtrade's user directory
    """
    others = [name for name, then in read.items() if then == CHANGED or _hash_of(str(Path(user_dir) / name)) != then]
    return f"what your code read of {', '.join(others)}" if others else None


def _replace_open(instead: Any, of_datasource: Any) -> None:
    for module, name in _HOLD_IT:
        setattr(module, name, instead)
    np.lib.npyio.DataSource.open = of_datasource  # type: ignore[method-assign]


def _noting_datasource(source: Any, path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    """NumPy's ``DataSource.open``, noted first."""
    if isinstance(path, str | os.PathLike):
        _note(os.path.abspath(path), mode, sys._getframe(1))
    return _open_datasource(source, path, mode, *args, **kwargs)


def _noting_open(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
    """Python's ``open``, noted first."""
    if isinstance(file, str | bytes | os.PathLike) and isinstance(mode, str):
        _note(os.path.abspath(os.fsdecode(file)), mode, sys._getframe(1))
    return _open(file, mode, *args, **kwargs)


def _note(path: str, mode: str, frame: FrameType) -> None:
    watches = _of_this_thread()
    if not watches or path.endswith(_CODE) or path.startswith(("/dev/", "/proc/", "/sys/", *_places())):
        return
    source = _users_file(frame)
    if source is None:
        return
    with _lock:
        if "r" not in mode:
            _written.add(path)
        elif path not in _written:
            found = _hash_of(path)
            for watch in watches:
                if watch.sources is None or source in watch.sources:
                    note_all(watch.read, {path: found})


def _of_this_thread() -> list[_Watch]:
    return [watch for watch in _watches if watch.thread == threading.get_ident()]


def _users_file(frame: FrameType | None) -> str | None:
    """The file of the user's that opens another, or lets a library open it; None where it is nobody's of the user's."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith((_PACKAGE, _freqtrade())):
            return None
        if not file.startswith(("<", *_places())):
            return file
        frame = frame.f_back
    return None


@cache
def library_folders() -> tuple[Path, ...]:
    """Where Python and its libraries lie."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(dict.fromkeys(Path(sysconfig.get_path(name)) for name in names))


@cache
def _places() -> tuple[str, ...]:
    """The same as beginnings of paths, which may go by links."""
    return tuple(place + os.sep for path in library_folders() for place in {str(path), os.path.realpath(path)})


@cache
def _freqtrade() -> str:
    """Where freqtrade lies, which may be a clone."""
    file = getattr(sys.modules.get("freqtrade"), "__file__", None)
    return os.path.dirname(file) + os.sep if file else _PACKAGE


def _hash_of(path: str) -> str:
    """The hash of a file's content; of one that has not changed by its times and size it is known."""
    try:
        status = os.stat(path)
        state = status.st_mtime_ns, status.st_size, status.st_ino
        if path in _known and _known[path][0] == state:
            return _known[path][1]
        with _open(path, "rb") as file:
            found: str = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return MISSING
    # A file that has just been written may be written again within one tick of its clock.
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        _known[path] = state, found
    return found
