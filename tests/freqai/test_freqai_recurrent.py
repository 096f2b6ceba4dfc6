"""RecurrentPPO through FreqAI: a backtest's columns and a bot's passes come from a policy that remembers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqai_runs import PAIR, FreqtradeBacktest, shortened
from freqtrade.persistence import Trade
from live_bot import LiveBot, watched
from recurrent_policies import decisive, stateful_loop
from sb3_contrib import RecurrentPPO

from mtfscalper import artefacts
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.freqai.recollection import WARM_UP_CANDLES, LiveMemories
from mtfscalper.policy import closed_loop
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.request import TrainingRequest

pytestmark = pytest.mark.acceptance

LOOKBACK = 2
FREQAI: dict[str, Any] = {
    "conv_width": LOOKBACK,
    "model_training_parameters": {"n_steps": 16, "batch_size": 16, "n_epochs": 1},
    "rl_config": {"model_type": "RecurrentPPO", "policy_type": "MlpLstmPolicy", "entry_mode": "agent", "net_arch": [8]},
}


@pytest.fixture(autouse=True)
def _decisive_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TrainingJob.run

    def train(job: TrainingJob, *arguments: Any) -> Any:
        model, report = real(job, *arguments)
        assert isinstance(model, RecurrentPPO)
        return decisive(model, job.train.features, job.settings.lookback), report

    monkeypatch.setattr(TrainingRequest, "begin_report", shortened(TrainingRequest.begin_report))
    monkeypatch.setattr(artefacts, "code_hash", lambda: "this code")
    monkeypatch.setattr(TrainingJob, "run", train)


def test_a_backtests_columns_are_the_decisions_of_the_stateful_loop(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FreqtradeBacktest(tmp_path, market, freqai=FREQAI)
    loops: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    real = closed_loop.run

    def looked_at(*arguments: Any, **keywords: Any) -> Any:
        loops.append((arguments, keywords))
        return real(*arguments, **keywords)

    monkeypatch.setattr(closed_loop, "run", looked_at)
    rows = run.run()
    periods = [(arguments, keywords) for arguments, keywords in loops if "account" in keywords]
    assert len(periods) == 3
    compared = 0
    for number, ((_, tape, settings, first, stop), keywords) in enumerate(periods):
        assert first == LOOKBACK - 1 + WARM_UP_CANDLES
        if keywords["account"].side:
            continue
        [path] = run.models.glob(f"sub-train-BTC_{int(tape.dates_ms[first]) // 1000}/*_model.zip")
        model = RecurrentPPO.load(path, device="cpu")
        settings = replace(settings, rules=replace(settings.rules, max_drawdown_ratio=0.999))
        warm_up = range(first - WARM_UP_CANDLES, first)
        loop = stateful_loop(model, tape, settings, warm_up=warm_up, first_row=first, account=keywords["account"])
        columns = rows.iloc[number * 288 : (number + 1) * 288].reset_index(drop=True)
        decided = [row for row in loop.decisions if row < stop]
        assert len(decided) > 200
        too_long = sum(trade.exit_reason == "max_duration" for trade in loop.trades)
        actions = columns[ACTION_COLUMN].to_numpy()
        assert sum(actions[row - first] != loop.decisions[row] for row in decided) <= too_long
        asked = columns[[LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN]].any(axis=1).to_numpy().nonzero()[0]
        assert set(asked + first) >= set(decided)
        compared += len(loop.trades)
    assert compared > 2
    # What freqtrade trades by them.
    assert len(run.trades()) > 2


def a_bot(home: Path, market: Path, monkeypatch: pytest.MonkeyPatch, **when: Any) -> LiveBot:
    return LiveBot(home, market, monkeypatch, freqai=FREQAI, **when)


def test_a_restarted_bot_remembers_the_candles_and_trades_of_before(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = watched(monkeypatch, LiveMemories, "at_last_row")
    bot = a_bot(tmp_path, market, monkeypatch)
    bot.analyse()
    bot.train()
    bot.analyse()
    columns = [LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN]
    for candle in range(10):
        bot.next_candle()
        if candle == 2:
            trade = bot.open_trade(is_short=True)
        if candle == 8:
            trade.is_open, trade.close_date = False, bot.now.replace(tzinfo=None)
            Trade.commit()
        first, again = bot.analyse().iloc[-1], bot.analyse().iloc[-1]
        # The bot comes by every few seconds: one decision, one step of the memory.
        pd.testing.assert_series_equal(first[columns], again[columns])
        assert (first[EXIT_COLUMN] > 0) == (2 < candle < 8)
    [unbroken] = {tuple(flat.probabilities[-1].tolist()) for _, (flat, _) in answers[-2:]}

    def restarted(with_trade: bool) -> tuple[float, ...]:
        other = a_bot(tmp_path, market, monkeypatch, now=bot.now)
        if with_trade:
            closed = bot.now - pd.Timedelta(minutes=5)
            again = other.open_trade(is_short=True, candles_ago=7)
            again.is_open, again.close_date = False, closed.replace(tzinfo=None)
            Trade.commit()
        other.analyse()
        flat, _ = answers[-1][1]
        return tuple(flat.probabilities[-1].tolist())

    np.testing.assert_allclose(restarted(with_trade=True), unbroken, rtol=0, atol=1e-5)
    assert np.abs(np.array(restarted(with_trade=False)) - unbroken).max() > 1e-4
    assert len(answers) > 20
    assert bot.model.live
    assert PAIR in bot.model._live.policies
