"""What is on disk is reused when nothing it stands on changed, and else made anew with a line saying why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from damage import copy_home, flip, truncate
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch, predictions

from mtfscalper import artefacts
from mtfscalper.artefacts import MANIFEST_NAME, REPORT_NAME
from mtfscalper.seals import Seals
from mtfscalper.trading.account import FLAT


class Sealed(NamedTuple):
    """A finished run.

    :ivar home: its user directory
    :ivar columns: what it predicted
    """

    home: Path
    columns: pd.DataFrame


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, market: Path) -> tuple[Sealed, Path]:
    home = tmp_path_factory.mktemp("reuse") / "home"
    with pytest.MonkeyPatch.context() as monkeypatch:
        Watch(monkeypatch, policy="decisive")
        columns = predictions(FreqtradeBacktest(home, market).run())
    copy = home.with_name("copy")
    copy_home(home, copy)
    return Sealed(home, columns), copy


@pytest.fixture
def sealed(pristine: tuple[Sealed, Path]) -> Sealed:
    """The finished run, as it was left."""
    run, copy = pristine
    copy_home(copy, run.home)
    return run


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="decisive")


def test_a_second_run_trains_nothing_and_predicts_the_same(sealed: Sealed, market: Path, watch: Watch) -> None:
    rows = FreqtradeBacktest(sealed.home, market).run()
    assert watch.trained == []
    assert watch.replayed == []
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)
    assert (sealed.columns["&-action"] != 0).sum() > 2


def test_the_same_run_elsewhere_predicts_the_same(tmp_path: Path, sealed: Sealed, market: Path, watch: Watch) -> None:
    """One seed, one result."""
    rows = FreqtradeBacktest(tmp_path, market).run()
    assert watch.trained == [PAIR] * 3
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)


DAMAGES: dict[str, tuple[Callable[[FreqtradeBacktest], None], int, str]] = {
    # What is done to the second period; trainings and the reason told.
    "truncated zip": (lambda run: truncate(model(run)), 1, "is damaged"),
    "one bit of the zip": (lambda run: flip(model(run)), 1, "is damaged"),
    "truncated feather": (lambda run: truncate(run.feather(PERIODS[1])), 0, "is damaged"),
    "one bit of the feather": (lambda run: flip(run.feather(PERIODS[1])), 0, "is damaged"),
    "truncated manifest": (lambda run: truncate(manifest(run)), 1, "it has no readable manifest"),
    "truncated metadata": (lambda run: truncate(model(run, "metadata.json")), 1, "is damaged"),
    "one bit of the frame trained on": (lambda run: flip(model(run, "trained_frame.npz")), 1, "is damaged"),
    "one bit of the frame predicted": (lambda run: flip(model(run, "predicted_frame.npz")), 0, "is damaged"),
    "truncated pipeline and feather": (
        lambda run: (truncate(model(run, "feature_pipeline.pkl")), truncate(run.feather(PERIODS[1]))),
        1,
        "is damaged",
    ),
}


def model(run: FreqtradeBacktest, file: str = "model.zip") -> Path:
    return run.folder(PERIODS[1]) / f"cb_btc_{PERIODS[1]}_{file}"


def manifest(run: FreqtradeBacktest) -> Path:
    return run.folder(PERIODS[1]) / MANIFEST_NAME


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_period_is_made_anew_alone_and_says_why(
    sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    harm, trainings, reason = DAMAGES[damage]
    run = FreqtradeBacktest(sealed.home, market)
    harm(run)
    rows = run.run()
    assert len(watch.trained) == trainings
    assert len(watch.replayed) == 1
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("mtfscalper.") and "anew" in record.getMessage()
    ]
    assert all(f"cb_btc_{PERIODS[1]}" in line and PAIR in line and reason in line for line in told)
    assert told


LOSSES: dict[str, Callable[[FreqtradeBacktest], None]] = {
    "zip": lambda run: model(run).unlink(),
    "feather": lambda run: run.feather(PERIODS[1]).unlink(),
    "manifest": lambda run: manifest(run).unlink(),
    "report": lambda run: (run.folder(PERIODS[1]) / REPORT_NAME).unlink(),
    "report, and a damaged pipeline": lambda run: (
        (run.folder(PERIODS[1]) / REPORT_NAME).unlink(),
        model(run, "label_pipeline.pkl").unlink(),
        model(run, "label_pipeline.pkl").write_bytes(b"other"),
    ),
    "period": lambda run: shutil.rmtree(run.folder(PERIODS[1])),
    "identifier": lambda run: shutil.rmtree(run.models),
    "another file in place of the zip": lambda run: (model(run).unlink(), model(run).write_bytes(b"other")),
    "another file in place of the feather": lambda run: (
        run.feather(PERIODS[1]).unlink(),
        run.feather(PERIODS[1]).write_bytes(b"other"),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_lost_from_freqais_folder_is_put_back_with_one_line(
    sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    run = FreqtradeBacktest(sealed.home, market)
    before = run.models.with_name("before")
    copy_home(run.models, before)
    LOSSES[loss](run)
    rows = run.run()
    assert (watch.trained, watch.replayed) == ([], [])
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)
    told = [record.getMessage() for record in caplog.records if "put back" in record.getMessage()]
    # The columns have a second name in the period's folder.
    assert len(told) == (0 if "feather" in loss else 1)
    assert all(str(run.home / "models" / ".sealed" / "test") in line for line in told)
    for path in (*before.glob("sub-train-*/*"), *before.glob("backtesting_predictions/*")):
        # FreqAI's own record of what it trained on, which nothing reads.
        if not path.name.endswith("_df.pkl"):
            assert (run.models / path.relative_to(before)).is_file(), path


@pytest.mark.parametrize("damage", ["one bit of the zip", "truncated feather"])
def test_a_period_made_anew_is_sealed_anew(sealed: Sealed, market: Path, watch: Watch, damage: str) -> None:
    run = FreqtradeBacktest(sealed.home, market)
    DAMAGES[damage][0](run)
    run.run()
    assert len(watch.replayed) == 1
    watch.forget()
    FreqtradeBacktest(sealed.home, market).run()
    assert (watch.trained, watch.replayed) == ([], [])


def test_a_period_loaded_from_disk_after_another_was_trained_gets_its_own_pipeline(
    sealed: Sealed, market: Path, watch: Watch
) -> None:
    run = FreqtradeBacktest(sealed.home, market)
    truncate(run.folder(PERIODS[0]) / MANIFEST_NAME)
    for period in PERIODS[1:]:
        truncate(run.feather(period))
    rows = run.run()
    # The first trained, the others loaded, and all replayed.
    assert watch.trained == [PAIR]
    assert len(watch.replayed) == 3
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)


def test_models_are_reused_where_freqais_own_list_of_them_is_lost(sealed: Sealed, market: Path, watch: Watch) -> None:
    run = FreqtradeBacktest(sealed.home, market)
    (run.models / "pair_dictionary.json").unlink()
    for period in PERIODS:
        truncate(run.feather(period))
    rows = run.run()
    assert watch.trained == []
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "learning rate": ({"freqai": {"rl_config": {"learning_rate": 0.001}}}, "settings"),
    "reward": ({"freqai": {"rl_config": {"model_reward_parameters": {"drawdown_weight": 1.0}}}}, "settings"),
    "longest duration": ({"freqai": {"rl_config": {"max_trade_duration_candles": 20}}}, "settings, rules"),
    "fee": ({"fee": 0.001}, "rules"),
    "held-out share": ({"freqai": {"data_split_parameters": {"test_size": 0.2}}}, "settings, features"),
    "training period": ({"freqai": {"train_period_days": 3}}, "candles, training period"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_setting_makes_every_period_anew_and_is_named(
    sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    overlay, named = CHANGES[change]
    rows = FreqtradeBacktest(sealed.home, market, **overlay).run()
    assert watch.trained == [PAIR] * 3
    assert len(watch.replayed) == 3
    for period in PERIODS:
        assert f"predictions of cb_btc_{period} are made anew: changed since: {named}." in caplog.text
        assert f"cb_btc_{period} is trained anew: changed since: {named}." in caplog.text
    assert not predictions(rows).equals(sealed.columns)


def test_settings_that_change_no_result_train_nothing(sealed: Sealed, market: Path, watch: Watch) -> None:
    quiet = {"activate_tensorboard": True, "rl_config": {"progress_bar": True, "verbose": 1}}
    rows = FreqtradeBacktest(sealed.home, market, freqai=quiet, max_open_trades=3).run()
    assert watch.trained == []
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)


@pytest.mark.parametrize("timeframe", ["5m", "1h"])
def test_a_changed_candle_makes_anew_what_it_lies_in(
    tmp_path: Path, sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, timeframe: str
) -> None:
    shutil.copytree(market, tmp_path / "market")
    file = tmp_path / "market" / "futures" / f"BTC_USDT_USDT-{timeframe}-futures.feather"
    candles = pd.read_feather(file)
    # In the training of the third period, and in the backtest of the second, whose training never saw it.
    candles.loc[candles["date"] == "2024-09-06 12:00+00:00", "high"] += 0.1
    candles.to_feather(file)
    FreqtradeBacktest(sealed.home, tmp_path / "market").run()
    assert len(watch.trained) == 1
    assert len(watch.replayed) == 2
    anew = f"{PAIR}: predictions of cb_btc_%d are made anew: changed since: %s."
    assert f"predictions of cb_btc_{PERIODS[0]} are made anew" not in caplog.text
    assert anew % (PERIODS[1], "candles predicted on") in caplog.text
    assert anew % (PERIODS[2], "candles") in caplog.text
    assert f"cb_btc_{PERIODS[2]} is trained anew: changed since: candles." in caplog.text


def test_changed_signals_make_every_period_anew(
    sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their thresholds stand in no setting and in no source that FreqAI reads."""
    run = FreqtradeBacktest(sealed.home, market)
    run.strategy.adx_base.value += 10
    run.run()
    assert watch.trained == [PAIR] * 3
    assert "are made anew: changed since: computed classic_long, classic_short, long_gate and" in caplog.text


