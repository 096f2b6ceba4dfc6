"""The account with simulated money: freqtrade's own Exchange class and ccxt trade on it over the loopback address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import ccxt
import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import CandleType, MarginMode, RunMode, TradingMode
from freqtrade.exceptions import (
    InsufficientFundsError,
    InvalidOrderException,
    RetryableOrderError,
    TemporaryError,
)
from freqtrade.exchange import Exchange
from freqtrade.resolvers import ExchangeResolver

from mtfscalper.offline import SIMULATED_KEY, SIMULATED_SECRET, futures_errors
from mtfscalper.offline.account import MAKER_FEE, TAKER_FEE, SimulatedAccount
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.faults import Faults, Rule
from mtfscalper.offline.freqtrade_command import offline_config

BTC = "BTC/USDT:USDT"
START = datetime(2024, 10, 1, tzinfo=UTC)
TICK, STEP = Decimal("0.1"), Decimal("0.001")
# A candle in five minutes; the open of each is the close before it.
CLOSES = [60_000.0, 60_100.0, 60_000.0, 59_800.0, 60_300.0]
N_CANDLES = 12 * 24
RATE = 0.0003


def write_candles(folder: Path) -> None:
    """A day that goes to the closes above, and stays at the last one."""
    dates = pd.date_range(START, periods=N_CANDLES, freq="5min")
    close = np.array(CLOSES + [CLOSES[-1]] * (N_CANDLES - len(CLOSES)))
    opened = np.concatenate([[CLOSES[0]], close[:-1]])
    five = pd.DataFrame(
        {
            "date": dates,
            "open": opened,
            "high": np.maximum(opened, close),
            "low": np.minimum(opened, close),
            "close": close,
            "volume": 100.001,
        }
    )
    # So that a tenth is a price step.
    five.loc[len(five) - 1, "close"] += 0.1
    five.loc[len(five) - 1, "high"] += 0.1
    hours = pd.date_range(START, periods=24, freq="1h")
    mark = pd.DataFrame({"date": hours, **dict.fromkeys(["open", "high", "low", "close"], 60_300.0), "volume": 0.0})
    rates = hours[::8]
    funding = pd.DataFrame({"date": rates, "funding_rate": RATE})
    from freqtrade.data.history import get_datahandler

    handler = get_datahandler(folder, "feather")
    handler.ohlcv_store(BTC, "5m", five, CandleType.FUTURES)
    handler.ohlcv_store(BTC, "1h", mark, CandleType.MARK)
    handler.ohlcv_store(BTC, "1h", funding, CandleType.FUNDING_RATE)


class Clock:
    def __init__(self) -> None:
        self.now = START + timedelta(seconds=10)

    def __call__(self) -> datetime:
        return self.now

    def go(self, **span: float) -> None:
        self.now += timedelta(**span)


class Venue(NamedTuple):
    """An exchange, its clock and account, and freqtrade's client of it."""

    clock: Clock
    account: SimulatedAccount
    client: Exchange
    faults: Faults

    @property
    def api(self) -> ccxt.binance:
        return self.client._api

    def order(self, side: str, amount: float, rate: float = 60_000.0, kind: str = "market", **others: Any) -> Any:
        return self.client.create_order(
            pair=BTC,
            ordertype=kind,
            side=side,
            amount=amount,
            rate=rate,
            leverage=others.pop("leverage", 1.0),
            **others,
        )

    def close(self, amount: float) -> Any:
        return self.order("sell", amount, reduceOnly=True)

    @property
    def wallet(self) -> Decimal:
        return Decimal(str(self.client.get_balances()["USDT"]["total"]))


@pytest.fixture(scope="module")
def datadir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_candles(folder)
    assert [tuple(map(float, CandleStore(folder).decimals(BTC)))] == [(1.0, 3.0)]
    return folder


@pytest.fixture(autouse=True)
def errors_of_futures() -> None:
    futures_errors.install()


