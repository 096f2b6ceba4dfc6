"""Who works at a trial, and whether it still lives: leases that are renewed while it does.

A worker that is killed leaves a trial that runs for ever. Its lease ends, and whoever looks next marks the trial as
failed and enqueues the same parameters again. Optuna has heartbeats for databases, not for journals: this holds for
both.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

# System attribute of a trial.
LEASE = "mtfscalper:lease"
# User attributes of a trial.
AGAIN_OF, ATTEMPT, ERROR = "again_of", "attempt", "error"
# When a trial ended, seconds since 1970. Optuna's own moments are local and do not say where: in a database, those of
# whichever machine wrote them.
ENDED = "ended"
# Of the trial that a study begins with, the config as it is.
FIRST = "first"
# Why a failed trial is no failure of its parameters: its worker is gone or was stopped; it was enqueued twice; it was
# one more than was asked for; no such settings can be.
SET_ASIDE = "set_aside"
LOST, STOPPED, DUPLICATE, SURPLUS, IMPOSSIBLE = "lost", "stopped", "duplicate", "surplus", "impossible"
# Parameters that cost so many workers their lives are not tried again: they may be what kills them.
ATTEMPTS = 5


class LeaseTimes(NamedTuple):
    """
    :ivar refresh_seconds: a lease is renewed so often, and lasts as long
    :ivar grace_seconds: a worker is taken for dead when its lease has ended so long ago: clocks of machines differ
    """

    refresh_seconds: float = 20.0
    grace_seconds: float = 40.0


def worker_name() -> str:
    """This process, among all that work at a study."""
    return f"{socket.gethostname()}:{os.getpid()}"


class Lease:
    """A trial's lease, renewed by a thread for as long as a ``with`` block lasts.

    :ivar is_lost: whether somebody else has ended the trial meanwhile
    """

    def __init__(self, storage: BaseStorage, trial_id: int, times: LeaseTimes, look: Callable[[], None]) -> None:
        """
        :param look: called at each renewal
        """
        self._storage, self._trial_id, self._times, self._look = storage, trial_id, times, look
        self._began, self._ended = time.time(), threading.Event()
        self._thread = threading.Thread(target=self._renew_until_end, daemon=True)
        self.is_lost = False

    def __enter__(self) -> Self:
        self._renew()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _renew(self) -> None:
        lease: dict[str, Any] = {
            "worker": worker_name(),
            "began": self._began,
            "until": time.time() + self._times.refresh_seconds,
        }
        self._storage.set_trial_system_attr(self._trial_id, LEASE, lease)

    def _renew_until_end(self) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        while not self._ended.wait(self._times.refresh_seconds):
            self._look()
            try:
                self._renew()
            except UpdateFinishedTrialError:
                self.is_lost = True
                return
            except Exception as error:
                # A database that is away comes back, maybe before the grace is over.
                logger.warning("The lease of a trial cannot be renewed: %s", error)


def began_at(trial: FrozenTrial) -> float | None:
    """When a trial began, seconds since 1970; None where it has not.

    Where there is no lease yet it is Optuna's moment, taken for one of this machine's time zone.
    """
    lease = trial.system_attrs.get(LEASE) or {}
    if "began" in lease:
        return float(lease["began"])
    return None if trial.datetime_start is None else float(trial.datetime_start.timestamp())


def ended_at(trial: FrozenTrial) -> float | None:
    """When a trial ended, seconds since 1970; None where it has not."""
    if trial.datetime_complete is None:
        return None
    return float(trial.user_attrs.get(ENDED, trial.datetime_complete.timestamp()))


def take_back(study: Study, times: LeaseTimes, without_lease: dict[int, float]) -> list[int]:
    """Mark trials as failed whose workers are gone, and enqueue what was lost or stopped again.

    Whoever looks may do so, and several at once: of two that enqueue the same, the later one is set aside
    (:func:`duplicate_of`).

    :param without_lease: when this process first saw each trial that has no lease, by its number, by
        ``time.monotonic``; kept up to date here
    :return: the numbers of the trials that this process marked
    """
    from optuna.trial import TrialState

    marked = []
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    seen = {trial.number: time.monotonic() for trial in running if LEASE not in trial.system_attrs}
    kept = {number: without_lease.get(number, now) for number, now in seen.items()}
    without_lease.clear()
    without_lease |= kept
    for trial in running:
        if _is_stale(trial, times, without_lease) and set_aside(study, trial, LOST):
            lease = trial.system_attrs.get(LEASE) or {}
            logger.warning(
                "Trial %d is taken back: its worker %s has not been heard of; it is enqueued again.",
                trial.number,
                lease.get("worker", "(unknown)"),
            )
            marked.append(trial.number)
    enqueue_again(study)
    return marked


def _is_stale(trial: FrozenTrial, times: LeaseTimes, without_lease: Mapping[int, float]) -> bool:
    lease = trial.system_attrs.get(LEASE)
    if lease is not None:
        return bool(time.time() > float(lease["until"]) + times.grace_seconds)
    # Its worker died before it could take the lease, or is about to. When it began only Optuna says, in the time zone
    # of a machine that may be another: what this process has seen of it decides.
    return time.monotonic() > without_lease[trial.number] + times.refresh_seconds + times.grace_seconds


def set_aside(study: Study, trial: FrozenTrial, reason: str, error: str | None = None) -> bool:
    """Fail a trial that says nothing of its parameters.

    :param reason: one of the above
    :param error: told beside it
    :return: whether this process did it, and no other before
    """
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    storage = study._storage
    try:
        storage.set_trial_user_attr(trial._trial_id, SET_ASIDE, reason)
        if error is not None:
            storage.set_trial_user_attr(trial._trial_id, ERROR, error)
        storage.set_trial_user_attr(trial._trial_id, ENDED, time.time())
        storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
    except UpdateFinishedTrialError:
        return False
    return True


def enqueue_again(study: Study) -> None:
    """Enqueue the parameters of trials that were lost or stopped and have no successor yet."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    successors = {trial.user_attrs.get(AGAIN_OF) for trial in trials}
    for trial in trials:
        reason, attempt = trial.user_attrs.get(SET_ASIDE), int(trial.user_attrs.get(ATTEMPT, 1))
        if reason not in (LOST, STOPPED) or trial.state != TrialState.FAIL or trial.number in successors:
            continue
        if reason == LOST and attempt >= ATTEMPTS:
            continue
        # Stopping is no fault of the parameters.
        attempt += reason == LOST
        attrs: dict[str, Any] = {AGAIN_OF: trial.number, ATTEMPT: attempt}
        study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params}, user_attrs=attrs)


def duplicate_of(trials: Sequence[FrozenTrial], number: int) -> int | None:
    """The trial that runs, or has run, the same enqueued parameters as this one; None where there is none.

    Two processes that took a trial back at once may both have enqueued it, and two that began a study its first trial.
    The one with the lower number counts.
    """
    attrs = trials[number].user_attrs
    same = next(({name: attrs[name]} for name in (AGAIN_OF, FIRST) if name in attrs), None)
    if same is None:
        return None
    for trial in trials[:number]:
        if same.items() <= trial.user_attrs.items() and trial.user_attrs.get(SET_ASIDE) not in (DUPLICATE, SURPLUS):
            return trial.number
    return None
