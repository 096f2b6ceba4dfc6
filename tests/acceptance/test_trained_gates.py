"""The gates where every run is trained: twenty studies on random walks, of which none may pass, and twenty of the same
size where there is something to learn.

As in ``test_study_gates.py``, but the winners are policies, judged by the command's own code with fresh seeds. The
market seeds were fixed beforehand, and are others than those on which the sizes were chosen, which were random walks
alone. On the planted markets the first eight studies, of the seeds 600 to 607 with all of the wallet on each trade,
were each refused for a drawdown of 41 to 65 %, five of them for that alone: entries after a rise lose where the price
swings back, whoever leaves. So the stake is a tenth of the wallet there, as in ``test_study_planted.py``, and the seeds
are fresh ones, fixed before any of these was run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gate_table import passed, refused, show
from judged_runs import LogPrices, random_walk, swings_on_a_walk
from trained_studies import judged_study

from mtfscalper.search.judgements import Judgement

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(7200)]

SEEDS, PLANTED_SEEDS = range(600, 620), range(620, 640)


def studies(
    tmp_path: Path, log_prices: LogPrices, market: str, seeds: Iterable[int], **sections: Any
) -> list[Judgement]:
    found = []
    for seed in seeds:
        judgement = judged_study(tmp_path / str(seed), log_prices, seed, **sections)
        found.append(judgement)
        gates = ", ".join(f"{gate.key} {gate.has}{'' if gate.passed else ' refuses'}" for gate in judgement.gates)
        print(f"\n{market}, seed {seed}: {gates}", flush=True)
    show(found, f"{market}, trained policies")
    return found


def test_on_a_random_walk_no_trained_policy_passes_and_it_is_not_for_want_of_trades(tmp_path: Path) -> None:
    found = studies(tmp_path, random_walk, "random walk", SEEDS)
    assert not any("trades" in refused(judgement) for judgement in found)
    assert passed(found) == 0
    assert all(refused(judgement) - {"trades"} for judgement in found)
    # Else nothing was judged: a policy that leaves no trade differs by nothing from classic exits. Such a one is the
    # best of two where the other lost.
    assert sum(abs(judgement.difference) > 1e-6 for judgement in found) >= len(found) / 4


def test_where_the_price_swings_back_trained_studies_of_the_same_size_pass(tmp_path: Path) -> None:
    found = studies(tmp_path, swings_on_a_walk, "swings on a walk", PLANTED_SEEDS, stake_amount=1000)
    assert not any("trades" in refused(judgement) for judgement in found)
    # Written down before any of them was run.
    assert passed(found) >= len(found) / 2
