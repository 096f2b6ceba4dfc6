"""The verdict on whole runs, with real trainings: where there is nothing to find, and where there is something.

Unlike ``test_coverage.py``, which resamples differences, the policies of these runs were trained, and what they do on
the candles that are traded is what they learned on those before. The seeds were fixed before any of them was run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from judged_runs import judged_run, random_walk, swings_on_a_walk

from mtfscalper.reporting.verdict import FINDINGS

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(7200)]

WALKS = range(1, 21)
PLANTED = (1, 2)
MOST_FOR = 3


@pytest.mark.parametrize("seed", PLANTED)
def test_a_planted_edge_that_a_policy_learns_is_found(seed: int, tmp_path: Path) -> None:
    verdict = judged_run(tmp_path, swings_on_a_walk, seed)
    print(f"\nplanted, seed {seed}: {verdict.sentence}", flush=True)
    assert verdict.finding == "for"


def test_policies_trained_on_random_walks_are_seldom_said_to_have_an_edge(tmp_path: Path) -> None:
    found = Counter[str]()
    for seed in WALKS:
        verdict = judged_run(tmp_path / str(seed), random_walk, seed)
        found[verdict.finding] += 1
        print(f"\nrandom walk, seed {seed}: {verdict.sentence}", flush=True)
    print(f"\n{len(WALKS)} random walks: { {name: found[name] for name in FINDINGS} }", flush=True)
    assert found["for"] <= MOST_FOR
    # Else nothing was judged: a policy that leaves no trade has no edge to be wrong about.
    assert found["for"] + found["none"] + found["against"] > len(WALKS) / 2
