"""How a study is, worked out from its trials: workers, pace, time left, and the best beside its rivals.

Reads what Optuna holds of a study and no more; nothing is written.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import psutil
from optuna.trial import FrozenTrial, TrialState

from mtfscalper.search.best import best_first
from mtfscalper.search.leases import (
    ERROR,
    IMPOSSIBLE,
    LEASE,
    LOST,
    SET_ASIDE,
    STOPPED,
    LeaseTimes,
    began_at,
    ended_at,
)
from mtfscalper.search.trial_attributes import INTERVAL, PRUNED_STEP, SAMPLES_PER_SECOND, TIMESTEPS

# The pace is that of the last few trials: those of a study take as long as its parameters let them.
PACE_TRIALS = 20
_SECONDS_OF_AN_HOUR = 3600.0
_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Running(NamedTuple):
    """A trial that is under way.

    :ivar worker: ``host:pid`` of its lease, "" before it has one
    :ivar seconds: since it began
    :ivar instances: reported so far
    :ivar mean: of those; None before the first
    :ivar is_lost: whether its worker has let the lease run out
    :ivar memory_bytes: of its worker and that one's descendants; None where it runs on another machine
    """

    number: int
    worker: str
    seconds: float
    instances: int
    mean: float | None
    is_lost: bool
    memory_bytes: int | None = None


class Ranked(NamedTuple):
    """A trial that was completed.

    :ivar value: mean paired difference a day to classic exits, share of the stakes
    :ivar low: of the 90 % interval of the value, None where there is too little to say, as ``high``
    """

    number: int
    value: float
    low: float | None
    high: float | None


class StudyState(NamedTuple):
    """A study at one moment.

    :ivar done: completed
    :ivar failed: ended by an error
    :ivar impossible: whose settings cannot be together
    :ivar again: whose worker was lost or stopped: the same is run again
    :ivar waiting: enqueued, to be run next
    :ivar asked: trials that were asked for, None where nobody says
    :ivar trials_per_hour: see :func:`trials_per_hour`
    :ivar seconds_left: until the last of the trials asked for has ended, at that pace; None where it cannot be said
    :ivar ranking: completed trials, the best first
    :ivar samples_per_second: environment steps of a trial, while it trains: mean of the last few
    :ivar samples_per_second_in_all: of all trials at once, whatever else they do: theirs, by the time that they took
    :ivar last_error: of the trial that failed last, with its number
    """

    name: str
    done: int
    pruned: int
    failed: int
    impossible: int
    again: int
    waiting: int
    asked: int | None
    running: tuple[Running, ...]
    trials_per_hour: float | None
    seconds_left: float | None
    ranking: tuple[Ranked, ...]
    samples_per_second: float | None
    samples_per_second_in_all: float | None
    last_error: tuple[int, str] | None

    @property
    def finished(self) -> int:
        """Trials that came to a value, which are those that are asked for."""
        return self.done + self.pruned

    @property
    def is_over(self) -> bool:
        """Whether all that was asked for is done."""
        return self.asked is not None and self.finished >= self.asked and not self.running

    @property
    def reaching(self) -> int:
        """How many of the other completed trials may be as good: their interval reaches the best one's value."""
        return sum(rival.high is not None and rival.high >= self.ranking[0].value for rival in self.ranking[1:])


