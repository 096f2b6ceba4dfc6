"""A process of trainings, as whoever started it sees it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mtfscalper.executors.worker import Manner, Told, serve

# How long a process may take to end by itself.
CLOSE_SECONDS = 5.0


class WorkerLostError(RuntimeError):
    """The process of a training ended without a result. Says how, and what to do."""


class Endable(Protocol):
    """See :class:`WorkerProcess`."""

    def ask_to_end(self) -> None:
        """See :meth:`WorkerProcess.ask_to_end`."""

    def end(self, seconds: float) -> None:
        """See :meth:`WorkerProcess.end`."""


class WorkerProcess:
    """A process that runs jobs, one at a time.

    It and whatever processes it starts are ended by :func:`end_all`; they end by themselves if this process is killed.
    Where memory is short they are what Linux ends first.

    :ivar connection: can be read when it has told something, and when it has ended
    """

    def __init__(self, scratch: Path, number: int, *, beside_bot: bool, is_quiet: bool) -> None:
        """
        :param scratch: a folder of few letters, for sockets lie in it, whose paths may have a hundred
        :param number: that no other process has, which uses the same folder
        :param beside_bot: whether it is to give way to a bot that trades
        :param is_quiet: whether it logs no more than warnings, whatever this process logs
        :raises OSError: if it cannot be started
        """
        self._is_ended = False
        own_level = logging.getLogger("mtfscalper").getEffectiveLevel()
        level = max(own_level, logging.WARNING) if is_quiet else own_level
        manner = Manner(str(scratch / str(number)), str(scratch), level, beside_bot)
        context = multiprocessing.get_context("spawn")
        self.connection, its = context.Pipe()
        # No daemon: its environments may be processes.
        self._process = context.Process(target=serve, args=(its, manner), name="training", daemon=False)
        try:
            self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            its.close()

    @property
    def pid(self) -> int | None:
        """Its number."""
        return self._process.pid

    def send(self, request: bytes) -> None:
        """Send a :class:`mtfscalper.executors.worker.Request`; to one that has ended, for nothing."""
        # That it has ended is heard from :meth:`hear`.
        with suppress(OSError):
            self.connection.send_bytes(request)

    def hear(self) -> Told | None:
        """The next that it tells; None once it has ended."""
        try:
            told: Told = pickle.loads(self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return told

    def how_lost(self) -> str:
        """How a process that has ended did so, and what to do."""
        self._process.join(CLOSE_SECONDS)
        exitcode = self._process.exitcode
        if exitcode == -signal.SIGKILL:
            return (
                f"the process of the training ({self.pid}) was killed by signal 9, usually because the machine ran out "
                "of memory; remedy: free memory, or lower freqai.rl_config.workers, n_envs, n_steps or net_arch, "
                "freqai.conv_width or freqai.train_period_days"
            )
        how = (
            f"was ended by signal {-exitcode}"
            if exitcode is not None and exitcode < 0
            else f"ended with exit status {exitcode}"
        )
        return (
            f"the process of the training ({self.pid}) {how} before it was done; remedy: see what it wrote to the log"
        )

    def ask_to_end(self) -> None:
        """Let it end by itself."""
        if self._process.is_alive():
            self._process.terminate()

    def end(self, seconds: float) -> None:
        """End it, and whatever it started.

        :param seconds: how long it may take by itself
        """
        if self._is_ended:
            return
        self._is_ended = True
        self._process.join(max(seconds, 0.0))
        if hasattr(os, "killpg") and self.pid is not None:
            # It had no group yet, or nobody is left in it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.connection.close()


def end_all(workers: Sequence[Endable]) -> None:
    """End processes and all that they started, whatever state they are in."""
    # Of the monotonic clock's: a bot's own may be a simulated one.
    until = time.monotonic() + CLOSE_SECONDS
    for worker in workers:
        worker.ask_to_end()
    for worker in workers:
        worker.end(until - time.monotonic())


def write_log(record: logging.LogRecord) -> None:
    """Log a line of another process here."""
    # By this process's clock, which may be a simulated one.
    record.created = time.time()
    record.msecs = record.created % 1 * 1000
    named = logging.getLogger(record.name)
    if named.isEnabledFor(record.levelno):
        named.handle(record)
