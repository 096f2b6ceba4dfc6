"""How far a bot's training is: what it did last, and what ends it."""

from __future__ import annotations

import threading
import time

from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import stop_on


class TrainingHungError(RuntimeError):
    """A training did nothing for so long that it was given up."""


class TrainingProgress:
    """The signs of life of one training. One thread trains, and another one looks.

    They are counted by the monotonic clock, for what a training takes is true time even where a bot's is simulated.

    :ivar pair: that is trained
    :ivar began_at: by the bot's clock, seconds since 1970
    :ivar longest_pause: the longest time between two signs of life so far, seconds
    """

    def __init__(self, pair: str, stop: threading.Event) -> None:
        """
        :param stop: set when the bot stops
        """
        self.pair, self.began_at = pair, time.time()
        self.longest_pause = 0.0
        self._check_stop = stop_on(stop)
        self._marked = time.monotonic()
        self._given_up: str | None = None
        self._given_up_at = 0.0

    @property
    def silent_seconds(self) -> float:
        """Since the last sign of life."""
        return time.monotonic() - self._marked

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits for this training any more."""
        return self._given_up is not None

    @property
    def given_up_seconds(self) -> float:
        """Since it was given up, 0 where it was not."""
        return time.monotonic() - self._given_up_at if self.is_given_up else 0.0

    def mark(self, _: Evaluation | None = None) -> None:
        """Note a sign of life; a training calls this at its steps, see :meth:`check` for what is raised."""
        now = time.monotonic()
        self.longest_pause = max(self.longest_pause, now - self._marked)
        self._marked = now
        self.check()

    def check(self) -> None:
        """
        :raises mtfscalper.training.job.TrainingStoppedError: if the bot stops
        :raises TrainingHungError: if the training has been given up
        """
        self._check_stop(None)
        if self._given_up is not None:
            raise TrainingHungError(self._given_up)

    def give_up(self, why: str) -> None:
        """Let the training end at its next sign of life."""
        self._given_up, self._given_up_at = why, time.monotonic()
