"""A process on a simulated clock: what tells the time tells the clock's, and who sleeps sleeps by it.

Only waiting that freqtrade, this package and the user's own files ask for is simulated. Libraries wait truly, and all
that counts by the monotonic clock does: network time-outs, asyncio, ccxt's rate limit.
"""

import asyncio
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Coroutine
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from mtfscalper.offline.simulated_clock import SimulatedClock

# In lockstep, time goes on at this multiple of true time while a training runs: a training of five seconds takes five
# minutes of the bot's time, and the bot has time for every candle meanwhile.
BUSY_SPEED = 60
# After so long a thread that was woken counts as busy.
BUSY_AFTER_SECONDS = 0.1
# Of the main thread's waiting, how often it looks.
LOOK_SECONDS = 0.01

# Of the libraries, those that wait on behalf of whoever calls them, or of freqtrade.
_SIMULATED_LIBRARIES = ("freqtrade", "tenacity")
_true_sleep = time.sleep
_true_wait = threading.Event.wait
_true_async_sleep = asyncio.sleep


class Pace(Protocol):
    """How the time passes for those who wait."""

    def sleep(self, seconds: float) -> None:
        """Sleep in the main thread for simulated seconds."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait in another thread for an event, simulated seconds at the most; return whether it is set."""


class Multiple:
    """Simulated time passes by itself, at a multiple of true time."""

    def __init__(self, clock: SimulatedClock, speed: int) -> None:
        self._clock, self._speed = clock, speed

    def sleep(self, seconds: float) -> None:
        """See :class:`Pace`."""
        due_ns = self._clock.now_ns() + int(seconds * 1e9)
        deadline = time.monotonic() + seconds
        # The clock may be held meanwhile; but a bot that is ended sleeps too.
        while (left_ns := due_ns - self._clock.now_ns()) > 0 and (left := deadline - time.monotonic()) > 0:
            _true_sleep(min(max(left_ns / 1e9 / self._speed, 1e-4), left, 1.0))

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See :class:`Pace`."""
        return _true_wait(event, seconds / self._speed)


class _Follower:
    """A thread other than the main one that waits for simulated time."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.event: threading.Event | None = None
        self.due_ns = 0
        self.n_waits = 0


class Lockstep:
    """Simulated time passes only when the main thread sleeps, and then at once.

    Before the main thread goes on, every thread whose waiting has come to its end runs until it waits again. One that
    does not soon is busy, with a training: until it is done, time passes at :data:`BUSY_SPEED`. A thread's waiting also
    ends after as many true seconds, for the main thread may be waiting for that thread.
    """

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._followers: dict[int, _Follower] = {}
        self._changed = threading.Condition()

    def sleep(self, seconds: float) -> None:
        """See :class:`Pace`."""
        due_ns = self._clock.now_ns() + int(seconds * 1e9)
        deadline = time.monotonic() + seconds
        if seconds < LOOK_SECONDS:
            # Somebody asks again and again for what another thread does.
            _true_sleep(seconds)
        while (now_ns := self._clock.now_ns()) < due_ns or self._clock.is_at_limit:
            if self._clock.is_at_limit:
                # Held here, between two passes, but not for ever: a bot that is ended sleeps too.
                if (left := deadline - time.monotonic()) <= 0:
                    return
                _true_sleep(min(left, LOOK_SECONDS))
            elif self._is_busy():
                began_ns = time.monotonic_ns()
                _true_sleep(LOOK_SECONDS)
                passed_ns = BUSY_SPEED * (time.monotonic_ns() - began_ns)
                self._clock.advance_to(min(due_ns, now_ns + passed_ns))
            else:
                self._clock.advance_to(due_ns)
            self._let_followers_run()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """See :class:`Pace`."""
        thread = threading.get_ident()
        due_ns = self._clock.now_ns() + int(seconds * 1e9)
        deadline = time.monotonic() + seconds
        with self._changed:
            follower = self._followers.get(thread)
            if follower is None or not follower.thread.is_alive():
                follower = self._followers[thread] = _Follower()
            follower.event, follower.due_ns = event, due_ns
            follower.n_waits += 1
            self._changed.notify_all()
        condition: threading.Condition = event._cond  # type: ignore[attr-defined]
        with condition:
            while not event.is_set() and self._clock.now_ns() < due_ns and (left := deadline - time.monotonic()) > 0:
                condition.wait(left)
        with self._changed:
            follower.event = None
        return event.is_set()

    def _is_busy(self) -> bool:
        with self._changed:
            self._followers = {key: one for key, one in self._followers.items() if one.thread.is_alive()}
            return any(one.event is None for one in self._followers.values())

    def _let_followers_run(self) -> None:
        now_ns = self._clock.now_ns()
        with self._changed:
            due = {one: one.n_waits for one in self._followers.values() if one.event and one.due_ns <= now_ns}
            events = [one.event for one in due if one.event]
        for event in events:
            with event._cond:  # type: ignore[attr-defined]
                event._cond.notify_all()  # type: ignore[attr-defined]
        deadline = time.monotonic() + BUSY_AFTER_SECONDS
        with self._changed:
            while any(one.n_waits == before and one.thread.is_alive() for one, before in due.items()):
                if (left := deadline - time.monotonic()) <= 0:
                    return
                # A thread that ends tells nobody.
                self._changed.wait(min(left, LOOK_SECONDS))


