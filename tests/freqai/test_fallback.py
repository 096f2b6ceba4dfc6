"""A policy that does not beat classic exits: the rules end its trades, and everything that is written says so."""

from __future__ import annotations

import errno
import json
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch, predictions
from freqtrade.persistence import Trade
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.artefacts import REPORT_NAME, read_manifest
from mtfscalper.freqai.backtest_period import BacktestPeriod
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, FALLBACK_COLUMN, LONG_ENTER_COLUMN
from mtfscalper.freqai.decision_record import (
    DecisionRecord,
    Question,
    bots_decisions,
    newest_decisions,
    records_folder,
)
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.fallback import falls_back, judged_in, why_fallen
from mtfscalper.freqai.fallen_periods import FallenPeriods
from mtfscalper.freqai.health import PairHealth, read_health
from mtfscalper.freqai.owner import fallback_trouble
from mtfscalper.freqai.run_plan import RunPlan
from mtfscalper.monitoring.bot_status import Status
from mtfscalper.trading.actions import Action
from mtfscalper.training import guard
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest

GUARDED = {"fallback": "classic", "max_trade_duration_candles": 24, "decision_mode": "replay"}
SPLIT = {"data_split_parameters": {"test_size": 0.4, "shuffle": False}}
BEATEN = PairedResult(40, 12, 0.01, 0.002, 0.003)
NOT_BEATEN = PairedResult(40, 12, 0.004, 0.002, -0.001)


