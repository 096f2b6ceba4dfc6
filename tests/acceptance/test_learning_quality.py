"""What the fast path learns is not worse than what stable-baselines3's own PPO learns: in float32, in bfloat16, and
with as many samples an update from eight times the environments, as configs/config_rl_fast.json asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from markets import best_log_return, gated_trends, leaked_future, mean_reversion, reversion_log_return
from test_learning import RULES, env_settings, settings

from mtfscalper.market.tape import MarketTape
from mtfscalper.training.evaluation import evaluate
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.paired_networks import PairedNetworks

SEEDS = (1, 2, 3, 4, 5)
ORACLE = "stable-baselines3"
# What each changes in the settings.
CONTENDERS: dict[str, dict[str, Any]] = {
    ORACLE: {},
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "bf16, 64 environments": {"precision": "bf16", "n_envs": 64, "n_steps": 64},
}

pytestmark = pytest.mark.usefixtures("one_thread")


class Market(NamedTuple):
    """A market and the most that can be earned on it.

    :ivar make: from a seed and a number of candles to a tape
    :ivar optimum: log return of the best decisions on a tape, from a candle on
    """

    make: Callable[[int, int], MarketTape]
    optimum: Callable[[MarketTape, int], float]
    entry_mode: str


MARKETS = {
    "leaked future": Market(leaked_future, lambda tape, first: best_log_return(tape, RULES, first), "agent"),
    "mean reversion": Market(mean_reversion, lambda tape, first: reversion_log_return(tape, RULES, first), "agent"),
    "gated trends": Market(gated_trends, lambda tape, first: best_log_return(tape, RULES, first, gated=True), "gated"),
}


def share_of_the_optimum(market: Market, contender: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> float:
    """Train, and give the log return on candles never seen over the best possible one."""
    changes = {"vec_env": "batched", "entry_mode": market.entry_mode, "precision": "fp32"}
    run = settings(seed, cycles=12, **changes | CONTENDERS[contender])
    environment = env_settings(run)
    train, held_out, unseen = (market.make(seed * 10 + part, n) for part, n in enumerate((6000, 1500, 6000)))
    with monkeypatch.context() as patch:
        if contender == ORACLE:
            # Then rollouts, storage and updates are stable-baselines3's.
            patch.setattr(PairedNetworks, "fits", staticmethod(lambda policy: False))
        model, report = TrainingJob(run, train, held_out, environment).run()
    assert report.fused == (contender != ORACLE)
    return evaluate(model, unseen, environment).log_return / market.optimum(unseen, run.lookback)


def bootstrap_interval(shares: list[float]) -> tuple[float, float]:
    """95 % of the means of samples drawn from the shares with replacement."""
    random = np.random.default_rng(0)
    means = random.choice(shares, (10_000, len(shares))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", MARKETS)
def test_what_is_learned_is_not_worse_than_with_stable_baselines3(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    intervals, by_contender = {}, {}
    columns = ("mean share of the optimum", "95 % interval", "of the difference by seed", "each seed")
    print(f"\n| {name} | {' | '.join(columns)} |\n|---|---:|---:|---:|---|")
    for contender in CONTENDERS:
        shares = by_contender[contender] = [
            share_of_the_optimum(MARKETS[name], contender, seed, monkeypatch) for seed in SEEDS
        ]
        low, high = intervals[contender] = bootstrap_interval(shares)
        # Every contender sees the same markets from the same seeds.
        ahead = bootstrap_interval([own - other for own, other in zip(shares, by_contender[ORACLE], strict=True)])
        difference = "to ".join(f"{100 * bound:+.1f} " for bound in ahead) + "points"
        each = ", ".join(f"{share:.1%}" for share in shares)
        print(f"| {contender} | {np.mean(shares):.1%} | {low:.1%} to {high:.1%} | {difference} | {each} |", flush=True)
        # Else the comparison is one of policies that learned nothing.
        assert np.mean(shares) > 0.5
    theirs_low, _ = intervals[ORACLE]
    for contender, (_, high) in intervals.items():
        assert high >= theirs_low, contender
