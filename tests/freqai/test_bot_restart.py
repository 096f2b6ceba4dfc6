"""A bot that is killed at any moment and started again: what it decided stands, and nothing is asked twice."""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from damage import truncate
from freqai_runs import OTHER_PAIR, PAIR, Watch
from live_bot import FIRST_START, LiveBot, watched
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.freqai.columns import ACTION_COLUMN, LONG_ENTER_COLUMN, PREDICTION_COLUMNS
from mtfscalper.freqai.decision_record import records_folder
from mtfscalper.freqai.prediction_history import DATE, JOURNAL_NAME
from mtfscalper.trading.actions import Action

# As many show what each would leave.
_TRAININGS = 12
COLUMNS = [*PREDICTION_COLUMNS, "do_predict"]


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LiveBot]:
    """What makes bots of one user directory; each is killed by making the next one."""

    def make(now: datetime = FIRST_START, mode: str = "exact", **freqai: Any) -> LiveBot:
        Watch(monkeypatch)
        settings = {"entry_mode": "agent", "decision_mode": mode}
        return LiveBot(tmp_path, market, monkeypatch, now, freqai={"rl_config": settings, **freqai})

    return make


def running(bot: LiveBot, n_candles: int = 3) -> pd.DataFrame:
    """The frame of a bot that has been trained and has decided on some candles."""
    bot.analyse()
    bot.train()
    frame = bot.analyse()
    for _ in range(n_candles):
        bot.next_candle()
        frame = bot.analyse()
    return frame


def leaves(bot: LiveBot, prefers: bool) -> None:
    bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data[Action.LONG_EXIT] = 1e6 if prefers else -1e6


def recorded(bot: LiveBot) -> pd.DataFrame:
    return pd.concat(map(pd.read_feather, sorted(records_folder(bot.config).glob("dry_run_*.feather"))))


def test_killed_with_an_open_trade_every_candle_is_asked_once_and_the_answer_stands(make_bot: Any) -> None:
    bot = make_bot()
    running(bot)
    trade = bot.open_trade()
    leaves(bot, prefers=False)
    for _ in range(3):
        bot.next_candle()
        bot.analyse()
        assert bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0) is None
    # Killed within the candle: no loop follows, nothing is closed. The policy would say otherwise now.
    again = make_bot(bot.now)
    trade = again.open_trade(candles_ago=3)
    again.analyse()
    leaves(again, prefers=True)
    for _ in range(2):
        assert again.strategy.custom_exit(PAIR, trade, again.now, 1.0, 0.0) is None
    again.next_candle()
    again.analyse()
    assert again.strategy.custom_exit(PAIR, trade, again.now, 1.0, 0.0) == "rl_exit"
    asked = recorded(again)
    assert asked["held_candles"].tolist() == [1, 2, 3, 4]
    assert asked["leave"].tolist() == [False, False, False, True]
    assert not asked.duplicated(["pair", "opened", "candle"]).any()


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_what_was_decided_stays_and_candles_missed_are_no_decisions(make_bot: Any, mode: str) -> None:
    bot = make_bot(mode=mode)
    before = running(bot).set_index("date")[COLUMNS]
    assert (before["do_predict"] == 1).sum() == 3
    again = make_bot(bot.now, mode=mode)
    again.next_candle(5)
    # Another policy would enter everywhere.
    after = again.analyse().set_index("date")
    assert after.index.is_unique
    known = before.index.intersection(after.index)
    assert len(known) == 994
    pd.testing.assert_frame_equal(after.loc[known, COLUMNS], before.loc[known], check_dtype=False)
    missed = after.iloc[-5:-1]
    assert missed[list(PREDICTION_COLUMNS)].isna().all(axis=None)
    assert (missed["do_predict"] == 0).all()
    assert not missed.get("enter_long", pd.Series(dtype=float)).any()
    # The candle that has just closed is decided on as ever.
    assert after["do_predict"].iloc[-1] == 1
    assert after[LONG_ENTER_COLUMN].iloc[-1] > 0
    history = again.model.dd.historic_predictions[PAIR]
    assert not history[DATE].isin(missed.index).any()
    # On a whole frame the policy was asked about no other row.
    assert (history["do_predict"] == 1).sum() == 4


def test_in_replay_mode_a_restart_within_the_candle_keeps_the_exit_that_was_decided(make_bot: Any) -> None:
    bot = make_bot(mode="replay")
    running(bot)
    bot.open_trade()
    leaves(bot, prefers=True)
    bot.next_candle()
    assert bot.analyse()[ACTION_COLUMN].iloc[-1] == Action.LONG_EXIT
    again = make_bot(bot.now, mode="replay")
    again.open_trade(candles_ago=1)
    again.analyse()
    frame = again.analyse()
    assert frame[ACTION_COLUMN].iloc[-1] == Action.LONG_EXIT
    assert frame["exit_long"].iloc[-1] == 1


