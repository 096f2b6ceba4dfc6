"""Processes that share an identifier: one writes a pair's files at a time, and none removes what another reads.

A backtest waits for a backtest. Nobody waits for a bot, which runs for months: its identifier belongs to it alone.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import re
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import psutil
from filelock import FileLock, Timeout
from freqtrade.enums import TRADE_MODES, RunMode
from freqtrade.exceptions import OperationalException

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive

logger = logging.getLogger(__name__)

# Between two lines of a process that waits.
_TOLD_EVERY_SECONDS = 60.0
# In which another process's look at a lock is over.
_LOOK_SECONDS = 2.0
# By Linux, which names each start of a machine.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# After which a process of another machine, which cannot be asked for, is taken for gone.
_ELSEWHERE_LIVES_SECONDS = 7 * 86_400
# By which the time that a process began at may seem to move, as the clock is set.
_CLOCK_SECONDS = 60.0
# Longer than this no bot waits for another one's download, which may have been stopped before it traded.
_DOWNLOAD_SECONDS = 900.0
_BOT = "bot"
_DB_URL = "--db-url"

# Held until this process ends.
_held: list[FileLock] = []
# What this process noted in each file: strategy to its plans by pair.
_noted: dict[Path, WeakKeyDictionary[object, dict[str, str]]] = {}


class Process(NamedTuple):
    """A process, as it tells others of itself.

    :ivar host: the machine or container that it runs on
    :ivar started: seconds since 1970: its number is given to others after it
    :ivar boot: the start of the machine that it runs since, "" where the system names none
    :ivar booted: when that was, by the clock that ``started`` is by
    """

    host: str
    pid: int
    started: float
    command: str
    boot: str = ""
    booted: float = 0.0

    @classmethod
    def this(cls) -> Process:
        """The process that asks."""
        command = shlex.join(_without_secrets([Path(sys.argv[0]).name, *sys.argv[1:]]))
        started, booted = psutil.Process().create_time(), psutil.boot_time()
        return cls(socket.gethostname(), os.getpid(), started, command, _boot(), booted)

    def __str__(self) -> str:
        elsewhere = "" if self.host == socket.gethostname() else f" on {self.host}"
        return f"process {self.pid}{elsewhere} ({self.command})"

    def may_live(self, seen: float) -> bool:
        """Whether the process still runs, as far as can be told from here.

        :param seen: when it last said so, seconds since 1970
        """
        if self.host != socket.gethostname():
            return time.time() - seen < _ELSEWHERE_LIVES_SECONDS
        try:
            started = psutil.Process(self.pid).create_time()
        except psutil.NoSuchProcess:
            return False
        boot, moved = _boot(), 0.0
        if boot and self.boot:
            if boot != self.boot:
                return False
            # A clock that is set moves the start of the machine as it moves the process's.
            moved = psutil.boot_time() - self.booted
        return abs(started - moved - self.started) < _CLOCK_SECONDS


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _without_secrets(arguments: list[str]) -> list[str]:
    """The words of a command, as others may read them: a database's address may hold a password."""
    shown = []
    for before, word in zip(["", *arguments], arguments, strict=False):
        name, equals, value = word.partition("=")
        if before == _DB_URL:
            word = _without_password(word)
        elif name == _DB_URL and equals:
            word = name + equals + _without_password(value)
        shown.append(re.sub(r"(?<=://)[^/@\s]*@", "***@", word))
    return shown


def _without_password(url: str) -> str:
    # A file's name holds none; of another database nothing but its kind is needed.
    return url if url.startswith("sqlite:") else url.partition("://")[0] + "://***"


# ---------------------------------------------------------------------- writers


