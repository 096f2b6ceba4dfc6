"""Trainings planned for a whole pair and run together give what FreqAI's loop gives, which trains them in turn."""

import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from damage import copy_home
from datasieve.pipeline import Pipeline
from freqai_runs import OTHER_PAIR, PAIR, PERIODS, ROOT, FreqtradeBacktest, Watch, predictions
from freqtrade.exceptions import OperationalException
from stable_baselines3 import PPO
from test_freqai_mixtures import HARMS, lose_model
from test_short_periods import BOTH, cut

from mtfscalper.artefacts import REPORT_NAME, read_manifest
from mtfscalper.executors.batches import in_batches
from mtfscalper.executors.ensembles import EnsembleExecutor
from mtfscalper.executors.executor import Outcome, Running, run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.freqai import model
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch as TrainingWatch

NAMES = [f"cb_btc_{period}" for period in PERIODS]


class LastFirst:
    """An executor that wants all jobs, and runs the last one first.

    :ivar given: the first days, of two, that each batch of jobs is trained on
    :ivar n_fitted: pipelines fitted since it was asked for
    """

    together = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[list[str]] = []
        self.n_fitted = 0
        real = Pipeline.fit_transform

        def fit_transform(pipeline: Pipeline, *arguments: Any) -> Any:
            self.n_fitted += 1
            return real(pipeline, *arguments)

        monkeypatch.setattr(Pipeline, "fit_transform", fit_transform)
        for chosen in ("executor_for", "executor_here"):
            monkeypatch.setattr(model, chosen, lambda settings: self)

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: TrainingWatch | None = None
    ) -> AbstractContextManager[Running]:
        def run(jobs: Sequence[TrainingJob]) -> list[Outcome]:
            self.given.append([f"{pd.Timestamp(job.train.dates_ms[0], unit='ms'):%Y-%m-%d}" for job in jobs])
            return run_all(EnsembleExecutor(InlineExecutor()), jobs[::-1], on_evaluation, watch)[::-1]

        return in_batches(run, at_once=100)


FIRST_DAYS = ["2024-09-03", "2024-09-04", "2024-09-05"]


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> LastFirst:
    return LastFirst(monkeypatch)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="decisive", leaves=0.1)


