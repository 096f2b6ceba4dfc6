"""A training of the main configuration on the synthetic market. It needs what a training needs, and no freqtrade."""

from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
from main_config import MAIN_CONFIG

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.offline import DEFAULT_SEED
from mtfscalper.offline.price_process import market_factor, pair_candles
from mtfscalper.settings import Settings
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.job import TrainingJob

PAIR = "BTC/USDT:USDT"
# Thirty days of five-minute candles, a tenth of them held out: the main configuration's period.
N_CANDLES, N_TRAIN = 8640, 7776
RULES = TradingRules(
    fee_ratio=0.0005, stoploss_ratio=0.02, max_trade_duration_candles=96, timeframe_minutes=5, can_short=True
)


def main_config() -> dict[str, Any]:
    """The main configuration, without a progress bar and TensorBoard."""
    config = deepcopy(MAIN_CONFIG)
    config["freqai"]["activate_tensorboard"] = False
    config["freqai"]["rl_config"]["progress_bar"] = False
    return config


def market(n_features: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Candles of the synthetic market with a signal on every seventh or so, and random features."""
    dates = pd.date_range("2024-08-15", "2024-11-05", freq="5min", inclusive="left", tz="UTC", unit="ms", name="date")
    candles = pair_candles(DEFAULT_SEED, PAIR, dates, market_factor(DEFAULT_SEED, dates)).iloc[:N_CANDLES]
    random = np.random.default_rng(0)
    signals = {name: random.random(N_CANDLES) < 0.15 for name in (LONG_SIGNAL, SHORT_SIGNAL)}
    features = random.normal(size=(N_CANDLES, n_features)).astype(np.float32)
    return candles.assign(**signals), features


def our_job(changes: dict[str, Any], lookback: int, n_features: int, cycles: int) -> TrainingJob:
    """This package's training.

    :param changes: of the main configuration's ``rl_config``
    """
    config = main_config()
    config["freqai"]["conv_width"] = lookback
    config["freqai"]["rl_config"] |= changes | {"train_cycles": cycles}
    settings = Settings.from_config(config)
    candles, features = market(n_features)
    candles["price_scale"] = price_scale(candles, 1.0)
    tape = MarketTape.from_frame(candles, features, pair=PAIR, timeframe_ms=300_000, signals_needed=True)
    environment = EnvSettings(RULES, settings.rl.model_reward_parameters, settings.rl.entry_mode, lookback)
    return TrainingJob(settings, tape.rows(0, N_TRAIN), tape.rows(N_TRAIN, N_CANDLES), environment)
