"""A bot tells how it is whenever that changes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, Watch
from freqtrade.freqai.data_drawer import METADATA
from freqtrade.persistence import Trade
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.freqai import health_writer
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.health import BotHealth, PairHealth, read_health
from mtfscalper.freqai.training_progress import TrainingProgress
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


@pytest.fixture
def of_two(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> LiveBot:
    return LiveBot(tmp_path, market, monkeypatch, exchange={"pair_whitelist": [PAIR, OTHER_PAIR]})


def passed(bot: LiveBot, pair: str, frame: pd.DataFrame) -> BotHealth:
    """What the bot tells of itself after its next pass over a pair."""
    bot.next_candle()
    with bot.clock():
        bot.model._health.passed(pair, bot.strategy, frame, None)
    return read_health(Path(bot.model.full_path))


def test_a_pair_that_has_left_the_whitelist_is_told_of_as_long_as_it_has_a_trade(
    of_two: LiveBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot, owner = of_two, of_two.model._owner
    frame = bot.analyse()
    health = read_health(Path(bot.model.full_path))
    # What is traded and has never been passed over is seen too.
    assert list(health.pairs) == [PAIR, OTHER_PAIR]
    assert health.pairs[OTHER_PAIR].candle_at == 0
    trade = bot.open_trade(candles_ago=1)
    with bot.clock():
        bot.model._trainings._note_failure(TrainingProgress(PAIR, threading.Event()), ValueError("no candles"))
    owner.trouble("markets", "none at all")
    everything = [f"training {PAIR}", "markets"]
    monkeypatch.setattr(bot.strategy.dp, "current_whitelist", lambda: [OTHER_PAIR])
    for _ in range(5):
        health = passed(bot, OTHER_PAIR, frame)
        assert list(health.pairs) == [OTHER_PAIR, PAIR]
        assert (health.pairs[PAIR].is_listed, health.pairs[OTHER_PAIR].is_listed) == (False, True)
        assert (health.pairs[PAIR].retrain_at, health.pairs[PAIR].n_failures) == (0, 1)
        assert list(health.troubles) == everything
    trade.is_open = False
    Trade.commit()
    health = passed(bot, OTHER_PAIR, frame)
    assert list(health.pairs) == [OTHER_PAIR]
    assert list(health.troubles) == ["markets"]
    # Once it is back, so is what was wrong with it, and nobody is told again.
    monkeypatch.setattr(bot.strategy.dp, "current_whitelist", lambda: [OTHER_PAIR, PAIR])
    health = passed(bot, OTHER_PAIR, frame)
    assert list(health.troubles) == everything
    assert health.pairs[PAIR].met_at > health.pairs[OTHER_PAIR].met_at


def test_a_pair_that_was_passed_over_just_now_may_have_been_entered_since(
    of_two: LiveBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = of_two
    frame = bot.analyse()
    monkeypatch.setattr(bot.strategy.dp, "current_whitelist", lambda: [OTHER_PAIR])
    with bot.clock():
        bot.model._health.passed(OTHER_PAIR, bot.strategy, frame, None)
    assert set(read_health(Path(bot.model.full_path)).pairs) == {PAIR, OTHER_PAIR}
    passed(bot, OTHER_PAIR, frame)
    assert set(passed(bot, OTHER_PAIR, frame).pairs) == {OTHER_PAIR}


def test_what_is_wrong_with_a_pair_that_features_are_made_of_concerns_the_bot(
    of_two: LiveBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = of_two
    frame = bot.analyse()
    # As freqtrade gathers them: of include_corr_pairlist, and of the strategy's own informative pairs.
    monkeypatch.setitem(bot.config["freqai"]["feature_parameters"], "include_corr_pairlist", ["ETH/BTC:BTC"])
    for pair in ("ETH/BTC:BTC", "SOL/USDT:USDT"):
        bot.model._owner.trouble(f"candles {pair} 5m", "of the future", pair)
    health = passed(bot, PAIR, frame)
    assert list(health.troubles) == ["candles ETH/BTC:BTC 5m"]


def test_whatever_a_frame_holds_no_pass_fails_by_it(bot: LiveBot, caplog: pytest.LogCaptureFixture) -> None:
    frame = bot.analyse()
    for strange in (frame.assign(**{ACTION_COLUMN: 17.0}), frame.drop(columns="date")):
        for _ in range(2):
            bot.model._health.passed(PAIR, bot.strategy, strange, None)
    assert caplog.text.count("The bot's health cannot be known (ValueError: 17 is not a valid Action)") == 1
    assert told(bot)[1].candle_at == frame["date"].iloc[-1].timestamp()


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
