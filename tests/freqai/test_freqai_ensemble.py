"""Ensembles through FreqAI: one decision in backtest, closed loop and bot, from one sealed zip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from exact_runs import assert_no_gap, judge
from freqai_runs import IDENTIFIER, PAIR, PERIODS, FreqtradeBacktest, Watch, predictions
from live_bot import LiveBot
from stable_baselines3 import PPO

from mtfscalper import artefacts
from mtfscalper.artefacts import sealed_path
from mtfscalper.freqai.columns import ACTION_COLUMN, PREDICTION_COLUMNS
from mtfscalper.policy.ensemble import EnsemblePolicy
from mtfscalper.policy.inference import FastTradeDecider, PolicyDecider, WholeTradeDecider
from mtfscalper.policy.joined_model import split_model
from mtfscalper.seals import KEY_NAME
from mtfscalper.trading.observation import Observation

TWO: dict[str, Any] = {"rl_config": {"ensemble": 2, "entry_mode": "agent"}}


def test_the_backtest_makes_the_trades_of_the_ensemble_in_closed_loop(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdicts = judge(tmp_path, market, monkeypatch, "decisive", leaves=0.05, freqai=TWO)
    assert_no_gap(verdicts)
    assert len(verdicts.backtest) > 10
    assert sum(trade.exit_reason == "exit_signal" for trade in verdicts.backtest) > 5
    assert len(verdicts.asked_in_backtest) > 100
    # What lies on disk is one model that plain stable-baselines3 opens, of two members that are not alike.
    model = PPO.load(
        sealed_path(tmp_path / "models" / IDENTIFIER / f"sub-train-BTC_{PERIODS[0]}", "model"), device="cpu"
    )
    assert isinstance(model.policy, EnsemblePolicy)
    first, second = (dict(part.policy.state_dict()) for part in split_model(model))
    assert not first["action_net.weight"].equal(second["action_net.weight"])
    report = json.loads(
        (tmp_path / "models" / IDENTIFIER / f"sub-train-BTC_{PERIODS[0]}" / artefacts.REPORT_NAME).read_text()
    )
    assert len(report["members"]) == 2


def test_a_sealed_ensemble_is_reused_and_another_number_of_members_is_not(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = Watch(monkeypatch, "decisive")
    columns = predictions(FreqtradeBacktest(tmp_path, market, freqai=TWO).run())
    assert watch.trained == [PAIR] * 6
    watch.forget()
    pd.testing.assert_frame_equal(predictions(FreqtradeBacktest(tmp_path, market, freqai=TWO).run()), columns)
    assert watch.trained == []
    assert (columns[ACTION_COLUMN] != 0).sum() > 5
    three = {"rl_config": TWO["rl_config"] | {"ensemble": 3}}
    FreqtradeBacktest(tmp_path, market, freqai=three).run()
    assert watch.trained == [PAIR] * 9


def test_an_ensemble_sealed_elsewhere_is_used_only_where_it_is_trusted(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch, "decisive")
    made = FreqtradeBacktest(tmp_path / "made", market, freqai=TWO)
    made.run()
    watch.forget()
    for home, trusted in (("refused", []), ("admitted", [artefacts.pickles_digest(made.folder(p)) for p in PERIODS])):
        shutil.copytree(tmp_path / "made", tmp_path / home)
        for key in (tmp_path / home).rglob(KEY_NAME):
            key.unlink()
        rl = TWO["rl_config"] | {"trust_models": trusted}
        FreqtradeBacktest(tmp_path / home, market, freqai={"rl_config": rl}).run()
        assert len(watch.trained) == (0 if trusted else 6)
        watch.forget()


def test_continual_learning_goes_on_with_each_member(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Watch(monkeypatch, "trained")
    rl = TWO["rl_config"] | {"learning_rate": 1e-12}
    run = FreqtradeBacktest(tmp_path, market, freqai={"continual_learning": True, "rl_config": rl})
    run.run()
    assert "training starts anew" not in caplog.text
    first, last = (
        split_model(PPO.load(sealed_path(run.folder(period), "model"), device="cpu"))
        for period in (PERIODS[0], PERIODS[2])
    )
    # A learning rate this small leaves each member where it started: at the same member of the period before.
    for before, after in zip(first, last, strict=True):
        for name, value in before.policy.state_dict().items():
            np.testing.assert_allclose(after.policy.state_dict()[name], value, atol=1e-6)


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_a_bot_decides_by_its_ensemble_and_a_restarted_one_the_same(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    Watch(monkeypatch, "decisive")
    freqai = {"continual_learning": True, "rl_config": TWO["rl_config"] | {"decision_mode": mode}}
    bot = LiveBot(tmp_path, market, monkeypatch, freqai=freqai)
    bot.analyse()
    bot.train()
    before = bot.analyse()
    model = bot.model.dd.model_dictionary[PAIR]
    assert isinstance(model.policy, EnsemblePolicy)
    assert (before[ACTION_COLUMN] != 0).sum() > 20
    # The bot asks about a trade what the members' own policies answer on average.
    decider = bot.model._live.policies[PAIR].period.decider
    assert isinstance(decider, FastTradeDecider)
    each = [WholeTradeDecider(PolicyDecider(part.policy, decider._features)) for part in split_model(model)]
    probabilities = []
    for row in range(20, 120):
        seen = Observation(row, 1.0, 0.2, 0.3, 0.1, 0.0, 0.0)
        [ours], *theirs = (one.decide([seen]) for one in (decider, *each))
        mean = np.mean([one.exit_probability for [one] in theirs])
        assert ours.exit_probability == pytest.approx(mean, abs=2e-5)
        probabilities.append([one.exit_probability for [one] in theirs])
    # The control: the members do not agree.
    assert np.abs(np.diff(probabilities)).max() > 0.1
    bot.next_candle()
    after = bot.analyse().iloc[-1]
    again = LiveBot(tmp_path, market, monkeypatch, freqai=freqai)
    again.now = bot.now
    frame = again.analyse()
    np.testing.assert_allclose(
        frame[list(PREDICTION_COLUMNS)].iloc[-1].astype(float), after[list(PREDICTION_COLUMNS)].astype(float), atol=1e-6
    )
    # The next training goes on from it, beside the one in use.
    in_use = {name: value.clone() for name, value in model.policy.state_dict().items()}
    bot.next_candle(100)
    bot.train()
    assert all(value.equal(model.policy.state_dict()[name]) for name, value in in_use.items())
    assert bot.model.dd.model_dictionary[PAIR] is not model
