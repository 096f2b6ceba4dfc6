"""The candles that environments are stepped on."""

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.offline.synthetic import generate_market

PAIR = "BTC/USDT:USDT"
N_CANDLES = 8640
N_FEATURES = 46


def market() -> tuple[pd.DataFrame, np.ndarray]:
    """Candles of the synthetic market, with funding due every eight hours, and random features."""
    candles = generate_market(pairs=(PAIR,))[PAIR].iloc[:N_CANDLES].reset_index(drop=True)
    due = np.arange(N_CANDLES) % 96 == 0
    features = np.random.default_rng(0).normal(size=(N_CANDLES, N_FEATURES)).astype(np.float32)
    return candles.assign(funding=np.where(due, candles["open"] * 1e-4, 0.0)), features


def tape_of(candles: pd.DataFrame, features: np.ndarray) -> MarketTape:
    """The tape of :func:`market`, without a signal."""
    frame = candles.assign(classic_long=False, classic_short=False)
    frame["price_scale"] = price_scale(frame, 1.0)
    return MarketTape.from_frame(frame, features, pair=PAIR, timeframe_ms=300_000, signals_needed=False)
