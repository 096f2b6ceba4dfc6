"""The gates where every run is trained: twenty studies on random walks, of which none may pass.

As in ``test_study_gates.py``, but the winners are policies, judged by the command's own code with fresh seeds. The
market seeds were fixed beforehand, and are others than those on which the sizes were chosen. Where there is an edge,
``test_study_planted.py`` holds a study to passing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_table import passed, refused, show
from judged_runs import random_walk
from trained_studies import judged_study

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(7200)]

SEEDS = range(600, 620)


def test_on_a_random_walk_no_trained_policy_passes_and_it_is_not_for_want_of_trades(tmp_path: Path) -> None:
    found = []
    for seed in SEEDS:
        judgement = judged_study(tmp_path / str(seed), random_walk, seed)
        found.append(judgement)
        gates = ", ".join(f"{gate.key} {gate.has}{'' if gate.passed else ' refuses'}" for gate in judgement.gates)
        print(f"\nrandom walk, seed {seed}: {gates}", flush=True)
    show(found, "random walk, trained policies")
    assert not any("trades" in refused(judgement) for judgement in found)
    assert passed(found) == 0
    assert all(refused(judgement) - {"trades"} for judgement in found)
    # Else nothing was judged: a policy that leaves no trade differs by nothing from classic exits. Such a one is the
    # best of two where the other lost.
    assert sum(abs(judgement.difference) > 1e-6 for judgement in found) >= len(found) / 4
