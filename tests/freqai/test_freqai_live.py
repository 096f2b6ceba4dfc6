"""A dry-run bot: predictions candle by candle, true trades, and training beside inference."""

import threading
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
import torch
from freqai_runs import PAIR, Watch
from freqtrade.persistence import Trade
from live_bot import LiveBot, watched

from mtfscalper import artefacts
from mtfscalper.artefacts import MANIFEST_NAME
from mtfscalper.freqai.columns import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    LONG_ENTER_COLUMN,
    PREDICTION_COLUMNS,
    SHORT_ENTER_COLUMN,
)
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.freqai.trade_decisions import PROBABILITY_KEY
from mtfscalper.seals import Seals
from mtfscalper.trading.actions import Action
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.ppo import FusedPPO


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(policy: str = "random", **freqai: Any) -> LiveBot:
        Watch(monkeypatch, policy)
        return LiveBot(tmp_path, market, monkeypatch, freqai=freqai)

    return make


def ready(bot: LiveBot) -> LiveBot:
    """A bot that has been trained and has made its first pass."""
    bot.analyse()
    bot.train()
    bot.analyse()
    return bot


def signalled(frame: pd.DataFrame, column: str) -> bool:
    """Whether the strategy signals on the last row."""
    return column in frame and frame[column].iloc[-1] == 1


def test_before_the_first_training_nothing_is_predicted(make_bot: Any) -> None:
    frame = make_bot().analyse()
    assert not frame[[*PREDICTION_COLUMNS, "do_predict"]].any(axis=None)
    assert not frame.get("enter_long", pd.Series(dtype=float)).any()


@pytest.mark.parametrize("mode", ["gated", "classic", "agent"])
def test_the_first_pass_decides_every_candle_and_later_ones_append_the_last(make_bot: Any, mode: str) -> None:
    bot = make_bot(conv_width=3, rl_config={"entry_mode": mode})
    bot.analyse()
    bot.train()
    first = bot.analyse()
    assert len(first) == 999
    assert first[ACTION_COLUMN].isin([Action.NEUTRAL, Action.LONG_ENTER, Action.SHORT_ENTER]).all()
    assert (first[ACTION_COLUMN] != 0).sum() > 20
    # FreqAI lets no bot trade on the candles before its start.
    assert not first["do_predict"].any()
    signals = first["classic_long"] * Action.LONG_ENTER + first["classic_short"] * Action.SHORT_ENTER
    assert (signals != 0).sum() > 50
    if mode == "classic":
        # The first two candles have no lookback of three.
        np.testing.assert_array_equal(first[ACTION_COLUMN][2:], signals[2:])
    elif mode == "gated":
        assert first[ACTION_COLUMN].isin([0]).where(signals == 0, True).all()
    acted = 0
    for _ in range(8):
        bot.next_candle()
        frame = bot.analyse()
        assert len(frame) == 999
        assert frame["date"].iloc[-1] == bot.closed()["date"].iloc[-1]
        assert frame["do_predict"].iloc[-1] == 1
        whole = bot.predict_whole(*bot.whole_frame())
        for column in PREDICTION_COLUMNS:
            assert frame[column].iloc[-1] == pytest.approx(whole[column].iloc[-1], abs=1e-6)
        action = frame[ACTION_COLUMN].iloc[-1]
        assert signalled(frame, "enter_long") == (action == Action.LONG_ENTER)
        assert signalled(frame, "enter_short") == (action == Action.SHORT_ENTER)
        acted += action != 0
    if mode == "agent":
        assert acted > 0
    # What was predicted before stays as it was predicted.
    kept = frame[frame["date"].isin(first["date"])]
    before = first[first["date"].isin(frame["date"])]
    for column in PREDICTION_COLUMNS:
        np.testing.assert_array_equal(kept[column], before[column])


def test_a_restarted_bot_predicts_with_the_model_on_disk(make_bot: Any) -> None:
    bot = make_bot()
    bot.analyse()
    bot.train()
    before = bot.analyse()
    after = make_bot().analyse()
    assert (before[ACTION_COLUMN] != 0).sum() > 20
    pd.testing.assert_frame_equal(after[list(PREDICTION_COLUMNS)], before[list(PREDICTION_COLUMNS)])


