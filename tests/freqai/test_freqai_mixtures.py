"""Some periods are reused, others made anew: every mixture gives what a fresh run gives."""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from damage import copy_home, truncate
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch
from stable_baselines3 import PPO

from mtfscalper.training.job import TrainingJob

CONTINUAL = {"continual_learning": True}
UPDATES = 5


class Fresh(NamedTuple):
    """A finished run.

    :ivar home: its user directory, to be copied
    :ivar frame: what the strategy was given back, all columns of all rows
    """

    home: Path
    frame: pd.DataFrame
    trades: pd.DataFrame


def fresh_run(home: Path, market: Path, mode: str) -> Fresh:
    with pytest.MonkeyPatch.context() as monkeypatch:
        Watch(monkeypatch, policy="random")
        run = FreqtradeBacktest(home, market, freqai={"rl_config": {"decision_mode": mode}})
        run.run()
        return Fresh(home, run.frame, run.trades())


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, market: Path) -> Iterator[Callable[[str], Fresh]]:
    """The fresh run of a decision mode, made once."""
    runs: dict[str, Fresh] = {}

    def made(mode: str) -> Fresh:
        if mode not in runs:
            runs[mode] = fresh_run(tmp_path_factory.mktemp(mode), market, mode)
        return runs[mode]

    return made


def lose_model(run: FreqtradeBacktest, period: int) -> None:
    (run.folder(period) / f"cb_btc_{period}_model.zip").write_bytes(b"damaged")


def lose_predictions(run: FreqtradeBacktest, period: int) -> None:
    truncate(run.feather(period))


# What is done to each of the three periods, in all combinations.
HARMS: dict[str, Callable[[FreqtradeBacktest, int], None]] = {
    "kept": lambda run, period: None,
    "model": lose_model,
    "predictions": lose_predictions,
}


@pytest.mark.parametrize("lost", ["-".join(names) for names in product(HARMS, repeat=3)])
def test_whatever_was_lost_of_three_periods_the_run_equals_a_fresh_one(
    tmp_path: Path, market: Path, fresh: Callable[[str], Fresh], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    mixture_equals_fresh(tmp_path / "home", market, fresh("replay"), monkeypatch, "replay", lost)


@pytest.mark.parametrize("lost", ["-".join(names) for names in product(("kept", "model"), repeat=3)])
def test_whatever_was_lost_the_trades_asked_about_one_by_one_are_those_of_a_fresh_run(
    tmp_path: Path, market: Path, fresh: Callable[[str], Fresh], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    mixture_equals_fresh(tmp_path / "home", market, fresh("exact"), monkeypatch, "exact", lost)


def mixture_equals_fresh(
    home: Path, market: Path, run: Fresh, monkeypatch: pytest.MonkeyPatch, mode: str, lost: str
) -> None:
    copy_home(run.home, home)
    watch = Watch(monkeypatch, policy="random")
    mixed = FreqtradeBacktest(home, market, freqai={"rl_config": {"decision_mode": mode}})
    for period, harm in zip(PERIODS, lost.split("-"), strict=True):
        HARMS[harm](mixed, period)
    mixed.run()
    assert watch.trained == [PAIR] * lost.count("model")
    pd.testing.assert_frame_equal(mixed.frame, run.frame)
    pd.testing.assert_frame_equal(mixed.trades(), run.trades)
    assert len(run.trades) > 10
    assert run.trades["exit_reason"].str.contains("exit_signal" if mode == "replay" else "rl_exit").any()


# ---------------------------------------------------------------- continual learning


def updates(run: FreqtradeBacktest, periods: tuple[int, ...] = PERIODS) -> list[int]:
    """How many updates each period's model has behind it, with those of the models it went on from."""
    return [PPO.load(run.folder(period) / f"cb_btc_{period}_model.zip", device="cpu")._n_updates for period in periods]


def continual(home: Path, market: Path, timerange: str = "20240905-20240908", **freqai: object) -> FreqtradeBacktest:
    run = FreqtradeBacktest(home, market, timerange=timerange, freqai={**CONTINUAL, **freqai})
    run.run()
    return run


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="trained")


def test_a_chain_of_models_is_reused_whole(tmp_path: Path, market: Path, watch: Watch) -> None:
    assert updates(continual(tmp_path, market)) == [UPDATES, 2 * UPDATES, 3 * UPDATES]
    watch.forget()
    continual(tmp_path, market)
    assert watch.trained == []


def test_a_longer_backtest_goes_on_from_the_last_model_reused(tmp_path: Path, market: Path, watch: Watch) -> None:
    """Of the reused ones FreqAI loads none, and later it keeps the first that was loaded."""
    continual(tmp_path, market, "20240905-20240907")
    watch.forget()
    run = continual(tmp_path, market)
    assert len(watch.trained) == 1
    assert updates(run) == [UPDATES, 2 * UPDATES, 3 * UPDATES]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_what_follows_a_model_trained_anew_is_trained_anew(
    tmp_path: Path, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, lost: int
) -> None:
    first = continual(tmp_path, market)
    lose_model(first, PERIODS[lost])
    # The last one's is made of a model loaded, not of one just trained.
    lose_predictions(first, PERIODS[0])
    watch.forget()
    run = continual(tmp_path, market)
    assert len(watch.trained) == 3 - lost
    assert updates(run) == [UPDATES, 2 * UPDATES, 3 * UPDATES]
    for period in PERIODS[lost + 1 :]:
        assert f"cb_btc_{period} is trained anew: changed since: model before it." in caplog.text


def test_an_earlier_start_trains_the_whole_chain_anew(tmp_path: Path, market: Path, watch: Watch) -> None:
    continual(tmp_path, market, "20240906-20240908")
    watch.forget()
    run = continual(tmp_path, market)
    assert len(watch.trained) == 3
    assert updates(run) == [UPDATES, 2 * UPDATES, 3 * UPDATES]


def test_a_later_start_begins_a_chain_of_its_own(tmp_path: Path, market: Path, watch: Watch) -> None:
    """Its first policy must not depend on what an earlier run had gone on from."""
    continual(tmp_path, market)
    watch.forget()
    run = continual(tmp_path, market, "20240906-20240908")
    assert len(watch.trained) == 2
    assert updates(run, PERIODS[1:]) == [UPDATES, 2 * UPDATES]


def test_without_saved_models_a_chain_is_trained_whole_each_time_and_goes_on_all_the_same(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    went_on: list[bool] = []
    real = TrainingJob.run

    def run_job(job: TrainingJob, *arguments: Any) -> Any:
        went_on.append(job.initial_model is not None)
        return real(job, *arguments)

    monkeypatch.setattr(TrainingJob, "run", run_job)
    for _ in range(2):
        run = continual(tmp_path, market, save_backtest_models=False)
    assert went_on == [False, True, True] * 2
    assert not list(run.models.rglob("*.zip"))


def test_a_model_left_by_an_earlier_run_is_not_taken_for_one_that_was_not_saved(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    FreqtradeBacktest(tmp_path, market).run()
    for _ in range(2):
        watch.forget()
        run = FreqtradeBacktest(tmp_path, market, freqai={"save_backtest_models": False})
        for period in PERIODS:
            lose_predictions(run, period)
        run.run()
        assert len(watch.trained) == 3