@pytest.fixture
def open_venue(datadir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Venue]]:
    # freqtrade waits between its attempts.
    monkeypatch.setattr("freqtrade.exchange.common.time.sleep", lambda seconds: None)
    opened: list[ReplayExchange] = []

    def make(*rules: Rule, balance: int = 100_000) -> Venue:
        clock, account, faults = Clock(), SimulatedAccount(Decimal(balance)), Faults(rules)
        exchange = ReplayExchange(datadir, clock=clock, faults=faults, account=account, let_pass=lambda seconds: 0.0)
        opened.append(exchange.__enter__())
        return Venue(clock, account, client_of(exchange.url, tmp_path), faults)

    yield make
    for exchange in opened:
        exchange.stop()


def client_of(url: str, folder: Path, key: str = SIMULATED_KEY) -> Exchange:
    settings = offline_config(url)["exchange"]
    settings["ccxt_config"]["enableRateLimit"] = False
    config: dict[str, Any] = {
        "exchange": settings | {"key": key, "secret": SIMULATED_SECRET, "pair_whitelist": [BTC]},
        "stake_currency": "USDT",
        "dry_run": False,
        "runmode": RunMode.LIVE,
        "trading_mode": TradingMode.FUTURES,
        "margin_mode": MarginMode.ISOLATED,
        "candle_type_def": CandleType.FUTURES,
        "user_data_dir": folder,
        "datadir": folder,
        "timeframe": "5m",
    }
    return ExchangeResolver.load_exchange(config, validate=False, load_leverage_tiers=True)


@pytest.fixture
def venue(open_venue: Callable[..., Venue]) -> Venue:
    return open_venue()


# ---------------------------------------------------------------------- money


def test_a_market_order_is_filled_at_the_best_price_and_pays_its_fee(venue: Venue) -> None:
    bought = venue.order("buy", 0.5)
    assert (bought["status"], bought["filled"], bought["average"]) == ("closed", 0.5, 60_000.1)
    [trade] = venue.client.get_trades_for_order(bought["id"], BTC, venue.clock.now)
    # 0.5 * 60000.1 * 0.0005 = 15.000025
    assert trade["fee"] == {"cost": 15.000025, "currency": "USDT"}
    assert (trade["price"], trade["amount"], trade["takerOrMaker"]) == (60_000.1, 0.5, "taker")
    [position] = venue.client.fetch_positions()
    assert (position["symbol"], position["side"], position["contracts"]) == (BTC, "long", 0.5)
    assert (position["entryPrice"], position["marginMode"]) == (60_000.1, "isolated")
    # The mark price is 60300: 0.5 * (60300 - 60000.1) = 149.95 above.
    assert position["unrealizedPnl"] == pytest.approx(149.95)
    assert venue.wallet == Decimal("100134.949975")
    sold = venue.close(0.5)
    assert (sold["status"], sold["average"]) == ("closed", 60_000.0)
    assert venue.client.fetch_positions() == []
    # Lost: a tick on a half, and both fees: 0.05 + 15.000025 + 15.0
    assert venue.wallet == venue.account.wallet == Decimal("99969.949975")


def test_leverage_sets_the_margin_and_a_wallet_that_is_too_small_is_told_so(venue: Venue) -> None:
    venue.order("buy", 3.0, leverage=2.0)
    # 3 * 60000.1 / 2
    assert venue.account.position("BTCUSDT").margin == Decimal("90000.15")
    free = venue.client.get_balances()["USDT"]["free"]
    assert free == pytest.approx(100_000 - 90_000.15 - 90.00015)
    with pytest.raises(InsufficientFundsError, match="Margin is insufficient"):
        venue.order("buy", 1.0, leverage=2.0)
    # freqtrade knows of it by its own formula too.
    [position] = venue.client.fetch_positions()
    theirs = venue.client.dry_run_liquidation_price(BTC, 60_000.1, False, 3.0, 90_000.15, 2.0, 90_000.15, [])
    assert position["liquidationPrice"] == pytest.approx(theirs, rel=1e-3)


