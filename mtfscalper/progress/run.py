"""How far a run is: all its trainings, over pairs and periods, and the seconds that they will still take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

from mtfscalper.training.watching import TrainingState

# Samples a second are those of so many last seconds, which hold several rollouts and updates.
_RATE_SECONDS = 120.0


class RunProgress:
    """The trainings of a run: which are still to come, and how far each of the others is.

    What is left is worked out from samples: those of the trainings known, and for each that is still to come the mean
    of them, at the pace of the whole run so far, whatever else it did between its trainings.

    :ivar current: what was told last, None before the first training
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        :param clock: seconds
        """
        self.current: TrainingState | None = None
        self._clock = clock
        self._expected: set[str] = set()
        self._members = 1
        self._states: dict[tuple[str, str], TrainingState] = {}
        # Names of policies in the order in which they were heard of.
        self._order: dict[str, None] = {}
        self._began_at = 0.0
        # (seconds, samples) after the last update, and the last few times that anything was told.
        self._updated: tuple[float, int] | None = None
        self._recent: deque[tuple[float, int]] = deque()

    def expect(self, names: Collection[str], members: int = 1) -> None:
        """Say which policies are trained, those that have been included or not; what was said before no longer holds.

        :param names: of :attr:`mtfscalper.training.request.TrainingRequest.name`
        :param members: trainings of each policy
        """
        self._expected, self._members = set(names), members

    def announce(self, name: str) -> None:
        """Say that a policy is trained now or next, which numbers it."""
        self._order.setdefault(name)

    def note(self, state: TrainingState) -> None:
        """Note how far a training is."""
        now = self._clock()
        if not self._states:
            self._began_at = now
        if state.has_ended:
            # One that was given up, too: nothing of it is left to do.
            state = state._replace(timesteps_planned=max(state.timesteps, 1))
        self.announce(state.name)
        self._states[state.name, state.part] = self.current = state
        samples = self._samples
        if state.updated:
            self._updated = now, samples
        self._recent.append((now, samples))
        while self._recent[0][0] < now - _RATE_SECONDS:
            self._recent.popleft()

    @property
    def running(self) -> list[TrainingState]:
        """The trainings that are under way, in the order in which they began."""
        return [state for state in self._states.values() if not state.has_ended]

    def number_of(self, name: str) -> int:
        """Of the policies that have been trained or are, which one this is or will be, counted from 1."""
        names = list(self._order)
        return names.index(name) + 1 if name in self._order else len(names) + 1

    @property
    def n_policies(self) -> int:
        """Policies that the run trains in all."""
        return len(self._names | self._expected)

    @property
    def share(self) -> float:
        """Of all samples, how many are done, from 0 to 1."""
        return min(self._samples / max(self._samples_in_all, 1.0), 1.0)

    @property
    def samples_per_second(self) -> float | None:
        """Of the last two minutes, updates and evaluations included; None before anything can be said."""
        if not self._recent:
            return None
        (first_at, first), (last_at, last) = self._recent[0], self._recent[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at and last > first else None

    @property
    def seconds_left(self) -> float | None:
        """Until the last training is over; None until a first update has shown the pace."""
        if self._updated is None:
            return None
        at, done = self._updated
        if not done or at <= self._began_at:
            return None
        seconds = (self._samples_in_all - done) * (at - self._began_at) / done
        return max(seconds - (self._clock() - at), 0.0)

    @property
    def _names(self) -> set[str]:
        return {name for name, _ in self._states}

    @property
    def _samples(self) -> int:
        return sum(state.timesteps for state in self._states.values())

    @property
    def _samples_in_all(self) -> float:
        planned = [state.timesteps_planned for state in self._states.values()]
        if not planned:
            return 0.0
        # Whole ensembles, of which some members may not have begun.
        to_come = max(self.n_policies * self._members - len(planned), 0)
        return sum(planned) * (1 + to_come / len(planned))
