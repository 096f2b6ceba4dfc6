"""What a study's judgements said, as those who look on show it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mtfscalper.search.ledger import Ledger
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

    :ivar look: how many times the study's locked candles had been looked at, this time included, by other studies too
    """

    trial: int
    look: int
    gates: tuple[GateShown, ...]

    @property
    def passed(self) -> int:
        """Gates that passed."""
        return sum(gate.passed for gate in self.gates)


def judgements(folder: StudyFolder) -> list[Judged]:
    """All judgements of a study that were carried out, in their order."""
    records = Ledger(folder.judgements).records()
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
