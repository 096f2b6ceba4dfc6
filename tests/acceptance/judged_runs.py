"""Whole runs on markets whose truth is known: candles, the real command with a real training, and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from freqtrade_command import output_of
from shipped import shipped_options

from mtfscalper.offline import synthetic
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import MAIN_CONFIG, freqtrade_command, write_overlay
from mtfscalper.reporting.report import report_of
from mtfscalper.reporting.run_result import Asked
from mtfscalper.reporting.verdict import Verdict

ROOT = Path(__file__).parents[2]
PAIRS = ("BTC/USDT:USDT",)
MARKET = datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 3, 4, tzinfo=UTC)
# After the warm-up of the slowest indicators and the days to train on.
TIMERANGE = "20240112-20240303"
TRAINING_DAYS, TRADED_DAYS = 8, 51
SUB_STEPS = 12
# Next to nothing, so that to leave is no mistake on a random walk, and the policies do.
FEE_RATIO = 0.00001
# Standard deviation of the log return of a candle.
MOVE = 0.0012
# Of what is drawn back: its standard deviation, and what is left of it after a candle.
SWING, KEPT = 0.008, 0.95

# From a source of random numbers and a number of steps to log prices.
LogPrices = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]


def random_walk(random: np.random.Generator, n_steps: int) -> npt.NDArray[np.float64]:
    """Nothing to learn: independent moves. When an open trade is left changes what it earns by chance alone."""
    return np.cumsum(random.normal(0.0, MOVE / SUB_STEPS**0.5, n_steps))


def swings_on_a_walk(random: np.random.Generator, n_steps: int) -> npt.NDArray[np.float64]:
    """The same with swings that the price is drawn back from: a trade is best left at a high one, and soon."""
    kept = KEPT ** (1 / SUB_STEPS)
    pushes = random.normal(0.0, SWING * (1 - kept**2) ** 0.5, n_steps)
    swing = np.zeros(n_steps)
    for step in range(1, n_steps):
        swing[step] = kept * swing[step - 1] + pushes[step]
    return random_walk(random, n_steps) + swing


def candles_of(log_prices: LogPrices, seed: int, pair: str, span: tuple[datetime, datetime] = MARKET) -> pd.DataFrame:
    """Five-minute candles as freqtrade stores them."""
    dates = pd.date_range(*span, freq="5min", inclusive="left", unit="ms", name="date")
    random = np.random.default_rng([seed, PAIRS.index(pair)])
    instrument = synthetic.INSTRUMENTS[pair]
    path = instrument.first_price * np.exp(log_prices(random, len(dates) * SUB_STEPS))
    path = path.round(instrument.price_decimals).reshape(len(dates), SUB_STEPS)
    close = path[:, -1]
    open_rate = np.concatenate([path[:1, 0], close[:-1]])
    return pd.DataFrame(
        {
            "date": dates,
            "open": open_rate,
            "high": np.maximum(path.max(axis=1), open_rate),
            "low": np.minimum(path.min(axis=1), open_rate),
            "close": close,
            "volume": (instrument.mean_volume * random.lognormal(0.0, 0.5, len(dates))).round(3),
        }
    )


def write_candles(datadir: Path, log_prices: LogPrices, seed: int, span: tuple[datetime, datetime] = MARKET) -> None:
    """Write a market with all that freqtrade reads of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            synthetic, "generate_market", lambda *_: {pair: candles_of(log_prices, seed, pair, span) for pair in PAIRS}
        )
        synthetic.write_market(datadir, seed, *span, PAIRS)


def freqai_section(seed: int) -> dict[str, Any]:
    """One training for all days, of a net as small as learns the planted swings."""
    return {
        "identifier": "judged",
        "train_period_days": TRAINING_DAYS,
        "backtest_period_days": TRADED_DAYS,
        "activate_tensorboard": False,
        "rl_config": {
            "entry_mode": "classic",
            "initial_exit_probability": 0.2,
            "train_cycles": 8,
            "n_envs": 8,
            "n_steps": 256,
            "batch_size": 128,
            "n_epochs": 5,
            "net_arch": [32],
            "learning_rate": 0.001,
            "gamma": 0.97,
            "vec_env": "batched",
            "cpu_count": 1,
            "interop_threads": 1,
            "device": "cpu",
            "precision": "fp32",
            "progress_bar": False,
            "seed": seed,
        },
    }


def judged_run(home: Path, log_prices: LogPrices, seed: int) -> Verdict:
    """Write a market, train and backtest on it by the freqtrade command, and judge what came out.

    :param home: an empty folder
    :param seed: of the market and of the training
    """
    datadir, user = home / "data", home / "user"
    for folder in ("models", "backtest_results"):
        (user / folder).mkdir(parents=True)
    write_candles(datadir, log_prices, seed)
    with ReplayExchange(datadir) as exchange:
        overlay = write_overlay(home / "overlay.json", exchange.url, {"fee": FEE_RATIO, "freqai": freqai_section(seed)})
        command = freqtrade_command(
            "backtesting",
            (ROOT / MAIN_CONFIG, overlay),
            pairs=PAIRS,
            timerange=TIMERANGE,
            userdir=user,
            datadir=datadir,
            no_color=True,
            **shipped_options(),
        )
        output = output_of(command, cwd=home)
    assert "Starting training" in output
    return report_of(Asked(result=user / "backtest_results", datadir=datadir)).verdict