def test_a_lookback_with_a_missing_feature_is_not_decided(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = ready(make_bot(conv_width=3, rl_config={"entry_mode": "agent"}))
    missing = pd.Timestamp("2024-09-08 12:05", tz="UTC")
    real = bot.strategy.feature_engineering_standard
    monkeypatch.setattr(
        bot.strategy,
        "feature_engineering_standard",
        lambda frame, metadata, **_: real(frame, metadata).assign(
            **{"%-hour-sine": lambda rows: rows["%-hour-sine"].mask(rows["date"] == missing, np.nan)}
        ),
    )
    seen = []
    for _ in range(5):
        bot.next_candle()
        last = bot.analyse().iloc[-1]
        seen.append((last["do_predict"], last[LONG_ENTER_COLUMN] + last[SHORT_ENTER_COLUMN] > 0))
        if not seen[-1][1]:
            assert last[ACTION_COLUMN] == 0
    # 12:00, then the candle without its feature, then two that look back on it.
    assert seen == [(1, True), (0, False), (1, False), (1, False), (1, True)]


def ask(bot: LiveBot, frame: pd.DataFrame, trade: Trade) -> tuple[bool, float]:
    """Whether the strategy leaves a trade now, and the probability that the policy gave leaving."""
    if bot.strategy.trade_decisions is None:
        signal = signalled(frame, "exit_short" if trade.is_short else "exit_long")
        leave = Action.SHORT_EXIT if trade.is_short else Action.LONG_EXIT
        assert frame[ACTION_COLUMN].iloc[-1] == (leave if signal else Action.NEUTRAL)
        return signal, frame[EXIT_COLUMN].iloc[-1]
    assert not signalled(frame, "exit_long")
    assert not signalled(frame, "exit_short")
    assert frame[EXIT_COLUMN].iloc[-1] == 0
    decision = bot.strategy.trade_decisions.decide(trade, bot.now, 1.0)
    reason = bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0)
    assert decision is not None
    assert reason == ("rl_exit" if decision.leave else None)
    assert trade.get_custom_data(PROBABILITY_KEY) == (decision.probability if decision.leave else None)
    return decision.leave, decision.probability


@pytest.mark.parametrize("mode", ["replay", "exact"])
@pytest.mark.parametrize("is_short", [False, True])
def test_an_open_trade_is_decided_on_as_it_truly_is(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch, is_short: bool, mode: str
) -> None:
    bot = ready(make_bot(conv_width=2, rl_config={"decision_mode": mode}))
    accounts = watched(monkeypatch, OpenTrade, "at")
    bot.next_candle(2)
    trade = bot.open_trade(is_short=is_short, funding_fees=-3.5)
    opened = pd.Timestamp(trade.open_date_utc).floor("5min")
    leave = Action.SHORT_EXIT if is_short else Action.LONG_EXIT
    side = -1.0 if is_short else 1.0
    due = bot.model.traded.source.funding.due(PAIR, bot.closed()["date"])
    assert not due[-20:].any()

    def ratio(rate: float, funding: float = 0.0) -> float:
        open_value = trade.open_rate * (1 + side * 0.0005)
        return side * ((rate * (1 - side * 0.0005) + side * funding) / open_value - 1)

    bias = bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data
    best_seen = set()
    for candle in range(1, 15):
        # It holds for ten candles, and then wants to leave.
        bias[leave] = -1e6 if candle <= 10 else 1e6
        bot.next_candle()
        left, probability = ask(bot, bot.analyse(), trade)
        assert left == (candle > 10)
        assert (probability > 0.5) == left
        # Asked once a candle, however often the bot comes by.
        assert len(accounts) == candle
        account, _ = accounts[-1][1]
        # The trade as training would have it: opens after the entry, and the last close for the open to come.
        closed = bot.closed()
        since = closed[closed["date"] > opened]
        opens = [trade.open_rate, *since["open"]]
        assert account.side == side
        assert account.open_rate == trade.open_rate
        assert account.held_candles == candle
        assert account.funding == -3.5
        best = max(max(ratio(rate) for rate in opens), ratio(closed["close"].iloc[-1], -3.5))
        assert account.best_profit == pytest.approx(best, abs=1e-12)
        best_seen.add(round(best, 9))
    assert len(best_seen) > 2
    # Once it is closed, the next row is a flat decision again.
    trade.is_open = False
    Trade.commit()
    bot.next_candle()
    last = bot.analyse().iloc[-1]
    assert len(accounts) == 14
    assert last[EXIT_COLUMN] == 0
    assert last[ACTION_COLUMN] != leave


def test_what_a_bot_decides_is_on_disk_by_its_next_loop(make_bot: Any, tmp_path: Path) -> None:
    bot = ready(make_bot(rl_config={"decision_mode": "exact"}))
    folder = tmp_path / "decisions" / "test"
    bot.next_candle(2)
    trade = bot.open_trade(is_short=True)
    bias = bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data
    for candle in range(1, 4):
        bias[Action.SHORT_EXIT] = 1e6 if candle == 3 else -1e6
        bot.next_candle()
        ask(bot, bot.analyse(), trade)
        # The bot comes by every few seconds; it is one question.
        ask(bot, bot.analyse(), trade)
        bot.strategy.bot_loop_start(current_time=bot.now)
        [file] = folder.glob("dry_run_*.feather")
        rows = pd.read_feather(file)
        assert rows["candle"].iloc[-1] == pd.Timestamp(bot.now).floor("5min")
        assert rows["held_candles"].tolist() == list(range(1, candle + 1))
    assert rows["leave"].tolist() == [False, False, True]
    assert set(rows["side"]) == {"short"}
    assert set(rows["opened"]) == {pd.Timestamp(trade.open_date_utc)}


