"""The account of a true trade, from the trade and what had happened before this candle, and from nothing else."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.rules import FLAT, Account, TradingRules, profit_ratio


class PriceHistory(NamedTuple):
    """What a trade has lived through: the opens of a pair's candles, and the funding due at them.

    :ivar dates_ms: opening times in rising order, int64, shape (n_candles,)
    :ivar open: quote currency, float64, shape (n_candles,)
    :ivar funding_before: funding due on one unit of the asset before each candle, and after the last, summed from
        the first on, float64, shape (n_candles + 1,)
    """

    timeframe_ms: int
    dates_ms: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    funding_before: npt.NDArray[np.float64]

    @classmethod
    def of(
        cls,
        timeframe_ms: int,
        dates_ms: npt.NDArray[np.int64],
        open_rates: npt.NDArray[np.float64],
        funding: npt.NDArray[np.float64],
    ) -> PriceHistory:
        """
        :param funding: due on one unit of the asset at each candle's open, shape (n_candles,)
        """
        return cls(timeframe_ms, dates_ms, open_rates, np.append(0.0, np.cumsum(funding)))


def account_of_trade(
    rules: TradingRules,
    history: PriceHistory,
    *,
    is_short: bool,
    open_ms: int,
    open_rate: float,
    leverage: float,
    now_ms: int,
    now_rate: float,
    funding_received: float | None = None,
) -> tuple[Account, float]:
    """What the environment would hold of a trade at the open of a candle.

    Candles from ``now_ms`` on are never read, and neither are freqtrade's own extremes of a trade
    (``max_rate``, ``min_rate``): in a backtest they know the candle that has just opened.

    :param open_ms: when the trade was opened, milliseconds since 1970
    :param now_ms: the candle that opens now
    :param now_rate: its open
    :param funding_received: on one unit of the asset until now, where the trade knows better than the history;
        negative if it was paid
    :return: the account, its best profit that of the opens so far, and its profit at this open
    """
    side = -1.0 if is_short else 1.0
    timeframe_ms = history.timeframe_ms
    entry_ms = open_ms // timeframe_ms * timeframe_ms
    entry = int(np.searchsorted(history.dates_ms, entry_ms))
    first, stop = (int(position) for position in np.searchsorted(history.dates_ms, (entry_ms + 1, now_ms)))
    received = -side * (history.funding_before[first : stop + 1] - history.funding_before[entry])
    at_entry = FLAT._replace(side=side, leverage=leverage, open_rate=open_rate)
    best = float(profit_ratio(rules, at_entry, open_rate))
    if stop > first:
        seen = profit_ratio(rules, at_entry._replace(funding=received[:-1]), history.open[first:stop])
        best = max(best, float(seen.max()))
    if funding_received is None:
        funding_received = float(received[-1]) if len(received) else 0.0
    now = at_entry._replace(funding=funding_received, held_candles=float((now_ms - entry_ms) // timeframe_ms))
    profit = float(profit_ratio(rules, now, now_rate))
    return now._replace(best_profit=max(best, profit)), profit