def test_a_short_gains_from_a_fall_and_what_is_realized_is_in_the_history(venue: Venue) -> None:
    venue.order("sell", 0.1)
    venue.clock.go(minutes=20)
    assert venue.api.fetch_ticker(BTC)["last"] == pytest.approx(59_800.0, abs=60)
    price = venue.order("buy", 0.1, reduceOnly=True)["average"]
    incomes = venue.api.fapiPrivateGetIncome({"symbol": "BTCUSDT"})
    assert [one["incomeType"] for one in incomes] == ["COMMISSION", "REALIZED_PNL", "COMMISSION"]
    assert float(incomes[1]["income"]) == pytest.approx(0.1 * (60_000 - price))
    assert 100_000 + sum(Decimal(one["income"]) for one in incomes) == venue.account.wallet


def test_funding_is_paid_at_its_time_by_who_holds_a_position_then(venue: Venue) -> None:
    venue.clock.go(hours=7)
    venue.order("buy", 0.1)
    began = venue.clock.now
    assert venue.client._get_funding_fees_from_exchange(BTC, began) == 0
    venue.clock.go(hours=2)
    # A long pays 0.1 * 60300 * 0.0003 = 1.809
    assert venue.client._get_funding_fees_from_exchange(BTC, began) == pytest.approx(-1.809)
    # Out of its own margin of 0.1 * 60300.1.
    assert venue.account.position("BTCUSDT").margin == Decimal("6028.201")
    venue.close(0.1)
    venue.clock.go(hours=8)
    assert venue.client._get_funding_fees_from_exchange(BTC, began) == pytest.approx(-1.809)


def test_a_position_that_the_margin_does_not_carry_is_liquidated(datadir: Path, venue: Venue) -> None:
    # At 125 times the distance to the mark price is less than 300 USDT: a short is under water at once.
    venue.order("sell", 0.1, leverage=125.0)
    margin = venue.account.position("BTCUSDT").margin
    venue.clock.go(seconds=1)
    assert venue.client.fetch_positions() == []
    fee = venue.account.fills[0].fee
    assert venue.account.wallet == Decimal(100_000) - margin - fee
    assert venue.account.orders[2].asked.client_id.startswith("autoclose")


# ---------------------------------------------------------------------- orders that wait


def test_a_limit_order_waits_until_the_price_is_there_and_then_pays_a_makers_fee(venue: Venue) -> None:
    # The candle goes up to 60100, the next one back, the fourth down to 59800.
    order = venue.order("buy", 0.1, rate=59_900.0, kind="limit")
    assert (order["status"], order["filled"]) == ("open", 0)
    assert venue.client.get_balances()["USDT"]["used"] == pytest.approx(5_990.0)
    venue.clock.go(minutes=14)
    assert venue.client.fetch_order(order["id"], BTC)["status"] == "open"
    venue.clock.go(minutes=6)
    filled = venue.client.fetch_order(order["id"], BTC)
    assert (filled["status"], filled["average"]) == ("closed", 59_900.0)
    [fill] = venue.account.fills
    assert fill.fee == Decimal("5990") * MAKER_FEE
    # From 60000 to 59800 between four and seven tenths of the candle of 00:15; at the limit is the best ask.
    share = 0.4 + 0.3 * (60_000 - 59_899.9) / 200
    assert fill.time_ms == pytest.approx((START + timedelta(minutes=15 + 5 * share)).timestamp() * 1000, abs=2)


def test_what_is_filled_does_not_depend_on_when_somebody_looks(open_venue: Callable[..., Venue]) -> None:
    def run(looks: int) -> list[Any]:
        venue = open_venue()
        venue.order("buy", 0.1, rate=59_900.0, kind="limit")
        venue.order("sell", 0.2, rate=60_200.0, kind="limit")
        venue.client.create_stoploss(BTC, 0.05, 60_050.0, {"stoploss": "market"}, "buy", 1.0)
        for _ in range(looks):
            venue.clock.go(minutes=60 / looks)
            venue.client.get_balances()
        return [*venue.account.fills, *venue.account.incomes, venue.account.wallet]

    seldom = run(1)
    assert len(seldom) > 4
    assert run(60) == seldom


