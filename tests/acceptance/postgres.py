"""A PostgreSQL server of one test, from Debian's package, on a socket in the test's folder and the loopback address."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# The server refuses to run as root.
_USER = "postgres"


def _program(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else str(shutil.which(name))


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database."""
    # Not in a test's folder, which is its owner's alone, and the server's owner is another.
    with tempfile.TemporaryDirectory(prefix="postgres") as folder:
        yield from _served(Path(folder))


def _served(folder: Path) -> Iterator[str]:
    user = pwd.getpwnam(_USER if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name)
    if os.geteuid() == 0:
        os.chown(folder, user.pw_uid, user.pw_gid)

    def run(name: str, *options: str) -> None:
        subprocess.run(
            [_program(name), *options],
            cwd=folder,
            user=user.pw_uid if os.geteuid() == 0 else None,
            group=user.pw_gid if os.geteuid() == 0 else None,
            env={**os.environ, "HOME": str(folder)},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = folder / "data"
    run("initdb", "-D", str(data), "-U", "studies", "-A", "trust")
    options = f"-p {port} -h 127.0.0.1 -k {folder}"
    run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
    try:
        run("createdb", "-h", "127.0.0.1", "-p", str(port), "-U", "studies", "studies")
        yield f"postgresql+psycopg://studies@127.0.0.1:{port}/studies"
    finally:
        run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
