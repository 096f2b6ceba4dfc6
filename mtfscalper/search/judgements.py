"""Every look at a study's locked candles: what it showed, and that it was begun, which is written down before."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mtfscalper import artefacts
from mtfscalper.search.gates import Gate
from mtfscalper.search.ledger import Ledger
from mtfscalper.search.looks import ELSEWHERE, SharedLooks, looks_of
from mtfscalper.search.study_folder import StudyFolder

_BEGUN, _DONE, _FAILED = "begun", "done", "failed"


class Begun(NamedTuple):
    """A look that has begun.

    :ivar limits: of the gates; None where its record does not say them
    :ivar candles: hash of the locked candles; "" where its record does not say it
    """

    look: int
    terms: dict[str, Any]
    limits: dict[str, Any] | None
    candles: str
    looks_of_others: dict[str, int]


class Judgement(NamedTuple):
    """What a look at the locked candles showed of a trial.

    :ivar look: how many times they had been looked at, this time included, by this study and by others
    :ivar trial: its number in the study
    :ivar overlay: hash of its settings
    :ivar level: of the interval, see :func:`mtfscalper.search.gates.interval_level`
    :ivar difference: paired, of a day and pair, the mean of all seeds, as a trial's value is
    :ivar profit: of the run itself on these candles, a share of the wallet at the start, the mean of all seeds
    :ivar seeds: of the trainings
    :ivar trials: that the study had run by then, those pruned too
    :ivar code: hash of the package's code that was judged
    :ivar at: when, ISO date and time, UTC
    :ivar looks_of_others: those of them that other studies had, by study, and this one on other machines
    """

    look: int
    trial: int
    overlay: str
    level: float
    gates: tuple[Gate, ...]
    difference: float
    profit: float
    seeds: tuple[int, ...]
    locked: str
    trials: int
    limits: dict[str, Any]
    code: str
    at: str
    looks_of_others: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether every gate is."""
        return all(gate.passed for gate in self.gates)

    @property
    def loses(self) -> bool:
        """Whether the run itself earned nothing: gates ask for better exits, whatever the entries cost."""
        return self.profit <= 0

    @property
    def refused_by(self) -> tuple[str, ...]:
        """The gates that are not passed, by name."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = self._asdict() | {"gates": [gate.as_json() for gate in self.gates], "passed": self.passed}
        return artefacts.plain_json(values)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Judgement:
        """The judgement that :meth:`as_json` made."""
        # Before looks of other studies were counted, none was on record.
        values = {"looks_of_others": {}, **values}
        found = {name: values[name] for name in cls._fields}
        return cls(
            **{**found, "gates": tuple(map(Gate.from_json, found["gates"])), "seeds": tuple(found["seeds"])},
        )


class Judgements:
    """Every look at a study's locked candles."""

    def __init__(self, folder: StudyFolder, shared: SharedLooks | None = None) -> None:
        """
        :param shared: looks in the study's storage; None counts those of this folder alone
        """
        self._folder, self._ledger, self._shared = folder, Ledger(folder.judgements), shared

    def done(self) -> list[Judgement]:
        """Those that came to an end, the oldest first."""
        return [
            Judgement.from_json(record["judgement"])
            for record in self._ledger.records()
            if record.get("state") == _DONE
        ]

    def of(self, trial: int, overlay: str) -> Judgement | None:
        """The last one of a trial's settings; None where there is none."""
        return next((one for one in reversed(self.done()) if (one.trial, one.overlay) == (trial, overlay)), None)

    def begun(self) -> list[Begun]:
        """All that have begun, whatever became of them, the oldest first."""
        return [
            Begun(
                record["look"],
                record["terms"],
                record.get("limits"),
                record.get("candles", ""),
                dict(record.get("looks_of_others", {})),
            )
            for record in self._ledger.records()
            if record.get("state") == _BEGUN
        ]

    def unfinished(self, terms: Mapping[str, Any]) -> Begun | None:
        """The last look, where it was one on the same terms, by limits that are known, and did not come to its end."""
        ended = {record.get("look") for record in self._ledger.records() if record.get("state") == _DONE}
        begun = self.begun()
        if not begun or begun[-1].look in ended or begun[-1].terms != dict(terms) or begun[-1].limits is None:
            return None
        return begun[-1]

    def begin(
        self,
        terms: Mapping[str, Any],
        looks_of_others: Mapping[str, int],
        limits: Mapping[str, Any] | None = None,
        candles: str = "",
    ) -> int:
        """Put a look on record, before it is one.

        :param terms: by which a look that was cut off is known again
        :param looks_of_others: that other studies had at these candles, by study
        :param limits: of the gates
        :param candles: hash of the locked candles
        :return: its number
        """
        others, own = dict(looks_of_others), None
        if self._shared is not None:
            # On record before the others are counted: of two machines that begin at once, one at least sees both.
            own = self._shared.add({"candles": candles, **terms})
            known = {own, *(record.get("id") for record in self._ledger.records())}
            if elsewhere := len(self._shared.records().keys() - known):
                others[ELSEWHERE] = elsewhere
        looks = looks_of(self._folder) + sum(others.values())
        # Where another study was removed with its looks, no number comes twice.
        look: int = 1 + max([looks, *(record.get("look", 0) for record in self._ledger.records())])
        record = {"state": _BEGUN, "look": look, "id": own, "at": moment(), "terms": dict(terms)}
        record |= {"limits": None if limits is None else dict(limits), "candles": candles, "looks_of_others": others}
        self._ledger.add(record)
        return look

    def candles_seen(self) -> set[str]:
        """Hashes of the locked candles at all looks that say it, of this machine and of others."""
        shared = () if self._shared is None else self._shared.records().values()
        return {*(one.candles for one in self.begun()), *(record.get("candles", "") for record in shared)} - {""}

    def end(self, judgement: Judgement) -> None:
        """Put on record what a look showed."""
        self._ledger.add({"state": _DONE, "look": judgement.look, "judgement": judgement.as_json()})

    def fail(self, look: int, error: BaseException) -> None:
        """Put on record that a look did not come to its end, and why."""
        said = f"{type(error).__name__}: {error}"
        self._ledger.add({"state": _FAILED, "look": look, "at": moment(), "error": said})

    def seed_file(self, look: int, seed: int) -> Path:
        """Figures of one seed's run at a look."""
        return self._folder.path / "judgements" / f"look_{look}" / f"seed_{seed}.json"


def moment() -> str:
    """Now, ISO date and time, UTC."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