def test_an_order_that_crosses_the_book_is_filled_at_the_best_price(venue: Venue) -> None:
    order = venue.order("buy", 0.1, rate=60_050.0, kind="limit")
    assert (order["status"], order["average"]) == ("closed", 60_000.1)
    assert venue.account.fills[0].fee == Decimal("6000.01") * TAKER_FEE


@pytest.mark.parametrize(
    ("force", "rate", "status"),
    [("IOC", 59_000.0, "expired"), ("IOC", 60_010.0, "closed"), ("FOK", 60_010.0, "closed")],
)
def test_times_in_force(venue: Venue, force: str, rate: float, status: str) -> None:
    assert venue.order("buy", 0.1, rate=rate, kind="limit", time_in_force=force)["status"] == status


@pytest.mark.parametrize(("force", "rate"), [("FOK", 59_000.0), ("PO", 60_010.0)])
def test_an_order_that_cannot_be_as_it_was_asked_for_is_refused(venue: Venue, force: str, rate: float) -> None:
    with pytest.raises(InvalidOrderException):
        venue.order("buy", 0.1, rate=rate, kind="limit", time_in_force=force)


def test_an_order_is_cancelled_and_gives_back_its_margin(venue: Venue) -> None:
    order = venue.order("buy", 0.1, rate=59_000.0, kind="limit")
    assert [one["id"] for one in venue.api.fetch_open_orders(BTC)] == [order["id"]]
    assert venue.client.cancel_order_with_result(order["id"], BTC, 0.1)["status"] == "canceled"
    assert venue.api.fetch_open_orders(BTC) == []
    assert venue.client.get_balances()["USDT"]["free"] == 100_000
    # freqtrade asks what became of it where it cannot be cancelled.
    assert venue.client.cancel_order_with_result(order["id"], BTC, 0.1)["status"] == "canceled"


def test_a_stop_on_the_exchange_waits_for_its_price_and_leaves_the_trade(venue: Venue) -> None:
    venue.order("buy", 0.1)
    stop = venue.client.create_stoploss(BTC, 0.1, 59_900.0, {"stoploss": "market"}, "sell", 1.0)
    assert venue.client.fetch_stoploss_order(stop["id"], BTC)["status"] == "open"
    with pytest.raises(InvalidOrderException, match="immediately trigger"):
        venue.client.create_stoploss(BTC, 0.1, 60_500.0, {"stoploss": "market"}, "sell", 1.0)
    venue.clock.go(minutes=20)
    met = venue.client.fetch_stoploss_order(stop["id"], BTC)
    assert (met["status"], met["status_stop"], met["average"]) == ("closed", "triggered", 59_900.0)
    assert venue.client.fetch_positions() == []


def test_a_stop_that_is_cancelled_does_nothing(venue: Venue) -> None:
    venue.order("buy", 0.1)
    stop = venue.client.create_stoploss(BTC, 0.1, 59_900.0, {"stoploss": "market"}, "sell", 1.0)
    assert venue.client.cancel_stoploss_order_with_result(stop["id"], BTC, 0.1)["status"] == "canceled"
    venue.clock.go(minutes=30)
    assert [one["contracts"] for one in venue.client.fetch_positions()] == [0.1]


# ---------------------------------------------------------------------- refusals