def study_state(name: str, trials: Sequence[FrozenTrial], now: float, asked: int | None = None) -> StudyState:
    """Work out how a study is.

    :param trials: all of it
    :param now: seconds since 1970
    :param asked: how many trials were asked for
    """
    ended = sorted((trial for trial in trials if trial.state in _FINISHED), key=_end)
    failed = [trial for trial in trials if trial.state is TrialState.FAIL]
    why = Counter(trial.user_attrs.get(SET_ASIDE) for trial in failed)
    running = tuple(_running(trial, now) for trial in trials if trial.state is TrialState.RUNNING)
    pace = trials_per_hour(trials)
    left = None
    if pace and asked is not None:
        to_do = max(asked - len(ended), 0)
        # Since the last end, those that run have come nearer to theirs.
        since = now - _end(ended[-1]) if any(not one.is_lost for one in running) else 0.0
        left = max(to_do * _SECONDS_OF_AN_HOUR / pace - since, 0.0)
    timed = [trial for trial in ended if trial.user_attrs.get(SAMPLES_PER_SECOND)][-PACE_TRIALS:]
    rates = [float(trial.user_attrs[SAMPLES_PER_SECOND]) for trial in timed]
    told = [
        (trial.number, str(trial.user_attrs[ERROR]))
        for trial in failed
        if ERROR in trial.user_attrs and trial.user_attrs.get(SET_ASIDE) in (None, IMPOSSIBLE)
    ]
    return StudyState(
        name=name,
        done=sum(trial.state is TrialState.COMPLETE for trial in ended),
        pruned=sum(trial.state is TrialState.PRUNED for trial in ended),
        failed=why[None],
        impossible=why[IMPOSSIBLE],
        again=why[LOST] + why[STOPPED],
        waiting=sum(trial.state is TrialState.WAITING for trial in trials),
        asked=asked,
        running=running,
        trials_per_hour=pace,
        seconds_left=left,
        ranking=ranking(trials),
        samples_per_second=fmean(rates) if rates else None,
        samples_per_second_in_all=_samples_per_second_in_all(timed),
        last_error=max(told, default=None),
    )


def ranking(trials: Iterable[FrozenTrial]) -> tuple[Ranked, ...]:
    """Completed trials, the best first; of equals the first."""
    return tuple(Ranked(one.number, float(one.value or 0.0), *_interval(one.user_attrs)) for one in best_first(trials))


def trials_per_hour(trials: Iterable[FrozenTrial]) -> float | None:
    """Trials that ended, completed or pruned, an hour in which any ran: of the last :data:`PACE_TRIALS`.

    The time is that from the first one's begin to the last one's end, without the stretches in which no trial ran: a
    study may be stopped overnight. Trials at once share their time.
    """
    ended = sorted((trial for trial in trials if trial.state in _FINISHED and began_at(trial)), key=_end)
    seconds = busy_seconds(_spans(ended[-PACE_TRIALS:]))
    return len(ended[-PACE_TRIALS:]) * _SECONDS_OF_AN_HOUR / seconds if seconds > 0 else None


def busy_seconds(spans: Iterable[tuple[float, float]]) -> float:
    """The time that some spans cover together, what lies in several counted once."""
    total, until = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(stop - max(start, until), 0.0)
        until = max(until, stop)
    return total


def _spans(trials: Iterable[FrozenTrial]) -> list[tuple[float, float]]:
    return [(began, _end(trial)) for trial in trials if (began := began_at(trial)) is not None]


def _samples_per_second_in_all(trials: Sequence[FrozenTrial]) -> float | None:
    seconds = busy_seconds(_spans(trials))
    timesteps = sum(int(trial.user_attrs.get(TIMESTEPS, 0)) for trial in trials)
    return timesteps / seconds if seconds > 0 else None


def _running(trial: FrozenTrial, now: float) -> Running:
    lease = trial.system_attrs.get(LEASE) or {}
    worker, until = str(lease.get("worker", "")), lease.get("until")
    began = began_at(trial)
    values = [value for step, value in trial.intermediate_values.items() if step < PRUNED_STEP]
    is_lost = until is not None and now > float(until) + LeaseTimes().grace_seconds
    return Running(
        trial.number,
        worker,
        0.0 if began is None else max(now - began, 0.0),
        len(values),
        fmean(values) if values else None,
        is_lost,
        None if is_lost else memory_of(worker),
    )


def memory_of(worker: str) -> int | None:
    """Resident memory of a worker and its descendants; None where it cannot be seen from here.

    :param worker: ``host:pid``
    """
    host, _, pid = worker.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return None
    try:
        process = psutil.Process(int(pid))
        return int(sum(one.memory_info().rss for one in (process, *process.children(recursive=True))))
    except psutil.Error:
        # It has just ended.
        return None


def _interval(attrs: Mapping[str, Any]) -> tuple[float | None, float | None]:
    found = attrs.get(INTERVAL)
    if not isinstance(found, Sequence) or len(found) != 3:
        return None, None
    low, _, high = found
    return low, high


def _end(trial: FrozenTrial) -> float:
    return ended_at(trial) or 0.0
