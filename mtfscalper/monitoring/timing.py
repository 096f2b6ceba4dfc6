"""Ways to train, side by side: what the rounds of each say about the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mtfscalper.monitoring.choices import Choice

# Of so many of a median's intervals, one misses it.
COVERAGE = 0.9
# A gain that is smaller is not worth another setting.
GAIN_MIN = 1.05
# So many rounds give the interval its coverage at all.
ROUNDS_MIN = 5
SEARCH_SHARE = 0.6


class PerStep(NamedTuple):
    """Seconds of one round, by step.

    :ivar rollout: of one environment step
    :ivar update: of one sample in one epoch
    """

    rollout: float
    update: float

    def training(self, n_epochs: int) -> float:
        """Seconds that a training takes by step: its rollouts and updates, without start and evaluation."""
        return self.rollout + n_epochs * self.update


class Gain(NamedTuple):
    """How many times as fast one choice is as another, round by round.

    :ivar ratio: median of the rounds' ratios
    :ivar low: lower end of the median's interval; so ``high``
    """

    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def is_found(self) -> bool:
        """Whether it is more than noise, and worth it."""
        return self.rounds >= ROUNDS_MIN and self.low >= GAIN_MIN

    @property
    def looks_faster(self) -> bool:
        """Whether it is worth to be timed once more."""
        return self.low > 1 and self.ratio >= GAIN_MIN


class Timed(NamedTuple):
    """What was timed on this machine.

    :ivar yours: the choice of the user's configuration
    :ivar per_step: median of its rounds
    :ivar beside: each alternative with its gain over it; None where it could not run
    :ivar candidate: what looked faster, with its gain in rounds of their own; None where nothing did
    :ivar problems: why an alternative could not run, in words
    """

    yours: Choice
    per_step: PerStep
    beside: tuple[tuple[str, Choice, Gain | None], ...]
    candidate: tuple[Choice, Gain] | None
    problems: tuple[str, ...] = ()

    @property
    def best(self) -> tuple[Choice, Gain] | None:
        """What was found to be faster; None where nothing was."""
        return self.candidate if self.candidate is not None and self.candidate[1].is_found else None


def gain(yours: Sequence[float], other: Sequence[float]) -> Gain:
    """Compare seconds of rounds that ran side by side.

    The interval lies between two of the ordered ratios; for the median it holds whatever their distribution (the sign
    test).
    """
    ratios = sorted(a / b for a, b in zip(yours, other, strict=True))
    n, skip = len(ratios), 0
    # P(fewer than k + 1 of n ratios lie below the median), on both sides.
    while 2 * sum(math.comb(n, i) for i in range(skip + 2)) / 2**n <= 1 - COVERAGE:
        skip += 1
    return Gain(statistics.median(ratios), ratios[skip], ratios[n - 1 - skip], n)


# Runs one round of a choice. Raises TrialError where it cannot.
Round = Callable[[Choice], PerStep]


class TrialError(RuntimeError):
    """A way to train that cannot run here. Says why."""


class Budget:
    """The time there is for timing, and who is told what is left."""

    def __init__(self, seconds: float, clock: Callable[[], float], tell: Callable[[str, float], None]) -> None:
        """
        :param clock: seconds that have passed, from any moment on
        :param tell: is told what is being timed, and the seconds left
        """
        self._clock, self._tell, self.seconds = clock, tell, seconds
        self._began = clock()

    def used(self) -> float:
        return self._clock() - self._began

    def told(self, what: str) -> None:
        self._tell(what, max(0.0, self.seconds - self.used()))


def time_choices(
    yours: Choice,
    others: dict[str, list[Choice]],
    n_epochs: int,
    run: Round,
    budget: Budget,
    accepts: Callable[[Choice], bool] = lambda _: True,
) -> Timed:
    """Time a choice beside its alternatives, and what looks best of them beside it once more.

    The second time is what is believed: of many that are alike, one looks faster by chance.

    :param others: of :func:`mtfscalper.monitoring.choices.alternatives`
    :param accepts: whether the settings would take what is put together of them
    :raises TrialError: if the user's own choice cannot run
    """
    rivals = [(key, choice) for key, choices in others.items() for choice in choices]
    problems: dict[Choice, str] = {}
    rounds = _side_by_side(yours, [choice for _, choice in rivals], run, budget, SEARCH_SHARE, problems)
    own = [one.training(n_epochs) for one in rounds[yours]]
    gains = {
        choice: gain(own, [one.training(n_epochs) for one in rounds[choice]])
        for _, choice in rivals
        if choice not in problems
    }
    checked = None
    # A change that only looked faster can spoil what is put together; the one that looked fastest is timed beside it.
    combined, single = _combined(yours, others, gains), _single(yours, gains)
    candidates = [one for one in dict.fromkeys((combined, single)) if one != yours and accepts(one)]
    if candidates:
        again = _side_by_side(yours, candidates, run, budget, 1.0, problems)
        own = [one.training(n_epochs) for one in again[yours]]
        found = [
            (choice, gain(own, [one.training(n_epochs) for one in again[choice]]))
            for choice in candidates
            if choice not in problems
        ]
        checked = max(found, key=lambda item: (item[1].is_found, item[1].low), default=None)
        rounds[yours] += again[yours]
    return Timed(
        yours=yours,
        per_step=PerStep(*map(statistics.median, zip(*rounds[yours], strict=True))),
        beside=tuple((key, choice, gains.get(choice)) for key, choice in rivals),
        candidate=checked,
        problems=tuple(problems.values()),
    )


def _combined(yours: Choice, others: dict[str, list[Choice]], gains: dict[Choice, Gain]) -> Choice:
    """The user's choice with each key's best value, where that looks faster."""
    changes: dict[str, Any] = {}
    for choices in others.values():
        timed = [choice for choice in choices if choice in gains]
        best = max(timed, key=lambda choice: gains[choice].ratio, default=None)
        if best is not None and gains[best].looks_faster:
            changes |= yours.differences(best)
    return yours._replace(**changes)


def _single(yours: Choice, gains: dict[Choice, Gain]) -> Choice:
    """The one alternative that looks fastest, the user's choice where none looks faster."""
    faster = [choice for choice in gains if gains[choice].looks_faster]
    return max(faster, key=lambda choice: gains[choice].ratio, default=yours)


def _side_by_side(
    yours: Choice, others: list[Choice], run: Round, budget: Budget, share: float, problems: dict[Choice, str]
) -> dict[Choice, list[PerStep]]:
    """Rounds of all in turn, at least one, until a share of the budget is used; a round before them warms up."""
    began = budget.used()
    allowed = share * budget.seconds - began
    rounds: dict[Choice, list[PerStep]] = {choice: [] for choice in (yours, *others)}
    count, longest = 0, 0.0
    while True:
        started = budget.used()
        for choice in (yours, *others):
            if choice in problems:
                continue
            budget.told(f"timing {choice}")
            try:
                found = run(choice)
            except TrialError as error:
                if choice == yours:
                    raise
                problems[choice] = str(error)
                continue
            if count:
                rounds[choice].append(found)
        count += 1
        longest = max(longest, budget.used() - started) if count > 1 else 0.0
        if count > 1 and budget.used() - began + longest > allowed:
            return rounds
