"""All periods of a pair trained at once on a device, through FreqAI: usual seals, and the trades of the closed loop."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from exact_runs import assert_no_gap, judge
from freqai_runs import PERIODS, FreqtradeBacktest, predictions
from live_bot import LiveBot
from stable_baselines3 import PPO

from mtfscalper.artefacts import REPORT_NAME, sealed_path
from mtfscalper.freqai.columns import ACTION_COLUMN

TORCH: dict[str, Any] = {"rl_config": {"vec_env": "torch", "entry_mode": "agent"}}


def reports(run: FreqtradeBacktest) -> list[dict[str, Any]]:
    return [json.loads((run.folder(period) / REPORT_NAME).read_text()) for period in PERIODS]


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_the_periods_of_a_pair_are_trained_at_once_and_reused(
    tmp_path: Path, market: Path, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    freqai = {"rl_config": TORCH["rl_config"] | {"decision_mode": mode}}
    with caplog.at_level(logging.INFO):
        run = FreqtradeBacktest(tmp_path, market, freqai=freqai)
        columns = predictions(run.run())
    assert [(report["vec_env"], report["population"]) for report in reports(run)] == [("torch", 3)] * 3
    assert "3 policies to train" in caplog.text
    assert np.isfinite(columns.drop(columns="date").to_numpy()).all()
    model = PPO.load(sealed_path(run.folder(PERIODS[0]), "model"), device="cpu")
    assert model.policy.device == torch.device("cpu")
    caplog.clear()
    again = FreqtradeBacktest(tmp_path, market, freqai=freqai)
    pd.testing.assert_frame_equal(predictions(again.run()), columns)
    assert "Starting training" not in caplog.text


def test_the_backtest_makes_the_trades_of_the_closed_loop(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rl = TORCH["rl_config"] | {"ensemble": 2}
    verdicts = judge(tmp_path, market, monkeypatch, "decisive", leaves=0.2, freqai={"rl_config": rl})
    assert_no_gap(verdicts)
    assert len(verdicts.backtest) > 5
    assert "exit_signal" in {trade.exit_reason for trade in verdicts.backtest}
    assert len(verdicts.asked_in_backtest) > 100


def test_a_bot_trains_on_the_device(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = LiveBot(tmp_path, market, monkeypatch, freqai=TORCH)
    bot.analyse()
    bot.train()
    frame = bot.analyse()
    assert (frame[ACTION_COLUMN] != 0).sum() > 5
