"""Whole studies with real trainings, in this process: begun, searched and judged by the code of the commands.

What ``mtfscalper study run`` starts as a worker's process works here in this one, and ``mtfscalper study judge``'s own
function judges. The trainings are as small as come to policies that leave their trades, and to different ones.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from freqtrade.misc import deep_merge_dicts
from judged_runs import FEE_RATIO, LogPrices, freqai_section, write_candles
from rich.console import Console
from studies import LOOSE, StudyHome

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.search.judge_command import JudgeRequest, judge_study
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.new_study import Asked
from mtfscalper.search.study_run import Request, open_or_begin
from mtfscalper.search.worker import EXIT_DONE, Plan, run_worker

TRIALS, SEEDS, TEST_SEEDS = 2, 1, 2
TRAINING_DAYS, VALIDATION_DAYS, LOCKED_DAYS = 4, 16, 32
# After the warm-up of the slowest indicators and the days to train on.
SPAN = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 25, tzinfo=UTC)
TIMERANGE = "20240108-20240225"
SPACE: dict[str, Any] = {
    "initial_exit_probability": {"type": "float", "low": 0.2, "high": 0.6, "log": True},
    "learning_rate": {"type": "float", "low": 0.001, "high": 0.01, "log": True},
    "strategy.exit_probability_min": {"type": "float", "low": 0.3, "high": 0.5, "step": 0.1},
}
TINY: dict[str, Any] = {
    "train_period_days": TRAINING_DAYS,
    "backtest_period_days": VALIDATION_DAYS,
    # Two hours at most: more trades, and fewer candles on which a policy is asked.
    "rl_config": {
        "train_cycles": 2,
        "n_steps": 128,
        "net_arch": [8],
        "max_trade_duration_candles": 24,
        "search_space": SPACE,
    },
}


def judged_study(folder: Path, log_prices: LogPrices, seed: int) -> Judgement:
    """Write a market, search on it and judge the best trial on its last days.

    :param folder: an empty one
    :param seed: of the market and of the study
    """
    write_candles(folder / "data", log_prices, seed, SPAN)
    console = Console(quiet=True)
    with ReplayExchange(folder / "data") as exchange:
        home = StudyHome(
            folder / "study",
            exchange.url,
            market=folder / "data",
            timerange=TIMERANGE,
            holdout_days=LOCKED_DAYS,
            freqai=deep_merge_dicts(TINY, freqai_section(seed)),
            fee=FEE_RATIO,
            strategy_parameters=LOOSE,
        )
        asked = Asked(LOCKED_DAYS, SEEDS, TEST_SEEDS, seed=seed)
        opened = open_or_begin(Request("small", home.arguments, TRIALS, 1, asked), console)
        plan = Plan(TRIALS, None, datetime.now())
        assert run_worker(opened.folder, None, opened.arguments, 0, plan, None) == EXIT_DONE
        return judge_study(JudgeRequest("small", home.user), console)
