"""A live bot does not enter a pair of which the exchange holds what none of its trades knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from freqtrade.enums import RunMode, TradingMode
from freqtrade.wallets import PositionWallet

from mtfscalper.freqai.owner import Owner
from mtfscalper.freqai.unknown_position import has_unknown_position

BTC, ETH = "BTC/USDT:USDT", "ETH/USDT:USDT"


class Bot:
    """What of a strategy is asked, its wallets and its data provider."""

    def __init__(self, runmode: RunMode = RunMode.LIVE) -> None:
        self.config = {"runmode": runmode, "trading_mode": TradingMode.FUTURES}
        self.on_exchange: dict[str, PositionWallet] = {}
        self.known: dict[str, PositionWallet] = {}
        self.told: list[str] = []
        self.wallets: Any = self
        self.dp: Any = self

    def update(self) -> None:
        self.known = dict(self.on_exchange)

    def get_all_positions(self) -> dict[str, PositionWallet]:
        return self.known

    def send_msg(self, message: str, *, always_send: bool) -> None:
        self.told.append(message)


def test_what_nobody_knows_of_is_told_once_and_the_pair_is_free_once_it_is_gone() -> None:
    bot: Any = Bot()
    assert not has_unknown_position(bot, BTC)
    # The exchange is asked each time: freqtrade's own knowledge is older than the lost answer.
    bot.on_exchange[BTC] = PositionWallet(BTC, position=0.05, side="short")
    assert has_unknown_position(bot, BTC)
    assert has_unknown_position(bot, BTC)
    assert not has_unknown_position(bot, ETH)
    [message] = bot.told
    assert "short position of 0.05" in message
    assert "Close it on the exchange" in message
    bot.on_exchange.clear()
    assert not has_unknown_position(bot, BTC)
    assert len(bot.told) == 2


def test_that_it_is_gone_is_told_though_its_pair_is_asked_for_no_more() -> None:
    bot: Any = Bot()
    bot.on_exchange[BTC] = PositionWallet(BTC, position=0.05, side="short")
    assert has_unknown_position(bot, BTC)
    assert not has_unknown_position(bot, ETH)
    assert len(bot.told) == 1
    bot.on_exchange.clear()
    assert not has_unknown_position(bot, ETH)
    assert bot.told[1].startswith(f"{BTC}: the position that no trade knew of is gone")


@pytest.mark.parametrize("runmode", [RunMode.DRY_RUN, RunMode.BACKTEST])
def test_elsewhere_there_is_no_exchange_to_ask(runmode: RunMode) -> None:
    bot: Any = Bot(runmode)
    bot.on_exchange[BTC] = PositionWallet(BTC, position=0.05, side="short")
    assert not has_unknown_position(bot, BTC)
    assert bot.known == {}


def test_the_owner_that_the_bots_health_speaks_for_is_told() -> None:
    bot: Any = Bot()
    bot.freqai = SimpleNamespace(dd=SimpleNamespace(owner=Owner()))
    bot.on_exchange[BTC] = PositionWallet(BTC, position=0.05, side="short")
    assert has_unknown_position(bot, BTC)
    assert list(bot.freqai.dd.owner.troubles) == [f"unknown position {BTC}"]
