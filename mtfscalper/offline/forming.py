"""The price within a candle, and a candle that has not closed yet.

A candle does not say in which order its prices came. The replay supposes what chart programs do: the price stays at the
open for a moment, goes to the extreme that is nearer to it, then to the other one, and from there to the close
(https://www.tradingview.com/pine-script-docs/concepts/strategies/#broker-emulator). What is shown at a moment is the
path up to it and nothing later.
"""

import numpy as np
from numpy.typing import NDArray

from mtfscalper.offline.candles import Candles

# Shares of a candle's length at which the price is at the open still, at both extremes and at the close.
_SHARES = (0.0, 0.1, 0.4, 0.7, 1.0)


def price_path(values: NDArray[np.float64]) -> tuple[float, ...]:
    """The prices of a candle at :data:`_SHARES`.

    :param values: open, high, low, close
    """
    opened, high, low, close = values[:4].tolist()
    extremes = (high, low) if high - opened < opened - low else (low, high)
    return (opened, opened, *extremes, close)


def formed(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """What of a candle has formed.

    :param values: open, high, low, close, volume of the whole candle
    :param share: of its length that has passed, from 0 to 1
    :return: the same of the part, its close the price of the moment
    """
    path = price_path(values)
    price = float(np.interp(share, _SHARES, path))
    seen = [price, *(point for point, at in zip(path, _SHARES, strict=True) if at <= share)]
    return np.array([path[0], max(seen), min(seen), price, values[4] * share])


def path_between(candles: Candles, since_ms: int, until_ms: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The price from one moment to another; where candles are missing it stays at the close before.

    :param candles: the shortest of these prices
    :return: the corners of the path, the two moments among them: times in Unix milliseconds, and prices; empty where
        nothing had opened by ``until_ms``
    """
    first = max(0, int(np.searchsorted(candles.open_ms, since_ms, side="right")) - 1)
    last = int(np.searchsorted(candles.open_ms, until_ms, side="right"))
    times: list[float] = []
    prices: list[float] = []
    for opened_ms, values in zip(candles.open_ms[first:last].tolist(), candles.values[first:last], strict=True):
        if prices:
            times.append(opened_ms)
            prices.append(prices[-1])
        times += [opened_ms + share * candles.length_ms for share in _SHARES]
        prices += price_path(values)
    if not times:
        return np.empty(0), np.empty(0)
    corners = np.array(times), np.array(prices)
    since_ms = max(since_ms, int(times[0]))
    inside = (corners[0] > since_ms) & (corners[0] < until_ms)
    ends = np.interp([since_ms, until_ms], *corners)
    return (
        np.concatenate([[since_ms], corners[0][inside], [until_ms]]),
        np.concatenate([ends[:1], corners[1][inside], ends[1:]]),
    )


def first_at(
    path: tuple[NDArray[np.float64], NDArray[np.float64]], level: float, from_above: bool
) -> tuple[int, float] | None:
    """When a path first reaches a level.

    :param path: of :func:`path_between`
    :param from_above: whether the level is reached by prices at it or below, else at it or above
    :return: the moment in Unix milliseconds, rounded up, and the price then: the level, or beyond it after a jump
    """
    times, prices = path
    reached = prices <= level if from_above else prices >= level
    if not reached.any():
        return None
    corner = int(reached.argmax())
    if corner == 0 or times[corner] == times[corner - 1]:
        return int(np.ceil(times[corner])), float(prices[corner])
    share = (level - prices[corner - 1]) / (prices[corner] - prices[corner - 1])
    return int(np.ceil(times[corner - 1] + share * (times[corner] - times[corner - 1]))), level


def forming(candles: Candles, finest: Candles, now_ms: int) -> NDArray[np.float64] | None:
    """The candle that forms at a moment, None where the data has none.

    :param candles: of any length
    :param finest: the shortest candles of the same prices; what the longer one is made of, where they are there
    :return: open, high, low, close, volume
    """
    row = int(np.searchsorted(candles.open_ms, now_ms, side="right")) - 1
    if row < 0 or now_ms >= candles.open_ms[row] + candles.length_ms:
        return None
    opened_ms = int(candles.open_ms[row])
    if finest.length_ms < candles.length_ms:
        first, last = np.searchsorted(finest.open_ms, (opened_ms, now_ms + 1), side="left").tolist()
        parts = finest.values[first:last]
        if len(parts) and finest.open_ms[first] == opened_ms:
            share = min(1.0, (now_ms - int(finest.open_ms[last - 1])) / finest.length_ms)
            parts = np.vstack([parts[:-1], formed(parts[-1], share)])
            return np.array(
                [parts[0, 0], parts[:, 1].max(), parts[:, 2].min(), parts[-1, 3], parts[:, 4].sum()], dtype=np.float64
            )
    return formed(candles.values[row], (now_ms - opened_ms) / candles.length_ms)


def known_at(candles: Candles, finest: Candles, now_ms: int, decimals: int) -> Candles:
    """The candles that an exchange has at a moment: those that have closed, and the one that forms.

    :param candles: a selection of neighbours, of any length
    :param finest: see :func:`forming`
    :param decimals: of prices
    """
    closed = candles.closed_by(now_ms)
    values = forming(candles, finest, now_ms)
    if values is None:
        return closed
    rounded = np.append(values[:4].round(decimals), values[4].round(3))
    n_closed = len(closed.open_ms)
    return candles._replace(open_ms=candles.open_ms[: n_closed + 1], values=np.vstack([closed.values, rounded]))
