"""What the gates said of many studies: which refused how often, and how often alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from mtfscalper.search.judgements import Judgement


def refused(judgement: Judgement) -> set[str]:
    """Keys of the gates that are not passed."""
    return {gate.key for gate in judgement.gates if not gate.passed}


def passed(found: Sequence[Judgement]) -> int:
    """How many pass."""
    return sum(judgement.passed for judgement in found)


def show(found: Sequence[Judgement], market: str) -> None:
    """Print the table."""
    table = Table("gate", "refused", "alone", title=f"{len(found)} studies, {market}: {passed(found)} pass")
    each, alone = Counter[str](), Counter[str]()
    for judgement in found:
        by = refused(judgement)
        each.update(by)
        alone.update(by if len(by) == 1 else ())
    for gate in found[0].gates:
        table.add_row(gate.key, str(each[gate.key]), str(alone[gate.key]))
    Console(width=100).print(table)