def overlay(**rl: Any) -> dict[str, Any]:
    return SPLIT | {"rl_config": GUARDED | rl}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, leaves=0.1)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[int, PairedResult]:
    """What policies are judged to be, by the first day of their training; beaten where nothing is said.

    Fills with what was asked.
    """
    said: dict[int, PairedResult] = {}

    def judged(job: TrainingRequest, model: Any) -> PairedResult:
        assert_apart(job)
        return said.setdefault(int(job.train.dates_ms[0]) // 86_400_000, BEATEN)

    monkeypatch.setattr(guard, "judge", judged)
    return said


def assert_apart(job: TrainingRequest) -> None:
    """Nothing of a trade or an observation of one tape is of another: 24 candles of a trade, one looked back on."""
    assert job.evaluation is not None
    assert job.judging is not None
    tapes = (job.train, job.evaluation, job.judging)
    part = np.repeat([0, 1, 2], [len(tape) for tape in tapes])
    dates = np.concatenate([tape.dates_ms for tape in tapes])
    order = np.argsort(dates)
    changes = np.flatnonzero(np.diff(part[order]))
    assert len(changes) >= 2
    assert (np.diff(dates[order])[changes] > 25 * 300_000).all()


def exits(rows: pd.DataFrame) -> pd.Series[bool]:
    return rows[ACTION_COLUMN].isin([Action.LONG_EXIT, Action.SHORT_EXIT])


def test_in_replay_mode_the_rules_end_the_trades_of_the_period_that_falls_back(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    verdicts: dict[int, PairedResult],
    caplog: pytest.LogCaptureFixture,
) -> None:
    unguarded = FreqtradeBacktest(tmp_path / "off", market, freqai=SPLIT | {"rl_config": {**GUARDED, "fallback": None}})
    unguarded.run()
    first = FreqtradeBacktest(tmp_path / "on", market, freqai=overlay())
    rows = first.run()
    days = sorted(verdicts)
    assert len(days) == 3
    assert not rows[FALLBACK_COLUMN].any()
    assert FALLBACK_COLUMN not in unguarded.frame

    # The same trainings again, of which the second is judged otherwise.
    verdicts[days[1]] = NOT_BEATEN
    with caplog.at_level(logging.INFO):
        run = FreqtradeBacktest(tmp_path / "fallen", market, freqai=overlay())
        fallen = run.run()
    which = [set(fallen.loc[fallen["date"].dt.day == at, FALLBACK_COLUMN]) for at in (5, 6, 7)]
    assert which == [{0.0}, {1.0}, {0.0}]
    middle = fallen[fallen["date"].dt.day == 6]
    before = rows[rows["date"].dt.day == 6]
    # It is asked and heard all the same; the longest duration is an exit of the columns too.
    assert (middle[EXIT_COLUMN] > 0.5).sum() > 5
    lived = middle[EXIT_COLUMN].gt(0) & ~exits(middle)
    assert (middle.loc[lived, EXIT_COLUMN] > 0.5).any()
    assert exits(middle).sum() < exits(before).sum()
    held = watch.replayed[-2].actions[watch.replayed[-2].exit_probability > 0]
    assert len(held) > 20
    assert {trade.exit_reason for trade in watch.replayed[-2].trades} <= {
        "max_duration",
        "stop_loss",
        "roi",
        "force_exit",
    }
    # Its entries stay.
    pd.testing.assert_series_equal(middle[LONG_ENTER_COLUMN], before[LONG_ENTER_COLUMN])
    assert middle[ACTION_COLUMN].isin([Action.LONG_ENTER, Action.SHORT_ENTER]).any()
    [told] = [line for line in caplog.messages if "in 1 of 3 periods the policy does not beat" in line]
    assert "from 2024-09-06 00:00 to 2024-09-07 00:00, lower end of the difference not above 0" in told
    assert "not beaten, the rules end its trades (fallback)" in caplog.text

    [report] = [json.loads((run.folder(period) / REPORT_NAME).read_text()) for period in PERIODS[1:2]]
    assert report["judged"] == NOT_BEATEN.__dict__
    assert [read_manifest(run.version(period))["falls_back"] for period in PERIODS] == [False, True, False]

    # What is on disk is believed, and says the same: predictions, and a policy alone.
    watch.forget()
    verdicts.clear()
    caplog.clear()
    reused = FreqtradeBacktest(tmp_path / "fallen", market, freqai=overlay())
    again = reused.run()
    assert told in caplog.messages
    assert watch.replayed == []
    assert [period.falls_back for period in RunPlan.newest(reused.archive, PAIR).periods] == [False, True, False]
    pd.testing.assert_frame_equal(predictions(again), predictions(fallen))
    assert (again[FALLBACK_COLUMN] == fallen[FALLBACK_COLUMN]).all()
    other_mode = FreqtradeBacktest(tmp_path / "fallen", market, freqai=overlay(decision_mode="exact"))
    exact = other_mode.run()
    assert (exact[FALLBACK_COLUMN] == fallen[FALLBACK_COLUMN]).all()
    assert watch.trained == []
    plan = RunPlan.newest(other_mode.archive, PAIR)
    assert [period.falls_back for period in plan.periods] == [False, True, False]


def test_in_exact_mode_it_never_leaves_and_its_probability_is_recorded(
    tmp_path: Path, market: Path, watch: Watch, verdicts: dict[int, PairedResult]
) -> None:

    guard.judge = lambda job, model: NOT_BEATEN  # type: ignore[assignment]  # The fixture puts it back.
    run = FreqtradeBacktest(tmp_path, market, freqai=overlay(decision_mode="exact"))
    rows = run.run()
    assert set(rows[FALLBACK_COLUMN]) == {1.0}
    # What a strategy that overrides policy_leaves would have said.
    run.strategy.trade_decisions._leaves = lambda decision: decision.probability > 0.1
    trades = run.trades()
    assert len(trades) > 5
    assert not trades["exit_reason"].str.startswith("rl").any()
    plan = RunPlan.newest(run.archive, PAIR)
    run.strategy.trade_decisions.close()
    asked = newest_decisions(records_folder(run.backtesting.config), PAIR, plan.name)
    assert asked is not None
    assert len(asked) > 50
    assert asked["falls_back"].all()
    assert not asked["leave"].any()
    assert (asked["probability"] > 0.5).sum() > 5


def test_a_bot_lets_the_rules_end_the_trades_and_says_so_once_for_each_training(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, verdicts: dict[int, PairedResult], caplog: Any
) -> None:
    Watch(monkeypatch, leaves=0.9)
    guard.judge = lambda job, model: NOT_BEATEN  # type: ignore[assignment]  # The fixture puts it back.
    bot = LiveBot(tmp_path, market, monkeypatch, freqai=overlay())
    sent: list[str] = []
    monkeypatch.setattr(bot.strategy.dp, "send_msg", lambda message, *, always_send: sent.append(message))
    bot.analyse()
    bot.train()
    with caplog.at_level(logging.INFO):
        bot.analyse()
        bot.open_trade(candles_ago=3)
        bot.next_candle()
        frame = bot.analyse()
    told = [line for line in caplog.messages if "the rules end the policy's trades until the next training" in line]
    assert len(told) == 1
    assert "on 40 trades of 12 days that chose nothing" in told[0]
    assert frame[FALLBACK_COLUMN].iloc[-1] == 1
    assert frame[EXIT_COLUMN].iloc[-1] > 0.5
    assert frame[ACTION_COLUMN].iloc[-1] == Action.NEUTRAL
    [trade] = Trade.get_trades_proxy(is_open=True)
    policy = bot.model.exit_policy(PAIR, 0)
    assert policy is not None
    assert policy.falls_back
    assert health_of(bot).falls_back is True

    # The next one falls back too: the log says so, the owner has been told.
    bot.next_candle()
    bot.train()
    with caplog.at_level(logging.INFO):
        bot.analyse()
    assert len([line for line in caplog.messages if "the rules end the policy's trades" in line]) == 2
    assert sent == told
    health = read_health(Path(bot.model.full_path))
    assert health.troubles == {fallback_trouble(PAIR): told[0]}
    assert told[0] in [finding.text for finding in Status.of(Path(bot.model.full_path)).findings]

    guard.judge = lambda job, model: BEATEN  # type: ignore[assignment]
    bot.next_candle()
    bot.train()
    with caplog.at_level(logging.INFO):
        frame = bot.analyse()
    assert frame[FALLBACK_COLUMN].iloc[-1] == 0
    assert frame[ACTION_COLUMN].iloc[-1] == Action.LONG_EXIT
    assert trade.is_open
    assert any("the policy ends its trades until the next training" in line for line in caplog.messages)
    assert health_of(bot).falls_back is False
    assert len(sent) == 2
    assert f"{PAIR}: the policy ends its trades" in sent[1]
    assert read_health(Path(bot.model.full_path)).troubles == {}


def test_a_disk_without_space_does_not_take_a_policys_merits_from_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, verdicts: dict[int, PairedResult], caplog: Any
) -> None:
    Watch(monkeypatch, leaves=0.9)
    bot = LiveBot(tmp_path, market, monkeypatch, freqai=overlay())
    bot.analyse()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_atomically", full)
        bot.train()
        bot.analyse()
        bot.next_candle()
        frame = bot.analyse()
    assert f"the policy of {PAIR} cannot be written" in caplog.text
    assert frame["do_predict"].iloc[-1] == 1
    assert frame[FALLBACK_COLUMN].iloc[-1] == 0
    policy = bot.model.exit_policy(PAIR, 0)
    assert policy is not None
    assert not policy.falls_back

    # Once there is space, what judged it is written with it.
    bot.model.dd.save_historic_predictions_to_disk()
    again = LiveBot(tmp_path, market, monkeypatch, now=bot.now, freqai=overlay())
    again.next_candle()
    assert again.analyse()[FALLBACK_COLUMN].iloc[-1] == 0
    [origin] = again.model.dd.origins.values()
    assert origin.judged == BEATEN
    assert origin.terms == policy.terms


