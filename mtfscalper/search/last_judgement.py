"""What a study's judgements said, as those who look on show it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mtfscalper.search.study_folder import StudyFolder


class GateShown(NamedTuple):
    """One gate of a judgement.

    :ivar has: its value as a table has it
    :ivar needs: the threshold, with its sign
    """

    name: str
    has: str
    needs: str
    passed: bool


class Judged(NamedTuple):
    """One judgement of a trial.

    :ivar looks: how often the study's locked candles were looked at, this time included
    """

    trial: int
    looks: int
    gates: tuple[GateShown, ...]

    @property
    def passed(self) -> int:
        """Gates that passed."""
        return sum(gate.passed for gate in self.gates)


def judgements(folder: StudyFolder) -> list[Judged]:
    """All judgements of a study that were carried out, in their order."""
    path = folder.judgements
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    # One that is just being written has no end of line yet.
    records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [_judged(record["judgement"]) for record in records if record.get("state") == "done"]


def last_judged(folder: StudyFolder, trial: int | None = None) -> Judged | None:
    """The last judgement of a study, or of one of its trials."""
    found = [one for one in judgements(folder) if trial is None or one.trial == trial]
    return found[-1] if found else None


def _judged(found: Mapping[str, Any]) -> Judged:
    gates = tuple(
        GateShown(str(gate["name"]), str(gate["has"]), str(gate["needs"]), bool(gate["passed"]))
        for gate in found["gates"]
    )
    return Judged(int(found["trial"]), int(found["look"]), gates)
