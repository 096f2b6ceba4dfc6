"""What Binance's USDⓈ-M futures answer, worked out from candles and the moment.

The symbols are the pairs whose candles there are. What Binance knows and candles do not is derived: price and
quantity step are the decimals of the candles (at most eight), the order book is laid around the price of the moment
with a spread of one price step, and every symbol has a minimum notional of 5. The price of the moment, and the last
candle, which still forms, are those of :mod:`mtfscalper.offline.forming`.

Endpoints: https://developers.binance.com/docs/derivatives/usds-margined-futures
"""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Self

import numpy as np
from freqtrade.enums import CandleType
from numpy.typing import NDArray

from mtfscalper.offline.candles import MAX_DECIMALS, Candles, CandleStore, MissingCandlesError
from mtfscalper.offline.forming import forming, known_at, path_between

MIN_NOTIONAL = 5
PERPETUAL_DELIVERY_MS = 4133404800000
DAY_MS = 86_400_000
FUNDING_INTERVAL_MS = 8 * 3_600_000

Json = dict[str, Any]


class BinanceError(Exception):
    """A refusal, in Binance's error format.

    :ivar status: HTTP status
    :ivar code: Binance's error code, https://developers.binance.com/docs/derivatives/usds-margined-futures/error-code
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def content(self) -> Json:
        """What is sent with the status."""
        return {"code": self.code, "msg": str(self)}


class ReplayMarket(NamedTuple):
    """The market at one moment.

    :ivar store: the candles
    :ivar pairs: freqtrade's names of the pairs, by Binance's symbols
    :ivar now: the moment; candles that close after it do not exist yet
    """

    store: CandleStore
    pairs: dict[str, str]
    now: datetime

    @classmethod
    def from_store(cls, store: CandleStore, now: datetime) -> Self:
        """Open the market of all pairs in a store."""
        # Binance calls BTC/USDT:USDT BTCUSDT.
        return cls(store, {pair.split(":")[0].replace("/", ""): pair for pair in store.timeframes}, now)

    @property
    def now_ms(self) -> int:
        """Time of the exchange, Unix milliseconds."""
        return int(self.now.timestamp() * 1000)

    def exchange_info(self) -> Json:
        """Return the symbols and their rules."""
        return {
            "timezone": "UTC",
            "serverTime": self.now_ms,
            "rateLimits": [],
            "exchangeFilters": [],
            "assets": [],
            "symbols": [self._symbol_info(symbol) for symbol in self.pairs],
        }

    def klines(
        self, symbol: str, interval: str, candle_type: CandleType, start_ms: int | None, end_ms: int | None, limit: int
    ) -> list[list[int | str]]:
        """Return candles as Binance's arrays of twelve; trade counts and taker volumes are unknown: zero."""
        candles = self._candles(symbol, interval, candle_type)
        opened = int(np.searchsorted(candles.open_ms, self.now_ms, side="right"))
        begun = candles._replace(open_ms=candles.open_ms[:opened], values=candles.values[:opened])
        selected = self._known(symbol, begun.between(start_ms, end_ms, limit), candle_type)
        quote_volumes = selected.values[:, 4] * selected.values[:, :4].mean(axis=1)
        return [
            [open_ms, *map(_number, values), open_ms + candles.length_ms - 1, _number(quote_volume), 0, "0", "0", "0"]
            for open_ms, values, quote_volume in zip(
                selected.open_ms.tolist(), selected.values.tolist(), quote_volumes.tolist(), strict=True
            )
        ]

    def funding_rates(self, symbol: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[Json]:
        """Return the funding rates that were settled, oldest first."""
        rates = self._settled_funding(symbol).between(start_ms, end_ms, limit)
        return [
            {"symbol": symbol, "fundingTime": time_ms, "fundingRate": f"{rate:.8f}"}
            for time_ms, rate in zip(rates.open_ms.tolist(), rates.values[:, 0].tolist(), strict=True)
        ]

    def premium_index(self, symbol: str) -> Json:
        """Return mark price and funding of the moment."""
        rates = self._settled_funding(symbol)
        return {
            "symbol": symbol,
            "markPrice": _number(self.mark_price(symbol)),
            "indexPrice": _number(self.last_price(symbol)),
            "lastFundingRate": f"{float(rates.values[-1, 0]) if len(rates.open_ms) else 0.0:.8f}",
            "interestRate": "0.00010000",
            "nextFundingTime": (self.now_ms // FUNDING_INTERVAL_MS + 1) * FUNDING_INTERVAL_MS,
            "time": self.now_ms,
        }

    def depth(self, symbol: str, limit: int) -> Json:
        """Return an order book one price step wide, each level holding a twentieth of the last candle's volume."""
        last, decimals = self.last_price(symbol), self.store.decimals(self._pair(symbol))[0]
        quantity = _number(self._level_quantity(symbol))
        price_step = float(10.0**-decimals)
        levels = np.arange(limit)
        bids = last - levels * price_step
        return {
            "lastUpdateId": self.now_ms,
            "E": self.now_ms,
            "T": self.now_ms,
            "bids": [[f"{price:.{decimals}f}", quantity] for price in bids[bids > 0].tolist()],
            "asks": [[f"{price:.{decimals}f}", quantity] for price in (last + (levels + 1) * price_step).tolist()],
        }

    def book_ticker(self, symbol: str) -> Json:
        """Return the best bid and ask."""
        book = self.depth(symbol, 1)
        (bid, quantity), (ask, _) = book["bids"][0], book["asks"][0]
        best = {"bidPrice": bid, "bidQty": quantity, "askPrice": ask, "askQty": quantity}
        return {"symbol": symbol, **best, "time": self.now_ms}

    def price_ticker(self, symbol: str) -> Json:
        """Return the last price."""
        return {"symbol": symbol, "price": _number(self.last_price(symbol)), "time": self.now_ms}

    def day_ticker(self, symbol: str) -> Json:
        """Return the statistics of the 24 hours before the last closed candle."""
        closed = self._closed(symbol)
        end_ms = int(closed.open_ms[-1]) + closed.length_ms
        day = closed.between(end_ms - DAY_MS, None, len(closed.open_ms))
        opens, highs, lows, closes, volumes = day.values.T
        quote_volume = float((volumes * day.values[:, :4].mean(axis=1)).sum())
        volume = float(volumes.sum())
        change = float(closes[-1] - opens[0])
        return {
            "symbol": symbol,
            "priceChange": _number(change),
            "priceChangePercent": f"{change / float(opens[0]) * 100:.3f}",
            "weightedAvgPrice": _number(quote_volume / volume if volume else float(closes[-1])),
            "lastPrice": _number(self.last_price(symbol)),
            "lastQty": _number(self._level_quantity(symbol)),
            "openPrice": _number(float(opens[0])),
            "highPrice": _number(float(highs.max())),
            "lowPrice": _number(float(lows.min())),
            "volume": _number(volume),
            "quoteVolume": _number(quote_volume),
            "openTime": int(day.open_ms[0]),
            "closeTime": end_ms - 1,
            "count": 0,
        }

    def last_price(self, symbol: str) -> float:
        """Return the price of the moment; after a gap in the candles, the last close."""
        pair = self._pair(symbol)
        finest = self.store.finest(pair)
        now = forming(finest, finest, self.now_ms)
        if now is None:
            return float(self._closed(symbol).values[-1, 3])
        return round(float(now[3]), self.store.decimals(pair)[0])

    def mark_price(self, symbol: str) -> float:
        """Return the mark price of the moment."""
        marks = self._known(symbol, self._candles(symbol, "1h", CandleType.MARK), CandleType.MARK)
        return float(marks.values[-1, 3]) if len(marks.open_ms) else self.last_price(symbol)

    def steps(self, symbol: str) -> tuple[Decimal, Decimal]:
        """Return the steps of price and quantity."""
        prices, quantities = self.store.decimals(self._pair(symbol))
        return Decimal(1).scaleb(-prices), Decimal(1).scaleb(-quantities)

    def path_since(self, symbol: str, since_ms: int, is_mark: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the price, or the mark price, from a moment to now; see :func:`path_between`."""
        candles = self._candles(symbol, "1h", CandleType.MARK) if is_mark else self.store.finest(self._pair(symbol))
        return path_between(candles, since_ms, self.now_ms)

    def at(self, moment_ms: int) -> Self:
        """Return the same market at another moment, Unix milliseconds."""
        return self._replace(now=datetime.fromtimestamp(moment_ms / 1000, UTC))

    def _pair(self, symbol: str) -> str:
        if symbol not in self.pairs:
            held = ", ".join(self.pairs)
            raise BinanceError(400, -1121, f"Invalid symbol: {symbol!r}; {self.store.datadir} holds {held}.")
        return self.pairs[symbol]

    def _candles(self, symbol: str, interval: str, candle_type: CandleType) -> Candles:
        try:
            return self.store.candles(self._pair(symbol), interval, candle_type)
        except MissingCandlesError as error:
            raise BinanceError(400, -1120, f"Invalid interval: {error}") from error

    def _symbol_info(self, symbol: str) -> Json:
        pair = self.pairs[symbol]
        base, quote = pair.split(":")[0].split("/")
        price_decimals, quantity_decimals = self.store.decimals(pair)
        price_step, quantity_step = _number(10.0**-price_decimals), _number(10.0**-quantity_decimals)
        return {
            "symbol": symbol,
            "pair": symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": PERPETUAL_DELIVERY_MS,
            "onboardDate": int(self.store.finest(pair).open_ms[0]),
            "status": "TRADING",
            "baseAsset": base,
            "quoteAsset": quote,
            "marginAsset": pair.split(":")[1],
            "pricePrecision": price_decimals,
            "quantityPrecision": quantity_decimals,
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": price_step, "maxPrice": "100000000", "tickSize": price_step},
                {"filterType": "LOT_SIZE", "minQty": quantity_step, "maxQty": "100000000", "stepSize": quantity_step},
                {"filterType": "MIN_NOTIONAL", "notional": str(MIN_NOTIONAL)},
            ],
        }

    def _closed(self, symbol: str) -> Candles:
        candles = self.store.finest(self._pair(symbol)).closed_by(self.now_ms)
        if not len(candles.open_ms):
            raise BinanceError(400, -1000, f"No candle of {symbol} has closed by {self.now}.")
        return candles

    def _known(self, symbol: str, candles: Candles, candle_type: CandleType) -> Candles:
        pair = self._pair(symbol)
        is_traded = candle_type == CandleType.FUTURES
        decimals = self.store.decimals(pair)[0] if is_traded else MAX_DECIMALS
        return known_at(candles, self.store.finest(pair) if is_traded else candles, self.now_ms, decimals)

    def _level_quantity(self, symbol: str) -> float:
        decimals = self.store.decimals(self._pair(symbol))[1]
        return max(round(float(self._closed(symbol).values[-1, 4]) / 20, decimals), float(10.0**-decimals))

    def _settled_funding(self, symbol: str) -> Candles:
        # A rate is settled at its own time: it is known at once, not an hour later as a candle would be.
        rates = self._candles(symbol, "1h", CandleType.FUNDING_RATE)._replace(length_ms=0)
        return rates.closed_by(self.now_ms)


def _number(value: float) -> str:
    """Write a number as Binance does: in a string, without an exponent, exact when it is read back."""
    return np.format_float_positional(value, trim="0")
