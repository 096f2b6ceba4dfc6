"""What keeps failing, and when it is tried again: after seconds at first, at last every hour."""

from __future__ import annotations

import re

from tenacity import RetryCallState, Retrying, wait_exponential

# Seconds of the bot's time between a failure and the next attempt: 5, 10, 20 and so on. Eleven attempts fill the first
# two hours, and one every further hour.
PAUSE = wait_exponential(multiplier=5, exp_base=2, max=3600)


class Attempts:
    """Failures in a row of one thing that is tried again and again.

    Times are the bot's own, seconds since 1970: a simulated clock moves them on.

    :ivar n_failures: since the last success
    :ivar first_at: when the first of them was
    :ivar next_at: not before this it is tried again
    :ivar said: the last error, in one line
    :ivar kinds: which kinds of errors there were
    """

    def __init__(self) -> None:
        self.succeeded()

    def succeeded(self) -> None:
        """Forget what failed."""
        self.n_failures = 0
        self.first_at = self.next_at = self._last_at = 0.0
        self.said = ""
        self.kinds: set[str] = set()

    def failed(self, error: BaseException, now: float) -> None:
        """Note a failure, and wait longer before the next attempt than before this one."""
        self.n_failures += 1
        self.first_at = self.first_at or now
        self._last_at, self.next_at = now, now + _pause(self.n_failures)
        self.said = one_line(error)
        self.kinds.add(kind_of(error))

    def is_due(self, now: float) -> bool:
        """Whether it is time for another attempt. A clock that was set back does not make it wait."""
        return now >= self.next_at or now < self._last_at


def one_line(error: BaseException) -> str:
    """What went wrong, without line breaks, and no longer than a message should be."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 400 else f"{text[:400]}…"


def kind_of(error: BaseException) -> str:
    """By what two errors are told to be the same: all but the numbers in them."""
    return re.sub(r"\d+", "0", one_line(error))


def _pause(attempt: int) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return PAUSE(state)
