"""What the fast path learns is not worse than what stable-baselines3's own PPO learns: in float32, in bfloat16, with as
many samples an update from eight times the environments, as configs/config_rl_fast.json asks for, and as members of one
population.

Not worse is: with 95 % confidence by less than ``MARGIN`` (docs/learning.md says why so much, and why so many seeds).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from markets import best_log_return, gated_trends, leaked_future, mean_reversion, reversion_log_return
from non_inferiority import NonInferiority, non_inferiority, seeds_for
from test_learning import RULES, env_settings, settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.joined_model import split_model
from mtfscalper.training.ensemble import join, member_jobs
from mtfscalper.training.evaluation import evaluate
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.paired_networks import PairedNetworks

# Of the best possible return.
MARGIN = 0.05
CYCLES = 12
ENSEMBLE = 8
ENSEMBLE_SEEDS = range(1, 11)
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
    :ivar spread: standard deviation that differences of two trainings by seed are taken to have on it
    """

    make: Callable[[int, int], MarketTape]
    optimum: Callable[[MarketTape, int], float]
    entry_mode: str
    spread: float

    @property
    def seeds(self) -> range:
        return range(1, max(5, seeds_for(self.spread, MARGIN)) + 1)


MARKETS = {
    "leaked future": Market(leaked_future, lambda tape, first: best_log_return(tape, RULES, first), "agent", 0.006),
    "mean reversion": Market(
        mean_reversion, lambda tape, first: reversion_log_return(tape, RULES, first), "agent", 0.1
    ),
    "gated trends": Market(
        gated_trends, lambda tape, first: best_log_return(tape, RULES, first, gated=True), "gated", 0.06
    ),
}


def shares_of_the_optimum(market: Market, contender: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Train with each seed, and give the log return on candles never seen over the best possible one."""
    changes = {"vec_env": "batched", "entry_mode": market.entry_mode, "precision": "fp32"} | CONTENDERS[contender]
    runs = [settings(seed, cycles=CYCLES, **changes) for seed in market.seeds]
    environment = env_settings(runs[0])
    tapes = [[market.make(seed * 10 + part, n) for part, n in enumerate((6000, 1500, 6000))] for seed in market.seeds]
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
        assert report.population == (len(market.seeds) if changes["vec_env"] == "torch" else 1)
        share = evaluate(model, unseen, environment).log_return / market.optimum(unseen, runs[0].lookback)
        shares.append(share)
    return shares


def bootstrap_interval(shares: list[float]) -> tuple[float, float]:
    """95 % of the means of samples drawn from the shares with replacement."""
    random = np.random.default_rng(0)
    means = random.choice(shares, (10_000, len(shares))).mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def judge(name: str, shares: list[float], reference: list[float]) -> NonInferiority:
    """What a contender's shares say beside those of the reference; prints a row of the table in docs/learning.md."""
    low, high = bootstrap_interval(shares)
    judged = non_inferiority([own - other for own, other in zip(shares, reference, strict=True)], MARGIN)
    each = ", ".join(f"{share:.1%}" for share in shares)
    print(f"| {name} | {np.mean(shares):.1%} | {low:.1%} to {high:.1%} | {judged} | {each} |", flush=True)
    # Else the comparison is one of policies that learned nothing.
    assert np.mean(shares) > 0.5
    return judged


def print_columns(title: str) -> None:
    print(f"\n| {title} | mean share of the optimum | 95 % interval | beside the reference | each seed |")
    print("|---|---:|---:|---|---|")


@pytest.mark.acceptance
@pytest.mark.parametrize("name", MARKETS)
def test_what_is_learned_is_not_worse_than_with_stable_baselines3(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    market = MARKETS[name]
    print_columns(name)
    # Every contender sees the same markets from the same seeds.
    reference = shares_of_the_optimum(market, ORACLE, monkeypatch)
    judge(ORACLE, reference, reference)
    judged = {
        contender: judge(contender, shares_of_the_optimum(market, contender, monkeypatch), reference)
        for contender in CONTENDERS
        if contender != ORACLE
    }
    assert {contender: str(one) for contender, one in judged.items() if not one.shown} == {}


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

    It is not better either (docs/learning.md): what single policies lack here, the mean of their probabilities lacks.
    """
    found = [ensemble_shares(seed, ENSEMBLE, CYCLES, 6000) for seed in ENSEMBLE_SEEDS]
    alone = [float(np.mean(shares.single)) for shares in found]
    print_columns("mean reversion")
    judge("single policies, mean", alone, alone)
    as_one = judge(f"ensemble of {ENSEMBLE}", [shares.ensemble for shares in found], alone)
    judge(f"one policy, {ENSEMBLE} times the samples", [shares.longer for shares in found], alone)
    assert as_one.shown, str(as_one)
