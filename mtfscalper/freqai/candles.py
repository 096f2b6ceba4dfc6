"""A pair's candles: prices, price steps and funding, made in this one place for every tape, and for open trades."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from ccxt import SIGNIFICANT_DIGITS, TICK_SIZE
from freqtrade.data.dataprovider import DataProvider
from freqtrade.exchange import Exchange, timeframe_to_msecs
from pandas import DataFrame

from mtfscalper.freqai.funding import Funding
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.unconnected import exchange_of
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import PRICE_COLUMNS, MarketTape, TapeError, price_scale

# Where an exchange names no price steps freqtrade rounds no rate: steps too small to matter.
_UNCOUNTED_SCALE = 1e8


class PairCandles(NamedTuple):
    """Candles of one pair, as freqtrade trades on them.

    :ivar frame: ``date``, open, high, low, close, ``price_scale`` (price steps in one unit of quote currency) and
        ``funding`` (due on one unit of the asset at the candle's open); one row a candle. Where any is due between
        opens, ``funding_within`` (after the candle's open and before the next one's)
    :ivar signals_needed: whether the entry mode reads the classic signals
    :ivar traded: ``date`` and what the strategy says of its trades at each candle, see
        :class:`mtfscalper.freqai.entry_terms.EntryTerms`; None where it was not asked
    """

    pair: str
    timeframe_ms: int
    frame: DataFrame
    signals_needed: bool
    traded: DataFrame | None = None

    def tape(
        self,
        rows: DataFrame,
        features: npt.ArrayLike,
        usable: npt.ArrayLike | None = None,
        *,
        with_next: bool = False,
    ) -> MarketTape:
        """Rows of a strategy's frame on a tape: their signals, and whatever the strategy did to its frame, the
        candles' own prices.

        :param rows: ``date`` and the classic signals, where the strategy has them; shape (n_rows, ...)
        :param features: scaled, shape (n_rows, n_features)
        :param usable: rows whose features were all there, shape (n_rows,); all of them by default
        :param with_next: whether the candle after the last row is put on the tape too, if it is known: its open is
            where the decision on that row is carried out
        :raises TapeError: if a row has no candle, or see :meth:`MarketTape.from_frame`
        """
        dates = self.frame["date"]
        wanted = dates.isin(rows["date"])
        if with_next:
            wanted |= dates == rows["date"].iloc[-1] + pd.Timedelta(milliseconds=self.timeframe_ms)
        signals = rows[["date", *(name for name in (LONG_SIGNAL, SHORT_SIGNAL) if name in rows.columns)]]
        frame = self.frame[wanted].merge(signals, on="date", how="left", validate="one_to_one")
        if self.traded is not None:
            frame = frame.merge(self.traded, on="date", how="left", validate="one_to_one")
        n_missing = int((~rows["date"].isin(dates)).sum())
        if n_missing:
            raise TapeError(
                f"{self.pair}: {n_missing} of {len(rows)} rows have a date that is none of the pair's candles; "
                "accepted: the dates that the strategy was given; remedy: leave the frame's column date as it is"
            )
        n_after = len(frame) - len(rows)
        usable = np.ones(len(rows), dtype=bool) if usable is None else usable
        return MarketTape.from_frame(
            frame,
            np.pad(np.asarray(features, dtype=np.float32), ((0, n_after), (0, 0))),
            pair=self.pair,
            timeframe_ms=self.timeframe_ms,
            signals_needed=self.signals_needed,
            usable=np.pad(usable, (0, n_after)),
        )

    def history(self) -> PriceHistory:
        """The candles, as open trades live through them."""
        return PriceHistory.from_arrays(
            self.timeframe_ms,
            pd.DatetimeIndex(self.frame["date"]).as_unit("ms").astype("int64").to_numpy(),
            self.frame["open"].to_numpy(dtype=np.float64),
            self.frame["funding"].to_numpy(dtype=np.float64),
            float(self.frame["close"].iloc[-1]),
            self.frame["funding_within"].to_numpy(dtype=np.float64) if "funding_within" in self.frame else None,
        )


class CandleSource:
    """Makes pairs' candles.

    :ivar funding: what pairs owe, and owed
    :ivar signals_needed: whether the entry mode reads the classic signals
    """

    def __init__(self, config: Mapping[str, Any], data_provider: DataProvider | None) -> None:
        """
        :param config: the freqtrade config
        :param data_provider: None where there is nobody to ask
        """
        self.exchange = exchange_of(data_provider)
        self.funding = Funding(config, data_provider)
        self._config = config
        self._data = data_provider
        self.signals_needed = True

    def candles(self, pair: str, frame: DataFrame) -> PairCandles:
        """The candles of a frame.

        :param frame: ``date``, open, high, low, close of all candles that are known; one row a candle
        """
        candles = frame[["date", *PRICE_COLUMNS]].reset_index(drop=True)
        timeframe_ms = timeframe_to_msecs(self._config["timeframe"])
        candles = candles.assign(
            price_scale=price_scale(candles, exchange_price_scale(self.exchange, pair, candles["open"].to_numpy())),
            funding=self.funding.due(pair, candles["date"]),
        )
        within = self.funding.due_within(pair, candles["date"], timeframe_ms) if len(candles) else None
        if within is not None:
            candles = candles.assign(funding_within=within)
        return PairCandles(pair, timeframe_ms, candles, self.signals_needed)

    def startup_candles(self) -> int:
        """How many of the first candles freqtrade only warms up on in a backtest; 0 where there is nobody to ask."""
        return self._data.get_required_startup(self._config["timeframe"]) if self._data is not None else 0

    def other_candles(self, pair: str, feature_parameters: Mapping[str, Any]) -> list[DataFrame]:
        """The candles of other timeframes and pairs that FreqAI makes a pair's features of."""
        if self._data is None:
            return []
        return [
            self._data.historic_ohlcv(other, timeframe)
            for other in (pair, *feature_parameters.get("include_corr_pairlist", []))
            for timeframe in feature_parameters["include_timeframes"]
            if (other, timeframe) != (pair, self._config["timeframe"])
        ]


def exchange_price_scale(exchange: Exchange, pair: str, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The exchange's price steps in one unit of quote currency.

    An exchange that counts significant digits has wider steps at higher rates: a trade keeps those of its entry rate.

    :param rates: quote currency, shape (n_candles,)
    :return: shape (n_candles,)
    """
    precision, mode = exchange.get_precision_price(pair), exchange.precision_mode_price
    if precision is None:
        return np.full(len(rates), _UNCOUNTED_SCALE)
    if mode == SIGNIFICANT_DIGITS:
        return np.asarray(10.0 ** (int(precision) - 1 - np.floor(np.log10(rates))), dtype=np.float64)
    scale = 1 / precision if mode == TICK_SIZE else 10.0**precision
    # 1 / 1e-5 is 99999.99999999999.
    return np.full(len(rates), float(round(scale)) if math.isclose(scale, round(scale)) else float(scale))