def test_a_period_whose_policy_nobody_judged_falls_back_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    period: Any = SimpleNamespace(is_guarded=True, judged=None, falls_back=False, pair=PAIR)
    BacktestPeriod.judge_unjudged(period)
    assert period.falls_back
    assert "nothing shows that it beats classic exits: its training did not judge it" in caplog.text
    judged: Any = SimpleNamespace(is_guarded=True, judged=BEATEN, falls_back=False, pair=PAIR)
    BacktestPeriod.judge_unjudged(judged)
    assert not judged.falls_back


def test_why_a_period_fell_back_is_what_its_training_said_whatever_could_be_written() -> None:
    period: Any = SimpleNamespace(judged=None, falls_back=False)
    BacktestPeriod.judge(period, NOT_BEATEN)
    assert BacktestPeriod.why_fallen.fget(period) == NOT_BEATEN.why_not_beaten  # type: ignore[attr-defined]


def test_the_end_of_a_run_counts_by_pair_the_periods_that_fell_back_and_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def run(pair: str, fallback: str | None = "classic", **why: int) -> Any:
        rl = SimpleNamespace(fallback=fallback)
        return SimpleNamespace(
            settings=SimpleNamespace(rl=rl),
            candles=SimpleNamespace(pair=pair),
            periods=dict.fromkeys("12345"),
            why_fallen=lambda: Counter({reason.replace("_", " "): count for reason, count in why.items()}),
        )

    fallen = FallenPeriods()
    with caplog.at_level(logging.INFO):
        fallen.note(run("A"), ["A"])  # Has been told by itself.
        fallen.note(run("A", None, too_few=2), ["A", "B"])
        fallen.note(run("B", None), ["A", "B"])
        fallen.note(run("A", too_few=2, one_day=1), ["A", "B"])
        assert caplog.messages == []
        fallen.note(run("B"), ["A", "B"])
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "In 3 of 10 periods the rules end the policy's trades (rl_config.fallback); by pair:\n"
        "  A: 3 of 5: 2 with too few, 1 with one day\n"
        "  B: 0 of 5"
    )


