"""Commands in processes of their own whose libraries are imported already: four seconds less for each.

    python warm.py

A server reads one request a line, forks, and lets the child run ``freqtrade`` as its command line does, or a function.
It answers with the child's process id, and with the exit status once the child has ended.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self, TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")

HERE = Path(__file__).resolve()
ROOT = HERE.parents[3]
# Where children find the project's strategy and the tests' helpers.
PATHS = (ROOT, ROOT / "strategies", ROOT / "tests", ROOT / "tests" / "freqai", HERE.parents[1])
# What a freqtrade command imports, sooner or later.
IMPORTED = (
    *("freqtrade.main", "freqtrade.commands", "freqtrade.optimize.backtesting", "freqtrade.plot.plotting"),
    *("freqtrade.freqtradebot", "freqtrade.worker", "freqtrade.resolvers", "freqtrade.exchange", "ccxt.async_support"),
    *("torch", "stable_baselines3", "sb3_contrib", "talib.abstract", "pandas", "pyarrow.feather", "time_machine"),
    *("mtfscalper.freqai.model", "mtfscalper.training.job", "mtfscalper.policy.inference", "mtfscalper.strategy"),
)


class WarmServer:
    """One server; it runs one child at a time."""

    def __init__(self) -> None:
        path = os.pathsep.join([*map(str, PATHS), *filter(None, [os.environ.get("PYTHONPATH")])])
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(HERE)],
            env={**os.environ, **threads, "PYTHONPATH": path, "COLUMNS": "1000"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = 0

    def __enter__(self) -> Self:
        assert self._answer() == {"ready": True}
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def start(
        self, command: Sequence[str] | str, log: Path, environment: Mapping[str, str] | None = None, **request: Any
    ) -> int:
        """Start a child, the leader of a process group of its own.

        :param command: freqtrade's, as :func:`mtfscalper.offline.freqtrade_command.freqtrade_command` builds it; or a
            function, as ``module:name``
        :param log: gets what the child prints
        :param environment: what is added to the child's
        :param request: ``arguments`` of a function by name; ``prelude``, a script to run first
        :return: its process id
        """
        asked = {"command": command, "log": str(log), "environment": dict(environment or {}), **request}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._answer()["pid"])
        return self.pid

    def wait(self) -> int:
        """The exit status of the child, once it has ended; -9 if that signal ended it."""
        return int(self._answer()["status"])

    def run(
        self, command: Sequence[str] | str, log: Path, environment: Mapping[str, str] | None = None, **request: Any
    ) -> tuple[int, str]:
        """Exit status and output of a child."""
        self.start(command, log, environment, **request)
        status = self.wait()
        return status, log.read_text(errors="replace")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server of warm processes has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


class WarmServers:
    """Several servers, each with a number, for as long as a ``with`` block lasts."""

    def __init__(self, n_servers: int) -> None:
        self.servers = [WarmServer() for _ in range(n_servers)]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for server in self.servers:
                stack.enter_context(server)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def map(self, function: Callable[[WarmServer, int, Item], Result], items: Iterable[Item]) -> list[Result]:
        """Work on items, each with a server that nobody else uses meanwhile, and its number."""
        free: SimpleQueue[int] = SimpleQueue()
        for number in range(len(self.servers)):
            free.put(number)

        def work(item: Item) -> Result:
            number = free.get()
            try:
                return function(self.servers[number], number, item)
            finally:
                free.put(number)

        with ThreadPoolExecutor(len(self.servers)) as pool:
            return list(pool.map(work, items))


def serve() -> None:
    """Answer until the requests end."""
    for name in IMPORTED:
        importlib.import_module(name)
    # A forked process has one thread alone.
    assert threading.active_count() == 1, threading.enumerate()
    tell(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            run_child(request)
        tell(pid=pid)
        _, status = os.waitpid(pid, 0)
        tell(status=os.waitstatus_to_exitcode(status))


def tell(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


def run_child(request: dict[str, Any]) -> None:
    """Do what was asked for, as a process of its own would, and end."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
        os.dup2(descriptor, target)
    os.environ.update(request["environment"])
    status = 1
    try:
        if "prelude" in request:
            runpy.run_path(request["prelude"])
        command = request["command"]
        if isinstance(command, str):
            module, name = command.split(":")
            getattr(importlib.import_module(module), name)(**request["arguments"])
            status = 0
        else:
            # The first three call the interpreter and the module.
            sys.argv = ["freqtrade", *command[3:]]
            importlib.import_module("freqtrade.main").main(command[3:])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # As the interpreter does at its end, but for taking all its libraries apart.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
