"""Studies at full size on markets of which it is known whether there is anything to find.

Each has twenty trials on sixty days and a winner on forty-five later ones with 225 trades; the seeds were fixed
beforehand, and are others than those on which the swinging market's strength was chosen.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from search.exit_markets import Size, judged
from search.judged_studies import CODE, study_folder

from mtfscalper import artefacts
from mtfscalper.search.judge import Judgement

pytestmark = pytest.mark.acceptance

SEEDS = range(500, 520)


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)


def refused(judgement: Judgement) -> set[str]:
    return {gate.key for gate in judgement.gates if not gate.passed}


def studies(tmp_path: Path, *, swings: bool) -> list[Judgement]:
    found = [judged(study_folder(tmp_path / str(seed)), seed, Size(), swings=swings) for seed in SEEDS]
    show(found, "swings back" if swings else "random walk")
    return found


def show(found: list[Judgement], market: str) -> None:
    """Which gate refused how often, and how often alone."""
    table = Table("gate", "refused", "alone", title=f"{len(found)} studies, {market}: {passed(found)} pass")
    each, alone = Counter[str](), Counter[str]()
    for judgement in found:
        by = refused(judgement)
        each.update(by)
        alone.update(by if len(by) == 1 else ())
    for gate in found[0].gates:
        table.add_row(gate.key, str(each[gate.key]), str(alone[gate.key]))
    Console(width=100).print(table)


def passed(found: list[Judgement]) -> int:
    return sum(judgement.passed for judgement in found)


def test_on_a_random_walk_no_study_passes_and_it_is_not_for_want_of_trades(tmp_path: Path) -> None:
    found = studies(tmp_path, swings=False)
    assert not any("trades" in refused(judgement) for judgement in found)
    assert passed(found) == 0
    assert all(refused(judgement) - {"trades"} for judgement in found)


def test_where_the_price_swings_back_studies_of_the_same_size_pass(tmp_path: Path) -> None:
    found = studies(tmp_path, swings=True)
    # Fifteen, as measured; the others are refused by one gate each.
    assert passed(found) >= 12