@pytest.mark.parametrize(
    ("judged", "why"),
    [
        ("lost", "an unknown judgement"),
        (PairedResult(0, 0, 0.0, 0.0, None), "no trade on the candles that judge"),
        (PairedResult(29, 12, 0.01, 0.0, 0.003), "fewer than 30 trades that judge"),
        (PairedResult(40, 1, 0.01, 0.0, None), "trades of one day alone"),
        (NOT_BEATEN, "lower end of the difference not above 0"),
        (BEATEN, ""),
    ],
)
def test_why_a_policy_falls_back_is_one_of_few_words(judged: PairedResult | str, why: str) -> None:
    assert why_fallen(judged) == why


def health_of(bot: LiveBot) -> PairHealth:
    return read_health(Path(bot.model.full_path)).pairs[PAIR]


def test_a_bots_record_says_that_its_policy_fell_back_when_it_is_read_again(tmp_path: Path) -> None:
    asked = Question(PAIR, 300_000, 0, "long", 0.01, 0.02, 3, 0.9, False, "sub-train-BTC_1", True)
    record = DecisionRecord(tmp_path, "dry_run", "Strategy")
    record.add(asked)
    record.close()
    [read] = bots_decisions(tmp_path, "dry_run")
    assert read == asked
    assert read.decision == ExitDecision(False, 0.9, 0.01, 0.02, 3, falls_back=True)
    # A bot that is started again within the candle goes by it.
    again = DecisionRecord(tmp_path, "dry_run", "Strategy").answered(PAIR, 0, 300_000)
    assert again is not None
    assert again.decision.falls_back


@pytest.mark.parametrize("damage", ["lost", "garbled", "unjudged"])
def test_a_bots_policy_that_nothing_shows_to_be_good_falls_back(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / REPORT_NAME
    if damage == "garbled":
        path.write_text("{")
    elif damage == "unjudged":
        path.write_text(json.dumps(TrainingReport(PAIR, "PPO", 1).as_json()))
    assert falls_back(judged_in(tmp_path), PAIR)
    assert "nothing shows that it beats classic exits" in caplog.text
    assert len(caplog.messages) == 1


def test_a_guarded_policy_without_its_report_is_trained_anew(
    tmp_path: Path, market: Path, watch: Watch, verdicts: dict[int, PairedResult]
) -> None:
    run = FreqtradeBacktest(tmp_path, market, freqai=overlay())
    run.run()
    watch.forget()
    for folder in (run.folder(PERIODS[2]), run.version(PERIODS[2])):
        (folder / REPORT_NAME).unlink()
    # Another way to decide makes the predictions anew, from the policies.
    FreqtradeBacktest(tmp_path, market, freqai=overlay(decision_mode="exact")).run()
    assert watch.trained == [PAIR]