def install(clock: SimulatedClock) -> None:
    """Put this process on a clock, for the rest of its life; to be called before freqtrade is imported.

    Processes that it starts keep true time: what trains in them asks for no date.
    """
    # Nobody else needs it.
    import time_machine

    pace: Pace = Lockstep(clock) if clock.speed is None else Multiple(clock, clock.speed)
    traveller = time_machine.travel(clock.now_ns() / 1e9).start()
    # The traveller is asked by every function that tells the time, those written in C included.
    traveller.time_ns = clock.now_ns  # type: ignore[method-assign]
    time.sleep = _simulated_sleep(pace)  # type: ignore[assignment]
    asyncio.sleep = _simulated_async_sleep(pace)
    threading.Event.wait = _simulated_wait(pace)  # type: ignore[assignment, method-assign]


def _simulated_sleep(pace: Pace) -> Callable[[float], None]:
    def sleep(seconds: float) -> None:
        if not _is_simulated(sys._getframe(1).f_code.co_filename):
            _true_sleep(seconds)
        elif _is_main():
            pace.sleep(seconds)
        else:
            pace.wait(threading.Event(), seconds)

    return sleep


def _simulated_wait(pace: Pace) -> Callable[[threading.Event, float | None], bool]:
    def wait(event: threading.Event, timeout: float | None = None) -> bool:
        if timeout is None or _is_main() or not _is_simulated(sys._getframe(1).f_code.co_filename):
            return _true_wait(event, timeout)
        return pace.wait(event, timeout)

    return wait


def _simulated_async_sleep(pace: Pace) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def simulated(seconds: float, result: Any) -> Any:
        pace.sleep(seconds)
        return await _true_async_sleep(0, result)

    def sleep(delay: float, result: Any = None) -> Coroutine[Any, Any, Any]:
        # FreqUI's and Telegram's loops run in threads of their own, by true time.
        if _is_main() and _is_simulated(sys._getframe(1).f_code.co_filename):
            return simulated(delay, result)
        return _true_async_sleep(delay, result)

    return sleep


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


@cache
def _is_simulated(filename: str) -> bool:
    """Whether waiting asked for in a file is simulated."""
    path = Path(filename)
    for name in ("purelib", "platlib"):
        folder = Path(sysconfig.get_path(name))
        if path.is_relative_to(folder):
            return path.relative_to(folder).parts[0] in (*_SIMULATED_LIBRARIES, "mtfscalper")
    return not path.is_relative_to(sysconfig.get_path("stdlib")) and not filename.startswith("<")
