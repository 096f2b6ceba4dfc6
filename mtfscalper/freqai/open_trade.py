"""The account of a true trade, from the trade and what had happened before this candle, and from nothing else."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import TradingRules, profit_ratio, see_profit


class PriceHistory(NamedTuple):
    """What trades have lived through: the opens of a pair's candles, and the funding due at them.

    Python's numbers: a trade looks at them one by one.

    :ivar dates_ms: opening times in rising order
    :ivar open: quote currency
    :ivar funding: due on one unit of the asset at each open
    """

    timeframe_ms: int
    dates_ms: Sequence[int]
    open: Sequence[float]
    funding: Sequence[float]

    @classmethod
    def of(
        cls,
        timeframe_ms: int,
        dates_ms: npt.NDArray[np.int64],
        open_rates: npt.NDArray[np.float64],
        funding: npt.NDArray[np.float64],
    ) -> PriceHistory:
        """
        :param dates_ms: shape (n_candles,), as the others
        """
        return cls(timeframe_ms, dates_ms.tolist(), open_rates.tolist(), funding.tolist())


class TrueTrade:
    """A trade, followed from open to open.

    None of freqtrade's own extremes of a trade (``max_rate``, ``min_rate``) is read: in a backtest they know the candle
    that has just opened.
    """

    def __init__(self, rules: TradingRules, *, is_short: bool, open_ms: int, open_rate: float, leverage: float) -> None:
        """
        :param open_ms: when the trade was opened, milliseconds since 1970
        """
        self._rules = rules
        self._open_ms = open_ms
        side = -1.0 if is_short else 1.0
        opened = FLAT._replace(side=side, leverage=leverage, open_rate=open_rate)
        # The round trip's fees are the first profit there is to see.
        self._entered = opened._replace(best_profit=profit_ratio(rules, opened, open_rate))
        self._restart()

    def _restart(self) -> None:
        self._account = self._entered
        # The last open that has been seen, and the funding before it.
        self._seen_ms: int | None = None
        # The open asked about last, and the best profit there: the next question begins by seeing it.
        self._asked = (0, 0.0, 0.0)

    def at(
        self, history: PriceHistory, now_ms: int, now_rate: float, funding_received: float | None = None
    ) -> tuple[Account, float]:
        """What the environment would hold of the trade at the open of a candle; no later candle is read.

        :param now_ms: the candle that opens now
        :param now_rate: its open
        :param funding_received: on one unit of the asset until now, where the trade knows better than the history;
            negative if it was paid
        :return: the account, its best profit that of the opens so far, and its profit at this open
        """
        entry_ms = self._open_ms // history.timeframe_ms * history.timeframe_ms
        if self._seen_ms is not None and self._seen_ms >= now_ms:
            self._restart()
        dates_ms = history.dates_ms
        at = bisect_left(dates_ms, entry_ms if self._seen_ms is None else self._seen_ms + 1)
        account = self._account
        while at < len(dates_ms) and dates_ms[at] < now_ms:
            if dates_ms[at] > entry_ms:
                account = self._see(account, dates_ms[at], history.open[at])
            if history.funding[at]:
                # Due at this open, after the decision there.
                account = account._replace(funding=account.funding - account.side * history.funding[at])
            self._seen_ms = dates_ms[at]
            at += 1
        self._account = account
        if funding_received is not None:
            account = account._replace(funding=funding_received)
        profit = profit_ratio(self._rules, account, now_rate)
        account = see_profit(SCALAR, account, profit)
        if funding_received is None:
            self._asked = (now_ms, now_rate, account.best_profit)
        return account._replace(held_candles=float((now_ms - entry_ms) // history.timeframe_ms)), profit

    def ahead(
        self, history: PriceHistory, now: Account, now_ms: int, n: int
    ) -> tuple[Account, npt.NDArray[np.float64]]:
        """The same at the candle that opens now and those after it, if the trade lives so long.

        For whoever knows the opens to come: what holds at each of them is worked out from those up to it.

        :param now: the account at this open, see :meth:`at`
        :param n: candles; fewer where the history ends before
        :return: accounts, whose fields are arrays of shape (n,) where they change, and profits, shape (n,)
        """
        first = bisect_left(history.dates_ms, now_ms)
        opens = np.array(history.open[first : first + n])
        due = np.array(history.funding[first : first + n - 1])
        funding = np.cumsum(np.append(now.funding, -now.side * due))[: len(opens)]
        accounts = now._replace(funding=funding, held_candles=now.held_candles + np.arange(len(opens)))
        profits = profit_ratio(self._rules, accounts, opens)
        best = np.maximum.accumulate(np.maximum(profits, now.best_profit))
        return accounts._replace(best_profit=best), profits

    def _see(self, account: Account, date_ms: int, open_rate: float) -> Account:
        if self._asked[:2] == (date_ms, open_rate):
            return account._replace(best_profit=self._asked[2])
        return see_profit(SCALAR, account, profit_ratio(self._rules, account, open_rate))
