"""A bot tells how it is whenever that changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, Watch
from freqtrade.freqai.data_drawer import METADATA
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.freqai import health_writer
from mtfscalper.freqai.health import BotHealth, PairHealth, read_health
from mtfscalper.monitoring.bot_status import Level, Status
from mtfscalper.trading.actions import Action


@pytest.fixture
def bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> LiveBot:
    Watch(monkeypatch, "random")
    freqai = {"expiration_hours": 2, "live_retrain_hours": 1, "rl_config": {"decision_mode": "exact"}}
    return LiveBot(tmp_path, market, monkeypatch, freqai=freqai)


def told(bot: LiveBot) -> tuple[BotHealth, PairHealth]:
    health = read_health(Path(bot.model.full_path))
    return health, health.pairs[PAIR]


def test_a_bot_tells_of_its_policy_its_trainings_and_its_decisions(
    bot: LiveBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot.analyse()
    health, pair = told(bot)
    assert (pair.trained_at, pair.retrain_at, pair.n_features, pair.ended_at) == (0, 0, 0, 0)
    assert (health.runmode, health.candle_seconds, health.retrain_seconds) == ("dry_run", 300, 3600)
    assert Status.of(Path(bot.model.full_path)).level is Level.WARNING
    # What the bot's training thread does.
    with bot.clock():
        bot.model._trainings.look(bot.strategy)
    bot.next_candle()
    bot.analyse()
    bias = bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data
    bias[Action.LONG_EXIT] = 1e6
    trade = bot.open_trade(candles_ago=1)
    bot.next_candle()
    bot.analyse()
    bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0)
    with bot.clock():
        bot.model._health.write()
    health, pair = told(bot)
    trained = bot.model.dd.pair_dict[PAIR]["trained_timestamp"]
    assert (pair.trained_at, pair.retrain_at, pair.expires_at) == (trained, trained + 3600, trained + 7200)
    assert pair.n_features == len(bot.model.dd.meta_data_dictionary[PAIR][METADATA]["training_features_list"]) > 20
    assert pair.ended_at >= trained
    assert pair.seconds > 0
    assert pair.candle_at == (bot.closed()["date"].iloc[-1] - pd.Timestamp(0, tz="UTC")).total_seconds()
    assert 0 <= pair.probability <= 1
    assert (pair.do_predict, pair.leave) == (1, True)
    assert pair.leave_probability > 0.99
    assert pair.asked_at == pd.Timestamp(bot.now).floor("5min").timestamp()
    assert Status.of(Path(bot.model.full_path)).level is Level.OK

    def fail(*_: Any) -> None:
        raise MemoryError("none left")

    monkeypatch.setattr(bot.model, "extract_data_and_train_model", fail)
    bot.next_candle(13)
    with bot.clock():
        bot.model._trainings.look(bot.strategy)
    bot.analyse()
    health, pair = told(bot)
    assert (pair.n_failures, pair.error) == (1, "MemoryError: none left")
    assert pair.retrain_at == pytest.approx(pair.ended_at + 5, abs=1)
    assert list(health.troubles) == [f"training {PAIR}"]
    bot.model.shutdown()
    assert told(bot)[0].stopped_at > 0


def test_pairs_that_have_left_the_whitelist_are_of_no_concern_once_they_are_passed_over_no_more(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = LiveBot(tmp_path, market, monkeypatch, exchange={"pair_whitelist": [PAIR, OTHER_PAIR]})
    frame = bot.analyse()
    health = read_health(Path(bot.model.full_path))
    # What is traded and has never been passed over is seen too.
    assert list(health.pairs) == [PAIR, OTHER_PAIR]
    assert health.pairs[OTHER_PAIR].candle_at == 0
    monkeypatch.setattr(bot.strategy.dp, "current_whitelist", lambda: [OTHER_PAIR])
    known = []
    for _ in range(6):
        with bot.clock():
            bot.model._health.passed(OTHER_PAIR, bot.strategy, frame, None)
        known.append(set(read_health(Path(bot.model.full_path)).pairs))
        bot.next_candle()
    # It may have a trade still; then it is passed over at every candle.
    assert known[:3] == [{PAIR, OTHER_PAIR}] * 3
    assert known[4:] == [{OTHER_PAIR}] * 2


def test_it_writes_when_something_changed_and_stops_nothing_where_it_cannot(
    bot: LiveBot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[Path] = []
    real = artefacts.write_json

    def write(path: Path, value: Any) -> None:
        if path.name == "health.json":
            written.append(path)
        real(path, value)

    monkeypatch.setattr(artefacts, "write_json", write)
    bot.analyse()
    for _ in range(3):
        bot.model._health.write()
    assert len(written) == 1
    bot.model._owner.trouble("candles", "a gap")
    bot.model._health.write()
    assert len(written) == 2

    def full(*_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(health_writer.BotHealth, "write", full)
    for _ in range(3):
        bot.next_candle()
        bot.analyse()
    assert caplog.text.count("The bot's health cannot be written (OSError: no space left).") == 1
