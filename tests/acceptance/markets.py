"""Markets whose best possible trading is known, and that best."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.trading.trading_rules import TradingRules

FIVE_MINUTES_MS = 300_000

# Of mean_reversion: what is left of a deviation after a candle, and what is added to it.
REVERSION, REVERSION_NOISE = 0.95, 0.0015


def tape_of(
    close: npt.NDArray[np.float64],
    features: npt.NDArray[np.float64],
    signals: tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None = None,
) -> MarketTape:
    """A tape of candles that open where the last one closed, with narrow wicks.

    :param signals: long and short
    """
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
    if signals is not None:
        frame = frame.assign(**dict(zip((LONG_SIGNAL, SHORT_SIGNAL), np.asarray(signals, dtype=float), strict=True)))
    frame["price_scale"] = price_scale(frame, 1.0)
    return MarketTape.from_frame(
        frame, features, pair="TEST/USDT", timeframe_ms=FIVE_MINUTES_MS, signals_needed=signals is not None
    )


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


def mean_reversion(seed: int, n_candles: int) -> MarketTape:
    """A price that is drawn back to 1,000, and a feature that tells how far it is from there."""
    random = np.random.default_rng(seed)
    deviation = np.zeros(n_candles)
    for candle in range(1, n_candles):
        deviation[candle] = REVERSION * deviation[candle - 1] + random.normal(0.0, REVERSION_NOISE)
    decoys = random.normal(0.0, 1.0, (n_candles, 3))
    return tape_of(1000.0 * np.exp(deviation), np.column_stack([deviation * 100, decoys]))


def gated_trends(seed: int, n_candles: int) -> MarketTape:
    """Signals after which the price moves for a while, the right way after two of three; features tell for how long.

    The first feature holds the candles that are left of the move after the open of the candle that follows, with the
    sign of its direction.
    """
    random = np.random.default_rng(seed)
    moves, left = random.normal(0.0, 0.0005, n_candles), np.zeros(n_candles)
    long, short = np.zeros(n_candles, dtype=bool), np.zeros(n_candles, dtype=bool)
    row = 20
    while row < n_candles - 30:
        length, direction = int(random.integers(5, 25)), int(random.choice([-1, 1]))
        signalled = direction if random.random() < 2 / 3 else -direction
        (long if signalled > 0 else short)[row] = True
        moves[row + 1 : row + 1 + length] += direction * 0.001
        left[row : row + length] = direction * np.arange(length, 0, -1)
        row += length + int(random.integers(2, 20))
    decoys = random.normal(0.0, 1.0, (n_candles, 3))
    return tape_of(1000.0 * np.exp(np.cumsum(moves)), np.column_stack([left / 10, decoys]), (long, short))


def reversion_log_return(tape: MarketTape, rules: TradingRules, first: int) -> float:
    """The log growth of equity by the best decisions of whoever knows how :func:`mean_reversion` is drawn.

    The value of each deviation, flat and on either side, is worked out on a grid by value iteration; the decisions
    that follow from it are then traded on the tape.

    :param first: the first candle that can be decided
    """
    fee, stake = rules.fee_ratio, rules.stake_ratio
    spread = REVERSION_NOISE / math.sqrt(1 - REVERSION**2)
    grid = np.linspace(-5 * spread, 5 * spread, 401)
    distance = (grid[None, :] - REVERSION * grid[:, None]) / REVERSION_NOISE
    following = np.exp(-0.5 * distance**2)
    following /= following.sum(axis=1, keepdims=True)
    drift = (REVERSION - 1) * grid * stake
    values = {side: np.zeros(len(grid)) for side in (-1, 0, 1)}
    discount = 0.999
    for _ in range(4000):
        ahead = {side: discount * following @ value for side, value in values.items()}
        held = {side: side * drift + ahead[side] for side in (-1, 1)}
        changed = {0: np.max([ahead[0], held[1] - fee * stake, held[-1] - fee * stake], axis=0)}
        # Nothing is entered in the candle of an exit.
        changed |= {side: np.maximum(held[side], ahead[0] - fee * stake) for side in (-1, 1)}
        moved = max(float(np.abs(changed[side] - values[side]).max()) for side in values)
        values = changed
        if moved < 1e-9:
            break
    ahead = {side: discount * following @ value for side, value in values.items()}
    enters = {side: side * drift + ahead[side] - fee * stake > ahead[0] for side in (-1, 1)}
    leaves = {side: ahead[0] - fee * stake > side * drift + ahead[side] for side in (-1, 1)}
    deviations = np.log(tape.open / 1000.0)
    at = np.clip(np.searchsorted(grid, deviations), 0, len(grid) - 1)
    total, side, entry, candle, last = 0.0, 0, 0, first, len(tape) - 1
    while candle <= last:
        due = candle - entry >= rules.max_trade_duration_candles or candle == last
        if side and (due or leaves[side][at[candle]]):
            ratio = side * (tape.open[candle] * (1 - side * fee) / (tape.open[entry] * (1 + side * fee)) - 1)
            total += math.log(1 + ratio * stake * (1 + side * fee))
            side = 0
        elif not side and candle < last:
            side = next((way for way in (1, -1) if enters[way][at[candle]]), 0)
            entry = candle
        candle += 1
    return total


def best_log_return(tape: MarketTape, rules: TradingRules, first: int, *, gated: bool = False) -> float:
    """The largest log growth of equity that any sequence of decisions could reach, by dynamic programming.

    For rules whose stop and ROI are never met. A trade entered at the open of candle k leaves at the open of a
    later one, and the next trade enters one candle after that at the earliest; the last candle's open closes all.

    :param first: the first candle that can be decided
    :param gated: enter on the tape's signals alone
    """
    fee, stake, last = rules.fee_ratio, rules.stake_ratio, len(tape) - 1
    opens = tape.open
    value = np.zeros(last + 3)
    for entry in range(last - 1, first - 1, -1):
        exits = np.arange(entry + 1, min(entry + rules.max_trade_duration_candles, last) + 1)
        best = value[entry + 1]
        for side, signal in ((1.0, tape.long_signal), (-1.0, tape.short_signal)):
            if gated and not signal[entry - 1]:
                continue
            ratio = side * (opens[exits] * (1 - side * fee) / (opens[entry] * (1 + side * fee)) - 1)
            growth = np.log(1 + ratio * stake * (1 + side * fee))
            best = max(best, float((growth + value[exits + 1]).max()))
        value[entry] = best
    assert math.isfinite(value[first])
    return float(value[first])
