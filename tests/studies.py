"""A study as small as one can be: a pair, two periods of a day, nets of sixteen, on the loopback exchange."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from shipped import shipped_options

from mtfscalper.offline.freqtrade_command import write_overlay
from mtfscalper.offline.synthetic import write_market
from mtfscalper.search.run_figures import Instance, Run, RunFigures
from mtfscalper.search.study_folder import StudySpec

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "config_rl_hybrid.json"
PAIR = "BTC/USDT:USDT"
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 10, tzinfo=UTC)
# Two days of validation, two that are locked.
TIMERANGE = "20240905-20240909"
HOLDOUT_DAYS = 2
SPACE: dict[str, Any] = {
    "learning_rate": {"type": "float", "low": 0.0001, "high": 0.01, "log": True},
    "net_arch": {"type": "categorical", "choices": [[8], [16]]},
    "reward.drawdown_weight": {"type": "float", "low": 0.0, "high": 0.2, "step": 0.1},
    "freqai.conv_width": {"type": "int", "low": 1, "high": 2},
    "strategy.exit_probability_min": {"type": "float", "low": 0.3, "high": 0.5, "step": 0.1},
}
FREQAI: dict[str, Any] = {
    "identifier": "study",
    "train_period_days": 2,
    "backtest_period_days": 1,
    "activate_tensorboard": False,
    "rl_config": {
        "entry_mode": "classic",
        "initial_exit_probability": 0.3,
        "train_cycles": 1,
        "n_envs": 2,
        "n_steps": 64,
        "batch_size": 32,
        "n_epochs": 1,
        "net_arch": [16],
        "vec_env": "batched",
        "cpu_count": 1,
        "interop_threads": 1,
        "device": "cpu",
        "precision": "fp32",
        "progress_bar": False,
        "search_space": SPACE,
    },
}
# More signals in two days than the defaults give.
LOOSE = {"adx_base": 12, "adx_middle": 10, "adx_high": 10, "rsi_low": 35, "rsi_high": 80}


class StudyHome:
    """A user directory, candles and the config of a small study.

    :ivar arguments: of ``freqtrade backtesting``
    """

    def __init__(
        self,
        home: Path,
        url: str,
        *,
        market: Path | None = None,
        timerange: str = TIMERANGE,
        holdout_days: int = HOLDOUT_DAYS,
        **sections: Any,
    ) -> None:
        """
        :param url: of the loopback exchange
        :param market: candles; None writes them
        :param sections: further parts of the config
        """
        self.home, self.user, self.holdout_days = home, home / "user", holdout_days
        (self.user / "models").mkdir(parents=True)
        self.data = market or write_candles(home / "data")
        sections = {"freqai": FREQAI, "strategy_parameters": LOOSE, "max_open_trades": 1, **sections}
        self.overlay = write_overlay(home / "overlay.json", url, json.loads(json.dumps(sections)))
        config = json.loads(self.overlay.read_text())
        config["exchange"]["pair_whitelist"] = [PAIR]
        self.overlay.write_text(json.dumps(config))
        self.arguments = ["--config", str(CONFIG), "--config", str(self.overlay), "--userdir", str(self.user)]
        self.arguments += ["--datadir", str(self.data), "--timerange", timerange]
        for name, value in shipped_options().items():
            self.arguments += [f"--{name.replace('_', '-')}", value]

    def command(self, *options: str, name: str = "small") -> list[str]:
        """The command line of ``mtfscalper study run``."""
        words = [sys.executable, "-m", "mtfscalper.cli", "study", "run", "--study", name, *options]
        return [*words, "--holdout-days", str(self.holdout_days), *self.arguments]

    def run(self, *options: str, name: str = "small", timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return self._ended(self.command(*options, name=name), timeout)

    def judge(self, *options: str, name: str = "small", timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """``mtfscalper study judge`` of its best trial."""
        words = [sys.executable, "-m", "mtfscalper.cli", "study", "judge", "--study", name]
        return self._ended([*words, "--userdir", str(self.user), *options], timeout)

    def _ended(self, command: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.home,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )


def write_candles(folder: Path) -> Path:
    """Write the candles of the small study.

    :return: the folder
    """
    write_market(folder, start=MARKET[0], stop=MARKET[1], pairs=(PAIR,))
    return folder


def spec_of(**changes: Any) -> StudySpec:
    """The spec of a study of two pairs, two periods of a day and two seeds."""
    values: dict[str, Any] = {
        "name": "small",
        "created": "2026-11-27T18:00:00Z",
        "arguments": (),
        "config": {},
        "space": {"learning_rate": {"type": "float", "low": 0.001, "high": 0.009}},
        "first": {"learning_rate": 0.003},
        "overlay": {"freqai": {"rl_config": {"threads_per_job": 1}}},
        "strategy": "MtfScalper_RL_Hybrid",
        "pairs": ("A/USDT:USDT", "B/USDT:USDT"),
        "timeframe": "5m",
        "validation": "20240905-20240907",
        "locked": "20240907-20240909",
        "lock_ms": 1725667200000,
        "datadir": "data",
        "tuning_seeds": (7, 8),
        "test_seeds": (9,),
        "sampler_seed": 1,
        "candles": "candles",
        "sources": {},
        "versions": {},
        "code": "code",
    }
    return StudySpec(**{**values, **changes})


def run_of(seed: int, differences: Mapping[tuple[str, str], float]) -> Run:
    """A run whose instances have the differences that are given, by pair and ISO date."""
    instances = tuple(
        Instance(pair, period, seed, 1.0, 10, difference) for (pair, period), difference in differences.items()
    )
    # The first candle of 2024-09-05 to that of 2024-09-07.
    days, first_ms = (19_971, 19_972, 19_973), 1725494400000
    figures = RunFigures(
        seed=seed,
        first_ms=first_ms,
        last_ms=first_ms + 2 * 86_400_000,
        days=days,
        differences=(*(sum(each.difference for each in instances) / 2 for _ in range(2)), 0.0),
        begun=(20, 20, 0),
        profits=(0.01, 0.02, 0.0),
        trades=40,
        max_drawdown=0.1,
        instances=instances,
        seconds=1.0,
        training_seconds=0.5,
        timesteps=100,
    )
    return Run(figures, pd.DataFrame({"pair": ["A/USDT:USDT"]}), pd.DataFrame(), {}, {})
