"""Markets whose best possible trading is known, and that best."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.rules import TradingRules

FIVE_MINUTES_MS = 300_000


def tape_of(close: npt.NDArray[np.float64], features: npt.NDArray[np.float64]) -> MarketTape:
    """A tape of candles that open where the last one closed, with narrow wicks."""
    open_rate = np.concatenate([close[:1], close[:-1]])
    frame = pd.DataFrame(
        {
            "date": pd.date_range("2024-01-01", periods=len(close), freq="5min", tz="UTC"),
            "open": open_rate,
            "high": np.maximum(open_rate, close) * 1.0001,
            "low": np.minimum(open_rate, close) * 0.9999,
            "close": close,
        }
    )
    return MarketTape.from_frame(frame, features, pair="TEST/USDT", timeframe_ms=FIVE_MINUTES_MS, signals_needed=False)


def leaked_future(seed: int, n_candles: int) -> MarketTape:
    """A market that moves in blocks, and a feature that tells what is left of the coming block's move.

    Row k - 1 of the feature holds the move from the open of candle k to the end of the block that candle k is in.
    """
    random = np.random.default_rng(seed)
    steps: list[float] = []
    remaining: list[float] = []
    while len(steps) <= n_candles:
        length = int(random.integers(6, 25))
        drift = float(random.choice([-0.0015, 0.0, 0.0015]))
        block = drift + random.normal(0.0, 0.0003, length)
        steps += block.tolist()
        remaining += np.cumsum(block[::-1])[::-1].tolist()
    log_price = np.cumsum(steps[:n_candles])
    leak = np.array(remaining[1 : n_candles + 1])
    decoys = random.normal(0.0, 1.0, (n_candles, 3))
    return tape_of(1000.0 * np.exp(log_price), np.column_stack([leak * 50.0, decoys]))


def random_walk(seed: int, n_candles: int) -> MarketTape:
    """Nothing to learn: independent moves, and features that know only the past."""
    random = np.random.default_rng(seed)
    moves = random.normal(0.0, 0.001, n_candles)
    log_price = np.cumsum(moves)
    past = pd.Series(moves)
    hour, four_hours = past.rolling(12, min_periods=1).mean(), past.rolling(48, min_periods=1).mean()
    features = np.column_stack([past * 300, hour * 1000, four_hours * 2000])
    return tape_of(1000.0 * np.exp(log_price), features)


def best_log_return(tape: MarketTape, rules: TradingRules, first: int) -> float:
    """The largest log growth of equity that any sequence of decisions could reach, by dynamic programming.

    For rules whose stop and ROI are never met. A trade entered at the open of candle k leaves at the open of a
    later one, and the next trade enters one candle after that at the earliest; the last candle's open closes all.

    :param first: the first candle that can be decided
    """
    fee, stake, last = rules.fee_ratio, rules.stake_ratio, len(tape) - 1
    opens = tape.open
    value = np.zeros(last + 3)
    for entry in range(last - 1, first - 1, -1):
        exits = np.arange(entry + 1, min(entry + rules.max_trade_duration_candles, last) + 1)
        best = value[entry + 1]
        for side in (1.0, -1.0):
            ratio = side * (opens[exits] * (1 - side * fee) / (opens[entry] * (1 + side * fee)) - 1)
            growth = np.log(1 + ratio * stake * (1 + side * fee))
            best = max(best, float((growth + value[exits + 1]).max()))
        value[entry] = best
    assert math.isfinite(value[first])
    return float(value[first])