class InTurn(NamedTuple):
    """A finished run of FreqAI's loop.

    :ivar rows: of the timerange, as ``trades`` of freqtrade's backtester
    """

    run: FreqtradeBacktest
    rows: pd.DataFrame
    trades: pd.DataFrame


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory, market: Path) -> Mapping[str, InTurn]:
    """Runs whose periods are trained in turn, by decision mode."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Watch(monkeypatch, policy="decisive", leaves=0.1)
        runs = {mode: backtest(tmp_path_factory.mktemp(mode), market, mode) for mode in ("replay", "exact")}
        return {mode: InTurn(run, run.run(), run.trades()) for mode, run in runs.items()}


def backtest(home: Path, market: Path, mode: str = "replay", **freqai: Any) -> FreqtradeBacktest:
    return FreqtradeBacktest(home, market, freqai={"rl_config": {"decision_mode": mode}, **freqai})


def told(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


# ---------------------------------------------------------------------- the same as in turn


@pytest.mark.parametrize("mode", ["replay", "exact"])
def test_periods_trained_together_leave_what_they_leave_in_turn(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, in_turn: Mapping[str, InTurn], mode: str
) -> None:
    usual = in_turn[mode]
    run = backtest(tmp_path, market, mode)
    run.run()
    assert together.given == [FIRST_DAYS]
    assert together.n_fitted == 3
    pd.testing.assert_frame_equal(run.frame, usual.run.frame)
    pd.testing.assert_frame_equal(run.trades(), usual.trades)
    assert len(usual.trades) > 5
    for period in PERIODS:
        folders = [each.folder(period) for each in (run, usual.run)]
        assert_same_seals(*folders)
        assert_same_policies(*(folder / f"cb_btc_{period}_model.zip" for folder in folders))
        reports, metadata = (
            [json.loads((folder / name).read_text()) for folder in folders]
            for name in (REPORT_NAME, f"cb_btc_{period}_metadata.json")
        )
        assert without_clocks(reports[0]) == without_clocks(reports[1])
        assert metadata[0] == {**metadata[1], "data_path": metadata[0]["data_path"]}
        assert metadata[0]["labels_mean"]
        for frame in ("trained_df", "trained_dates_df"):
            pd.testing.assert_frame_equal(
                *(pd.DataFrame(pd.read_pickle(folder / f"cb_btc_{period}_{frame}.pkl")) for folder in folders)
            )


def assert_same_seals(left: Path, right: Path) -> None:
    """All but what holds a time or a path."""
    manifests = [read_manifest(folder) for folder in (left, right)]
    for name in ("fingerprint", "pair", "features", "account_before", "account_after"):
        assert manifests[0][name] == manifests[1][name], name
    files = [manifest["files"] for manifest in manifests]
    assert files[0].keys() == files[1].keys()
    same = files[0].keys() - {"model", "metadata", "report"}
    assert {"predictions", "feature_pipeline", "trained_frame", "predicted_frame", "terms"} <= same
    assert {role: files[0][role]["sha256"] for role in same} == {role: files[1][role]["sha256"] for role in same}


def assert_same_policies(left: Path, right: Path) -> None:
    states = [PPO.load(path, device="cpu").policy.state_dict() for path in (left, right)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def without_clocks(report: dict[str, Any]) -> dict[str, Any]:
    evaluations = [*report["evaluations"], report["best_evaluation"], report["training_evaluation"]]
    kept = {name: value for name, value in report.items() if name not in ("seconds", "phases")}
    return {
        **kept,
        "phases": [name for name, *_ in report["phases"]],
        "evaluations": [{**evaluation, "seconds": 0} for evaluation in evaluations],
        "best_evaluation": None,
        "training_evaluation": None,
    }


def test_what_freqai_cuts_off_a_training_and_notes_of_its_labels_is_the_same(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(name: str) -> pd.DataFrame:
        run = backtest(tmp_path / name, market, feature_parameters={"buffer_train_data_candles": 7})
        real = run.strategy.set_freqai_targets
        run.strategy.set_freqai_targets = lambda frame, metadata, **keywords: real(frame, metadata, **keywords).assign(
            **{ACTION_COLUMN: frame["date"].dt.day.astype(float)}
        )
        return run.run()

    usual = rows("in turn")
    together = LastFirst(monkeypatch)
    pd.testing.assert_frame_equal(rows("together"), usual)
    assert together.given == [FIRST_DAYS]
    assert together.n_fitted == 3
    means = usual[f"{ACTION_COLUMN}_mean"].unique()
    assert sorted(means) == pytest.approx([3.5, 4.5, 5.5], abs=0.2)


def test_nothing_is_left_of_a_plan_but_models(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, in_turn: Mapping[str, InTurn]
) -> None:
    run = backtest(tmp_path, market)
    run.run()
    folders = [each.models for each in (run, in_turn["replay"].run)]
    left, right = ({path.relative_to(folder) for path in folder.rglob("*")} for folder in folders)
    assert left == right
    assert not (run.archive.root / "trainings").exists()
    assert not run.archive.frames.exists()
    assert run.strategy.freqai.pair_it == in_turn["replay"].run.strategy.freqai.pair_it == 1


def test_a_period_is_predicted_with_the_pipeline_that_its_policy_was_trained_with(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline may draw noise: fitted twice, it is another one."""
    run = backtest(tmp_path, market)
    freqai, numbers = run.strategy.freqai, []
    real = type(freqai).define_data_pipeline

    def define(self: Any, **keywords: Any) -> Pipeline:
        pipeline = real(self, **keywords)
        pipeline.number = len(numbers)
        numbers.append(pipeline.number)
        return pipeline

    monkeypatch.setattr(type(freqai), "define_data_pipeline", define)
    used: list[int] = []
    transform = Pipeline.transform

    def spied(pipeline: Pipeline, features: Any, *arguments: Any, **keywords: Any) -> Any:
        if keywords.get("outlier_check"):
            used.append(pipeline.number)
        return transform(pipeline, features, *arguments, **keywords)

    monkeypatch.setattr(Pipeline, "transform", spied)
    run.run()
    assert used == numbers == [0, 1, 2]


# ---------------------------------------------------------------------- only what is missing


LOST = ["-".join(names) for names in product(("kept", "model"), repeat=3)]


