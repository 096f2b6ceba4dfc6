"""The account of an open trade, from the trade and what had happened before this candle, and from nothing else."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from freqtrade.persistence import LocalTrade

from mtfscalper.freqai.candle_clock import candle_open_ms
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.rules import profit_ratio, see_profit
from mtfscalper.trading.trading_rules import TradingRules


class PriceHistory(NamedTuple):
    """What trades have lived through: the opens of a pair's candles, and the funding due at them and between them.

    Python's numbers: a trade looks at them one by one.

    :ivar dates_ms: opening times in rising order
    :ivar open: quote currency
    :ivar funding: due on one unit of the asset at each open
    :ivar last_close: of the last candle: for a bot it stands for the open of the candle that is forming
    :ivar funding_within: due on one unit of the asset after each open and before the next; empty where none is
    """

    timeframe_ms: int
    dates_ms: Sequence[int]
    open: Sequence[float]
    funding: Sequence[float]
    last_close: float
    funding_within: Sequence[float] = ()

    @classmethod
    def from_arrays(
        cls,
        timeframe_ms: int,
        dates_ms: npt.NDArray[np.int64],
        open_rates: npt.NDArray[np.float64],
        funding: npt.NDArray[np.float64],
        last_close: float,
        funding_within: npt.NDArray[np.float64] | None = None,
    ) -> PriceHistory:
        """
        :param dates_ms: shape (n_candles,), as the other arrays
        """
        within = () if funding_within is None else funding_within.tolist()
        return cls(timeframe_ms, dates_ms.tolist(), open_rates.tolist(), funding.tolist(), last_close, within)

    def received(self, before: float, at: int, side: float) -> float:
        """What one unit of the asset in a trade has received (negative: paid) as the candle after one opens.

        :param before: the same, before this candle
        :param at: the candle's position
        :param side: +1 or -1
        """
        # Due at its open, after the decision there, and then until the next.
        after = before - side * self.funding[at]
        return after - side * self.funding_within[at] if self.funding_within else after


class _Seen(NamedTuple):
    """How far a trade has been followed.

    :ivar account: after everything up to ``last_ms``
    :ivar last_ms: the last open that has been seen, and its funding; None before the first
    :ivar asked: the open asked about last: its time, its rate and the best profit there. The next question begins by
        seeing that open, and need not work its profit out again
    """

    account: Account
    last_ms: int | None
    asked: tuple[int, float, float]


class Entered(Protocol):
    """What is read of a trade: freqtrade's, or another with these."""

    @property
    def pair(self) -> str:
        """Its pair."""
        ...

    @property
    def open_date_utc(self) -> datetime:
        """When it was entered."""
        ...

    @property
    def open_rate(self) -> float:
        """At which rate."""
        ...

    @property
    def is_short(self) -> bool:
        """On which side."""
        ...

    @property
    def leverage(self) -> float | None:
        """With which leverage; None for 1."""
        ...


class OpenTrade:
    """A trade of freqtrade's, followed from open to open.

    None of freqtrade's own extremes of a trade (``max_rate``, ``min_rate``) is read: in a backtest they know the candle
    that has just opened.
    """

    def __init__(self, trade: Entered, rules: TradingRules) -> None:
        """
        :param trade: read once; what changes while it is open is said by whoever asks
        """
        self.pair = trade.pair
        self.open_ms = int(trade.open_date_utc.timestamp() * 1000)
        self._rules = rules
        side = -1.0 if trade.is_short else 1.0
        opened = FLAT._replace(side=side, leverage=trade.leverage or 1.0, open_rate=trade.open_rate)
        # The round trip's fees are the first profit there is to see.
        entered = opened._replace(best_profit=profit_ratio(rules, opened, trade.open_rate))
        self._entered = self._seen = _Seen(entered, None, (0, 0.0, 0.0))
        self._history: PriceHistory | None = None

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
        entry_ms = candle_open_ms(history.timeframe_ms, self.open_ms)
        seen = self._seen
        if history is not self._history and seen.last_ms is not None and history.dates_ms[0] <= entry_ms:
            # A rate may be published late: a history that knows other fundings is followed from the entry again.
            first, stop = bisect_left(history.dates_ms, entry_ms), bisect_right(history.dates_ms, seen.last_ms)
            due = 0.0
            for past in range(first, stop):
                # The sum below, to the last bit.
                due = history.received(due, past, seen.account.side)
            if due != seen.account.funding:
                seen = self._entered
        self._history = history
        if seen.last_ms is not None and seen.last_ms >= now_ms:
            # An earlier candle than the last one asked about: followed from the entry again.
            seen = self._entered
        account, last_ms, asked = seen
        dates_ms = history.dates_ms
        at = bisect_left(dates_ms, entry_ms if last_ms is None else last_ms + 1)
        while at < len(dates_ms) and dates_ms[at] < now_ms:
            date_ms, open_rate = dates_ms[at], history.open[at]
            if date_ms > entry_ms:
                if (date_ms, open_rate) == asked[:2]:
                    account = account._replace(best_profit=asked[2])
                else:
                    account = see_profit(SCALAR, account, profit_ratio(self._rules, account, open_rate))
            if history.funding[at] or history.funding_within:
                account = account._replace(funding=history.received(account.funding, at, account.side))
            last_ms = date_ms
            at += 1
        followed = account
        if funding_received is not None:
            account = account._replace(funding=funding_received)
        profit = profit_ratio(self._rules, account, now_rate)
        account = see_profit(SCALAR, account, profit)
        if funding_received is None:
            asked = (now_ms, now_rate, account.best_profit)
        self._seen = _Seen(followed, last_ms, asked)
        return account._replace(held_candles=float((now_ms - entry_ms) // history.timeframe_ms)), profit


def funding_received(trade: LocalTrade) -> float:
    """Funding of one unit of the asset, as the exchange reckons it; negative if it was paid."""
    # The amount is 0 while the entry order waits.
    return (trade.funding_fees or 0.0) / trade.amount if trade.amount else 0.0
