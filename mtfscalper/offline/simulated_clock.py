"""One simulated clock for an exchange, a bot, and the bots that come after it: a file that all of them map into memory.

It outlives every process that reads it. It either runs at a multiple of true time or, in lockstep, stands still until a
bot that has nothing to do moves it on; and it never passes the limit that whoever drives has set.
"""

import mmap
import time
from array import array
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

# The environment variable that names the clock's file to a bot.
CLOCK_VARIABLE = "MTFSCALPER_CLOCK"

_MAGIC = 0x4D544643_00000001
_N_CELLS = 12
# Cells of eight bytes: what the file is, which of the two movements counts, the movements, the limit, the speed.
_IS, _ACTIVE, _MOVEMENTS, _LIMIT, _SPEED = 0, 1, 2, 10, 11
_WORD = 8


class Movement(NamedTuple):
    """How the clock moves: from a base at ``speed`` times true time, until a moment at which it stops.

    :ivar base_ns: what it shows at first, nanoseconds since 1970
    :ivar anchor_ns: the monotonic clock's at that moment, which all processes of a computer share
    :ivar speed: simulated nanoseconds in a true one; 0 stands still
    :ivar until_ns: what it shows at the most
    """

    base_ns: int
    anchor_ns: int
    speed: int
    until_ns: int

    def at(self, monotonic_ns: int) -> int:
        """What it shows when the monotonic clock shows ``monotonic_ns``."""
        return min(self.base_ns + self.speed * (monotonic_ns - self.anchor_ns), self.until_ns)


class SimulatedClock:
    """A clock in a file.

    Reading takes no lock: a movement is written beside the one that counts, and then one word says which does. A
    process that is killed while it writes leaves the clock whole.

    :ivar speed: times true time; None is lockstep
    """

    def __init__(self, path: Path) -> None:
        """
        :param path: as :meth:`create` made it
        :raises ValueError: when it is no clock
        """
        self.path = path
        with path.open("r+b") as file:
            if path.stat().st_size != _N_CELLS * _WORD:
                raise ValueError(f"simulated clock: {path} is no clock; remedy: remove it")
            self._memory = mmap.mmap(file.fileno(), _N_CELLS * _WORD)
        # Aligned words are read and written whole.
        self._cells = memoryview(self._memory).cast("q")
        if self._cells[_IS] != _MAGIC:
            raise ValueError(f"simulated clock: {path} is no clock of this version; remedy: remove it")
        self._lock = FileLock(f"{path}.lock")
        self.speed = self._cells[_SPEED] or None

    @classmethod
    def create(cls, path: Path, start: datetime, speed: int | None) -> "SimulatedClock":
        """Make a clock, in place of one that lies there; it stands still.

        :param start: what it shows, with a timezone
        :param speed: times true time, at least 1; None is lockstep
        """
        start_ns = _ns(start)
        movement = Movement(start_ns, time.monotonic_ns(), 0, start_ns)
        words = [_MAGIC, 0, *movement, *movement, start_ns, speed or 0]
        # Another inode: a bot that still maps the old clock keeps it.
        path.unlink(missing_ok=True)
        path.write_bytes(array("q", words).tobytes())
        return cls(path)

    # ------------------------------------------------------------------ reading

    def now_ns(self) -> int:
        """Nanoseconds since 1970."""
        return self._movement().at(time.monotonic_ns())

    def now(self) -> datetime:
        """The moment, in UTC."""
        return datetime.fromtimestamp(self.now_ns() / 1e9, UTC)

    @property
    def limit_ns(self) -> int:
        """What it shows at the most, nanoseconds since 1970."""
        return self._cells[_LIMIT]

    @property
    def is_at_limit(self) -> bool:
        """Whether it has come as far as it may."""
        return self.now_ns() >= self.limit_ns

    # ------------------------------------------------------------------ moving, by whoever drives

    def run_until(self, moment: datetime) -> None:
        """Let it move on to a moment: by itself, or in lockstep when a bot moves it."""
        with self._lock:
            now_ns = self.now_ns()
            self._cells[_LIMIT] = max(now_ns, _ns(moment))
            self._move(Movement(now_ns, time.monotonic_ns(), self.speed or 0, self._cells[_LIMIT]))

    def hold(self) -> None:
        """Let it stand still."""
        with self._lock:
            now_ns = self.now_ns()
            self._move(Movement(now_ns, time.monotonic_ns(), 0, now_ns))
            self._cells[_LIMIT] = now_ns

    def jump_to(self, moment: datetime) -> None:
        """Set a clock that stands still forward, while no bot runs."""
        with self._lock:
            moment_ns = max(self.now_ns(), _ns(moment))
            self._cells[_LIMIT] = moment_ns
            self._move(Movement(moment_ns, time.monotonic_ns(), 0, moment_ns))

    # ------------------------------------------------------------------ moving, in lockstep

    def advance_to(self, moment_ns: int) -> None:
        """Set it forward, not beyond the limit; never back.

        :param moment_ns: nanoseconds since 1970
        """
        with self._lock:
            moment_ns = min(max(self.now_ns(), moment_ns), self.limit_ns)
            self._move(Movement(moment_ns, time.monotonic_ns(), 0, moment_ns))

    def let_pass(self, seconds: float) -> float:
        """Let simulated seconds pass for somebody else who is waiting for this process.

        :return: how many true seconds this process has to wait for them; in lockstep none, for time is set forward
        """
        if self.speed is not None:
            return seconds / self.speed
        self.advance_to(self.now_ns() + int(seconds * 1e9))
        return 0.0

    def _movement(self) -> Movement:
        while True:
            active = self._cells[_ACTIVE]
            first = _MOVEMENTS + active * len(Movement._fields)
            movement = Movement(*self._cells[first : first + len(Movement._fields)].tolist())
            if self._cells[_ACTIVE] == active:
                return movement

    def _move(self, movement: Movement) -> None:
        other = 1 - self._cells[_ACTIVE]
        first = _MOVEMENTS + other * len(Movement._fields)
        for index, word in enumerate(movement):
            self._cells[first + index] = word
        self._cells[_ACTIVE] = other


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1000
