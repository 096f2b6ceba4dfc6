"""A loopback exchange: candles from a data directory, served in the language of Binance USDⓈ-M futures.

An unmodified freqtrade that is given ``configs/offline.json`` talks to it through ccxt, so backtesting, its
analyses and a dry run need neither a network nor an account. Only market data is served: there are no orders
and no balances.

The symbols are the pairs found in the directory, so it replays real candles as well as synthetic ones. What
Binance knows and candles do not is derived: tick and step size are the decimals of the candles (at most
eight), the order book is laid around the last closed price with a spread of one tick, and every symbol has a
minimum notional of 5.

Endpoints: https://developers.binance.com/docs/derivatives/usds-margined-futures
"""

import http.client
import logging
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NamedTuple, Self

import ccxt
import numpy as np
import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from freqtrade.data.history import get_datahandler
from freqtrade.enums import CandleType, TradingMode
from freqtrade.exchange import timeframe_to_msecs
from numpy.typing import NDArray
from starlette.exceptions import HTTPException

from mtfscalper.offline import OFFLINE_USER_DATA, ReplayError

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8765
MAX_DECIMALS = 8
MIN_NOTIONAL = 5
PERPETUAL_DELIVERY_MS = 4133404800000
DAY_MS = 86_400_000
FUNDING_PERIOD_MS = 8 * 3_600_000
START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0

Clock = Callable[[], datetime]
Json = dict[str, Any]


def utc_now() -> datetime:
    """Tell the time of the computer, the default clock of the exchange."""
    return datetime.now(UTC)


def offline_config(url: str) -> Json:
    """Build the freqtrade configuration that sends every request ccxt can make for Binance to one address.

    :param url: address of the loopback exchange, such as ``http://127.0.0.1:8765``
    :return: what ``configs/offline.json`` holds for the default port
    """
    addresses = {name: re.sub(r"^https://[^/]+", url, address) for name, address in ccxt.binance().urls["api"].items()}
    return {
        "user_data_dir": str(OFFLINE_USER_DATA),
        "exchange": {
            "name": "binance",
            "key": "",
            "secret": "",
            "enable_ws": False,
            # Otherwise download-data asks data.binance.vision first.
            "only_from_ccxt": True,
            "ccxt_config": {
                "urls": {"api": addresses},
                "options": {"fetchMarkets": {"types": ["linear"]}},
            },
        },
    }


class BinanceError(Exception):
    """An answer in Binance's error format.

    :ivar status: HTTP status
    :ivar code: Binance's error code, https://developers.binance.com/docs/derivatives/usds-margined-futures/error-code
    """

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    def response(self) -> JSONResponse:
        """Return the answer to send."""
        return JSONResponse({"code": self.code, "msg": str(self)}, self.status)


class Candles(NamedTuple):
    """Candles of one file, sorted by time.

    :ivar open_ms: open of each candle, Unix milliseconds, shape (n_candles,)
    :ivar values: open, high, low, close, volume – for funding the rate alone –, shape (n_candles, 5 or 1)
    :ivar period_ms: length of a candle
    """

    open_ms: NDArray[np.int64]
    values: NDArray[np.float64]
    period_ms: int

    def closed_before(self, now_ms: int) -> "Candles":
        """Return the candles whose end is not after ``now_ms``, without a copy."""
        count = int(np.searchsorted(self.open_ms, now_ms - self.period_ms, side="right"))
        return self._replace(open_ms=self.open_ms[:count], values=self.values[:count])

    def between(self, start_ms: int | None, end_ms: int | None, limit: int) -> "Candles":
        """Select as Binance does: from the start on, or without a start the last ones up to the end."""
        first, stop = 0, len(self.open_ms)
        if end_ms is not None:
            stop = int(np.searchsorted(self.open_ms, end_ms, side="right"))
        if start_ms is None:
            first = max(first, stop - limit)
        else:
            first = int(np.searchsorted(self.open_ms, start_ms, side="left"))
        stop = min(stop, first + limit)
        return self._replace(open_ms=self.open_ms[first:stop], values=self.values[first:stop])


