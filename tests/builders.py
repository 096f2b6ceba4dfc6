"""Small builders shared by the tests: rules, candles, tapes."""

from typing import Any

import numpy as np
import pandas as pd

from mtfscalper.envs.episodes import EnvSettings, candles_of
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.trading.account import Candle
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.trading_rules import TradingRules

PAIR = "BTC/USDT:USDT"
TIMEFRAME_MS = 300_000


def make_rules(**changes: Any) -> TradingRules:
    """Rules with a fee of 5 bps and a stop at 2 %, without anything else that ends a trade for 96 candles."""
    defaults = {
        "fee_ratio": 0.0005,
        "stoploss_ratio": 0.02,
        "max_trade_duration_candles": 96,
        "timeframe_minutes": 5,
    }
    return TradingRules(**(defaults | changes))


def make_settings(
    entry_mode: str = "agent", lookback: int = 1, random_start: bool = False, **rules: Any
) -> EnvSettings:
    """Settings of an environment with the default reward, which records its trades."""
    return EnvSettings(make_rules(**rules), RewardSettings(), entry_mode, lookback, random_start, record_trades=True)


def candle_table(*rows: tuple[float, float, float, float], start: str = "2024-01-10") -> pd.DataFrame:
    """Five-minute candles from (open, high, low, close)."""
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"], dtype=float)
    frame.insert(0, "date", pd.date_range(start, periods=len(rows), freq="5min", tz="UTC"))
    return frame.assign(volume=1.0)


def random_candles(
    seed: int, n: int, *, volatility: float = 0.003, decimals: int = 2, rate: float = 100.0, start: str = "2024-01-10"
) -> pd.DataFrame:
    """A random walk with wicks, and with gaps between the close and the next open on every seventh candle or so."""
    rng = np.random.default_rng(seed)
    close = rate * np.exp(np.cumsum(rng.normal(0, volatility, n)))
    gaps = np.where(rng.random(n) < 0.15, rng.normal(0, 2 * volatility, n), 0.0)
    opens = np.append(rate, close[:-1]) * np.exp(gaps)
    high = np.maximum(opens, close) * (1 + 0.7 * abs(rng.normal(0, volatility, n)))
    low = np.minimum(opens, close) * (1 - 0.7 * abs(rng.normal(0, volatility, n)))
    return candle_table(*np.round(np.stack([opens, high, low, close], axis=1), decimals), start=start)


def make_tape(
    candles: pd.DataFrame,
    long_signal: Any = False,
    short_signal: Any = False,
    features: np.ndarray | None = None,
    timeframe_ms: int = TIMEFRAME_MS,
) -> MarketTape:
    """A tape of candles, with one feature that counts them unless given others.

    :param candles: and what a strategy says of its trades at each, in columns of the tape's names
    """
    if features is None:
        features = np.arange(len(candles), dtype=np.float32)[:, None]
    frame = candles.assign(**{LONG_SIGNAL: long_signal, SHORT_SIGNAL: short_signal})
    frame[[LONG_SIGNAL, SHORT_SIGNAL]] = frame[[LONG_SIGNAL, SHORT_SIGNAL]].astype(float)
    if "price_scale" not in frame:
        frame["price_scale"] = price_scale(frame, 1.0)
    return MarketTape.from_frame(frame, features, pair=PAIR, timeframe_ms=timeframe_ms, signals_needed=True)


def tape_candles(tape: MarketTape) -> list[Candle]:
    """The candles of a tape as Python numbers."""
    columns = candles_of([tape])
    lists = [[None] * len(tape) if column is None else column.tolist() for column in columns]
    return [Candle(*row) for row in zip(*lists, strict=True)]
