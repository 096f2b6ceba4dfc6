"""Whose turn it is to run FreqAI's code, which no two trainings may do at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

# How often one that waits shows that it is alive.
LOOK_SECONDS = 1.0


class TrainingTurn:
    """One turn for all trainings that run side by side. May be used from any thread.

    It belongs to whoever has taken it, and not to a thread: from one that hangs it is taken away, and the others go on
    with the same turn. One that comes back to life after that has none, and gives none back.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: object | None = None

    def is_of(self, who: object) -> bool:
        """Whether it is somebody's turn."""
        return self._holder is who

    def take(self, who: object, alive: Callable[[], None] = lambda: None) -> None:
        """Wait for it.

        :param who: whose turn it is then
        :param alive: is called while it waits; what it raises ends the waiting
        """
        with self._changed:
            while self._holder is not None:
                self._changed.wait(LOOK_SECONDS)
                alive()
            self._holder = who

    def take_if_free(self, who: object) -> bool:
        """Take it, if it is nobody's.

        :param who: whose turn it is then
        :return: whether it is
        """
        with self._changed:
            if self._holder is not None:
                return False
            self._holder = who
            return True

    def leave(self, who: object) -> bool:
        """Let the others' turn come.

        :return: whether it was theirs
        """
        with self._changed:
            was_of = self._holder is who
            if was_of:
                self._holder = None
                self._changed.notify_all()
            return was_of
