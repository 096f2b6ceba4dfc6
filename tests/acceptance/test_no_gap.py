"""A backtest in exact mode makes the trades of the policy's own rollout: on three seeds, period lengths, two markets.

``make test`` has a small form of each proof here (tests/freqai/test_freqai_exact.py).
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from freqai.exact_runs import Verdicts, assert_no_gap, judge
from parity_markets import REAL_DATA

from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

SEEDS = (1, 2, 3)
PERIOD_DAYS = (1, 3, 12)
PAIR = "BTC/USDT:USDT"
REAL = REAL_DATA / "binance"

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datadir = tmp_path_factory.mktemp("market")
    start, stop = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 10, 16, tzinfo=UTC)
    write_market(datadir, start=start, stop=stop, pairs=(PAIR,))
    return datadir


def verdicts(
    home: Path, datadir: Path, monkeypatch: pytest.MonkeyPatch, timerange: str, seed: int, days: int
) -> Verdicts:
    freqai: dict[str, Any] = {
        "train_period_days": 4,
        "backtest_period_days": days,
        "rl_config": {"seed": seed, "train_cycles": 2, "n_envs": 4, "n_steps": 256, "net_arch": [512, 512, 256]},
    }
    # Unlimited stakes compound, as in the main configuration; eight decimals of a large wallet keep ratios exact.
    overlay: dict[str, Any] = {"freqai": freqai, "timerange": timerange, "stake_amount": "unlimited"}
    return judge(home, datadir, monkeypatch, "decisive", leaves=0.05, **overlay)


@pytest.mark.parametrize("market", ["synthetic", "real"])
def test_backtests_and_rollouts_make_the_same_trades(
    tmp_path: Path, synthetic: Path, monkeypatch: pytest.MonkeyPatch, market: str
) -> None:
    if market == "real" and not REAL.is_dir():
        pytest.skip(f"there are no real candles in {REAL}; the environment variable MTFSCALPER_REAL_DATA names them")
    datadir, timerange = (synthetic, "20241001-20241013") if market == "synthetic" else (REAL, "20250301-20250313")
    reasons: Counter[str] = Counter()
    trades = asked = 0
    worst = 0.0
    for seed in SEEDS:
        for days in PERIOD_DAYS:
            with monkeypatch.context() as patch:
                found = verdicts(tmp_path / f"{seed}-{days}", datadir, patch, timerange, seed, days)
            assert_no_gap(found)
            reasons.update(trade.exit_reason for trade in found.backtest)
            trades += len(found.backtest)
            asked += len(found.asked_in_backtest)
            states = zip(found.asked_in_backtest, found.asked_in_rollout, strict=False)
            worst = max(worst, *(float(np.abs(np.subtract(a.state, b.state)).max()) for a, b in states))
            print(f"{market}, seed {seed}, periods of {days} days: {len(found.backtest)} trades equal")
    print(
        f"{market}: {trades} trades, {asked} decisions about them, largest difference of a state {worst:.1e}; {reasons}"
    )
    assert trades > 100
    assert reasons["exit_signal"] > 50
    assert len(reasons) >= 4
