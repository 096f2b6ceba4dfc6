"""Which trial of a study is the best, for all who ask: to keep its policies, to show it, to judge and to deploy it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def best_first(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The completed trials, the best first; of equals the first."""
    made = [(-trial.value, trial.number, trial) for trial in trials if _is_completed(trial) and trial.value is not None]
    return [trial for *_, trial in sorted(made, key=lambda one: one[:2])]


def best_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The best completed trial, None while there is none."""
    return next(iter(best_first(trials)), None)


def _is_completed(trial: FrozenTrial) -> bool:
    return bool(trial.state.name == "COMPLETE")
