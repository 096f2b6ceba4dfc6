"""The loopback exchange answers ccxt as Binance does, from this computer alone."""

import logging
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import ccxt
import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from freqtrade.enums import CandleType, MarginMode, RunMode, TradingMode
from freqtrade.resolvers import ExchangeResolver

from mtfscalper.offline import ReplayError
from mtfscalper.offline.exchange import LOOPBACK, ReplayExchange, create_app
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.synthetic import DEFAULT_START, aggregate, generate_market, write_market

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"
STOP = DEFAULT_START + timedelta(days=8)
FIVE_MINUTES_MS = 300_000


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_market(folder, stop=STOP)
    return folder


@pytest.fixture(scope="module")
def candles() -> pd.DataFrame:
    return generate_market(stop=STOP)[BTC]


@pytest.fixture(scope="module")
def client(datadir: Path) -> TestClient:
    return TestClient(create_app(datadir))


def get(client: TestClient, path: str, **parameters: object) -> Any:
    response = client.get(path, params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def test_ping_and_time_answer(client: TestClient) -> None:
    assert get(client, "/fapi/v1/ping") == {}
    difference = get(client, "/fapi/v1/time")["serverTime"] - milliseconds(datetime.now(UTC))
    assert abs(difference) < 60_000


def test_exchange_info_lists_the_pairs_of_the_directory_with_their_decimals(client: TestClient) -> None:
    symbols = {symbol["symbol"]: symbol for symbol in get(client, "/fapi/v1/exchangeInfo")["symbols"]}
    assert list(symbols) == ["BTCUSDT", "ETHUSDT"]
    filters = {entry["filterType"]: entry for entry in symbols["ETHUSDT"]["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01"
    assert filters["LOT_SIZE"]["stepSize"] == "0.001"
    assert symbols["ETHUSDT"]["marginAsset"] == "USDT"


def test_klines_are_arrays_of_twelve_that_reproduce_the_candles(client: TestClient, candles: pd.DataFrame) -> None:
    start = milliseconds(DEFAULT_START)
    klines = get(client, "/fapi/v1/klines", symbol="BTCUSDT", interval="5m", startTime=0, limit=1500)
    assert len(klines) == 1500
    assert {len(kline) for kline in klines} == {12}
    assert [kline[0] for kline in klines] == [start + index * FIVE_MINUTES_MS for index in range(1500)]
    assert klines[0][6] == start + FIVE_MINUTES_MS - 1
    served = np.array([[float(value) for value in kline[1:6]] for kline in klines])
    np.testing.assert_array_equal(served, candles[["open", "high", "low", "close", "volume"]].to_numpy()[:1500])


def test_klines_select_by_start_end_and_limit(client: TestClient, candles: pd.DataFrame) -> None:
    opens = [milliseconds(date) for date in candles["date"]]

    def select(**parameters: object) -> list[int]:
        klines = get(client, "/fapi/v1/klines", symbol="BTCUSDT", interval="5m", **parameters)
        return [kline[0] for kline in klines]

    assert select() == opens[-500:]
    assert select(limit=3) == opens[-3:]
    assert select(startTime=opens[100], limit=3) == opens[100:103]
    assert select(startTime=opens[100] + 1, limit=3) == opens[101:104]
    assert select(endTime=opens[100], limit=3) == opens[98:101]
    assert select(startTime=opens[10], endTime=opens[11], limit=3) == opens[10:12]
    assert select(startTime=opens[10], endTime=opens[9]) == []
    assert select(startTime=opens[-1] + FIVE_MINUTES_MS) == []


def test_mark_price_klines_and_funding_come_from_their_own_files(client: TestClient, candles: pd.DataFrame) -> None:
    marks = get(client, "/fapi/v1/markPriceKlines", symbol="BTCUSDT", interval="1h", startTime=0)
    hourly = aggregate(candles, "1h")
    assert len(marks) == len(hourly) == 192
    served = np.array([float(mark[4]) for mark in marks])
    np.testing.assert_allclose(served, hourly["close"], rtol=1e-3)
    assert not np.array_equal(served, hourly["close"])

    rates = get(client, "/fapi/v1/fundingRate", symbol="BTCUSDT", startTime=0)
    assert len(rates) == 24
    assert rates[1]["fundingTime"] - rates[0]["fundingTime"] == 8 * 3_600_000
    assert abs(float(rates[0]["fundingRate"])) < 0.003


def test_order_book_surrounds_the_last_close_by_one_price_step(client: TestClient, candles: pd.DataFrame) -> None:
    last = candles["close"].iloc[-1]
    book = get(client, "/fapi/v1/depth", symbol="BTCUSDT", limit=5)
    assert [float(price) for price, _ in book["bids"]] == pytest.approx([last - 0.1 * n for n in range(5)])
    assert [float(price) for price, _ in book["asks"]] == pytest.approx([last + 0.1 * n for n in range(1, 6)])
    assert all(float(quantity) > 0 for _, quantity in book["bids"] + book["asks"])


def test_tickers_answer_for_one_symbol_and_for_all(client: TestClient, candles: pd.DataFrame) -> None:
    last, day = candles["close"].iloc[-1], candles.iloc[-288:]
    ticker = get(client, "/fapi/v1/ticker/24hr", symbol="BTCUSDT")
    assert float(ticker["lastPrice"]) == last
    assert float(ticker["openPrice"]) == day["open"].iloc[0]
    assert float(ticker["highPrice"]) == day["high"].max()
    assert float(ticker["volume"]) == pytest.approx(day["volume"].sum())
    for path in ("/fapi/v1/ticker/24hr", "/fapi/v1/ticker/bookTicker", "/fapi/v2/ticker/price"):
        assert [entry["symbol"] for entry in get(client, path)] == ["BTCUSDT", "ETHUSDT"]
    assert float(get(client, "/fapi/v1/ticker/bookTicker", symbol="BTCUSDT")["askPrice"]) > last
    assert float(get(client, "/fapi/v1/premiumIndex", symbol="BTCUSDT")["markPrice"]) == pytest.approx(last, rel=1e-3)


def test_the_clock_hides_what_comes_after_it(datadir: Path, candles: pd.DataFrame) -> None:
    # 02:07 of the second day: the five-minute candle of 02:05 and the hour of 02:00 are forming.
    now = DEFAULT_START + timedelta(days=1, hours=2, minutes=7)
    client = TestClient(create_app(datadir, clock=lambda: now))
    forming = {
        interval: get(client, "/fapi/v1/klines", symbol="BTCUSDT", interval=interval, limit=1)[0]
        for interval in ("5m", "1h")
    }
    assert {interval: kline[0] for interval, kline in forming.items()} == {
        "5m": milliseconds(DEFAULT_START + timedelta(days=1, hours=2, minutes=5)),
        "1h": milliseconds(DEFAULT_START + timedelta(days=1, hours=2)),
    }
    assert get(client, "/fapi/v1/time")["serverTime"] == milliseconds(now)
    row = candles.index[candles["date"] == DEFAULT_START + timedelta(days=1, hours=2)][0]
    closed, whole = candles.loc[row], candles.loc[row + 1]
    # The price of the moment is one price everywhere: in both candles, in the book and in the tickers.
    price = float(get(client, "/fapi/v1/depth", symbol="BTCUSDT")["bids"][0][0])
    assert whole["low"] <= price <= whole["high"]
    assert {float(kline[4]) for kline in forming.values()} == {price}
    assert float(get(client, "/fapi/v1/ticker/price", symbol="BTCUSDT")["price"]) == price
    # An hour that forms is made of what has been.
    assert float(forming["1h"][2]) == max(closed["high"], float(forming["5m"][2]))
    assert float(forming["1h"][3]) == min(closed["low"], float(forming["5m"][3]))
    rates = get(client, "/fapi/v1/fundingRate", symbol="BTCUSDT")
    assert rates[-1]["fundingTime"] == milliseconds(DEFAULT_START + timedelta(days=1))
    mark = get(client, "/fapi/v1/markPriceKlines", symbol="BTCUSDT", interval="1h", limit=1)[0]
    assert mark[0] == milliseconds(DEFAULT_START + timedelta(days=1, hours=2))


def test_at_the_first_moment_nothing_but_the_open_is_known(datadir: Path, candles: pd.DataFrame) -> None:
    client = TestClient(create_app(datadir, clock=lambda: DEFAULT_START))
    [kline] = get(client, "/fapi/v1/klines", symbol="BTCUSDT", interval="5m")
    assert [float(price) for price in kline[1:6]] == [candles["open"].iloc[0]] * 4 + [0.0]
    before = TestClient(create_app(datadir, clock=lambda: DEFAULT_START - timedelta(minutes=1)))
    assert get(before, "/fapi/v1/klines", symbol="BTCUSDT", interval="5m") == []
    assert before.get("/fapi/v1/depth", params={"symbol": "BTCUSDT"}).json()["code"] == -1000


@pytest.mark.parametrize(
    ("path", "parameters", "status", "code", "part"),
    [
        ("/fapi/v1/klines", {"symbol": "DOGEUSDT", "interval": "5m"}, 400, -1121, "BTCUSDT, ETHUSDT"),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "4h"}, 400, -1120, "5m, 15m, 1h"),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT"}, 400, -1102, "interval"),
        ("/fapi/v1/klines", {"symbol": "BTCUSDT", "interval": "5m", "limit": 1501}, 400, -1102, "limit"),
        ("/fapi/v1/aggTrades", {"symbol": "BTCUSDT"}, 404, -5000, "/fapi/v1/aggTrades"),
        ("/api/v3/exchangeInfo", {}, 404, -5000, "/api/v3/exchangeInfo"),
    ],
)
def test_refusals_are_in_binances_format_and_logged_with_their_path(
    client: TestClient,
    caplog: pytest.LogCaptureFixture,
    path: str,
    parameters: dict[str, object],
    status: int,
    code: int,
    part: str,
) -> None:
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        response = client.get(path, params=parameters)
    assert response.status_code == status
    assert response.json()["code"] == code
    assert part in response.json()["msg"]
    assert path in caplog.text


def test_without_a_key_no_order_is_accepted(client: TestClient) -> None:
    response = client.post("/fapi/v1/order", params={"symbol": "BTCUSDT"})
    assert response.status_code == 401
    assert response.json()["code"] == -2015


@pytest.mark.parametrize("path", ["/fapi/v1/positionMargin", "/sapi/v1/capital/withdraw/apply"])
def test_what_is_not_there_is_told_so(client: TestClient, path: str) -> None:
    response = client.post(path, params={"symbol": "BTCUSDT"})
    assert response.status_code in (404, 405)
    assert response.json()["code"] == -5000


def test_price_step_is_capped_at_eight_decimals(tmp_path: Path) -> None:
    prices = [0.123456789123, 0.123456789456]
    frame = pd.DataFrame(
        {
            "date": pd.date_range(DEFAULT_START, periods=2, freq="5min", unit="ms"),
            **dict.fromkeys(("open", "high", "low", "close"), prices),
            "volume": [10.0, 20.0],
        }
    )
    (tmp_path / "futures").mkdir()
    frame.to_feather(tmp_path / "futures" / "PEPE_USDT_USDT-5m-futures.feather")
    info = get(TestClient(create_app(tmp_path)), "/fapi/v1/exchangeInfo")["symbols"][0]
    filters = {entry["filterType"]: entry for entry in info["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.00000001"
    assert float(filters["LOT_SIZE"]["stepSize"]) == 1


def test_directory_without_candles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match="holds no futures candles"):
        create_app(tmp_path)


@pytest.fixture(scope="module")
def running(datadir: Path) -> Iterator[ReplayExchange]:
    with ReplayExchange(datadir) as exchange:
        yield exchange


@pytest.fixture
def loopback_only(running: ReplayExchange, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on a connection to anything but the running exchange."""
    connect = socket.socket.connect

    def only_loopback(self: socket.socket, address: tuple[str, int]) -> None:
        assert address == (LOOPBACK, running.port), f"{address} is contacted"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_loopback)


@pytest.fixture
def binance(running: ReplayExchange, loopback_only: None) -> ccxt.binance:
    settings = offline_config(running.url)["exchange"]["ccxt_config"]
    return ccxt.binance({**settings, "enableRateLimit": False})


def test_ccxt_loads_markets_and_candles_from_the_running_exchange(binance: ccxt.binance, candles: pd.DataFrame) -> None:
    markets = binance.load_markets()
    assert sorted(markets) == [BTC, ETH]
    assert markets[BTC]["type"] == "swap"
    assert markets[BTC]["active"]
    assert markets[BTC]["precision"] == {"amount": 0.001, "price": 0.1, "base": None, "quote": None}
    row = [milliseconds(candles["date"].iloc[-1]), *candles.iloc[-1, 1:].tolist()]
    assert binance.fetch_ohlcv(BTC, "5m", limit=1) == [row]
    assert binance.fetch_order_book(BTC, 5)["bids"][0][0] == candles["close"].iloc[-1]
    assert len(binance.fetch_funding_rate_history(BTC, since=0, limit=1000)) == 24
    with pytest.raises(ccxt.BadSymbol):
        binance.fapipublic_get_klines({"symbol": "DOGEUSDT", "interval": "5m"})


def test_freqtrade_downloads_candles_and_funding_from_the_running_exchange(
    running: ReplayExchange, loopback_only: None, candles: pd.DataFrame
) -> None:
    config: Any = {
        "dry_run": True,
        "trading_mode": TradingMode.FUTURES,
        "margin_mode": MarginMode.ISOLATED,
        "stake_currency": "USDT",
        "timeframe": "5m",
        "runmode": RunMode.UTIL_EXCHANGE,
        "entry_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
        "exit_pricing": {"price_side": "same", "use_order_book": True, "order_book_top": 1},
        **offline_config(running.url),
    }
    exchange = ExchangeResolver.load_exchange(config, validate=True)
    try:
        assert exchange.get_fee(BTC, taker_or_maker="taker") == 0.0005
        since, until = milliseconds(DEFAULT_START), milliseconds(STOP)
        history = exchange.get_historic_ohlcv(BTC, "5m", since, CandleType.FUTURES, until_ms=until)
        # A download drops the last candle, which on a real exchange is still forming.
        np.testing.assert_array_equal(history["close"], candles["close"].iloc[:-1])
        funding = exchange.get_historic_ohlcv(BTC, "1h", since, CandleType.FUNDING_RATE, until_ms=until)
        assert len(funding) == 24
    finally:
        exchange.close()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("host", ["0.0.0.0", "localhost", "192.168.1.5", "::"])
def test_other_hosts_than_loopback_are_refused(datadir: Path, host: str) -> None:
    with pytest.raises(ReplayError, match=r"accepted is '127\.0\.0\.1' alone") as refusal:
        ReplayExchange(datadir, host=host)
    assert repr(host) in str(refusal.value)


def test_the_port_is_closed_to_every_other_address_of_this_computer(running: ReplayExchange) -> None:
    # 127.0.0.2 is this computer too; a listener on 0.0.0.0 would answer there.
    with socket.socket() as probe:
        probe.settimeout(120)
        assert probe.connect_ex((LOOPBACK, running.port)) == 0
    with socket.socket() as probe:
        probe.settimeout(120)
        assert probe.connect_ex(("127.0.0.2", running.port)) != 0


def test_port_in_use_is_refused_with_port_and_remedy(datadir: Path, running: ReplayExchange) -> None:
    with pytest.raises(ReplayError, match="--port") as refusal, ReplayExchange(datadir, running.port):
        pass
    assert str(running.port) in str(refusal.value)


@pytest.mark.parametrize("port", [-1, 65536])
def test_impossible_ports_are_refused(datadir: Path, port: int) -> None:
    with pytest.raises(ReplayError, match=str(port)):
        ReplayExchange(datadir, port)


def test_the_exchange_stops_with_its_block_even_after_an_exception(datadir: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), ReplayExchange(datadir) as exchange:
        raise RuntimeError("inside")
    with socket.socket() as probe:
        probe.settimeout(120)
        assert probe.connect_ex((LOOPBACK, exchange.port)) != 0
    # The port is free for the next one.
    with ReplayExchange(datadir, exchange.port) as again:
        assert again.url == f"http://127.0.0.1:{exchange.port}"