def test_changed_code_makes_every_period_anew(
    sealed: Sealed, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artefacts, "code_hash", lambda: "other code")
    FreqtradeBacktest(sealed.home, market).run()
    assert watch.trained == [PAIR] * 3
    assert "are made anew: changed since: code." in caplog.text


def test_changed_funding_makes_the_periods_anew(tmp_path: Path, sealed: Sealed, market: Path, watch: Watch) -> None:
    shutil.copytree(market, tmp_path / "market")
    file = tmp_path / "market" / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather"
    rates = pd.read_feather(file)
    rates.assign(open=rates["open"] + 0.001).to_feather(file)
    FreqtradeBacktest(sealed.home, tmp_path / "market").run()
    assert watch.trained == [PAIR] * 3


def test_a_period_that_now_ends_with_another_account_changes_the_predictions_after_it_but_no_model(
    sealed: Sealed, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    run = FreqtradeBacktest(sealed.home, market)
    file = run.folder(PERIODS[0]) / MANIFEST_NAME
    content = json.loads(file.read_text())
    # In a trade for ten candles; flat was handed on.
    assert content["account_after"][0] == FLAT.side
    content["account_after"] = list(FLAT._replace(side=1.0, open_rate=56000.0, stop_rate=54880.0, held_candles=10.0))
    artefacts.write_sealed_json(file, content, Seals(sealed.home))
    rows = run.run()
    assert watch.trained == []
    assert 1 <= len(watch.replayed) <= 2
    assert f"cb_btc_{PERIODS[1]} are made anew: the period before it now ends with another account" in caplog.text
    first_day = slice(0, 288)
    pd.testing.assert_frame_equal(predictions(rows)[first_day], sealed.columns[first_day])
    assert not predictions(rows).equals(sealed.columns)


def test_without_saved_models_the_predictions_are_reused_all_the_same(
    tmp_path: Path, sealed: Sealed, market: Path, watch: Watch
) -> None:
    overlay = {"freqai": {"save_backtest_models": False}}
    first = FreqtradeBacktest(tmp_path, market, **overlay)
    rows = first.run()
    assert watch.trained == [PAIR] * 3
    assert not list(first.models.rglob("*.zip"))
    watch.forget()
    again = FreqtradeBacktest(tmp_path, market, **overlay).run()
    assert (watch.trained, watch.replayed) == ([], [])
    pd.testing.assert_frame_equal(predictions(again), predictions(rows))
    pd.testing.assert_frame_equal(predictions(rows), sealed.columns)