class CandleStore:
    """The candles of a freqtrade data directory, by Binance symbol.

    :param datadir: directory whose ``futures/`` holds freqtrade's feather files
    :raises ReplayError: when it holds no futures candles
    """

    def __init__(self, datadir: Path) -> None:
        self.datadir = datadir
        self._handler = get_datahandler(datadir, "feather")
        timeframes: dict[str, set[str]] = {}
        available = self._handler.ohlcv_get_available_data(datadir, TradingMode.FUTURES)
        for pair, timeframe, candle_type in available:
            if candle_type == CandleType.FUTURES and ":" in pair:
                timeframes.setdefault(pair, set()).add(timeframe)
        if not timeframes:
            raise ReplayError(
                f"datadir {datadir} holds no futures candles; accepted is a freqtrade data directory with "
                "futures/<PAIR>-<timeframe>-futures.feather. Write one with `mtfscalper synthetic --datadir "
                "DIR` or `freqtrade download-data --trading-mode futures`."
            )
        self.timeframes = {pair: sorted(found, key=timeframe_to_msecs) for pair, found in sorted(timeframes.items())}
        self.pairs_by_symbol = {self.symbol(pair): pair for pair in self.timeframes}
        # Per instance, and dropped with it.
        self.candles = lru_cache(maxsize=None)(self._load)
        self.decimals = lru_cache(maxsize=None)(self._count_decimals)

    @staticmethod
    def symbol(pair: str) -> str:
        """Name a pair as Binance does: ``BTC/USDT:USDT`` is ``BTCUSDT``."""
        return pair.split(":")[0].replace("/", "")

    def pair(self, symbol: str) -> str:
        """Name a symbol as freqtrade does.

        :raises BinanceError: when the directory does not hold the pair
        """
        if symbol not in self.pairs_by_symbol:
            raise BinanceError(
                400,
                -1121,
                f"Invalid symbol: {symbol!r}; {self.datadir} holds {', '.join(self.pairs_by_symbol)}.",
            )
        return self.pairs_by_symbol[symbol]

    def finest(self, symbol: str) -> Candles:
        """Return the futures candles of the shortest timeframe."""
        return self.candles(symbol, self.timeframes[self.pair(symbol)][0], CandleType.FUTURES)

    def _load(self, symbol: str, timeframe: str, candle_type: CandleType) -> Candles:
        pair = self.pair(symbol)
        frame = self._handler.ohlcv_load(
            pair, timeframe, candle_type, fill_missing=False, drop_incomplete=False, warn_no_data=False
        )
        if frame.empty:
            raise BinanceError(
                400,
                -1120,
                f"Invalid interval: {self.datadir} has no {timeframe} {candle_type} candles of {pair}; "
                f"its futures candles are {', '.join(self.timeframes[pair])}.",
            )
        columns = (
            ["funding_rate"] if candle_type == CandleType.FUNDING_RATE else ["open", "high", "low", "close", "volume"]
        )
        return Candles(
            frame["date"].dt.as_unit("ms").astype("int64").to_numpy(),
            frame[columns].to_numpy(dtype=np.float64),
            timeframe_to_msecs(timeframe),
        )

    def _count_decimals(self, symbol: str) -> tuple[int, int]:
        """Count the decimals of prices and of volumes in the finest candles, the step sizes of the symbol."""
        values = self.finest(symbol).values
        return _count_decimals(values[:, :4]), _count_decimals(values[:, 4])