def test_a_power_cut_in_the_midst_of_writing_loses_no_more_than_the_last_line(
    make_bot: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bot = make_bot()
    running(bot)
    history = bot.model.dd.historic_predictions[PAIR]
    models = Path(bot.model.full_path)
    truncate(models / "historic_predictions.pkl")
    journal = models / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-10])
    again = make_bot(bot.now)
    # The last candle counts as not decided, and is decided on now: it has just closed.
    pd.testing.assert_frame_equal(again.model.dd.historic_predictions[PAIR], history.iloc[:-1], check_dtype=False)
    assert "1 of 3 lines are cut off" in caplog.text
    assert again.analyse()["do_predict"].iloc[-1] == 1
    pd.testing.assert_frame_equal(
        again.model.dd.historic_predictions[PAIR][COLUMNS], history[COLUMNS], check_dtype=False
    )


# ---------------------------------------------------------------------- what made pairs stick


@pytest.mark.parametrize("case", ["a column less", "text", "twice", "none"])
def test_whatever_a_history_holds_no_pair_sticks(make_bot: Any, case: str) -> None:
    bot = make_bot()
    running(bot, n_candles=1)
    rows = bot.model.dd.historic_predictions[PAIR]
    bot.model.dd.historic_predictions[PAIR] = {
        "a column less": rows.drop(columns=[LONG_ENTER_COLUMN, f"{LONG_ENTER_COLUMN}_mean"]),
        "text": rows.astype({DATE: str, ACTION_COLUMN: object}),
        "twice": pd.concat([rows, rows]),
        "none": rows.iloc[:0],
    }[case]
    bot.model.shutdown()
    again = make_bot(bot.now)
    for _ in range(2):
        again.next_candle()
        last = again.analyse().iloc[-1]
    assert last["do_predict"] == 1
    assert np.isfinite(last[list(PREDICTION_COLUMNS)].astype(float)).all()


def test_a_clock_that_is_set_back_stops_neither_decisions_nor_trainings(make_bot: Any) -> None:
    bot = make_bot()
    running(bot, n_candles=1)
    rows = bot.model.dd.historic_predictions[PAIR]
    bot.model.dd.historic_predictions[PAIR] = pd.concat(
        [rows, rows.tail(1).assign(**{DATE: rows[DATE].tail(1) + pd.Timedelta(days=400)})], ignore_index=True
    )
    bot.model.dd.pair_dict[PAIR]["trained_timestamp"] += 400 * 86_400
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1
    assert bot.model.dd.pair_dict[PAIR]["trained_timestamp"] == 0


def test_started_with_a_clock_that_is_behind_nothing_that_was_decided_is_lost(make_bot: Any) -> None:
    bot = make_bot()
    running(bot)
    decided, now = bot.model.dd.historic_predictions[PAIR], bot.now
    bot.model.shutdown()
    behind = make_bot(now - timedelta(hours=2))
    sent: list[str] = []
    behind.strategy.dp.send_msg = lambda message, *, always_send=False: sent.append(message)
    behind.analyse()
    behind.model.dd.save_historic_predictions_to_disk()
    [message] = [message for message in sent if "clock" in message]
    assert "decisions on BTC/USDT:USDT are of candles yet to come" in message
    assert "clock" in behind.model._owner.troubles
    pd.testing.assert_frame_equal(make_bot(now).model.dd.historic_predictions[PAIR], decided, check_dtype=False)
    # The clock is set while it runs.
    behind.now = now
    behind.next_candle()
    behind.analyse()
    pd.testing.assert_frame_equal(
        behind.model.dd.historic_predictions[PAIR].iloc[:-1], decided, check_dtype=False, check_like=True
    )
    assert "clock" not in behind.model._owner.troubles
    assert sent[-1].startswith("The clock agrees")


def test_an_exchange_that_lags_behind_takes_no_decision_back(make_bot: Any) -> None:
    bot = make_bot()
    running(bot)
    history = bot.model.dd.historic_predictions[PAIR]
    real = bot.closed
    bot.closed = lambda timeframe="5m": real(timeframe).iloc[: -1 if timeframe == "5m" else None]
    bot.analyse()
    pd.testing.assert_frame_equal(bot.model.dd.historic_predictions[PAIR], history)


