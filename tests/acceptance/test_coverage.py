"""How often the verdict is wrong, counted: studies in which nothing is to be found, and such in which something is.

The studies are paired daily differences as they come: of the strategy's classic entries on a market, left at random or
by the strategy's own exits, less the same entries with classic exits. Their mean is taken away, and days are drawn
again in blocks, so that what lasts for days and the rare large loss stay in them. Nothing is trained. The seeds, of the
synthetic market too, are others than those that the level of the intervals was chosen on.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap
from paired_differences import Differences, differences_on

from mtfscalper.offline.synthetic import write_market
from mtfscalper.reporting.intervals import ENOUGH_DAYS, mean_interval
from mtfscalper.reporting.verdict import judge

pytestmark = pytest.mark.acceptance

STUDIES = 500
DRAWS = 400
SEED = 20_261_127
# Longer than what lasts in them.
BLOCK_DAYS = 5
# Share of studies wrong on either side; one in twenty would be what 90 % promise.
MOST_WRONG = 0.07
# The fewest that an interval is given for, and more.
LENGTHS = (ENOUGH_DAYS, 45, 60, 90)
KINDS = (
    *("own exits, all entries", "own exits, one entry a day", "random exits, all entries"),
    *("random exits, one entry a day", "random exits of one entry in twenty"),
)
# The real candles are not the project's to ship.
REAL = Path(os.environ.get("MTFSCALPER_REAL_DATA", Path(__file__).parents[3] / "shared" / "data")) / "binance"


@pytest.fixture(scope="module", params=["synthetic", "real"])
def market(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Differences]:
    home, datadir = tmp_path_factory.mktemp("home"), REAL
    if request.param == "synthetic":
        datadir = tmp_path_factory.mktemp("market")
        write_market(datadir, SEED, start=datetime(2024, 1, 1, tzinfo=UTC), stop=datetime(2024, 8, 1, tzinfo=UTC))
    elif not datadir.is_dir():
        pytest.skip(f"needs real candles in {datadir}")
    return differences_on(datadir, home)


def verdicts(of: Differences, days: int, edge: float = 0.0) -> dict[str, int]:
    """Count the findings of many studies.

    :param edge: planted in each, in standard deviations of a day
    """
    differs = np.abs(of.sums) > 1e-8
    # What is left is what a day differs by chance; where nothing differs, nothing is taken away or planted.
    sums = np.where(differs, of.sums - of.sums.sum() / differs.sum(), 0.0)
    sums += np.where(differs, edge * sums.std(), 0.0)
    found = dict.fromkeys(("for", "none", "against", "too_few"), 0)
    for study in range(STUDIES):
        drawn = StationaryBootstrap(BLOCK_DAYS, np.arange(len(sums)), seed=SEED + study)
        at = next(iter(drawn.bootstrap(1)))[0][0][:days]
        interval = mean_interval(sums[at], of.counts[at], study, draws=DRAWS)
        found[judge(interval, int(of.counts[at].sum()), days, 0.0, 0.0).finding] += 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_where_nothing_is_to_be_found_little_is(market: dict[str, Differences], kind: str) -> None:
    of = market[kind]
    counted = {days: verdicts(of, days) for days in (*LENGTHS, len(of.sums))}
    print(f"\n{kind}: of {STUDIES} studies without an edge, by days: {counted}")
    for found in counted.values():
        # Days on which few trades differ are not always judged; else it would be for nothing.
        judged = STUDIES - found["too_few"]
        assert judged > STUDIES / 3
        assert found["for"] <= MOST_WRONG * judged
        assert found["against"] <= MOST_WRONG * judged


@pytest.mark.parametrize("edge", [0.3, -0.3])
def test_an_edge_that_is_there_is_found(market: dict[str, Differences], edge: float) -> None:
    of = market["random exits, all entries"]
    right, wrong = ("for", "against") if edge > 0 else ("against", "for")
    counted = {days: verdicts(of, days, edge) for days in (*LENGTHS, len(of.sums))}
    print(f"\nof {STUDIES} studies with an edge of {edge} deviations of a day, by days: {counted}")
    assert counted[len(of.sums)][right] >= 0.9 * STUDIES
    for found in counted.values():
        assert found[wrong] <= 0.01 * STUDIES
