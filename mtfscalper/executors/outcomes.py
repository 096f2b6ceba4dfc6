"""What became of jobs that run elsewhere, between the thread that hears of it and whoever asked for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mtfscalper.executors.executor import Outcome
from mtfscalper.training.job import TrainingJob

# How long whoever waits does so at a time: on Windows no Ctrl-C breaks into a wait.
WAIT_SECONDS = 1.0


class Outcomes:
    """Outcomes that were not returned yet. Its methods hold the condition, within which it may be held already.

    :ivar changed: is told of each outcome, and may be held to change other things together with them
    :ivar unreturned: jobs that were submitted, and neither :meth:`next` nor :meth:`take` has returned
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.unreturned = 0
        self._ended: deque[tuple[TrainingJob, Outcome]] = deque()

    def expect(self) -> None:
        """Note that a job was submitted."""
        with self.changed:
            self.unreturned += 1
            self.changed.notify_all()

    def add(self, job: TrainingJob, outcome: Outcome) -> None:
        """Note what became of a job."""
        with self.changed:
            self._ended.append((job, outcome))
            self.changed.notify_all()

    def next(self, gives_up: Callable[[], bool]) -> tuple[TrainingJob, Outcome] | None:
        """Wait for the next job that ends.

        :param gives_up: is asked while nothing has ended; may raise
        :return: None where it gives up
        :raises LookupError: if all that was submitted has been returned
        """
        with self.changed:
            if not self.unreturned:
                raise LookupError("no job was submitted that has not been returned")
            while not self._ended:
                if gives_up():
                    return None
                self.changed.wait(WAIT_SECONDS)
            self.unreturned -= 1
            return self._ended.popleft()

    def take(self) -> list[tuple[TrainingJob, Outcome]]:
        """See :meth:`mtfscalper.executors.executor.Running.take_finished`."""
        with self.changed:
            taken = list(self._ended)
            self._ended.clear()
            self.unreturned -= len(taken)
            return taken