def test_an_exchange_that_lags_behind_to_a_candle_that_was_missed_stops_no_pass(make_bot: Any) -> None:
    bot = make_bot()
    running(bot)
    # One candle is missed, and the next decided on.
    bot.next_candle(2)
    bot.analyse()
    real = bot.closed
    bot.closed = lambda timeframe="5m": real(timeframe).iloc[: -1 if timeframe == "5m" else None]
    frame = bot.analyse()
    assert frame["date"].iloc[-1] == real()["date"].iloc[-2]
    assert frame["do_predict"].iloc[-1] == 0
    assert not frame.get("enter_long", pd.Series(dtype=float)).iloc[-1:].eq(1).any()


def test_a_pair_that_has_left_the_whitelist_with_a_trade_open_is_decided_on(
    make_bot: Any, tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = make_bot()
    running(bot, n_candles=1)
    settings = {"entry_mode": "agent", "decision_mode": "exact"}
    again = LiveBot(
        *(tmp_path, market, monkeypatch, bot.now),
        freqai={"rl_config": settings},
        exchange={"pair_whitelist": [OTHER_PAIR]},
    )
    for _ in range(2):
        again.next_candle()
        assert again.analyse()["do_predict"].iloc[-1] == 1
    trade = again.open_trade(candles_ago=1)
    assert again.strategy.trade_decisions.decide(trade, again.now, 1.0) is not None
    assert PAIR not in again.model.train_queue


# ---------------------------------------------------------------------- months


def test_no_line_of_ours_comes_with_every_candle(make_bot: Any, caplog: pytest.LogCaptureFixture) -> None:
    bot = make_bot()
    running(bot)
    trade = bot.open_trade()
    leaves(bot, prefers=False)
    caplog.clear()
    for _ in range(4):
        bot.next_candle()
        bot.analyse()
        bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0)
        bot.strategy.bot_loop_start(current_time=bot.now)
    ours = [record for record in caplog.records if record.name.startswith("mtfscalper")]
    assert [record.getMessage() for record in ours if record.levelno >= logging.INFO] == []


def test_neither_objects_nor_file_handles_nor_folders_grow_with_trainings(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = make_bot(purge_old_models=2)
    saved = watched(monkeypatch, bot.model.dd, "save_data")
    running(bot, n_candles=1)
    drawer = bot.model.dd
    [((model, _, kitchen), _)] = saved
    saved.clear()
    monkeypatch.undo()

    def count() -> tuple[int, int, int]:
        gc.collect()
        policies = sum(isinstance(thing, BaseAlgorithm) for thing in gc.get_objects())
        return policies, psutil.Process().num_fds(), len(os.listdir(bot.model.full_path))

    counts = {}
    zipped = Path(bot.model.full_path) / "policy.zip"
    model.save(zipped)
    trained_at = int(bot.now.timestamp())
    for training in range(_TRAININGS):
        kitchen.set_paths(PAIR, trained_at + training + 1)
        kitchen.set_new_model_names(PAIR, trained_at + training + 1)
        fresh = type(model).load(zipped)
        bot.model._preparations[fresh] = bot.model._preparations[model]
        with bot.clock():
            drawer.save_data(fresh, PAIR, kitchen)
            drawer.purge_old_models()
            del fresh
            if training % 2:
                # As after a restart: from disk.
                drawer.model_dictionary.clear()
                drawer.meta_data_dictionary.clear()
            assert drawer.load_data(PAIR, kitchen) is not None
        if training in (_TRAININGS // 2, _TRAININGS - 1):
            counts[training] = count()
    assert len(set(counts.values())) == 1


@pytest.mark.parametrize("failing", ["_journal.close", "_download.end", "dd.save_historic_predictions_to_disk", None])
def test_each_step_of_a_bots_end_is_taken_whatever_the_others_do(
    make_bot: Any, failing: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was predicted would be lost for an error of the journal, and a training be left behind."""
    model = make_bot().model
    steps = ["_journal.close", "_download.end", "dd.save_historic_predictions_to_disk", "_health.stopped"]
    taken: list[str] = []

    def take(step: str) -> None:
        taken.append(step)
        if step == failing:
            raise RuntimeError("out of luck")

    for step in steps:
        holder, name = step.split(".")
        monkeypatch.setattr(getattr(model, holder), name, partial(take, step))
    waits = threading.Thread(target=model._stop_event.wait)
    waits.start()
    model._threads.append(waits)
    model.shutdown()
    assert taken == steps
    assert not waits.is_alive()
    assert ("out of luck" in caplog.text) == (failing is not None)


def test_a_pair_whose_history_holds_nothing_any_more_is_decided_on(make_bot: Any) -> None:
    """A clock that was set back takes all candles out of it; without this the pair would be stuck until a restart."""
    bot = make_bot()
    running(bot)
    histories = bot.model.dd.historic_predictions
    histories[PAIR] = histories[PAIR].iloc[:0]
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1
    assert len(histories[PAIR]) == 1