@pytest.mark.parametrize("mode", ["replay", "exact"])
def test_in_its_entry_candle_a_trade_is_held(make_bot: Any, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    bot = ready(make_bot(rl_config={"decision_mode": mode}))
    bot.model.dd.model_dictionary[PAIR].policy.action_net.bias.data[Action.LONG_EXIT] = 1e6
    accounts = watched(monkeypatch, OpenTrade, "at")
    bot.next_candle()
    trade = bot.open_trade()
    frame = bot.analyse()
    assert not signalled(frame, "exit_long")
    assert bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0) is None
    assert accounts == []


def test_the_trade_of_another_pair_is_not_ours(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = ready(make_bot())
    trade = bot.open_trade(candles_ago=3)
    trade.pair = "ETH/USDT:USDT"
    Trade.commit()
    accounts = watched(monkeypatch, OpenTrade, "at")
    bot.next_candle()
    bot.analyse()
    assert accounts == []


def test_a_trade_whose_entry_order_still_waits_is_decided_on_without_its_amount(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = ready(make_bot())
    accounts = watched(monkeypatch, OpenTrade, "at")
    bot.open_trade(amount=0.0, funding_fees=None)
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1
    [(_, (account, _))] = accounts
    assert (account.side, account.funding) == (1.0, 0.0)


def test_before_the_first_prediction_an_open_trade_is_held(make_bot: Any) -> None:
    bot = make_bot(rl_config={"decision_mode": "exact"})
    trade = bot.open_trade(candles_ago=3)
    assert bot.strategy.custom_exit(PAIR, trade, bot.now, 1.0, 0.0) is None


def test_a_restarted_bot_says_that_its_policy_was_trained_for_other_rules(
    make_bot: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ready(make_bot(rl_config={"decision_mode": "exact"}))
    bot = make_bot(rl_config={"decision_mode": "exact"})
    bot.strategy.stoploss = -0.03
    bot.analyse()
    bot.next_candle()
    trade = bot.open_trade(candles_ago=1)
    bot.analyse()
    for _ in range(2):
        assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
    # In one line, though the trade is entered by the other rule too.
    told = [record.getMessage() for record in caplog.records if "stoploss" in record.getMessage()]
    [line] = [message for message in told if "trained with something else" in message or "another value" in message]
    assert line.startswith(
        f"{PAIR}: its policy was trained with something else: the trade's stoploss_ratio is 0.03 and was 0.02."
    )


@pytest.mark.parametrize("content", ['{"window": 1}', "{", '{"rules": {"minimal_roi": []}, "view": []}'])
def test_a_bot_whose_trained_rules_are_another_versions_says_so_and_decides_by_those_of_now(
    make_bot: Any, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    bot = ready(make_bot(rl_config={"decision_mode": "exact"}))
    [file] = Path(bot.model.full_path).rglob("trade_terms.json")
    file.write_text(content)
    # As that version would have sealed it.
    names = [path for path in file.parent.iterdir() if "_df.pkl" not in path.name and path.name != MANIFEST_NAME]
    model = next(path.name.removesuffix("_model.zip") for path in names if path.name.endswith("_model.zip"))
    files = artefacts.policy_files(file.parent, model) | {file.name: file}
    artefacts.write_manifest(file.parent, {}, files, Seals(Path(bot.config["user_data_dir"])), pair=PAIR)
    again = make_bot(rl_config={"decision_mode": "exact"})
    again.next_candle()
    trade = again.open_trade(candles_ago=1)
    again.analyse()
    assert again.strategy.trade_decisions.decide(trade, again.now, 1.0) is not None
    assert f"{file} cannot be read" in caplog.text


def test_policy_pipeline_and_feature_names_are_replaced_as_one(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """FreqAI puts the new model into use before the pipeline that belongs to it."""
    bot = ready(make_bot("random", rl_config={"entry_mode": "agent"}))
    drawer = bot.model.dd
    old_pipeline = drawer.meta_data_dictionary[PAIR]["feature_pipeline"]
    bot.next_candle(100)
    bot.train()
    new_model, new_pipeline = drawer.model_dictionary[PAIR], drawer.meta_data_dictionary[PAIR]["feature_pipeline"]
    assert new_pipeline is not old_pipeline
    both = bot.predict_whole(*bot.whole_frame())
    # In the midst of the replacement.
    drawer.meta_data_dictionary[PAIR]["feature_pipeline"] = old_pipeline
    frame, kitchen = bot.whole_frame()
    assert kitchen.feature_pipeline is old_pipeline
    pd.testing.assert_frame_equal(bot.predict_whole(frame, kitchen), both)
    # The control: with the old pipeline it would decide otherwise.
    del bot.model._preparations[new_model]
    frame, kitchen = bot.whole_frame()
    assert not bot.predict_whole(frame, kitchen).equals(both)


@pytest.mark.parametrize("continual_learning", [False, True])
def test_training_and_inference_at_once_disturb_neither(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch, continual_learning: bool
) -> None:
    """The policy in use is another object than the one in training, whose tape it never sees."""
    freqai = {"conv_width": 2, "continual_learning": continual_learning, "rl_config": {"n_steps": 512}}
    bot = ready(make_bot("decisive", **freqai))
    in_use = bot.model.dd.model_dictionary[PAIR]
    parameters = {name: value.clone() for name, value in in_use.policy.state_dict().items()}
    frame, kitchen = bot.whole_frame()
    alone = bot.predict_whole(frame, kitchen, in_use)
    assert (alone[ACTION_COLUMN] != 0).sum() > 20

    bot.train()
    undisturbed = bot.model.dd.model_dictionary[PAIR]
    assert undisturbed is not in_use
    bot.model.dd.model_dictionary[PAIR] = in_use

    thread, under_way, goes_on = threading.Thread(target=bot.train), threading.Event(), threading.Event()
    learn = FusedPPO.train

    def train(algorithm: FusedPPO) -> None:
        learn(algorithm)
        # In the midst of the training some are predicted for certain, and the others as it goes on.
        under_way.set()
        assert goes_on.wait(120)

    monkeypatch.setattr(FusedPPO, "train", train)
    predicted = []
    with bot.clock():
        thread.start()
        assert under_way.wait(120)
        while thread.is_alive():
            predicted.append(bot.predict_whole(frame, kitchen, in_use))
            if len(predicted) == 3:
                goes_on.set()
        thread.join()
    assert len(predicted) >= 3
    for columns in predicted:
        pd.testing.assert_frame_equal(columns, alone)
    disturbed = bot.model.dd.model_dictionary[PAIR]
    assert disturbed is not in_use
    assert disturbed is not undisturbed
    assert same(disturbed.policy.state_dict(), undisturbed.policy.state_dict())
    assert same(in_use.policy.state_dict(), parameters)


def test_a_bot_that_is_started_again_trains_on_from_the_policy_that_it_had(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its training thread runs before its first pass has loaded the policies of all pairs."""
    freqai = {"continual_learning": True, "live_retrain_hours": 1}
    ready(make_bot(**freqai))

    def trainings(bot: LiveBot) -> list[str]:
        tried: list[str] = []
        with monkeypatch.context() as patch, bot.clock():
            patch.setattr(bot.model, "extract_data_and_train_model", lambda _, pair, *__: tried.append(pair))
            bot.model._trainings.look(bot.strategy)
        return tried

    again = make_bot(**freqai)
    again.next_candle(24)
    assert trainings(again) == []
    again.analyse()
    assert trainings(again) == [PAIR]
    assert again.model._live.initial_model(again.model.dd.model_dictionary[PAIR]) is not None
    anew = make_bot(live_retrain_hours=1)
    anew.next_candle(24)
    assert trainings(anew) == [PAIR]


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def test_stopping_the_bot_ends_its_training(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = make_bot(rl_config={"train_cycles": 1_000_000})
    training = threading.Event()
    real = TrainingJob.run

    def run(*arguments: Any) -> Any:
        training.set()
        return real(*arguments)

    monkeypatch.setattr(TrainingJob, "run", run)
    # FreqAI's own training thread this time.
    bot.model.scanning = False
    with bot.clock():
        bot.analyse()
        thread, *others = bot.model._threads
        assert training.wait(timeout=120)
        # Of a million cycles there would be no end.
        bot.model.shutdown()
    assert not thread.is_alive()
    [funding_rates] = others
    assert not funding_rates.is_alive()
    assert not list(Path(bot.model.full_path).rglob("*.zip"))


def test_stopping_the_bot_saves_what_it_predicted(make_bot: Any) -> None:
    bot = make_bot()
    bot.model.dd.historic_predictions[PAIR] = pd.DataFrame({ACTION_COLUMN: [1.0, 2.0]})
    bot.model.shutdown()
    with (Path(bot.model.full_path) / "historic_predictions.pkl").open("rb") as file:
        assert cloudpickle.load(file)[PAIR][ACTION_COLUMN].tolist() == [1.0, 2.0]
