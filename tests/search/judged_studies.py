"""Studies without a training: trials' figures drawn, and runs on the locked candles made up of known trades."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from builders import PAIR, make_rules, make_tape, random_candles
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from mtfscalper import artefacts
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.daily import daily_differences, daily_profits
from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.run_result import DAY_MS
from mtfscalper.reporting.trades import COLUMNS
from mtfscalper.search.run_figures import Run, RunFigures
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.trading.trading_rules import TradingRules

CANDLES_A_DAY = 288
LOCKED_DAYS = 40
VALIDATION_DAYS = 60
TUNING_SEEDS, TEST_SEEDS = (1, 2), (101, 102, 103)
RULES = make_rules(fee_ratio=0.0005, stoploss_ratio=0.05, max_trade_duration_candles=24)
# In place of the installed code's hash, which takes a second.
CODE = "c0de"
STRATEGY = "MtfScalper_RL_Hybrid"


def make_spec(**changes: Any) -> StudySpec:
    values: dict[str, Any] = {
        "name": "small",
        "created": "2026-11-27T12:00:00Z",
        "arguments": ("--config", "config.json"),
        "config": {
            "stake_amount": 50,
            "dry_run": False,
            "timeframe": "5m",
            "stoploss": -0.05,
            "exchange": {"name": "binance", "pair_whitelist": [PAIR]},
            "strategy": STRATEGY,
            "freqaimodel": "MtfScalperRLModel",
            "freqai": {"enabled": True, "identifier": "mine", "rl_config": {"n_steps": 64, "seed": 42}},
        },
        "space": {"learning_rate": {"type": "float", "low": 1e-5, "high": 1e-3, "log": True}},
        "overlay": {"freqai": {"rl_config": {"threads_per_job": 1}}},
        "strategy": STRATEGY,
        "pairs": (PAIR,),
        "timeframe": "5m",
        "validation": "20240101-20240301",
        "locked": "20240301-20240410",
        "lock_ms": 1_709_251_200_000,
        "datadir": "data",
        "tuning_seeds": TUNING_SEEDS,
        "test_seeds": TEST_SEEDS,
        "sampler_seed": 0,
        "first": {},
        "candles": "",
        "sources": {},
        "versions": {},
        "code": CODE,
    }
    return StudySpec(**{**values, **changes})


def figures(seed: int, differences: np.ndarray, first_day: int = 20_000, **changes: Any) -> RunFigures:
    days = tuple(range(first_day, first_day + len(differences)))
    values: dict[str, Any] = {
        "first_ms": first_day * DAY_MS,
        "last_ms": (first_day + len(days)) * DAY_MS - 1,
        "days": days,
        "differences": tuple(differences.tolist()),
        "begun": (3,) * len(days),
        "profits": tuple((differences / 10).tolist()),
        "trades": 3 * len(days),
        "max_drawdown": 0.05,
        "instances": (),
        "seconds": 1.0,
        "training_seconds": 0.5,
        "timesteps": 64,
    }
    return RunFigures(seed=seed, **{**values, **changes})


def make_study(
    folder: StudyFolder, n_trials: int = 8, edge: float = 1.0, better: int = 1
) -> tuple[list[FrozenTrial], FrozenTrial]:
    """A study of finished trials, and the best of them.

    :param edge: mean of a day over its deviation, of the trials that are better
    :param better: how many are
    """
    spec = make_spec()
    folder.write_spec(spec)
    rng = np.random.default_rng(3)
    trials = []
    for number in range(n_trials):
        means = []
        for seed in TUNING_SEEDS:
            differences = 0.02 * (rng.normal(size=VALIDATION_DAYS) + edge * (number < better))
            artefacts.write_json(folder.run_file(number, seed), figures(seed, differences).as_json())
            means.append(float(differences.mean()))
        rate = 1e-4 * (number + 1)
        trials.append(finished(number, float(np.mean(means)), rate))
    return trials, max(trials, key=lambda trial: trial.value or 0.0)


def finished(number: int, value: float | None, rate: float = 1e-4, **changes: Any) -> FrozenTrial:
    trial = create_trial(
        params={"learning_rate": rate},
        distributions={"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)},
        value=value,
        **changes,
    )
    trial.number = number
    return trial


def unfinished(number: int, state: TrialState, **attributes: Any) -> FrozenTrial:
    return finished(number, None, state=state, user_attrs=attributes)


@cache
def _market() -> MarketTape:
    return make_tape(random_candles(7, LOCKED_DAYS * CANDLES_A_DAY, volatility=0.003))


@cache
def locked_run(seed: int, skill: float = 1.0, n_trades: int = 120) -> Run:
    """A run that leaves at the best of the next opens, or as much as it has skill at a random one."""
    tape = _market()
    rng = np.random.default_rng(seed)
    at = np.sort(rng.choice(len(tape) - 50, n_trades, replace=False))
    entries = pd.DataFrame(0.0, index=range(n_trades), columns=list(COLUMNS)).assign(
        pair=PAIR,
        is_short=False,
        leverage=1.0,
        stake=100.0,
        fee_ratio=RULES.fee_ratio,
        open_ms=tape.dates_ms[at],
        open_rate=tape.open[at],
        exit_reason="rl_exit",
    )
    best = np.array([1 + int(tape.open[first + 1 : first + 13].argmax()) for first in at])
    left = np.where(rng.random(n_trades) < skill, best, rng.integers(1, 13, n_trades))
    tapes, rules = {PAIR: tape}, {PAIR: RULES}
    trades = relive(entries, tapes, rules, leave_after=left).assign(exit_reason="rl_exit")
    classic = relive(entries, tapes, rules)
    return Run(figures_between(seed, trades, classic, tapes, rules), trades, classic, tapes, rules)


def figures_between(
    seed: int,
    trades: pd.DataFrame,
    classic: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
) -> RunFigures:
    """The figures of a run on one pair."""
    [dates] = [tape.dates_ms for tape in tapes.values()]
    days = range(int(dates[0] // DAY_MS), int(dates[-1] // DAY_MS) + 1)
    marked = daily_differences(daily_profits(trades, tapes, rules), daily_profits(classic, tapes, rules))
    differences = marked.reindex(days, fill_value=0.0).to_numpy()
    return figures(seed, differences, days[0], trades=len(trades))


def runs(skill: float = 1.0, n_trades: int = 120) -> tuple[Callable[[int], Run], list[int]]:
    """What makes runs on the locked candles, and the seeds that were asked for so far."""
    asked: list[int] = []

    def run(seed: int) -> Run:
        asked.append(seed)
        return locked_run(seed, skill, n_trades)

    return run, asked


def study_folder(home: Path) -> StudyFolder:
    return StudyFolder.of(home, "small")
