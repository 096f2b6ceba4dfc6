"""While trainings fail the old policy serves until it expires; then it enters nothing, and still ends its trade."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from freqai_runs import PAIR, Watch
from live_bot import LiveBot

from mtfscalper.freqai.columns import ACTION_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.freqai.decision_record import records_folder
from mtfscalper.trading.actions import Action

HOURS = 1
CANDLES_AN_HOUR = 12


@pytest.fixture(params=["exact", "replay"])
def bot(request: pytest.FixtureRequest, tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> LiveBot:
    """A bot with a policy that enters at every candle, whose trainings fail from now on."""
    Watch(monkeypatch, "random")
    rl = {"decision_mode": request.param, "entry_mode": "agent"}
    bot = LiveBot(tmp_path, market, monkeypatch, freqai={"expiration_hours": HOURS, "rl_config": rl})
    bot.analyse()
    bot.train()
    bot.analyse()
    bias = bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data
    bias[Action.LONG_ENTER] = 1e6
    bias[Action.LONG_EXIT] = -1e6
    return bot


def left(bot: LiveBot, frame: pd.DataFrame, trade: object) -> bool:
    if bot.strategy.trade_decisions is None:
        return bool(frame.iloc[-1].get("exit_long") == 1)
    return bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0) == "rl_exit"


def test_an_expired_policy_enters_nothing_and_decides_about_its_trade_at_every_candle(bot: LiveBot) -> None:
    bot.next_candle()
    trade = bot.open_trade()
    entered, trusted = [], []
    for _ in range(CANDLES_AN_HOUR + 4):
        bot.next_candle()
        frame = bot.analyse()
        last = frame.iloc[-1]
        assert not left(bot, frame, trade)
        trusted.append(int(last["do_predict"]))
        entered.append(bool(last.get("enter_long") == 1) if bot.strategy.trade_decisions else None)
    # It serves for an hour from its training on.
    assert trusted == [1] * (CANDLES_AN_HOUR - 2) + [2] * 6
    if bot.strategy.trade_decisions:
        assert entered == [True] * (CANDLES_AN_HOUR - 2) + [False] * 6
    assert last[[LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN]].tolist() == [0.0, 0.0]
    assert last[ACTION_COLUMN] == Action.NEUTRAL
    assert list(bot.model._owner.troubles) == [f"expired {PAIR}"]
    # Now it wants to leave.
    bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data[Action.LONG_EXIT] = 1e9
    bot.next_candle()
    assert left(bot, bot.analyse(), trade)
    if bot.strategy.trade_decisions:
        bot.strategy.bot_loop_start(current_time=bot.now)
        [file] = records_folder(bot.config).glob("dry_run_*.feather")
        asked = pd.read_feather(file)
        assert asked["held_candles"].tolist() == list(range(1, CANDLES_AN_HOUR + 6))
    # A training that goes well ends it.
    bot.train()
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1
    assert bot.model._owner.troubles == {}