class Writers:
    """Who may write an identifier's files. A process never meets its own locks, however often it starts over."""

    def __init__(self, archive: Archive) -> None:
        """
        :param archive: of the identifier
        """
        self._folder, self._identifier = archive.locks, archive.identifier

    def begin(self, runmode: RunMode) -> None:
        """Take the identifier for a bot until this process ends, once backtests are done.

        For others, see that no bot has it.

        :param runmode: what this process does
        :raises OperationalException: if a bot of another process runs with this identifier
        """
        if runmode not in TRADE_MODES:
            self._check_no_bot()
            return
        lock = self._lock(_BOT)
        try:
            lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            raise self._belongs_to_a_bot() from None
        except OSError as error:
            self._cannot_lock(error)
            return
        _held.append(lock)
        for path in sorted(self._folder.glob("*.lock")):
            if path.stem != _BOT:
                with self._waiting_for(self._lock(path.stem), path.stem):
                    pass

    def _check_no_bot(self) -> None:
        try:
            with self._lock(_BOT).acquire(timeout=_LOOK_SECONDS):
                return
        except Timeout:
            raise self._belongs_to_a_bot() from None
        except OSError as error:
            # No bot either could lock what cannot be written.
            logger.debug("%s cannot be locked (%s).", self._folder, error)

    @contextmanager
    def of_pair(self, pair: str) -> Iterator[None]:
        """Write a pair's files, once no other process does.

        :raises OperationalException: if a bot of another process runs with this identifier
        """
        self._check_no_bot()
        # FreqAI names a pair's files by its base currency alone.
        with self._waiting_for(self._lock(pair.split("/")[0].lower()), pair):
            # A bot may have been started meanwhile: from now on it waits.
            self._check_no_bot()
            yield

    @contextmanager
    def of_bookkeeping(self) -> Iterator[None]:
        """Read and write FreqAI's bookkeeping, for a moment."""
        with self._waiting_for(self._lock("bookkeeping"), "FreqAI's bookkeeping"):
            yield

    @contextmanager
    def _waiting_for(self, lock: FileLock, what: str) -> Iterator[None]:
        seconds = _LOOK_SECONDS
        while True:
            try:
                lock.acquire(timeout=seconds)
                break
            except Timeout:
                logger.info(
                    "Waiting for %s, which works on %s under the identifier '%s'. With another identifier nothing "
                    "would wait.",
                    _holder(lock),
                    what,
                    self._identifier,
                )
                seconds = _TOLD_EVERY_SECONDS
            except OSError as error:
                self._cannot_lock(error)
                yield
                return
        try:
            yield
        finally:
            lock.release()

    def _lock(self, name: str) -> FileLock:
        # A failure is told where the lock is asked for.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(
            self._folder / f"{name}.lock", thread_local=False, is_singleton=True, on_acquired=_write_this_process
        )

    def _belongs_to_a_bot(self) -> OperationalException:
        return OperationalException(
            f"freqai.identifier is '{self._identifier}', which a running bot uses: {_holder(self._lock(_BOT))}; "
            "accepted: an identifier that no bot uses; remedy: name another freqai.identifier, or stop the bot"
        )

    def _cannot_lock(self, error: OSError) -> None:
        logger.warning(
            "%s cannot be locked (%s): nothing keeps another run of the identifier '%s' from writing at the same time.",
            self._folder,
            error.strerror or error,
            self._identifier,
        )


def _write_this_process(descriptor: int) -> None:
    # Only for what others are told: on a full disk the lock holds without it.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(Process.this()._asdict()).encode())


def _holder(lock: FileLock) -> str:
    try:
        return str(Process(**json.loads(Path(lock.lock_file).read_text())))
    except (OSError, ValueError, TypeError):
        return "another process"


# ---------------------------------------------------------------------- candles


class Download:
    """One bot at a time downloads candles into a data directory, and reads them, as it starts.

    freqtrade writes its files in place: a second bot would read half of one.
    """

    def __init__(self, datadir: Path) -> None:
        """
        :param datadir: freqtrade's
        """
        self._lock = FileLock(
            datadir / ".mtfscalper_download.lock", thread_local=False, on_acquired=_write_this_process
        )

    def begin(self) -> None:
        """Wait for another bot that downloads, with a line, but not for ever."""
        try:
            self._lock.acquire(timeout=_LOOK_SECONDS)
        except Timeout:
            logger.info("Waiting for %s, which downloads candles into the same directory.", _holder(self._lock))
            with suppress(Timeout):
                self._lock.acquire(timeout=_DOWNLOAD_SECONDS)
        except OSError as error:
            # Nor could another bot download anything there.
            logger.debug("%s cannot be locked (%s).", self._lock.lock_file, error)

    def end(self) -> None:
        """Let others go on; more than once does no harm."""
        self._lock.release()


# ---------------------------------------------------------------------- readers


class Readers:
    """Which plans processes trade by: nobody removes those."""

    def __init__(self, archive: Archive) -> None:
        self._folder = archive.in_use

    def note(self, owner: object, pair: str, plan: str) -> None:
        """Note a plan that this process trades by.

        :param owner: the strategy that trades; the plan is its own until it asks with another one, or is gone
        :param plan: the plan's name
        """
        this = Process.this()
        path = self._folder / f"{this.host}-{this.pid}.json"
        if path not in _noted:
            atexit.register(_remove_note, path)
        owners = _noted.setdefault(path, WeakKeyDictionary())
        owners.setdefault(owner, {})[pair] = plan
        plans = [list(of_pair) for of_owner in owners.values() for of_pair in of_owner.items()]
        artefacts.write_json(path, {"process": this._asdict(), "plans": plans})

    def plans(self, pair: str) -> set[str]:
        """The plans of a pair that processes trade by. What the dead noted is removed."""
        names = set()
        for path in self._folder.glob("*.json"):
            try:
                noted = json.loads(path.read_text())
                lives = Process(**noted["process"]).may_live(path.stat().st_mtime)
            except FileNotFoundError:
                continue
            except (ValueError, TypeError, KeyError):
                # Damaged: it protects nothing any more.
                lives = False
            if lives:
                names |= {plan for noted_pair, plan in noted["plans"] if noted_pair == pair}
            else:
                path.unlink(missing_ok=True)
        return names


def _remove_note(path: Path) -> None:
    # Whoever finds it later sees that its process is gone.
    with suppress(OSError):
        path.unlink(missing_ok=True)
