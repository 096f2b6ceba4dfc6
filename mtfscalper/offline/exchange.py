"""A loopback exchange: candles from a data directory, served in the language of Binance USDⓈ-M futures.

An unmodified freqtrade that is given ``configs/offline.json`` talks to it through ccxt, so backtesting, its
analyses and a dry run need neither a network nor an account. It replays real candles as well as synthetic ones. A bot
that trades live finds an account with simulated money on it.
"""

import http.client
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import uvicorn
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from freqtrade.enums import CandleType
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from mtfscalper.offline import ReplayError
from mtfscalper.offline.account import UNCHANGED_MARGIN, SimulatedAccount
from mtfscalper.offline.account_routes import add_account_routes
from mtfscalper.offline.binance import BinanceError, Json, ReplayMarket
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.faults import Faults
from mtfscalper.offline.faulty_app import SKEW_MS, FaultyApp

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 5.0

Clock = Callable[[], datetime]
NO_SHIFT = timedelta(0)


def utc_now() -> datetime:
    """Tell the time of the computer, the default clock of the exchange."""
    return datetime.now(UTC)


Symbol = Annotated[str, Query(min_length=1)]
Interval = Annotated[str, Query(min_length=1)]
StartTime = Annotated[int | None, Query(alias="startTime")]
EndTime = Annotated[int | None, Query(alias="endTime")]


def create_app(
    datadir: Path,
    clock: Clock = utc_now,
    faults: Faults | None = None,
    shift: timedelta = NO_SHIFT,
    account: SimulatedAccount | None = None,
) -> FastAPI:
    """Build the web application of the exchange.

    :param datadir: freqtrade data directory to serve
    :param clock: tells the moment; candles that close after it do not exist yet
    :param faults: whose faults of candles are served
    :param shift: by how much the candles are served later than they are dated
    :param account: whose orders are taken; None is one with :data:`~mtfscalper.offline.account.DEFAULT_BALANCE`
    :return: the application, to be run by uvicorn or by a test client
    :raises ReplayError: when the directory holds no futures candles
    """
    store = CandleStore(datadir, shift)
    app = FastAPI(openapi_url=None)
    add_account_routes(app, account or SimulatedAccount(), lambda: ReplayMarket.from_store(store, clock()))

    def market() -> ReplayMarket:
        return ReplayMarket.from_store(store, clock() + timedelta(milliseconds=SKEW_MS.get()))

    def answer_for(symbol: str | None, answer: Callable[[ReplayMarket, str], Json]) -> JSONResponse:
        """Answer for one symbol or, as Binance does when none is named, for all."""
        now = market()
        return JSONResponse([answer(now, name) for name in now.pairs] if symbol is None else answer(now, symbol))

    @app.get("/fapi/v1/ping")
    def ping() -> Json:
        return {}

    @app.get("/fapi/v1/time")
    def server_time() -> Json:
        return {"serverTime": market().now_ms}

    @app.get("/fapi/v1/exchangeInfo")
    def exchange_info() -> Json:
        return market().exchange_info()

    def klines_of(candle_type: CandleType) -> Callable[..., JSONResponse]:
        def klines(
            request: Request,
            symbol: Symbol,
            interval: Interval,
            start_time: StartTime = None,
            end_time: EndTime = None,
            limit: Annotated[int, Query(ge=1, le=1500)] = 500,
        ) -> JSONResponse:
            now = market()
            klines = now.klines(symbol, interval, candle_type, start_time, end_time, limit)
            if faults is not None:
                klines = faults.alter_klines(klines, request.url.path, symbol, interval, now.now_ms)
            return JSONResponse(klines)

        return klines

    app.get("/fapi/v1/klines")(klines_of(CandleType.FUTURES))
    app.get("/fapi/v1/markPriceKlines")(klines_of(CandleType.MARK))

    @app.get("/fapi/v1/fundingRate")
    def funding_rate(
        symbol: Symbol,
        start_time: StartTime = None,
        end_time: EndTime = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JSONResponse:
        return JSONResponse(market().funding_rates(symbol, start_time, end_time, limit))

    @app.get("/fapi/v1/premiumIndex")
    def premium_index(symbol: Symbol | None = None) -> JSONResponse:
        return answer_for(symbol, ReplayMarket.premium_index)

    @app.get("/fapi/v1/depth")
    def depth(symbol: Symbol, limit: Annotated[int, Query(ge=1, le=1000)] = 500) -> Json:
        return market().depth(symbol, limit)

    @app.get("/fapi/v1/ticker/24hr")
    def ticker_24hr(symbol: Symbol | None = None) -> JSONResponse:
        return answer_for(symbol, ReplayMarket.day_ticker)

    @app.get("/fapi/v1/ticker/bookTicker")
    def ticker_book(symbol: Symbol | None = None) -> JSONResponse:
        return answer_for(symbol, ReplayMarket.book_ticker)

    @app.get("/fapi/v1/ticker/price")
    @app.get("/fapi/v2/ticker/price")
    def ticker_price(symbol: Symbol | None = None) -> JSONResponse:
        return answer_for(symbol, ReplayMarket.price_ticker)

    @app.exception_handler(BinanceError)
    def refuse(request: Request, error: BinanceError) -> JSONResponse:
        # Each entry asks for its margin mode again, and takes this refusal for a yes.
        level = logging.DEBUG if error.code == UNCHANGED_MARGIN else logging.WARNING
        logger.log(level, "Replay exchange refused %s: %s", _target(request), error)
        return JSONResponse(error.content, error.status)

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
    :param faults: what goes wrong; None is nothing
    :param shift: by how much the candles are served later than they are dated
    :param let_pass: told how many seconds of the clock a late answer takes, returns how many true ones to wait
    :param account: whose orders are taken; None is a new one
    :raises ReplayError: when host, port or directory cannot be served
    """

    def __init__(
        self,
        datadir: Path,
        port: int = 0,
        host: str = LOOPBACK,
        clock: Clock = utc_now,
        faults: Faults | None = None,
        shift: timedelta = NO_SHIFT,
        let_pass: Callable[[float], float] = float,
        account: SimulatedAccount | None = None,
    ) -> None:
        if host != LOOPBACK:
            raise ReplayError(
                f"replay exchange: host is {host!r}; accepted is {LOOPBACK!r} alone, since the exchange "
                "answers everyone who can reach it. Leave the host out."
            )
        if not 0 <= port <= 65535:
            raise ReplayError(f"replay exchange: port is {port}; choose --port from 0 (any free one) to 65535")
        self.port = port
        app: ASGIApp = create_app(datadir, clock, faults, shift, account)
        config = uvicorn.Config(
            app if faults is None else FaultyApp(app, faults, clock, let_pass),
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


def _target(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.method} {request.url.path}{query}"
