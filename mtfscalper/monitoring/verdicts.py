"""What a check comes to, and the words that all checks have in common."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from mtfscalper.monitoring.facts import RunFacts

# Different values shown in a line: a user's configuration may train dozens of periods.
SHOWN_MAX = 4


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    FAILED = "FAILED"


class Check(NamedTuple):
    """One line of the table.

    :ivar group: heading it stands under
    :ivar remedy: what to do about it; empty where all is well
    """

    group: str
    name: str
    seen: str
    expected: str
    verdict: Verdict
    remedy: str = ""


def judge(group: str, name: str, seen: str, expected: str, holds: bool, remedy: str) -> Check:
    """A check that failed unless what it looks for holds; the remedy is shown in the first case alone."""
    verdict = Verdict.OK if holds else Verdict.FAILED
    return Check(group, name, seen, expected, verdict, "" if holds else remedy)


def remedy_of(facts: RunFacts, remedy: str) -> str:
    """A remedy; where environment variables set freqtrade's configuration, that comes first."""
    if facts.environment_overrides:
        return f"remove {', '.join(facts.environment_overrides)}, which override the configuration files"
    return remedy


def counted(number: float, what: str) -> str:
    """A number of things, the word in the singular for one."""
    return f"{number:.0f} {what}" if number == 1 else f"{number:.0f} {what}s"


def distinct(values: Iterable[object]) -> str:
    """Different values in the order they came, no more than :data:`SHOWN_MAX` of them by name."""
    different = list(dict.fromkeys(str(value) for value in values))
    more = f" and {len(different) - SHOWN_MAX} more" if len(different) > SHOWN_MAX else ""
    return ", ".join(different[:SHOWN_MAX]) + more
