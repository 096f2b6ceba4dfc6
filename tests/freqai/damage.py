"""What may become of a file on a disk."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def copy_home(source: Path, target: Path) -> Path:
    """Copy a user directory; names of one file there are names of one file here."""
    if target.exists():
        shutil.rmtree(target)
    first: dict[int, Path] = {}

    def copy(name: str, copied: str) -> None:
        file = first.setdefault(os.stat(name).st_ino, Path(copied))
        if file == Path(copied):
            shutil.copy2(name, copied)
        else:
            os.link(file, copied)

    shutil.copytree(source, target, copy_function=copy)
    return target


def truncate(path: Path) -> None:
    """Leave the first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    """Leave no byte."""
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Turn one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: tuple[Callable[[Path], None], ...] = (truncate, empty, flip, Path.unlink)
