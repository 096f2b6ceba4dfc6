"""What the fast path learns is not worse than what stable-baselines3's own PPO learns: in float32, in bfloat16, with as
many samples an update from eight times the environments, as configs/config_rl_fast.json asks for, and as members of one
population."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from markets import best_log_return, gated_trends, leaked_future, mean_reversion, reversion_log_return
from test_learning import RULES, env_settings, settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.joined_model import split_model
from mtfscalper.training.ensemble import join, member_jobs
from mtfscalper.training.evaluation import evaluate
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.paired_networks import PairedNetworks

SEEDS = (1, 2, 3, 4, 5)
CYCLES = 12
ENSEMBLE = 8
ORACLE = "stable-baselines3"
# What each changes in the settings.
CONTENDERS: dict[str, dict[str, Any]] = {
    ORACLE: {},
    "fp32": {"precision": "fp32"},
    "bf16": {"precision": "bf16"},
    "bf16, 64 environments": {"precision": "bf16", "n_envs": 64, "n_steps": 64},
    # All seeds at once.
    "population, 64 environments": {"vec_env": "torch", "n_envs": 64, "n_steps": 64},
}


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


def shares_of_the_optimum(market: Market, contender: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train with each seed, and give the log return on candles never seen over the best possible one."""
    changes = {"vec_env": "batched", "entry_mode": market.entry_mode, "precision": "fp32"} | CONTENDERS[contender]
    runs = [settings(seed, cycles=CYCLES, **changes) for seed in SEEDS]
    environment = env_settings(runs[0])
    tapes = [[market.make(seed * 10 + part, n) for part, n in enumerate((6000, 1500, 6000))] for seed in SEEDS]
    jobs = [
        TrainingJob(run, train, held_out, environment) for run, (train, held_out, _) in zip(runs, tapes, strict=True)
    ]
    with monkeypatch.context() as patch:
        if contender == ORACLE:
            # Then rollouts, storage and updates are stable-baselines3's.
            patch.setattr(PairedNetworks, "fits", staticmethod(lambda policy: False))
        outcomes = run_all(executor_for(runs[0]), jobs)
    shares = []
    for outcome, (_, _, unseen) in zip(outcomes, tapes, strict=True):
        if isinstance(outcome, Exception):
            raise outcome
        model, report = outcome
        assert report.fused == (contender != ORACLE)
        assert report.population == (len(SEEDS) if changes["vec_env"] == "torch" else 1)
        share = evaluate(model, unseen, environment).log_return / market.optimum(unseen, runs[0].lookback)
        shares.append(share)
    return shares


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
        shares = by_contender[contender] = shares_of_the_optimum(MARKETS[name], contender, monkeypatch)
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


class EnsembleShares(NamedTuple):
    """Shares of the optimum on one market's candles never seen.

    :ivar single: of each member by itself
    :ivar ensemble: of all members as one
    :ivar longer: of one policy trained as long as all members together
    """

    single: tuple[float, ...]
    ensemble: float
    longer: float


def ensemble_shares(seed: int, n_members: int, cycles: int, n_candles: int) -> EnsembleShares:
    """Train an ensemble, and one policy on as many samples as all its members had.

    :param n_candles: to train on, and of those never seen
    """
    market = MARKETS["mean reversion"]
    train, held_out, unseen = (
        market.make(seed * 10 + part, n) for part, n in enumerate((n_candles, n_candles // 4, n_candles))
    )

    def trained(ensemble: int, of_cycles: int) -> Any:
        changes = {"vec_env": "batched", "entry_mode": market.entry_mode, "precision": "fp32", "ensemble": ensemble}
        # Far from the seeds of the other markets' ensembles.
        run = settings(1000 * seed, cycles=of_cycles, **changes)
        job = TrainingJob(run, train, held_out, env_settings(run))
        model, _ = join(job, [member.run() for member in member_jobs(job)])
        return model, run

    def share(model: Any, run: Any) -> float:
        return evaluate(model, unseen, env_settings(run)).log_return / market.optimum(unseen, run.lookback)

    joined, run = trained(n_members, cycles)
    single = tuple(share(member, run) for member in split_model(joined))
    return EnsembleShares(single, share(joined, run), share(*trained(1, n_members * cycles)))


@pytest.mark.acceptance
def test_an_ensemble_is_not_worse_than_its_members_by_themselves() -> None:
    """On the market where single policies differ most; beside what the same samples teach one policy.

    It is not better either (docs/benchmarks.md): what single policies lack here, the mean of their probabilities lacks.
    """
    found = [ensemble_shares(seed, ENSEMBLE, CYCLES, 6000) for seed in SEEDS]
    ahead = {
        "single policies, mean": [float(np.mean(shares.single)) for shares in found],
        f"ensemble of {ENSEMBLE}": [shares.ensemble for shares in found],
        f"one policy, {ENSEMBLE} times the samples": [shares.longer for shares in found],
    }
    alone, as_one, _ = ahead.values()
    print(
        "\n| mean reversion | mean share of the optimum | 95 % interval | of the difference to single policies | each |"
    )
    print("|---|---:|---:|---:|---|")
    for name, shares in ahead.items():
        low, high = bootstrap_interval(shares)
        difference = bootstrap_interval([own - other for own, other in zip(shares, alone, strict=True)])
        points = "to ".join(f"{100 * bound:+.1f} " for bound in difference) + "points"
        each = ", ".join(f"{share:.1%}" for share in shares)
        print(f"| {name} | {np.mean(shares):.1%} | {low:.1%} to {high:.1%} | {points} | {each} |", flush=True)
    assert np.mean(alone) > 0.5
    _, high = bootstrap_interval([own - other for own, other in zip(as_one, alone, strict=True)])
    assert high >= 0