class ReplayMarket:
    """What the exchange answers: pure functions of the candles and of the moment.

    :param store: the candles
    :param clock: tells the moment; candles that close after it do not exist yet
    """

    def __init__(self, store: CandleStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @property
    def now_ms(self) -> int:
        """Time of the exchange, Unix milliseconds."""
        return int(self._clock().timestamp() * 1000)

    @cached_property
    def symbols(self) -> list[Json]:
        """The ``symbols`` of ``exchangeInfo``."""
        return [self._symbol_info(symbol) for symbol in self._store.pairs_by_symbol]

    def klines(
        self,
        symbol: str,
        interval: str,
        candle_type: CandleType,
        start_ms: int | None,
        end_ms: int | None,
        limit: int,
    ) -> list[list[Any]]:
        """Return candles as Binance's arrays of twelve; trade counts and taker volumes are unknown: zero."""
        candles = self._store.candles(symbol, interval, candle_type).closed_before(self.now_ms)
        selected = candles.between(start_ms, end_ms, limit)
        quote_volumes = selected.values[:, 4] * selected.values[:, :4].mean(axis=1)
        return [
            [
                open_ms,
                *(_number(value) for value in values),
                open_ms + candles.period_ms - 1,
                _number(quote_volume),
                0,
                "0",
                "0",
                "0",
            ]
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
        now_ms = self.now_ms
        rates = self._settled_funding(symbol)
        marks = self._store.candles(symbol, "1h", CandleType.MARK).closed_before(now_ms)
        last = self._last_price(symbol)
        return {
            "symbol": symbol,
            "markPrice": _number(float(marks.values[-1, 3]) if len(marks.open_ms) else last),
            "indexPrice": _number(last),
            "lastFundingRate": f"{float(rates.values[-1, 0]) if len(rates.open_ms) else 0.0:.8f}",
            "interestRate": "0.00010000",
            "nextFundingTime": (now_ms // FUNDING_PERIOD_MS + 1) * FUNDING_PERIOD_MS,
            "time": now_ms,
        }

    def depth(self, symbol: str, limit: int) -> Json:
        """Return an order book one tick wide, each level holding a twentieth of the last candle's volume."""
        last, tick = self._last_price(symbol), self._tick(symbol)
        quantity = _number(self._level_quantity(symbol))
        decimals = self._store.decimals(symbol)[0]
        levels = np.arange(limit)
        bids = last - levels * tick
        return {
            "lastUpdateId": self.now_ms,
            "E": self.now_ms,
            "T": self.now_ms,
            "bids": [[f"{price:.{decimals}f}", quantity] for price in bids[bids > 0].tolist()],
            "asks": [[f"{price:.{decimals}f}", quantity] for price in (last + (levels + 1) * tick).tolist()],
        }

    def book_ticker(self, symbol: str) -> Json:
        """Return the best bid and ask."""
        book = self.depth(symbol, 1)
        (bid, quantity), (ask, _) = book["bids"][0], book["asks"][0]
        return {
            "symbol": symbol,
            "bidPrice": bid,
            "bidQty": quantity,
            "askPrice": ask,
            "askQty": quantity,
            "time": self.now_ms,
        }

    def price_ticker(self, symbol: str) -> Json:
        """Return the last price."""
        return {"symbol": symbol, "price": _number(self._last_price(symbol)), "time": self.now_ms}

    def day_ticker(self, symbol: str) -> Json:
        """Return the statistics of the 24 hours before the last closed candle."""
        closed = self._closed(symbol)
        end_ms = int(closed.open_ms[-1]) + closed.period_ms
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
            "lastPrice": _number(float(closes[-1])),
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

    def each(self, symbol: str | None, answer: Callable[[str], Json]) -> Json | list[Json]:
        """Answer for one symbol or, as Binance does when none is named, for all."""
        if symbol is not None:
            return answer(symbol)
        return [answer(name) for name in self._store.pairs_by_symbol]

    def _symbol_info(self, symbol: str) -> Json:
        pair = self._store.pair(symbol)
        base, quote = pair.split(":")[0].split("/")
        price_decimals, quantity_decimals = self._store.decimals(symbol)
        tick, step = _number(10.0**-price_decimals), _number(10.0**-quantity_decimals)
        return {
            "symbol": symbol,
            "pair": symbol,
            "contractType": "PERPETUAL",
            "deliveryDate": PERPETUAL_DELIVERY_MS,
            "onboardDate": int(self._store.finest(symbol).open_ms[0]),
            "status": "TRADING",
            "baseAsset": base,
            "quoteAsset": quote,
            "marginAsset": pair.split(":")[1],
            "pricePrecision": price_decimals,
            "quantityPrecision": quantity_decimals,
            "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET"],
            "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "100000000", "tickSize": tick},
                {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "100000000", "stepSize": step},
                {"filterType": "MIN_NOTIONAL", "notional": str(MIN_NOTIONAL)},
            ],
        }

    def _closed(self, symbol: str) -> Candles:
        candles = self._store.finest(symbol).closed_before(self.now_ms)
        if not len(candles.open_ms):
            raise BinanceError(400, -1000, f"No candle of {symbol} has closed by {self._clock()}.")
        return candles

    def _last_price(self, symbol: str) -> float:
        return float(self._closed(symbol).values[-1, 3])

    def _tick(self, symbol: str) -> float:
        return float(10.0 ** -self._store.decimals(symbol)[0])

    def _level_quantity(self, symbol: str) -> float:
        decimals = self._store.decimals(symbol)[1]
        return max(round(float(self._closed(symbol).values[-1, 4]) / 20, decimals), float(10.0**-decimals))

    def _settled_funding(self, symbol: str) -> Candles:
        # A rate is settled at its own time; no period has to pass.
        rates = self._store.candles(symbol, "1h", CandleType.FUNDING_RATE)._replace(period_ms=0)
        return rates.closed_before(self.now_ms)


Symbol = Annotated[str, Query(min_length=1)]
Interval = Annotated[str, Query(min_length=1)]
StartTime = Annotated[int | None, Query(alias="startTime")]
EndTime = Annotated[int | None, Query(alias="endTime")]


def create_app(datadir: Path, clock: Clock = utc_now) -> FastAPI:
    """Build the web application of the exchange.

    :param datadir: freqtrade data directory to serve
    :param clock: tells the moment; candles that close after it do not exist yet
    :return: the application, to be run by uvicorn or by a test client
    :raises ReplayError: when the directory holds no futures candles
    """
    market = ReplayMarket(CandleStore(datadir), clock)
    app = FastAPI(openapi_url=None)

    @app.get("/fapi/v1/ping")
    def ping() -> Json:
        return {}

    @app.get("/fapi/v1/time")
    def server_time() -> Json:
        return {"serverTime": market.now_ms}

    @app.get("/fapi/v1/exchangeInfo")
    def exchange_info() -> Json:
        return {
            "timezone": "UTC",
            "serverTime": market.now_ms,
            "rateLimits": [],
            "exchangeFilters": [],
            "assets": [],
            "symbols": market.symbols,
        }

    @app.get("/fapi/v1/klines")
    def klines(
        symbol: Symbol,
        interval: Interval,
        start_time: StartTime = None,
        end_time: EndTime = None,
        limit: Annotated[int, Query(ge=1, le=1500)] = 500,
    ) -> JSONResponse:
        return JSONResponse(market.klines(symbol, interval, CandleType.FUTURES, start_time, end_time, limit))

    @app.get("/fapi/v1/markPriceKlines")
    def mark_price_klines(
        symbol: Symbol,
        interval: Interval,
        start_time: StartTime = None,
        end_time: EndTime = None,
        limit: Annotated[int, Query(ge=1, le=1500)] = 500,
    ) -> JSONResponse:
        return JSONResponse(market.klines(symbol, interval, CandleType.MARK, start_time, end_time, limit))

    @app.get("/fapi/v1/fundingRate")
    def funding_rate(
        symbol: Symbol,
        start_time: StartTime = None,
        end_time: EndTime = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        return JSONResponse(market.funding_rates(symbol, start_time, end_time, limit))

    @app.get("/fapi/v1/premiumIndex")
    def premium_index(symbol: Symbol | None = None) -> Any:
        return market.each(symbol, market.premium_index)

    @app.get("/fapi/v1/depth")
    def depth(symbol: Symbol, limit: Annotated[int, Query(ge=1, le=1000)] = 500) -> Json:
        return market.depth(symbol, limit)

    @app.get("/fapi/v1/ticker/24hr")
    def ticker_24hr(symbol: Symbol | None = None) -> Any:
        return market.each(symbol, market.day_ticker)

    @app.get("/fapi/v1/ticker/bookTicker")
    def ticker_book(symbol: Symbol | None = None) -> Any:
        return market.each(symbol, market.book_ticker)

    @app.get("/fapi/v1/ticker/price")
    @app.get("/fapi/v2/ticker/price")
    def ticker_price(symbol: Symbol | None = None) -> Any:
        return market.each(symbol, market.price_ticker)

    @app.exception_handler(BinanceError)
    def refuse(request: Request, error: BinanceError) -> JSONResponse:
        logger.warning("Replay exchange refused %s: %s", _target(request), error)
        return error.response()

    @app.exception_handler(RequestValidationError)
    def refuse_parameter(request: Request, error: RequestValidationError) -> JSONResponse:
        problem = error.errors()[0]
        return refuse(request, BinanceError(400, -1102, f"Parameter '{problem['loc'][-1]}': {problem['msg']}."))

    @app.exception_handler(HTTPException)
    def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        message = f"Path {request.url.path}, Method {request.method} is invalid"
        return refuse(request, BinanceError(error.status_code, -5000, message))

    return app


class ReplayExchange:
    """Run the exchange on the loopback interface for as long as a ``with`` block lasts.

    :param datadir: freqtrade data directory to serve
    :param port: port to listen on; 0 takes a free one
    :param host: the loopback address; the exchange has no authentication, so every other one is refused
    :param clock: tells the moment; candles that close after it do not exist yet
    :raises ReplayError: when host, port or directory cannot be served
    """

    def __init__(self, datadir: Path, port: int = 0, host: str = LOOPBACK, clock: Clock = utc_now) -> None:
        if host != LOOPBACK:
            raise ReplayError(
                f"replay exchange: host is {host!r}; accepted is {LOOPBACK!r} alone, since the exchange "
                "answers everyone who can reach it. Leave the host out."
            )
        if not 0 <= port <= 65535:
            raise ReplayError(f"replay exchange: port is {port}; choose --port from 0 (any free one) to 65535")
        self.port = port
        config = uvicorn.Config(
            create_app(datadir, clock),
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Address of the exchange."""
        return f"http://{LOOPBACK}:{self.port}"

    def __enter__(self) -> Self:
        listener = _bind(self.port)
        self.port = listener.getsockname()[1]
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listener]}, name="replay-exchange", daemon=True
        )
        self._thread.start()
        try:
            self._await_answer()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_TIMEOUT_SECONDS)

    def wait(self) -> None:
        """Block until the exchange stops."""
        # With a timeout, so that Ctrl-C is seen on every platform.
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(0.5)

    def _await_answer(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while time.monotonic() < deadline and self._thread is not None and self._thread.is_alive():
            # Not through urllib, which would ask a proxy set in the environment.
            connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=1)
            try:
                connection.request("GET", "/fapi/v1/ping")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.02)
            finally:
                connection.close()
        raise ReplayError(
            f"replay exchange: {self.url} did not answer within {START_TIMEOUT_SECONDS:.0f} s; "
            "look for an error above, or choose another --port"
        )


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if sys.platform != "win32":
        # Reuse a port whose last connections are still closing; on Windows the option would share a live one.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
    except OSError as error:
        listener.close()
        raise ReplayError(
            f"replay exchange: cannot listen on port {port} of {LOOPBACK} ({error.strerror}); "
            "stop the program that uses it, or choose another with --port (0 takes a free one)"
        ) from error
    return listener


def _count_decimals(values: NDArray[np.float64]) -> int:
    for decimals in range(MAX_DECIMALS):
        if np.allclose(values, values.round(decimals), rtol=1e-12, atol=0.0):
            return decimals
    return MAX_DECIMALS


def _number(value: float) -> str:
    """Write a number as Binance does: in a string, without an exponent, exact when it is read back."""
    return np.format_float_positional(value, trim="0")


def _target(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.method} {request.url.path}{query}"
