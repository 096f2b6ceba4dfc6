"""How often locked candles were looked at, by whichever study: what was seen cannot be unseen by beginning another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from freqtrade.configuration import TimeRange

from mtfscalper.search.errors import StudyError
from mtfscalper.search.ledger import UNREADABLE, Ledger
from mtfscalper.search.study_folder import StudyFolder, StudySpec

if TYPE_CHECKING:
    from optuna import Study

# Whose looks they were, beside the names of other studies: no study may have such a name.
ELSEWHERE = "this one on other machines"
# User attributes of a study, each a look.
_LOOK = "mtfscalper:look:"


class SharedLooks:
    """Looks at a study's locked candles as its storage has them, where all machines that share it see them."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def add(self, facts: Mapping[str, Any]) -> str:
        """Put a look on record.

        :return: its identifier
        """
        identifier = uuid4().hex
        self._study.set_user_attr(f"{_LOOK}{identifier}", dict(facts))
        return identifier

    def records(self) -> dict[str, dict[str, Any]]:
        """All of them, by identifier."""
        attrs = self._study.user_attrs
        return {name.removeprefix(_LOOK): attrs[name] for name in attrs if name.startswith(_LOOK)}


def looks_of(folder: StudyFolder) -> int:
    """Looks that a study had at its own locked candles, begun ones and those whose record cannot be read too."""
    records = Ledger(folder.judgements).records()
    return len({record["look"] for record in records if UNREADABLE not in record}) + sum(
        UNREADABLE in record for record in records
    )


def looks_of_others(folder: StudyFolder, spec: StudySpec) -> dict[str, int]:
    """Looks that other studies of the user directory had at candles that are locked in this one, by study.

    A study counts with all of its looks where it has a pair and a locked day with this one in common; one whose
    ``study.json`` cannot be read counts too, as nobody knows what it has seen.

    :param folder: of the study
    """
    others = (StudyFolder(path) for path in sorted(folder.path.parent.iterdir()) if path.name != folder.path.name)
    found = {other.path.name: looks_of(other) for other in others if other.exists and _may_overlap(other, spec)}
    return {name: looks for name, looks in found.items() if looks}


def _may_overlap(other: StudyFolder, spec: StudySpec) -> bool:
    try:
        return overlaps(other.spec, spec)
    except StudyError:
        return True


def overlaps(one: StudySpec, other: StudySpec) -> bool:
    """Whether two studies have locked candles of one pair and day."""
    first, second = (TimeRange.parse_timerange(spec.locked) for spec in (one, other))
    is_together = first.startts < second.stopts and second.startts < first.stopts
    return is_together and not set(one.pairs).isdisjoint(other.pairs)
