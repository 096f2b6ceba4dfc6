"""The one place that slices history."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view


def gap_free_segments(dates_ms: npt.NDArray[np.int64], timeframe_ms: int) -> list[tuple[int, int]]:
    """Split positions into runs of consecutive candles.

    :param dates_ms: opening times in rising order, shape (n_candles,)
    :return: half-open ranges [start, stop) that cover every position
    """
    if len(dates_ms) == 0:
        return []
    cuts = np.flatnonzero(np.diff(dates_ms) != timeframe_ms) + 1
    edges = [0, *cuts.tolist(), len(dates_ms)]
    return list(itertools.pairwise(edges))


def lookbacks_ending_at(
    features: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], size: int
) -> npt.NDArray[np.float32]:
    """The ``size`` candles up to and including each row, oldest first, side by side.

    Before the first candle stands the first candle; whoever decides there asks whether the lookback is whole.

    :param features: shape (n_candles, n_features)
    :param rows: shape (n,)
    :return: shape (n, size * n_features)
    """
    members = np.maximum(rows[:, None] + np.arange(1 - size, 1), 0)
    return np.asarray(features[members].reshape(len(rows), -1))


def range_position(
    high: npt.NDArray[np.float64], low: npt.NDArray[np.float64], open_rate: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.float64]:
    """Place of each open in the range of the ``size`` candles before it: 0 the low, 1 the high, clipped.

    The first candles look back as far as there is; the very first, and a flat range, lie in the middle.

    :param high: shape (n_candles,), as ``low`` and ``open_rate``
    """
    position = np.full(len(open_rate), 0.5)
    if len(open_rate) < 2:
        return position
    padded_high = np.concatenate([np.full(size - 1, -np.inf), high[:-1]])
    padded_low = np.concatenate([np.full(size - 1, np.inf), low[:-1]])
    top = sliding_window_view(padded_high, size).max(axis=1)
    bottom = sliding_window_view(padded_low, size).min(axis=1)
    width = top - bottom
    np.divide(open_rate[1:] - bottom, width, out=position[1:], where=width > 0)
    return np.asarray(np.clip(position, 0.0, 1.0))
