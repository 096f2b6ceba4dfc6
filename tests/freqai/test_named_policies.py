"""An open trade's custom data names the policy that decides about it, which is found whatever is deployed next."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from freqai_runs import PAIR, Watch
from freqtrade.persistence import Trade
from live_bot import FIRST_START, LiveBot, watched

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.policy_places import PolicyPlaces
from mtfscalper.freqai.trade_decisions import POLICY_KEY
from mtfscalper.seals import Seals

# What one trial has, and what the next one.
FIRST: dict[str, Any] = {"conv_width": 1}
NEXT: dict[str, Any] = {"conv_width": 3}


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LiveBot]:
    """What makes bots of one user directory and one database: the next is the one before, after its reload."""
    begun: list[LiveBot] = []

    def make(now: datetime = FIRST_START, **freqai: Any) -> LiveBot:
        Watch(monkeypatch)
        if begun:
            monkeypatch.setattr("live_bot.init_db", lambda _: None)
        settings = {"entry_mode": "agent", "decision_mode": "exact"}
        line = {"identifier": "deployed_line", "rl_config": settings, "purge_old_models": 1, **freqai}
        begun.append(LiveBot(tmp_path, market, monkeypatch, now, freqai=line))
        return begun[-1]

    return make


def ask(bot: LiveBot) -> Any:
    """Let a candle close, and ask about the open trade."""
    bot.next_candle()
    bot.analyse()
    [trade] = Trade.get_open_trades()
    assert bot.strategy.trade_decisions is not None
    return bot.strategy.trade_decisions.decide(trade, bot.now, 1.0)


def named(bot: LiveBot) -> str:
    """The policy that the open trade's custom data names, after a look that it is there."""
    [trade] = Trade.get_open_trades()
    # As from a database that was opened anew.
    name = Trade.get_trades([Trade.id == trade.id]).one().get_custom_data(POLICY_KEY)
    places = PolicyPlaces(
        Path(bot.model.full_path), Archive.from_config(bot.config), Seals(Path(bot.config["user_data_dir"]))
    )
    assert places.folders(name), f"{name} is not kept"
    return str(name)


def begun(make_bot: Any) -> LiveBot:
    """A bot that has decided about an open trade."""
    bot: LiveBot = make_bot(**FIRST)
    bot.analyse()
    bot.train()
    bot.next_candle()
    bot.analyse()
    bot.open_trade(candles_ago=0)
    assert ask(bot) is not None
    return bot


def test_the_policy_is_named_by_the_first_decision_and_written_once(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = watched(monkeypatch, Trade, "set_custom_data")
    bot = begun(make_bot)
    first = named(bot)
    assert first == Path(bot.model.dd.pair_dict[PAIR]["data_path"]).name
    for _ in range(3):
        ask(bot)
    assert named(bot) == first
    assert [arguments[1:] for arguments, _ in written if arguments[1] == POLICY_KEY] == [(POLICY_KEY, first)]
    # A new one takes over at the next candle.
    bot.train()
    ask(bot)
    assert named(bot) != first


def test_across_a_deployment_and_its_rollback_the_trade_finds_its_policy(make_bot: Any) -> None:
    bot = begun(make_bot)
    first = named(bot)
    # Other settings are deployed, and the bot reloads.
    bot = make_bot(bot.now, **NEXT)
    assert ask(bot) is not None
    assert named(bot) == first
    bot.train()
    assert ask(bot) is not None
    second = named(bot)
    assert second != first
    # They are taken back before anything else is trained: the policy of the other settings decides as it was trained.
    bot = make_bot(bot.now, **FIRST)
    decision = ask(bot)
    assert decision is not None
    assert named(bot) == second
    assert bot.model._live.policies[PAIR].terms.lookback == 3
    bot.train()
    assert ask(bot) is not None
    assert named(bot) not in (first, second)
    assert bot.model._live.policies[PAIR].terms.lookback == 1


def test_a_reload_alone_changes_no_policy(make_bot: Any) -> None:
    bot = begun(make_bot)
    first = named(bot)
    bot = make_bot(bot.now, **FIRST)
    assert ask(bot) is not None
    assert named(bot) == first
