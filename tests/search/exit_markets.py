"""Studies of exit rules on two markets: a random walk, on which no exit is worth anything, and one that swings back.

Nothing is trained. A trial is a rule that leaves at the first open at which a trade has gained its parameter; a seed
leaves some trades at random besides, as no two trainings are alike. On the market that swings back there is a best gain
to leave at; on the random walk all are luck.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from builders import PAIR, make_rules, make_tape
from optuna.trial import FrozenTrial
from search.judged_studies import CANDLES_A_DAY, TEST_SEEDS, TUNING_SEEDS, figures_between, finished, make_spec

from mtfscalper import artefacts
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.trades import COLUMNS
from mtfscalper.search.judge import best_of, judge
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.run_figures import Run
from mtfscalper.search.study_folder import StudyFolder

LONGEST = 96
RULES = make_rules(fee_ratio=0.0005, stoploss_ratio=0.05, max_trade_duration_candles=LONGEST, can_short=True)
SUB_STEPS = 6
STEP = 0.0008
# Of what swings back: its deviation, and its half-life in candles.
SWING, HALF_LIFE = 0.016, 12
# Of what seeds differ by: chance of each candle that a trade is left without a reason.
WHIM = 0.01


class Size(NamedTuple):
    """How much a study has to go by."""

    validation_days: int = 60
    locked_days: int = 45
    trades_a_day: int = 5
    trials: int = 20


def market(seed: int, days: int, *, swings: bool) -> MarketTape:
    """Candles of a random walk, and of one around which the price swings."""
    rng = np.random.default_rng([seed, swings])
    n = days * CANDLES_A_DAY * SUB_STEPS + 1
    path = np.cumsum(rng.normal(0, STEP / SUB_STEPS**0.5, n))
    if swings:
        kept = 0.5 ** (1 / (HALF_LIFE * SUB_STEPS))
        noise, swing = rng.normal(0, SWING * (1 - kept**2) ** 0.5, n), np.zeros(n)
        for at in range(1, n):
            swing[at] = kept * swing[at - 1] + noise[at]
        path = path + swing
    price = 1000 * np.exp(path)
    within = np.lib.stride_tricks.sliding_window_view(price, SUB_STEPS + 1)[::SUB_STEPS]
    dates = pd.date_range("2024-01-01", periods=len(within), freq="5min", tz="UTC")
    return make_tape(
        pd.DataFrame(
            {
                "date": dates,
                "open": within[:, 0],
                "high": within.max(axis=1),
                "low": within.min(axis=1),
                "close": within[:, -1],
                "volume": 1.0,
            }
        )
    )


def entries(tape: MarketTape, seed: int, size: Size) -> pd.DataFrame:
    """Longs and shorts at random candles."""
    rng = np.random.default_rng([seed, 1])
    n = size.trades_a_day * len(tape) // CANDLES_A_DAY
    at = np.sort(rng.choice(len(tape) - 2, n, replace=False))
    return pd.DataFrame(0.0, index=range(n), columns=list(COLUMNS)).assign(
        pair=PAIR,
        is_short=rng.random(n) < 0.5,
        leverage=1.0,
        stake=100.0,
        fee_ratio=RULES.fee_ratio,
        open_ms=tape.dates_ms[at],
        open_rate=tape.open[at],
        exit_reason="rl_exit",
    )


def run(tape: MarketTape, entered: pd.DataFrame, gain: float, seed: int) -> Run:
    """The run of a rule that leaves at a gain."""
    first = np.searchsorted(tape.dates_ms, entered["open_ms"].to_numpy())
    held = np.arange(1, LONGEST + 1)
    opens = tape.open[np.minimum(first[:, None] + held, len(tape) - 1)]
    side = np.where(entered["is_short"], -1.0, 1.0)[:, None]
    leaves = side * (opens / entered["open_rate"].to_numpy()[:, None] - 1) >= gain
    leaves |= np.random.default_rng([seed, 2]).random(leaves.shape) < WHIM
    leave_after = np.where(leaves.any(axis=1), leaves.argmax(axis=1) + 1, LONGEST)
    tapes, rules = {PAIR: tape}, {PAIR: RULES}
    lived = relive(entered, tapes, rules, leave_after=leave_after)
    # As a backtest calls them.
    trades = lived.assign(exit_reason=lived["exit_reason"].replace("exit_signal", "rl_exit"))
    classic = relive(entered, tapes, rules)
    return Run(figures_between(seed, trades, classic, tapes, rules), trades, classic, tapes, rules)


def study_on(
    folder: StudyFolder, seed: int, size: Size, *, swings: bool
) -> tuple[list[FrozenTrial], Callable[[int], Run]]:
    """A study's trials on a market, and what runs its best one on candles that come after."""
    folder.write_spec(make_spec())
    validation, locked = (
        market(seed + offset, days, swings=swings)
        for offset, days in ((0, size.validation_days), (10_000, size.locked_days))
    )
    entered, later = entries(validation, seed, size), entries(locked, seed + 10_000, size)
    trials = []
    gains = np.geomspace(0.001, 0.02, size.trials)
    for number, gain in enumerate(gains):
        means = []
        for tuning in TUNING_SEEDS:
            figures = run(validation, entered, gain, tuning).figures
            artefacts.write_json(folder.run_file(number, tuning), figures.as_json())
            means.append(np.mean(figures.differences))
        trials.append(finished(number, float(np.mean(means)), 1e-5 * (number + 1)))
    return trials, partial(run, locked, later, gains[best_of(trials).number])


def judged(folder: StudyFolder, seed: int, size: Size, *, swings: bool) -> Judgement:
    """The winner of a study on the locked candles."""
    trials, locked_run = study_on(folder, seed, size, swings=swings)
    judgement, _ = judge(folder, trials, best_of(trials), lambda of: locked_run(of))
    assert judgement.seeds == TEST_SEEDS
    return judgement
