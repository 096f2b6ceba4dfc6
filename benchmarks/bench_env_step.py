"""Environment steps a second: ours at many batch sizes, in every vector environment, beside freqtrade's own.

Every contender takes random actions on the same candles; rounds are interleaved, so that a change of the machine's
speed meets all of them; medians and ratios to freqtrade's environment are printed and written as JSON.

    python benchmarks/bench_env_step.py --json bench_env_step.json
"""

import argparse
import json
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from env_contenders import RULES, on_device, single, vectorised
from freqtrade.freqai.prediction_models.ReinforcementLearner import ReinforcementLearner
from rich.console import Console
from rich.progress import track
from rich.table import Table
from step_market import PAIR, market, tape_of

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.device_env import EXACT_ARITHMETIC, DeviceEnv
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.machine import usable_processors
from mtfscalper.trading.reward import RewardSettings

STOCK = "freqtrade Base5ActionRLEnv x 1"


def stock_environment(candles: pd.DataFrame, features: np.ndarray) -> Any:
    """The environment of freqtrade's ReinforcementLearner, with its example reward."""
    config = {
        "timeframe": "5m",
        "stake_amount": "unlimited",
        "freqai": {
            "rl_config": {
                "add_state_info": False,
                "max_training_drawdown_pct": 0.9,
                "max_trade_duration_candles": 96,
                "model_reward_parameters": {"rr": 1, "profit_aim": 0.025, "win_reward_factor": 2},
            }
        },
    }
    return ReinforcementLearner.MyRLEnv(
        df=pd.DataFrame(features),
        prices=candles[["open", "high", "low", "close"]],
        reward_kwargs=config["freqai"]["rl_config"]["model_reward_parameters"],
        window_size=1,
        config=config,
        live=False,
        fee=RULES.fee_ratio,
        can_short=True,
        pair=PAIR,
        df_raw=pd.DataFrame(features),
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default 7)")
    parser.add_argument("--seconds", type=float, default=0.4, help="seconds a contender and round (default 0.4)")
    default = Path(tempfile.gettempdir(), "bench_env_step.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)

    candles, features = market()
    tape = tape_of(candles, features)
    settings = EnvSettings(RULES, RewardSettings(), "agent", 1)
    vec_envs = {
        "dummy x 8": build_vec_env("dummy", tape, settings, 8),
        "subproc x 8": build_vec_env("subproc", tape, settings, 8),
    }
    for n_envs in (1, 8, 64, 1024, 4096):
        vec_envs[f"batched x {n_envs}"] = build_vec_env("batched", tape, settings, n_envs)
    try:
        contenders = {STOCK: single(stock_environment(candles, features))}
        contenders["TradingEnv x 1"] = single(TradingEnv(tape, settings))
        contenders |= {name: vectorised(vec_env) for name, vec_env in vec_envs.items()}
        compiler = partial(torch.compile, dynamic=False, options=EXACT_ARITHMETIC)
        for n_envs in (64, 4096):
            contenders[f"torch x {n_envs}"] = on_device(DeviceEnv([tape], settings, n_envs, "cpu"))
        contenders["torch, compiled x 4096"] = on_device(DeviceEnv([tape], settings, 4096, "cpu", compiler=compiler))
        rates: dict[str, list[float]] = {name: [] for name in contenders}
        for run in contenders.values():
            run(0.1)
        for _ in track(range(options.rounds), "rounds", console=Console(stderr=True)):
            for name, run in contenders.items():
                rates[name].append(run(options.seconds))
    finally:
        for vec_env in vec_envs.values():
            vec_env.close()

    medians = {name: float(np.median(values)) for name, values in rates.items()}
    table = Table(title="environment steps a second, all rules active, one thread")
    for column in ("environment", "median", "lowest", "highest", "x freqtrade"):
        table.add_column(column, justify="left" if column == "environment" else "right")
    for name, values in rates.items():
        ratio = medians[name] / medians[STOCK]
        table.add_row(name, f"{medians[name]:,.0f}", f"{min(values):,.0f}", f"{max(values):,.0f}", f"{ratio:.1f}")
    Console().print(table)
    facts = {
        "command": " ".join(["python", *sys.argv]),
        "machine": f"{platform.machine()}, {usable_processors()} processors",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "steps_per_second": rates,
        "median": medians,
        "ratio_to_freqtrade": {name: median / medians[STOCK] for name, median in medians.items()},
    }
    options.json.write_text(json.dumps(facts, indent=1))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
