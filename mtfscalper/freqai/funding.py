"""The funding of a pair: from the rates on disk and, for a bot, from the exchange as they are published."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import TRADE_MODES, CandleType, TradingMode
from freqtrade.util import dt_now, dt_ts

logger = logging.getLogger(__name__)

# Where the rates known do not show how far they lie apart.
_USUAL_INTERVAL = pd.Timedelta(hours=8)
# An exchange needs a moment to publish a rate. A decision needs it at the next candle's open at the earliest.
_PUBLISHED_AFTER = pd.Timedelta(minutes=1)
# After an answer without news: then twice as long each time, up to a funding interval.
_ASK_AGAIN_AFTER = pd.Timedelta(minutes=10)
# How often a bot's thread looks at the clock.
_LOOK_SECONDS = 10.0


class Funding:
    """What one unit of an asset owes at each funding time, by pair.

    A backtest reads the files that freqtrade's backtester reads. A bot begins with them, since it downloads them when
    it starts, and asks the exchange for what has come since: once in a funding interval for each pair, in a thread of
    its own (:meth:`start_watching`) and before a training, so that no decision waits for an answer.
    """

    def __init__(self, config: Mapping[str, Any], data: DataProvider | None) -> None:
        """
        :param config: the freqtrade config, with its run mode
        :param data: where rates come from; without it there are none
        """
        self._config, self._data = config, data
        self._exchange = None if data is None else data._exchange
        self._is_futures = config.get("trading_mode") == TradingMode.FUTURES
        self._asks = self._is_futures and config.get("runmode") in TRADE_MODES and self._exchange is not None
        # Quote currency, by date; replaced whole, never changed.
        self._due_by_pair: dict[str, pd.Series[float]] = {}
        # After an answer without news: when it came, and from when on the exchange is asked again.
        self._waits: dict[str, tuple[pd.Timestamp, pd.Timestamp]] = {}
        self._pauses: dict[str, pd.Timedelta] = {}
        self._stale: set[str] = set()
        self._asking = threading.Lock()
        self._is_watched = False

    def due(self, pair: str, dates: pd.Series[pd.Timestamp]) -> npt.NDArray[np.float64]:
        """Funding due on one unit of the asset at each candle's open, as far as it is known now.

        :return: quote currency, shape (n_candles,)
        """
        if not self._is_futures:
            return np.zeros(len(dates))
        return np.asarray(self._known(pair).reindex(dates).fillna(0.0), dtype=np.float64)

    def due_within(
        self, pair: str, dates: pd.Series[pd.Timestamp], timeframe_ms: int
    ) -> npt.NDArray[np.float64] | None:
        """Funding due on one unit of the asset between each candle's open and the next one's, as far as it is known.

        :param dates: of at least one candle, in rising order
        :return: quote currency, shape (n_candles,); None where there is none, as in candles no longer than a funding
            interval
        """
        if not self._is_futures:
            return None
        opens, known = pd.DatetimeIndex(dates), self._known(pair).fillna(0.0)
        stop = opens[-1] + pd.Timedelta(milliseconds=timeframe_ms)
        within = known[(known.index > opens[0]) & (known.index < stop) & ~known.index.isin(opens) & (known != 0)]
        if within.empty:
            return None
        candle = opens.searchsorted(pd.DatetimeIndex(within.index), side="right") - 1
        due = np.bincount(candle, weights=within.to_numpy(), minlength=len(opens))
        return np.asarray(due, dtype=np.float64)

    def start_watching(self, stop: threading.Event) -> threading.Thread:
        """Start a thread that asks for new rates of every pair met so far, as they are due, until an event is set."""
        self._is_watched = True
        thread = threading.Thread(target=self._watch, args=(stop,), name="funding rates")
        thread.start()
        return thread

    def refresh_unwatched(self, pair: str) -> None:
        """Ask for a pair's new rates where no thread does; for whoever must not wait for an answer otherwise."""
        if not self._is_watched:
            self.refresh([pair])

    def refresh(self, pairs: Iterable[str]) -> None:
        """Ask the exchange for the rates that have come since the last ones known, where that is due.

        An exchange that does not answer leaves what is known, with one warning until it answers again.
        """
        if not self._asks:
            return
        with self._asking:
            now = pd.Timestamp(dt_now())
            for pair in pairs:
                if self._is_due(pair, now):
                    self._ask(pair, now)

    def _watch(self, stop: threading.Event) -> None:
        try:
            while not stop.wait(_LOOK_SECONDS):
                self.refresh(list(self._due_by_pair))
        finally:
            self._is_watched = False

    def _known(self, pair: str) -> pd.Series[float]:
        if pair not in self._due_by_pair:
            due = self._on_disk(pair)
            if due.empty:
                logger.warning("%s: no funding rates on disk; training and predictions leave funding out.", pair)
            # Another thread may have been faster, and know more.
            self._due_by_pair.setdefault(pair, due)
        return self._due_by_pair[pair]

    def _on_disk(self, pair: str) -> pd.Series[float]:
        if self._data is None or self._exchange is None:
            return pd.Series(dtype=float, index=pd.DatetimeIndex([], tz="UTC"))
        rates, marks = (self._data.historic_ohlcv(pair, timeframe, kind) for timeframe, kind in self._kinds())
        fallback = self._config.get("futures_funding_rate")
        return _due(self._exchange.combine_funding_and_mark(rates, marks, fallback))

    def _kinds(self) -> tuple[tuple[str, CandleType], tuple[str, CandleType]]:
        """Timeframes and kinds of the candles that hold rates and mark prices."""
        assert self._exchange is not None
        option = self._exchange.get_option
        mark = CandleType.from_string(option("mark_ohlcv_price"))
        return (option("funding_fee_timeframe"), CandleType.FUNDING_RATE), (option("mark_ohlcv_timeframe"), mark)

    def _is_due(self, pair: str, now: pd.Timestamp) -> bool:
        asked, not_before = self._waits.get(pair, (now, now))
        if asked <= now < not_before:
            # A clock that was set back since makes nobody wait.
            return False
        known = self._known(pair)
        return known.empty or bool(now >= known.index[-1] + _interval(known) + _PUBLISHED_AFTER)

    def _ask(self, pair: str, now: pd.Timestamp) -> None:
        """Ask for a pair's rates from the last one known on."""
        assert self._exchange is not None
        known = self._known(pair)
        days = self._config["freqai"]["train_period_days"]
        since = now.floor("1h") - pd.Timedelta(days=days) if known.empty else known.index[-1]
        wanted = [(pair, timeframe, kind) for timeframe, kind in self._kinds()]
        why, is_answered = "the exchange has no newer ones", False
        try:
            # As freqtrade asks for a dry run's trades: a mark candle counts from its open on, not from its close.
            answer = self._exchange.refresh_latest_ohlcv(
                wanted, since_ms=dt_ts(since.to_pydatetime()), cache=False, drop_incomplete=False
            )
            if all(key in answer for key in wanted):
                rates, marks = (answer[key] for key in wanted)
                came = _due(self._exchange.combine_funding_and_mark(rates, marks))
                known, is_answered = came.combine_first(known), True
            else:
                why = "the exchange did not answer"
        except Exception as error:
            # Whatever it is, a bot goes on with the rates it has.
            why = f"{type(error).__name__}: {error}"
        self._due_by_pair[pair] = known
        if not known.empty and now < known.index[-1] + _interval(known) + _PUBLISHED_AFTER:
            self._waits.pop(pair, None)
            self._pauses.pop(pair, None)
            if pair in self._stale:
                self._stale.discard(pair)
                logger.info("%s: funding rates are known again, up to %s.", pair, known.index[-1])
            return
        # A rate may be published late, once: that is no outage.
        is_outage = not is_answered or pair in self._pauses
        pause = min(self._pauses.get(pair, _ASK_AGAIN_AFTER), max(_interval(known), _ASK_AGAIN_AFTER))
        self._waits[pair], self._pauses[pair] = (now, now + pause), 2 * pause
        if is_outage and pair not in self._stale:
            self._stale.add(pair)
            logger.warning(
                "%s: no new funding rates (%s); training and decisions go on with those %s, and they are asked for "
                "again from %s on.",
                pair,
                why,
                f"up to {known.index[-1]}" if len(known) else "of none",
                now + pause,
            )


def _due(combined: pd.DataFrame) -> pd.Series[float]:
    """Funding due on one unit, by date, of freqtrade's frame of rates and mark prices."""
    return (combined["open_fund"] * combined["open_mark"]).set_axis(pd.DatetimeIndex(combined["date"]))


def _interval(known: pd.Series[float]) -> pd.Timedelta:
    """How far the last fundings lie apart."""
    apart = known.index[-3:].to_series().diff().dropna()
    return pd.Timedelta(apart.min()) if len(apart) else _USUAL_INTERVAL
