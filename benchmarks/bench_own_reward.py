"""Environment steps a second with a reward that was written for FreqAI, beside FreqAI's own environment.

The reward is that of freqtrade's documentation; the weighted terms that pay about the same stand beside it. Every
contender takes random actions on the same candles, in interleaved rounds.

    python benchmarks/bench_own_reward.py --json bench_own_reward.json
"""

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_env_step import stock_environment
from env_contenders import RULES, Contender, single, vectorised
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from rich.console import Console
from rich.table import Table
from step_market import PAIR, market

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.freqai.own_reward import users_reward
from mtfscalper.machine import usable_processors
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.user_code import UserCode

STOCK = "freqtrade's own environment x 1"
RULES_OF_CONFIG: dict[str, Any] = {
    "max_trade_duration_candles": 96,
    "model_reward_parameters": {"rr": 1, "profit_aim": 0.025, "win_reward_factor": 2},
}


class Documented(MtfScalperFreqaiModel):
    """A model with the reward of freqtrade's documentation."""

    MyRLEnv = ReinforcementLearner.MyRLEnv


def entered(xp: Any, settings: Any, transition: Any) -> Any:
    """1 for every entry."""
    return xp.where(transition.fill.entered, 1.0, 0.0)


def contended() -> tuple[dict[str, Contender], list[Any]]:
    """What runs against the clock, and what has to be closed afterwards."""
    candles, features = market()
    frame = candles.assign(classic_long=False, classic_short=False)
    frame["price_scale"] = price_scale(frame, 1.0)
    tape = MarketTape.from_frame(frame, features, pair=PAIR, timeframe_ms=300_000, signals_needed=False)
    default = EnvSettings(RULES, RewardSettings(), "agent", 1)
    config = {"stake_amount": "unlimited", "timeframe": "5m", "freqai": {"rl_config": RULES_OF_CONFIG}}
    reward = users_reward(Documented, config)
    assert reward is not None
    own = replace(default, own_reward=reward.of_pair(PAIR, config, RULES, 1, None))
    weights = {"equity_weight": 0, "invalid_weight": 2, "idle_weight": 1, "duration_weight": 1}
    terms = RewardSettings(**weights, profit_quality_weight=3.75, terms={"my_terms:entered": 25.0})
    weighted = replace(default, reward=terms, own_terms=(UserCode("my_terms:entered", "", entered),))
    rewards = {"the documented reward": own, "the same as terms": weighted, "the default reward": default}
    contenders: dict[str, Contender] = {STOCK: single(stock_environment(candles, features))}
    made = []
    for name, settings in rewards.items():
        for backend, n_envs in (("dummy", 8), ("subproc", 8), ("batched", 8), ("batched", 64)):
            if backend == "batched" and settings.own_reward is not None:
                continue
            made.append(build_vec_env(backend, tape, settings, n_envs))
            contenders[f"{name}, {backend} x {n_envs}"] = vectorised(made[-1])
    return contenders, made


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds a contender and round (default 0.4)")
    target = Path(tempfile.gettempdir(), "bench_own_reward.json")
    parser.add_argument("--json", type=Path, default=target, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    contenders, made = contended()
    try:
        for run in contenders.values():
            run(0.1)
        rounds = [{name: run(options.seconds) for name, run in contenders.items()} for _ in range(options.rounds)]
    finally:
        for vec_env in made:
            vec_env.close()
    medians = {name: float(np.median([each[name] for each in rounds])) for name in contenders}
    # Of each round: what else the machine does meets both.
    ratios = {name: float(np.median([each[name] / each[STOCK] for each in rounds])) for name in contenders}
    table = Table("environment", "steps/s", "x freqtrade", title="environment steps a second, medians")
    for name, median in medians.items():
        table.add_row(name, f"{median:,.0f}", f"{ratios[name]:.2f}")
    Console().print(table)
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {usable_processors()} processors",
        "rounds": rounds,
        "median": medians,
        "median_ratio_to_freqtrade": ratios,
    }
    options.json.write_text(json.dumps(facts, indent=1))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
