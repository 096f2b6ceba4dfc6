"""Studies of exit rules at full size on markets of which it is known whether there is anything to find.

Each has twenty trials on sixty days and a winner on forty-five later ones with 225 trades; the seeds were fixed
beforehand, and are others than those on which the swinging market's strength was chosen.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_table import passed, refused, show
from search.exit_markets import Size, judged
from search.judged_studies import CODE, study_folder

from mtfscalper import artefacts
from mtfscalper.search.judgements import Judgement

pytestmark = pytest.mark.acceptance

SEEDS = range(500, 520)


@pytest.fixture(autouse=True)
def _same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)


def studies(tmp_path: Path, *, swings: bool) -> list[Judgement]:
    found = [judged(study_folder(tmp_path / str(seed)), seed, Size(), swings=swings) for seed in SEEDS]
    show(found, "swings back" if swings else "random walk")
    return found


def test_on_a_random_walk_no_study_passes_and_it_is_not_for_want_of_trades(tmp_path: Path) -> None:
    found = studies(tmp_path, swings=False)
    assert not any("trades" in refused(judgement) for judgement in found)
    assert passed(found) == 0
    assert all(refused(judgement) - {"trades"} for judgement in found)


def test_where_the_price_swings_back_studies_of_the_same_size_pass(tmp_path: Path) -> None:
    found = studies(tmp_path, swings=True)
    # Fifteen, as measured; the others are refused by one gate each.
    assert passed(found) >= 12
