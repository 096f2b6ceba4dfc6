"""A Ray cluster of several nodes on one machine, each in a network of its own where that is allowed."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
from marked_processes import processes_with

RAY = Path(sys.executable).with_name("ray")
_MARK = "MTFSCALPER_TEST_NODE"
_BRIDGE = "rltest"
# Ray gives a node half a minute to start, which a busy machine may take longer for.
_TRIES = 4


def processes_of(name: str) -> list[psutil.Process]:
    """The processes that were started for a node, and whatever they have started."""
    return processes_with(_MARK, name)


def kill_marked(name: str) -> None:
    """End them all at once, as a power cut does."""
    for process in processes_of(name):
        with suppress(psutil.NoSuchProcess):
            process.kill()


def can_make_namespaces() -> bool:
    """Whether this process may give nodes network addresses of their own."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", f"{_BRIDGE}-try"], capture_output=True).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", f"{_BRIDGE}-try"], check=True)
    return made


class Nodes:
    """A head without processors, and nodes with one each.

    :ivar address: of the head
    """

    def __init__(self, folder: Path, resources: ExitStack, *, namespaces: bool) -> None:
        """
        :param folder: for what Ray writes, of a short name
        """
        self._folder, self._resources, self._namespaces = folder, resources, namespaces
        self._token = secrets.token_hex(32)
        self._n = 0
        self.address = f"{self._ip(0)}:26379"
        self.add("--head", "--port=26379", "--include-dashboard=false", "--num-cpus=0")

    def add(self, *arguments: str, **variables: str) -> str:
        """Start a node.

        :param arguments: of ``ray start``; by default those of a node with one processor
        :param variables: of its environment
        :return: its name, see :func:`kill_marked`
        """
        number = self._n
        name = f"{_BRIDGE}{number}"
        self._n += 1
        if self._namespaces:
            self._make_namespace(name, number)
        self._resources.callback(kill_marked, name)
        command = [
            *(str(RAY), "start", *(arguments or (f"--address={self.address}", "--num-cpus=1"))),
            *(f"--node-ip-address={self._ip(number)}", f"--temp-dir={self._folder / str(number)}"),
            *("--disable-usage-stats", "--object-store-memory=100000000"),
        ]
        self.run(number, command, **variables)
        return name

    def command(self, number: int, command: list[str]) -> list[str]:
        """What runs a command on a node."""
        return ["ip", "netns", "exec", f"{_BRIDGE}{number}", *command] if self._namespaces else command

    def environment(self, number: int, **variables: str) -> dict[str, str]:
        """Of a command on a node."""
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}
        # Else trainings give way to whatever else the machine does, and a test to all that runs beside it.
        priority = {"RAY_worker_niceness": "0"}
        return os.environ | token | priority | {_MARK: f"{_BRIDGE}{number}"} | variables

    def run(self, number: int, command: list[str], **variables: str) -> None:
        """Run a command on a node to its end."""
        environment = self.environment(number, **variables)
        for _ in range(_TRIES):
            done = subprocess.run(self.command(number, command), env=environment, capture_output=True, text=True)
            if not done.returncode:
                return
            kill_marked(f"{_BRIDGE}{number}")
        raise AssertionError(done.stdout + done.stderr)

    def ip(self, name: str) -> str:
        """The address of a node."""
        return self._ip(int(name.removeprefix(_BRIDGE)))

    def _ip(self, number: int) -> str:
        return f"10.213.77.{number + 1}" if self._namespaces else "127.0.0.1"

    def _make_namespace(self, name: str, number: int) -> None:
        def ip(*words: str) -> None:
            subprocess.run(["ip", *words], check=True, capture_output=True)

        if not number:
            ip("link", "add", _BRIDGE, "type", "bridge")
            self._resources.callback(ip, "link", "del", _BRIDGE)
            ip("link", "set", _BRIDGE, "up")
        ip("netns", "add", name)
        self._resources.callback(ip, "netns", "del", name)
        ip("link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
        # The end of a namespace takes its links away too, but only some time after the command.
        self._resources.callback(ip, "link", "del", f"{name}v")
        ip("link", "set", f"{name}v", "master", _BRIDGE, "up")
        ip("-n", name, "addr", "add", f"{self._ip(number)}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            ip("-n", name, "link", "set", device, "up")


@contextmanager
def nodes(folder: Path, count: int) -> Iterator[tuple[Nodes, list[str]]]:
    """A cluster until a ``with`` block ends: a head, and so many nodes with a processor each.

    :return: it, and the names of the nodes
    """
    with ExitStack() as resources:
        cluster = Nodes(folder, resources, namespaces=can_make_namespaces())
        yield cluster, [cluster.add() for _ in range(count)]
