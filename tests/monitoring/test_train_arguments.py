"""What ``mtfscalper train`` hands to freqtrade, and what it prints."""

from __future__ import annotations

import io
import math
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
from mtfscalper.monitoring import train_command, train_run, train_tables
from mtfscalper.monitoring.estimate import training_seconds
from mtfscalper.monitoring.limits import network_operations
from mtfscalper.monitoring.run_estimate import Machine, run_estimate
from mtfscalper.monitoring.train_run import Plan, Trained, TrainedPair
from mtfscalper.monitoring.train_tables import print_plan, print_trained
from mtfscalper.progress.words import duration
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


# Two processors, of which two threads of torch make so many products.
TWO_CORES = Machine(2, 1e11, 2)


def plan_of(n_missing: int, n_features: int = 54, **rl: Any) -> Plan:
    periods = [period(10 + at, "missing") for at in range(n_missing)]
    return Plan([PlannedPair(PAIR, periods)], settings(**rl), n_features, "5m")


def test_a_plan_says_what_is_trained_and_why() -> None:
    periods = [period(10, "reused"), period(11, "finished"), period(12, "missing", "changed since: settings")]
    text = printed(print_plan, Plan([PlannedPair(PAIR, periods)], settings(), 54, "5m"), TWO_CORES)
    rows = [line for line in text.splitlines() if PAIR in line]
    states = ("reusable", "trained, not sealed yet", "to train: changed since: settings")
    assert [state in row for state, row in zip(states, rows, strict=True)] == [True] * 3
    assert "2024-10-12" in rows[2]
    assert "8,640" in rows[2]
    assert "1 policies to train, 1 reusable, 1 trained by a run that was stopped." in text
    assert "54 features" in text


@pytest.mark.parametrize(
    ("rl", "workers", "said"),
    [
        ({}, [1], "{0.each} each, {0.seconds} in all, 1 at a time on 2 processors;"),
        (
            {"executor": "processes", "workers": 4},
            [4],
            "{0.each} each, {0.seconds} in all, 4 at a time on 2 processors;",
        ),
        (
            {"executor": "processes"},
            [1, 2],
            "{0.each} to {1.each} each, {1.seconds} to {0.seconds} in all: workers 'auto' measures how many at a time, "
            "1 to 2;",
        ),
        ({"executor": "ray"}, [1], "{0.each} each, {0.seconds} in all, 1 at a time on 2 processors;"),
        (
            {"executor": "ray", "threads_per_job": 1, "ray_address": "auto"},
            [2],
            "{0.seconds} in all, 2 at a time on 2 processors, if the cluster had one node like this machine;",
        ),
        (
            {"vec_env": "torch", "executor": "population"},
            [1],
            "{0.seconds} in all, 1 at a time on 2 processors at most, for they are trained as one batch;",
        ),
    ],
)
def test_a_plan_says_how_long_all_of_it_takes(
    monkeypatch: pytest.MonkeyPatch, rl: dict[str, Any], workers: list[int], said: str
) -> None:
    monkeypatch.setattr(train_tables, "fitting_processes", lambda *_: 64)
    plan = plan_of(3, **rl)
    text = " ".join(printed(print_plan, plan, TWO_CORES).split())
    estimates = [run_estimate(plan.settings, "5m", 54, [3], TWO_CORES, n) for n in workers]
    words = [e._replace(each=duration(e.each), seconds=duration(e.seconds)) for e in estimates]  # type: ignore[arg-type]
    assert said.format(*words) in text


def test_no_more_processes_are_reckoned_with_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_tables, "fitting_processes", lambda *_: 3)
    assert "3 at a time" in printed(print_plan, plan_of(3, executor="processes", workers=8), TWO_CORES)


def seconds(machine: Machine, workers: int, missing: list[int], n_features: int = 54, **rl: Any) -> float:
    own = {"executor": "processes", "workers": workers, **rl}
    return run_estimate(settings(**own), "5m", n_features, missing, machine, workers).seconds


def test_more_workers_than_processors_gain_nothing() -> None:
    """Two workers of a thread each were measured to make 1.22 and 1.33 times as many trainings as one of two."""
    one = seconds(TWO_CORES, 1, [64])
    assert 1.1 < one / seconds(TWO_CORES, 2, [64]) < 1.4
    assert seconds(TWO_CORES, 8, [64]) == seconds(TWO_CORES, 2, [64])
    # On sixteen, eight of a thread each keep eight of them busy: as fast as one that had none of the others.
    sixteen, alone = Machine(16, 8e11, 16), Machine(1, 0.5e11, 1)
    fixed = {"threads_per_job": 1}
    assert seconds(sixteen, 8, [64], **fixed) == pytest.approx(seconds(alone, 1, [64], **fixed) / 8)
    # Two threads each: eight workers are as many as sixteen processors run.
    two_threads = {"threads_per_job": 2}
    assert seconds(sixteen, 16, [64], **two_threads) == pytest.approx(seconds(sixteen, 8, [64], **two_threads))


def test_fewer_trainings_than_workers_keep_fewer_busy() -> None:
    sixteen = Machine(16, 8e11, 16)
    one, two, four = (seconds(sixteen, 8, [n], threads_per_job=1) for n in (1, 2, 4))
    assert one == two == four
    assert seconds(sixteen, 8, [16], threads_per_job=1) == pytest.approx(2 * one)


def test_policies_that_go_on_from_each_other_are_reckoned_one_after_the_other() -> None:
    sixteen, fixed = Machine(16, 8e11, 16), {"threads_per_job": 1}
    plain = settings(executor="processes", workers=8, **fixed)
    chained = plain.model_copy(update={"continual_learning": True})
    apart = run_estimate(plain, "5m", 54, [6, 2], sixteen, 8)
    chain = run_estimate(chained, "5m", 54, [6, 2], sixteen, 8)
    assert apart.seconds == pytest.approx(apart.each)
    assert chain.seconds == pytest.approx(6 * chain.each)


def test_a_gpu_is_shared_by_those_that_train_side_by_side() -> None:
    gpu = Machine(16, 1e13, 16, is_gpu=True)
    assert seconds(gpu, 4, [8], threads_per_job=1) == seconds(gpu, 1, [8], threads_per_job=1)


def test_the_estimate_follows_the_features_of_a_candle_and_the_machine() -> None:
    assert seconds(TWO_CORES, 1, [1], n_features=540) > 1.2 * seconds(TWO_CORES, 1, [1])
    # Worked out by hand: rollouts of eight environments and 4,096 steps, two networks of one layer.
    rl = {"net_arch": [16], "n_envs": 8, "train_cycles": 3}
    own = Settings.from_config(
        {
            "freqai": {
                "rl_config": rl,
                "model_training_parameters": {"n_steps": 4096, "n_epochs": 2},
                "train_period_days": 30,
                "data_split_parameters": {"test_size": 0.25},
            },
            "timeframe": "5m",
        },
        lambda *_: [],
    )
    candles = 30 * 288 * 0.75
    rollouts = math.ceil(3 * candles / (8 * 4096))
    operations, _ = network_operations(10, [16], None)
    steps = rollouts * 8 * 4096
    by_hand = 1.3 * steps * (1 / 4000 + 2 * operations / (0.5 * 1e9))
    assert training_seconds(own, "5m", 10, 1e9) == pytest.approx(by_hand)


def test_a_plan_of_nothing_estimates_nothing() -> None:
    text = printed(print_plan, Plan([PlannedPair(PAIR, [period(10, "reused")])], settings(), 54, "5m"), TWO_CORES)
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