@pytest.mark.parametrize("lost", [*LOST, "predictions-model-predictions", "model-predictions-model"])
def test_only_the_missing_periods_become_jobs(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    together: LastFirst,
    in_turn: Mapping[str, InTurn],
    caplog: pytest.LogCaptureFixture,
    lost: str,
) -> None:
    copy_home(in_turn["replay"].run.home, tmp_path / "home")
    run = backtest(tmp_path / "home", market)
    for period, harm in zip(PERIODS, lost.split("-"), strict=True):
        HARMS[harm](run, period)
    caplog.clear()
    run.run()
    missing = [day for day, harm in zip(FIRST_DAYS, lost.split("-"), strict=True) if harm == "model"]
    assert together.given == ([missing] if missing else [])
    assert together.n_fitted == len(watch.trained) == len(missing)
    pd.testing.assert_frame_equal(run.frame, in_turn["replay"].run.frame)
    pd.testing.assert_frame_equal(run.trades(), in_turn["replay"].trades)
    # Why, once, and before the training that it leads to.
    for name, harm in zip(NAMES, lost.split("-"), strict=True):
        assert len(told(caplog, f"{name} is trained anew")) == (harm == "model")
        assert len(told(caplog, f"predictions of {name} are made anew")) == (harm != "kept")
    starts = told(caplog, "Starting training")
    assert len(starts) == len(missing)
    assert told(caplog, f"Planned {PAIR}: {len(missing)} policies to train, {3 - len(missing)} of an earlier run")
    if missing:
        lines = [record.getMessage() for record in caplog.records]
        why = [number for number, line in enumerate(lines) if "is trained anew" in line]
        assert max(why) < lines.index(starts[0])


def test_what_was_put_back_is_counted_as_in_turn(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    together: LastFirst,
    in_turn: Mapping[str, InTurn],
    caplog: pytest.LogCaptureFixture,
) -> None:
    copy_home(in_turn["replay"].run.home, tmp_path / "home")
    run = backtest(tmp_path / "home", market)
    (run.folder(PERIODS[1]) / f"{NAMES[1]}_model.zip").unlink()
    run.run()
    assert together.given == []
    assert len(told(caplog, "the files of 1 of 3 periods were put back")) == 1


def test_without_saved_models_predictions_are_reused_and_lost_ones_trained_together(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, in_turn: Mapping[str, InTurn]
) -> None:
    unsaved = {"save_backtest_models": False}
    columns = predictions(backtest(tmp_path, market, **unsaved).run())
    pd.testing.assert_frame_equal(columns, predictions(in_turn["replay"].rows))
    assert not list((tmp_path / "models").rglob("*.zip"))
    again = backtest(tmp_path, market, **unsaved)
    for period in PERIODS[1:]:
        for sealed in (tmp_path / "models").rglob(f"cb_btc_{period}_prediction.feather"):
            sealed.unlink()
    pd.testing.assert_frame_equal(predictions(again.run()), columns)
    assert together.given == [FIRST_DAYS, FIRST_DAYS[1:]]


