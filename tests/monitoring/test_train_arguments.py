"""What ``mtfscalper train`` hands to freqtrade, and what it prints."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from freqtrade.configuration import TimeRange
from freqtrade.exceptions import OperationalException
from rich.console import Console

from mtfscalper.cli import main
from mtfscalper.freqai.planned_trainings import PlannedPair, PlannedPeriod
from mtfscalper.monitoring import train_command, train_run
from mtfscalper.monitoring.train_run import Plan, Trained, TrainedPair
from mtfscalper.monitoring.train_tables import print_plan, print_trained
from mtfscalper.settings import Settings

PAIR = "BTC/USDT:USDT"


def printed(show: Any, *arguments: Any) -> str:
    file = io.StringIO()
    show(*arguments, Console(file=file, width=160))
    return file.getvalue()


def settings(**rl: Any) -> Settings:
    return Settings.from_config({"freqai": {"rl_config": rl}, "timeframe": "5m"}, lambda *_: [])


def period(day: int, state: str, why: str = "") -> PlannedPeriod:
    return PlannedPeriod(PAIR, f"cb_btc_{day}", TimeRange.parse_timerange(f"202410{day}-202411{day}"), 8640, state, why)


@pytest.mark.parametrize(
    ("rl", "at_once"),
    [
        ({}, "in all, 1 at a time"),
        ({"executor": "processes", "workers": 4}, "in all, 4 at a time"),
        ({"executor": "processes"}, "how many at a time, executor 'processes' finds out as it runs"),
        ({"executor": "ray"}, "how many at a time, executor 'ray' finds out as it runs"),
    ],
)
def test_a_plan_says_what_is_trained_and_why_and_what_that_takes(rl: dict[str, Any], at_once: str) -> None:
    periods = [period(10, "reused"), period(11, "finished"), period(12, "missing", "changed since: settings")]
    text = printed(print_plan, Plan([PlannedPair(PAIR, periods)], settings(**rl), 54, "5m"), 1e11)
    rows = [line for line in text.splitlines() if PAIR in line]
    states = ("reusable", "trained, not sealed yet", "to train: changed since: settings")
    assert [state in row for state, row in zip(states, rows, strict=True)] == [True] * 3
    assert "2024-10-12" in rows[2]
    assert "8,640" in rows[2]
    assert "1 policies to train, 1 reusable, 1 trained by a run that was stopped." in text
    assert at_once in " ".join(text.split())
    assert "54 features" in text


def test_a_plan_of_nothing_estimates_nothing() -> None:
    text = printed(print_plan, Plan([PlannedPair(PAIR, [period(10, "reused")])], settings(), 54, "5m"), 1e11)
    assert "Roughly" not in text


def test_the_summary_names_what_failed() -> None:
    pairs = [TrainedPair(PAIR, 2, 1), TrainedPair("A/B", 0, 1, "Training of A/B failed")]
    text = printed(print_trained, Trained(pairs, 61.0))
    assert "Training of A/B failed" in text
    assert "2 policies trained in 1 min 01 s." in text
    assert "goes on from there" in text
    assert "goes on from there" not in printed(print_trained, Trained(pairs[:1], 1.0))


@pytest.mark.parametrize("whole", [True, False])
def test_freqtrades_arguments_go_to_freqtrade_and_the_status_says_whether_all_is_there(
    monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    asked: list[Any] = []
    outcome = Trained([TrainedPair(PAIR, 1, 0, None if whole else "failed")], 1.0)
    monkeypatch.setattr(train_command, "config_of", lambda arguments, workers: asked.append((arguments, workers)))
    monkeypatch.setattr(train_command, "train_run", lambda config: outcome)
    words = ["--timerange", "20241001-20241002", "-c", "a.json", "--dry-run-wallet", "1000", "--pairs", "A/B", "C/D"]
    assert main(["train", "--workers", "3", *words]) == (0 if whole else 1)
    assert asked == [(words, 3)]


def test_what_cannot_begin_has_status_2_and_ctrl_c_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> Any:
        raise OperationalException("no such candles")

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_command, "config_of", refuse)
    assert main(["train", "-c", "a.json"]) == 2
    assert "error: no such candles" in capsys.readouterr().err
    monkeypatch.setattr(train_command, "config_of", stop)
    assert main(["train", "-c", "a.json"]) == 130


def test_other_commands_take_no_arguments_that_they_do_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["synthetic", "--timerange", "1"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --timerange 1" in capsys.readouterr().err


def test_where_a_pair_fails_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def advise(frame: pd.DataFrame, metadata: dict[str, str]) -> pd.DataFrame:
        pair = metadata["pair"]
        asked.append(pair)
        if pair == "A/B":
            raise OperationalException("Training of A/B, period 2, failed")
        if pair == "C/D":
            raise KeyError("no such column")
        return frame

    # Two periods reused and one trained, the last of A/B's begun when it failed; C/D did not come to any.
    runs = {
        "A/B": SimpleNamespace(reports=["report"], periods=dict.fromkeys("1234")),
        PAIR: SimpleNamespace(reports=["report"], periods=dict.fromkeys("123")),
    }
    strategy = SimpleNamespace(advise_indicators=advise)

    @contextmanager
    def backtesting(config: Any) -> Iterator[Any]:
        yield SimpleNamespace(strategylist=[strategy]), dict.fromkeys(("A/B", "C/D", PAIR), pd.DataFrame()), None

    monkeypatch.setattr(train_run, "loaded_backtester", backtesting)
    monkeypatch.setattr(train_run, "checked_model", lambda *_: SimpleNamespace(run_of=runs.get))
    trained = train_run.train_run({})
    assert asked == ["A/B", "C/D", PAIR]
    assert trained.pairs == [
        TrainedPair("A/B", 1, 2, "Training of A/B, period 2, failed"),
        TrainedPair("C/D", 0, 0, "KeyError: 'no such column'"),
        TrainedPair(PAIR, 1, 2),
    ]
    assert not trained.is_whole