def test_an_order_that_only_reduces_needs_something_to_reduce(venue: Venue) -> None:
    with pytest.raises(InvalidOrderException, match="ReduceOnly Order is rejected"):
        venue.close(0.1)
    venue.order("buy", 0.1)
    # Of more than there is, what there is.
    assert venue.close(0.3)["filled"] == 0.1
    assert venue.client.fetch_positions() == []


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"quantity": "0.0001"}, -1111),
        ({"quantity": "0"}, -4003),
        ({"price": "59000.05"}, -4014),
        ({"quantity": "0.001", "price": "100"}, -4164),
        ({"type": "STOP_MARKET"}, -4120),
        ({"type": "ICEBERG"}, -1116),
        ({"side": "UP"}, -1130),
        ({"timeInForce": None}, -1102),
        ({"positionSide": "LONG"}, -4061),
        ({"symbol": "XYZUSDT"}, -1121),
    ],
)
def test_what_the_filters_refuse(venue: Venue, changed: dict[str, Any], code: int) -> None:
    venue.client.set_margin_mode(BTC, MarginMode.ISOLATED)
    good = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "quantity": "0.1", "price": "59000"}
    asked = {key: value for key, value in (good | {"timeInForce": "GTC"} | changed).items() if value is not None}
    with pytest.raises(ccxt.BaseError, match=f'"code":{code}'):
        venue.api.fapiPrivatePostOrder(asked)
    assert venue.account.orders == {}


def test_a_clients_own_name_of_an_order_is_taken_once_among_open_orders(venue: Venue) -> None:
    venue.client.set_margin_mode(BTC, MarginMode.ISOLATED)
    named = {"clientOrderId": "mine"}
    venue.api.create_order(BTC, "limit", "buy", 0.1, 59_000.0, named)
    with pytest.raises(ccxt.InvalidOrder, match="ClientOrderId is duplicated"):
        venue.api.create_order(BTC, "limit", "buy", 0.1, 59_000.0, named)
    found = venue.api.fetch_order(None, BTC, named)
    venue.api.cancel_order(found["id"], BTC)
    assert venue.api.create_order(BTC, "limit", "buy", 0.1, 59_000.0, named)["status"] == "open"


def test_settings_are_binances(venue: Venue) -> None:
    with pytest.raises(ccxt.BadRequest, match="ISOLATED"):
        venue.api.set_margin_mode("cross", BTC)
    with pytest.raises(ccxt.BadRequest, match="Leverage 500 is not valid; accepted: 1 to"):
        venue.api.fapiPrivatePostLeverage({"symbol": "BTCUSDT", "leverage": 500})
    venue.order("buy", 0.1, leverage=3.0)
    with pytest.raises(TemporaryError, match="Leverage reduction"):
        venue.client._set_leverage(2.0, BTC)
    with pytest.raises(RetryableOrderError):
        venue.client.fetch_order("77", BTC)


def test_no_key_is_taken_but_the_placeholder(venue: Venue, tmp_path: Path) -> None:
    url = venue.api.urls["api"]["fapiPrivate"].removesuffix("/fapi/v1")
    with pytest.raises(Exception, match="Simulated money has the key"):
        client_of(url, tmp_path, key="somebodys-own-key").get_balances()


# ---------------------------------------------------------------------- orders whose fate is unknown


@pytest.mark.parametrize("carried_out", [True, False])
def test_who_loses_the_answer_cannot_tell_whether_the_order_was_carried_out(
    open_venue: Callable[..., Venue], carried_out: bool
) -> None:
    venue = open_venue(Rule("order_unknown", carried_out=carried_out, times=4))
    told = set()
    for _ in range(4):
        with pytest.raises(TemporaryError) as lost:
            venue.order("buy", 0.1)
        told.add("Unknown error, please check" in str(lost.value))
    # A refusal or a closed connection, in both cases.
    assert told == {True, False}
    assert len(venue.account.fills) == (4 if carried_out else 0)
    assert venue.faults.served == {"order_unknown": 4}
    assert venue.order("buy", 0.1)["status"] == "closed"


def test_a_clock_that_is_off_refuses_what_is_signed(open_venue: Callable[..., Venue]) -> None:
    venue = open_venue(Rule("clock_skew", path="/fapi/v3/account", seconds=-30, times=5))
    with pytest.raises(TemporaryError, match="ahead of the server's time"):
        venue.client.get_balances()
    assert venue.client.get_balances()["USDT"]["free"] == 100_000