def test_a_training_that_only_another_account_makes_necessary_runs_when_its_period_comes(
    tmp_path: Path, market: Path, together: LastFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In replay mode, without saved models: where a period ends in another trade is seen once it is through."""
    unsaved = {"save_backtest_models": False}
    Watch(monkeypatch, policy="decisive", leaves=0.1)
    backtest(tmp_path, market, **unsaved).run()
    with monkeypatch.context() as other_policies:
        watch = Watch(other_policies, policy="random", leaves=0.001)
        again = backtest(tmp_path, market, **unsaved)
        for sealed in (tmp_path / "models").rglob(f"cb_btc_{PERIODS[0]}_prediction.feather"):
            sealed.unlink()
        rows = again.run()
    assert together.given[:2] == [FIRST_DAYS, FIRST_DAYS[:1]]
    assert together.given[2:3] == [FIRST_DAYS[1:2]]
    assert len(watch.replayed) == len(watch.trained) == len(together.given) - 1
    assert (rows["do_predict"] == 1).all()


# ---------------------------------------------------------------------- what goes wrong


def test_a_pair_listed_late_is_left_out_where_it_is_in_turn(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    datadir = Path(shutil.copytree(market, tmp_path / "data"))
    cut(datadir, "2024-09-05 06:00", "2024-09-10")
    overlay = {**BOTH, "timerange": "20240905-20240909", "freqai": {"rl_config": {"entry_mode": "agent"}}}
    usual = FreqtradeBacktest(tmp_path / "in turn", datadir, **overlay)
    usual.run()
    expected = told(caplog, "decides nothing")
    caplog.clear()
    together = LastFirst(monkeypatch)
    run = FreqtradeBacktest(tmp_path / "together", datadir, **overlay)
    run.run()
    four_days = [*FIRST_DAYS, "2024-09-06"]
    # The other pair has no candle for its first period, and for its second one none with every feature.
    assert together.given == [[*four_days, "2024-09-06", "2024-09-06"]]
    assert together.n_fitted == 6
    assert told(caplog, "decides nothing") == expected
    assert len(expected) == 2
    for pair in (PAIR, OTHER_PAIR):
        pd.testing.assert_frame_equal(run.frames[pair], usual.frames[pair])
    # What a run reuses of one pair and lacks of the other.
    lose_model(run, PERIODS[1])
    again = FreqtradeBacktest(tmp_path / "together", datadir, **overlay)
    again.run()
    assert together.given[1:] == [FIRST_DAYS[1:2]]
    pd.testing.assert_frame_equal(again.frames[OTHER_PAIR], usual.frames[OTHER_PAIR])


def fail_on(monkeypatch: pytest.MonkeyPatch, day: str, error: BaseException) -> None:
    """Let the training whose candles begin on a day fail."""
    real = TrainingJob.run

    def run(job: TrainingJob, *arguments: Any) -> Any:
        if job.train.dates_ms[0] == pd.Timestamp(day).value // 1_000_000:
            raise error
        return real(job, *arguments)

    monkeypatch.setattr(TrainingJob, "run", run)


def test_a_training_that_fails_fails_the_run_and_all_others_are_kept(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    together: LastFirst,
    in_turn: Mapping[str, InTurn],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    run = backtest(tmp_path, market)
    with pytest.MonkeyPatch.context() as failing:
        fail_on(failing, FIRST_DAYS[1], MemoryError("no memory for the rollout"))
        message = f"Training of {PAIR}, period {NAMES[1]}, failed: MemoryError: no memory for the rollout"
        with pytest.raises(OperationalException, match=f"^{re.escape(message)}$"):
            run.run()
    assert {path.name for path in run.models.rglob("*.feather")} == {run.feather(PERIODS[0]).name}
    # The run after it trains that one alone.
    caplog.clear()
    again = backtest(tmp_path, market)
    pd.testing.assert_frame_equal(predictions(again.run()), predictions(in_turn["replay"].rows))
    assert together.given == [FIRST_DAYS, FIRST_DAYS[1:2]]
    assert told(caplog, "1 policies to train, 1 of an earlier run, 1 finished by one that was stopped")
    assert not (again.archive.root / "trainings").exists()


def test_an_executor_that_fails_as_a_whole_fails_the_run_in_the_first_period(
    tmp_path: Path, market: Path, together: LastFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: Any) -> Any:
        raise RuntimeError("the device is lost")

    monkeypatch.setattr(together, "start", run)
    with pytest.raises(OperationalException, match=rf"{NAMES[0]}, failed: RuntimeError: the device is lost"):
        backtest(tmp_path, market).run()


def test_candles_that_cannot_be_used_fail_the_run_in_their_period_and_train_nothing_after_it(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = backtest(tmp_path, market)
    real, n_calls = type(run.strategy.freqai).define_data_pipeline, 0

    def define(self: Any, **keywords: Any) -> Pipeline:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise ValueError("this pipeline cannot be")
        return real(self, **keywords)

    monkeypatch.setattr(type(run.strategy.freqai), "define_data_pipeline", define)
    with pytest.raises(OperationalException, match=rf"^Training of .*{NAMES[1]}, failed: ValueError: this pipeline"):
        run.run()
    assert together.given == [FIRST_DAYS[:1]]
    assert run.feather(PERIODS[0]).is_file()


def test_a_stop_in_the_middle_loses_nothing_that_was_sealed(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, in_turn: Mapping[str, InTurn]
) -> None:
    copy_home(in_turn["replay"].run.home, tmp_path / "home")
    run = backtest(tmp_path / "home", market)
    lose_model(run, PERIODS[0])
    lose_model(run, PERIODS[2])
    before = {path: path.read_bytes() for path in run.folder(PERIODS[1]).iterdir()}
    with pytest.MonkeyPatch.context() as stopping:
        fail_on(stopping, FIRST_DAYS[0], KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run.run()
    assert {path: path.read_bytes() for path in run.folder(PERIODS[1]).iterdir()} == before
    again = backtest(tmp_path / "home", market)
    again.run()
    missing = [FIRST_DAYS[0], FIRST_DAYS[2]]
    assert together.given == [missing, missing]
    pd.testing.assert_frame_equal(again.frame, in_turn["replay"].run.frame)


def test_a_training_that_was_planned_on_other_candles_is_not_used(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, caplog: pytest.LogCaptureFixture
) -> None:
    run = backtest(tmp_path, market)
    real, n_calls = run.strategy.set_freqai_targets, 0

    def targets(frame: pd.DataFrame, metadata: Any, **keywords: Any) -> pd.DataFrame:
        nonlocal n_calls
        n_calls += 1
        # Differently in each call: once for the strategy's own frame, three times for the plan, and in the loop.
        frame = real(frame, metadata, **keywords)
        return frame.assign(**{ACTION_COLUMN: np.float64(n_calls if n_calls > 4 else 0)})

    run.strategy.set_freqai_targets = targets
    run.run()
    assert together.given == [FIRST_DAYS, *([day] for day in FIRST_DAYS)]
    assert [f"{name} is trained again" in line for name, line in zip(NAMES, told(caplog, "again:"), strict=True)] == [
        True
    ] * 3


# ---------------------------------------------------------------------- what is trained in turn


def test_with_continual_learning_each_period_waits_for_the_one_before_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch, policy="trained")
    usual = backtest(tmp_path / "in turn", market, continual_learning=True)
    rows = usual.run()
    together = LastFirst(monkeypatch)
    run = backtest(tmp_path / "together", market, continual_learning=True)
    pd.testing.assert_frame_equal(run.run(), rows)
    assert together.given == [[day] for day in FIRST_DAYS]
    for period in PERIODS:
        assert_same_policies(*(each.folder(period) / f"cb_btc_{period}_model.zip" for each in (run, usual)))
    # What goes on from a policy that is trained anew is trained anew; what it goes on from is not.
    lose_model(run, PERIODS[1])
    pd.testing.assert_frame_equal(backtest(tmp_path / "together", market, continual_learning=True).run(), rows)
    assert together.given[3:] == [[day] for day in FIRST_DAYS[1:]]


@pytest.mark.parametrize("hook", ["train", "fit"])
def test_a_training_of_the_users_own_is_called_for_each_period(
    tmp_path: Path, market: Path, watch: Watch, together: LastFirst, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    models = tmp_path / "own"
    models.mkdir()
    shipped = (ROOT / "user_data" / "freqaimodels" / "MtfScalperRLModel.py").read_text()
    (models / "MtfScalperRLModel.py").write_text(
        f"{shipped}\n    own_calls = 0\n\n    def {hook}(self, *arguments, **keywords):\n"
        f"        self.own_calls += 1\n        return super().{hook}(*arguments, **keywords)\n"
    )
    run = FreqtradeBacktest(tmp_path / "home", market, model_path=models)
    run.run()
    assert run.strategy.freqai.own_calls == 3
    assert together.given == [[day] for day in FIRST_DAYS]
    [line] = told(caplog, "trained one after the other")
    assert f"has its own {hook}" in line


def test_in_this_process_periods_are_trained_in_turn(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    done: list[str] = []
    make, train = TradedStrategy.job, TrainingJob.run

    def made(*arguments: Any, **keywords: Any) -> TrainingJob:
        done.append("made")
        return make(*arguments, **keywords)

    def trained(job: TrainingJob, *arguments: Any) -> Any:
        done.append("trained")
        return train(job, *arguments)

    monkeypatch.setattr(TradedStrategy, "job", made)
    monkeypatch.setattr(TrainingJob, "run", trained)
    backtest(tmp_path, market).run()
    assert done == ["made", "trained"] * 3
    assert not told(caplog, "Planned")
