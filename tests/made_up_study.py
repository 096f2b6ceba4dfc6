"""A study whose trials nobody ran: its folder and its journal, as ``mtfscalper study run`` leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mtfscalper.search.attachments import attach_pictures, write_note
from mtfscalper.search.learning_curves import LearningCurve
from mtfscalper.search.run_figures import Instance, RunFigures
from mtfscalper.search.study_folder import StudyFolder

NAME = "planted"
BEGAN = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)
N_DAYS = 60
SEEDS = (11, 12, 13)
GATES = (
    {"name": "paired difference a day", "has": "+0.011 %", "needs": "> 0", "passed": True},
    {"name": "deflated Sharpe ratio", "has": "0.971", "needs": "≥ 0.95", "passed": True},
    {"name": "trades", "has": "88", "needs": "≥ 100", "passed": False},
)


def trial(
    number: int,
    state: TrialState,
    begins: float = 0.0,
    ends: float | None = None,
    value: float | None = None,
    intermediate: Sequence[float] = (),
    lease: dict[str, Any] | None = None,
    **attrs: Any,
) -> FrozenTrial:
    """A trial.

    :param begins: seconds after :data:`BEGAN`, as ``ends``
    :param attrs: of the user
    """
    made = create_trial(
        state=state,
        value=value,
        user_attrs=attrs,
        system_attrs={} if lease is None else {"mtfscalper:lease": lease},
        intermediate_values=dict(enumerate(intermediate)),
    )
    made.number = number
    made.datetime_start = _moment(begins)
    made.datetime_complete = None if ends is None else _moment(ends)
    return made


def _moment(seconds: float) -> datetime:
    # As Optuna has it: local, and without saying so.
    return (BEGAN + timedelta(seconds=seconds)).astimezone().replace(tzinfo=None)


def figures(seed: int, value: float, rng: np.random.Generator) -> RunFigures:
    """A run whose instances have a value in the mean."""
    days = rng.normal(value, 0.004, N_DAYS)
    instances = tuple(Instance(pair, "2025-01-01", seed, 30.0, 60, value) for pair in ("BTC/USDT", "ETH/USDT"))
    return RunFigures(
        seed=seed,
        first_ms=0,
        last_ms=0,
        days=tuple(range(20_100, 20_100 + N_DAYS)),
        differences=tuple(days.tolist()),
        begun=(2,) * N_DAYS,
        profits=tuple((days / 3).tolist()),
        trades=120,
        max_drawdown=0.034,
        instances=instances,
        seconds=42.0,
        training_seconds=30.0,
        timesteps=100_000,
    )


def curves(rng: np.random.Generator, n: int = 4) -> list[LearningCurve]:
    """Learning curves that rise."""
    steps = tuple(range(8192, 8192 * 12, 8192))
    return [
        LearningCurve(f"BTC_{period}", steps, tuple(np.cumsum(rng.normal(0.004, 0.01, len(steps))).tolist()))
        for period in range(n)
    ]


class MadeUp(NamedTuple):
    """A study on disk."""

    userdir: Path
    folder: StudyFolder
    study: optuna.Study


def made_up_study(
    userdir: Path,
    values: Sequence[float | None],
    *,
    asked: int | None = 10,
    pictures: bool = True,
    url: str | None = None,
) -> MadeUp:
    """A study with one trial for each value, with a note.

    :param values: None for a trial that was pruned
    :param url: of a database that keeps the trials; None for the journal
    """
    folder = StudyFolder.of(userdir, NAME)
    folder.path.mkdir(parents=True)
    folder.spec_file.write_text("{}")
    (userdir / "models").mkdir()
    storage = RDBStorage(url) if url is not None else JournalStorage(JournalFileBackend(str(folder.journal)))
    study = optuna.create_study(study_name=NAME, storage=storage, direction="maximize")
    if asked is not None:
        study.set_user_attr("mtfscalper:trials", asked)
    rng = np.random.default_rng(3)
    for value in values:
        asked_for = study.ask({"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)})
        for step in range(3):
            asked_for.report(value or -0.001, step)
        if value is not None:
            runs = [figures(seed, value, rng) for seed in SEEDS]
            for run in runs:
                path = folder.run_file(asked_for.number, run.seed)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(run.as_json()))
            if pictures:
                attach_pictures(asked_for, folder, runs, curves(rng))
            asked_for.set_user_attr("interval", [value - 0.0005, value, value + 0.0005])
        study.tell(asked_for, value, TrialState.PRUNED if value is None else TrialState.COMPLETE)
        write_note(study, folder, asked_for.number)
    return MadeUp(userdir, folder, study)


def judge(made: MadeUp, number: int) -> None:
    """Write a judgement of a trial, as ``mtfscalper study judge`` does."""
    with made.folder.judgements.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"state": "begun", "look": 1}) + "\n")
        judgement = {"trial": number, "look": 1, "gates": GATES}
        file.write(json.dumps({"state": "done", "look": 1, "judgement": judgement}) + "\n")
    write_note(made.study, made.folder, number)
