"""A bot whose exchange tells no markets for a while: freqtrade keeps those that it has, and does not stop."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import MarginMode, RunMode, TradingMode
from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange
from freqtrade.resolvers import ExchangeResolver

from mtfscalper.freqai.candle_door import CandleDoor
from mtfscalper.freqai.owner import Owner
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.faults import Faults, Rule
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.synthetic import DEFAULT_START, write_market

FAULTS_FROM = DEFAULT_START + timedelta(hours=12)
PRICING = {"price_side": "same", "use_order_book": True, "order_book_top": 1}


class Clock:
    """Of the loopback exchange, moved by hand."""

    def __init__(self) -> None:
        self.now = DEFAULT_START + timedelta(hours=6)

    def __call__(self) -> datetime:
        return self.now.astimezone(UTC)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["empty", "half_json"])
def exchange(tmp_path: Path, clock: Clock, request: pytest.FixtureRequest) -> Iterator[Exchange]:
    """freqtrade's client of an exchange whose first two lists of markets from some moment on hold none."""
    write_market(tmp_path, stop=DEFAULT_START + timedelta(days=1))
    rule = Rule(request.param, path="exchangeInfo", since_ms=int(FAULTS_FROM.timestamp() * 1000), times=2)
    with ReplayExchange(tmp_path, clock=clock, faults=Faults((rule,))) as served:
        config: Any = {
            "dry_run": True,
            "trading_mode": TradingMode.FUTURES,
            "margin_mode": MarginMode.ISOLATED,
            "stake_currency": "USDT",
            "timeframe": "5m",
            "runmode": RunMode.DRY_RUN,
            "entry_pricing": PRICING,
            "exit_pricing": PRICING,
            **offline_config(served.url),
        }
        made = ExchangeResolver.load_exchange(config, validate=True)
        try:
            yield made
        finally:
            made.close()  # type: ignore[no-untyped-call]


def reload(exchange: Exchange) -> None:
    """As freqtrade does in a loop when an hour has passed."""
    exchange._last_markets_refresh = 1
    exchange.reload_markets()


def guard(exchange: Exchange) -> Owner:
    """What a bot's first pass does."""
    owner = Owner()
    CandleDoor(owner, {"include_timeframes": []}).guard("BTC/USDT:USDT", DataProvider(exchange._config, exchange))
    return owner


def test_the_markets_of_before_stay_and_the_owner_is_told_once_and_when_they_are_back(
    exchange: Exchange, clock: Clock
) -> None:
    owner = guard(exchange)
    before = set(exchange.get_markets())
    assert before
    clock.now = FAULTS_FROM
    for _ in range(2):
        reload(exchange)
        assert set(exchange.get_markets()) == set(exchange._api_async.markets) == before
        assert list(owner.troubles) == ["markets"]
        # It is asked again in the next loop.
        assert exchange._last_markets_refresh == 1
    reload(exchange)
    assert set(exchange.get_markets()) == before
    assert not owner.troubles
    assert exchange._last_markets_refresh > 1


def test_freqtrade_alone_loses_them_and_would_stop_the_trader(exchange: Exchange, clock: Clock) -> None:
    clock.now = FAULTS_FROM
    reload(exchange)
    with pytest.raises(OperationalException, match="Markets were not loaded"):
        exchange.get_markets()
