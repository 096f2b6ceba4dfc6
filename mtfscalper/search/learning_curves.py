"""How well the policies of a trial did on the candles held out while they were trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mtfscalper import artefacts
from mtfscalper.training.report import TrainingReport


class LearningCurve(NamedTuple):
    """The evaluations of one training.

    :ivar name: pair and period
    :ivar timesteps: at each evaluation, samples learned from so far
    :ivar log_returns: logarithm of final equity after costs on the candles held out
    """

    name: str
    timesteps: tuple[int, ...]
    log_returns: tuple[float, ...]


def learning_curves(models: Path) -> list[LearningCurve]:
    """The curves of all trainings that an identifier's folder holds; of an ensemble one for each member.

    :param models: ``user_data/models/<identifier>``
    """
    return [curve for path in sorted(models.glob(f"*/{artefacts.REPORT_NAME}")) for curve in _curves(path)]


def _curves(path: Path) -> Iterator[LearningCurve]:
    report = TrainingReport.from_json(json.loads(path.read_text(encoding="utf-8")))
    for training in report.trainings:
        made = training.evaluations
        if made:
            yield LearningCurve(
                path.parent.name.removeprefix("sub-train-"),
                tuple(int(one["timesteps"]) for one in made),
                tuple(float(one["log_return"]) for one in made),
            )
