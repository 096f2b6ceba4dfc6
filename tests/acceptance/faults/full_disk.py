"""Run before a command: after some whole files have been written, the disk is full for every later one."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtfscalper import artefacts

write_atomically = artefacts.write_atomically
left = int(os.environ["FAULTS_N_WRITES"])


def write_while_there_is_room(path: Path, write: Callable[[Path], Any]) -> None:
    global left
    if left <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    left -= 1
    print("FAULTS writes", path.name, flush=True)
    write_atomically(path, write)


artefacts.write_atomically = write_while_there_is_room
