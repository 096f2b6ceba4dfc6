"""Periods of a FreqAI backtest: their first rows, their gaps, their features, and their failures."""

import shutil
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from freqai_runs import IDENTIFIER, OTHER_PAIR, PAIR, PERIODS, ROOT, FreqtradeBacktest, Watch, predictions
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver
from stable_baselines3 import PPO

from mtfscalper.artefacts import read_manifest
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN
from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import decider_for
from mtfscalper.trading.account import Account
from mtfscalper.training.job import TrainingJob


def populated(run: FreqtradeBacktest) -> pd.DataFrame:
    """The strategy's frame with its features, before FreqAI cuts it."""
    kitchen = FreqaiDataKitchen(run.backtesting.config, False, PAIR)
    frame = kitchen.use_strategy_to_populate_indicators(run.strategy, prediction_dataframe=run.frame, pair=PAIR)
    return kitchen.remove_special_chars_from_feature_names(frame)


def change_features(run: FreqtradeBacktest, monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let the strategy end its feature engineering with a change of the frame."""
    real = run.strategy.feature_engineering_standard
    monkeypatch.setattr(
        run.strategy, "feature_engineering_standard", lambda frame, metadata, **_: change(real(frame, metadata))
    )


def test_freqtrades_resolver_finds_the_model_in_the_user_directory(tmp_path: Path, market: Path) -> None:
    run = FreqtradeBacktest(tmp_path, market)
    config = {**run.backtesting.config, "freqaimodel_path": None}
    shutil.copy(ROOT / "user_data" / "freqaimodels" / "MtfScalperRLModel.py", tmp_path / "freqaimodels")
    model = FreqaiModelResolver.load_freqaimodel(config)
    assert type(model).__name__ == "MtfScalperRLModel"
    assert isinstance(model, MtfScalperFreqaiModel)


def test_the_first_rows_of_a_period_are_decided_with_the_candles_before_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replayed anew from what is on disk, over a tape that begins twenty candles before each period."""
    Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, freqai={"conv_width": 5, "rl_config": {"entry_mode": "agent"}})
    rows = run.run()
    frame = populated(run)
    model = run.strategy.freqai
    trades = first_rows_acted = 0
    for number, period in enumerate(PERIODS):
        folder = run.folder(period)
        with (folder / f"cb_btc_{period}_feature_pipeline.pkl").open("rb") as file:
            pipeline = cloudpickle.load(file)
        policy = PPO.load(folder / f"cb_btc_{period}_model.zip", device="cpu")
        first = int(np.searchsorted(frame["date"], pd.Timestamp(period, unit="s", tz="UTC")))
        cut = frame.iloc[first - 20 : first + 289].reset_index(drop=True)
        features, _, _ = pipeline.transform(cut[[name for name in cut.columns if "%" in name]])
        tape = MarketTape.from_frame(
            cut.assign(
                price_scale=10.0, funding=model._source.funding(PAIR, cut["date"]), classic_long=0.0, classic_short=0.0
            ),
            np.asarray(features, dtype=np.float32),
            pair=PAIR,
            timeframe_ms=300_000,
            signals_needed=True,
        )
        settings = model._terms.environment(PAIR)
        assert settings.lookback == 5
        account = Account(*read_manifest(folder)["account_before"])
        decider = decider_for(policy, tape.features, 5)
        expected = closed_loop.run(decider, tape, settings, 20, 308, account=account)
        predicted = rows.iloc[number * 288 : (number + 1) * 288]
        assert predicted["date"].iloc[0] == cut["date"].iloc[20]
        np.testing.assert_array_equal(predicted[ACTION_COLUMN], expected.actions)
        np.testing.assert_allclose(predicted[LONG_ENTER_COLUMN], expected.flat.probabilities[:, 1], atol=1e-6)
        np.testing.assert_allclose(predicted[SHORT_ENTER_COLUMN], expected.flat.probabilities[:, 3], atol=1e-6)
        np.testing.assert_allclose(predicted[EXIT_COLUMN], expected.exit_probability, atol=1e-6)
        trades += len(expected.trades)
        first_rows_acted += np.count_nonzero(predicted[ACTION_COLUMN].iloc[:4])
    assert trades > 5
    assert first_rows_acted > 0


def test_a_pair_is_predicted_as_it_is_alone_whatever_pair_comes_before_it(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    pairs = {"both": [PAIR, OTHER_PAIR], "alone": [OTHER_PAIR]}
    rows = {
        name: FreqtradeBacktest(
            tmp_path / name,
            market,
            exchange={"pair_whitelist": whitelist},
            freqai={"rl_config": {"entry_mode": "classic"}},
        ).run(OTHER_PAIR)
        for name, whitelist in pairs.items()
    }
    assert watch.trained == [PAIR] * 3 + [OTHER_PAIR] * 6
    # The first pair ends in a trade, which is none of the second's.
    assert watch.replayed[2].account.side != 0
    assert (rows["alone"][ACTION_COLUMN] != 0).sum() > 20
    pd.testing.assert_frame_equal(predictions(rows["both"]), predictions(rows["alone"]))


def test_rows_with_missing_features_are_not_trusted_and_open_no_trade(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, freqai={"conv_width": 3, "rl_config": {"entry_mode": "agent"}})
    missing = pd.date_range("2024-09-05 12:00", periods=6, freq="45min", tz="UTC")
    missing = missing.append(pd.date_range("2024-09-06 06:00", periods=40, freq="5min", tz="UTC"))

    def spoil(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{"%-hour-sine": frame["%-hour-sine"].mask(frame["date"].isin(missing), np.nan)})

    change_features(run, monkeypatch, spoil)
    rows = run.run()
    spoiled = rows["date"].isin(missing)
    assert spoiled.sum() == 46
    assert (rows["do_predict"] == (~spoiled).astype(int)).all()
    # Nor is a row decided that has such a row in its lookback.
    undecided = spoiled | spoiled.shift(1, fill_value=False) | spoiled.shift(2, fill_value=False)
    assert not rows.loc[undecided, ACTION_COLUMN].any()
    assert not rows.loc[undecided, EXIT_COLUMN].any()
    decided = rows.loc[~undecided & (rows["date"] < "2024-09-07"), ACTION_COLUMN]
    assert (decided != 0).sum() > 5
    assert len(run.trades()) >= sum(len(period.trades) for period in watch.replayed) > 5
    entered = run.trades()["open_date"]
    after_undecided = rows.loc[undecided, "date"] + pd.Timedelta(minutes=5)
    assert not entered.isin(after_undecided).any()


def test_raw_prices_left_out_of_the_features_stay_in_the_feature_list(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FreqAI compares that list with the strategy's when it takes up predictions from disk."""

    def with_prices(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{f"%-raw_{name}": frame[name] for name in ("open", "high", "low", "close")})

    watch = Watch(monkeypatch)
    columns = []
    for trainings in (3, 0):
        run = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"drop_ohlc_from_features": True}})
        change_features(run, monkeypatch, with_prices)
        watch.forget()
        columns.append(predictions(run.run()))
        assert len(watch.trained) == trainings
    pd.testing.assert_frame_equal(*columns)
    names = [name for name in populated(run).columns if "%" in name]
    assert names[-4:] == ["%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close"]
    assert read_manifest(run.folder(PERIODS[0]))["features"] == names
    policy = PPO.load(run.folder(PERIODS[0]) / f"cb_btc_{PERIODS[0]}_model.zip", device="cpu").policy
    assert policy.features_extractor.n_features == len(names) - 4


def test_a_training_that_fails_fails_the_run_with_pair_period_and_cause_and_predicts_nothing(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FreqtradeBacktest(tmp_path, market)
    # No ADX reaches this: there are no signals, and gated mode has nothing to decide.
    run.strategy.adx_base.value = 101
    message = rf"Training of {PAIR}, period cb_btc_{PERIODS[0]}, failed: TapeError: .*none of \d+ candles carries"
    with pytest.raises(OperationalException, match=message):
        run.run()
    assert not list(run.models.rglob("*.feather"))
    assert not list(run.models.rglob("*.zip"))


def test_a_failure_in_a_later_period_fails_the_run_too_and_names_that_period(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market)
    real = TrainingJob.run

    def fails_once(*arguments: Any, **keywords: Any) -> Any:
        if len(watch.trained) == 1:
            raise MemoryError("no memory for the rollout")
        return real(*arguments, **keywords)

    monkeypatch.setattr(TrainingJob, "run", fails_once)
    with pytest.raises(OperationalException, match=rf"period cb_btc_{PERIODS[1]}, failed: MemoryError: no memory"):
        run.run()
    assert {path.name for path in run.models.rglob("*.feather")} == {run.feather(PERIODS[0]).name}


def test_a_column_declared_by_the_strategy_that_no_policy_fills_fails_the_run(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market)
    real = run.strategy.set_freqai_targets
    monkeypatch.setattr(
        run.strategy, "set_freqai_targets", lambda frame, metadata: real(frame, metadata).assign(**{"&-s_close": 0.0})
    )
    with pytest.raises(OperationalException, match=r"&-s_close.*declare only these"):
        run.run()
    assert watch.trained == []


def test_wrong_settings_stop_the_run_before_any_candle_is_used(tmp_path: Path, market: Path) -> None:
    with pytest.raises(OperationalException, match=r"freqai\.rl_config\.train_cycels is 3"):
        FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"train_cycels": 3}})
    assert not (tmp_path / "models" / IDENTIFIER).exists()
