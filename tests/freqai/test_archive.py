"""What runs sealed is kept outside FreqAI's folder: it never changes, and what nobody refers to goes."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from damage import copy_home
from freqai_runs import IDENTIFIER, OTHER_PAIR, PAIR, PERIODS, FreqtradeBacktest, Watch, predictions
from freqtrade.enums import RunMode
from freqtrade.optimize.backtesting import Backtesting
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.artefacts import file_hash
from mtfscalper.freqai import sharing
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.run_plan import RunPlan
from mtfscalper.seals import KEY_NAME, Seals

EXACT: dict[str, Any] = {"freqai": {"rl_config": {"decision_mode": "exact"}}}
# Other policies for the same periods.
OTHER: dict[str, Any] = {"freqai": {"rl_config": {"decision_mode": "exact", "learning_rate": 0.01}}}
THIRD: dict[str, Any] = {"freqai": {"rl_config": {"decision_mode": "exact", "learning_rate": 0.02}}}


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="decisive")


@pytest.fixture(autouse=True)
def _fresh_database() -> Iterator[None]:
    yield
    Backtesting.cleanup()


def hashes(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_hash(path) for path in folder.rglob("*") if path.is_file()}


def versions(home: Path, period: int = PERIODS[1]) -> list[Path]:
    config = {"user_data_dir": home, "freqai": {"identifier": IDENTIFIER}}
    return Archive.from_config(config).versions(PAIR, f"cb_btc_{period}").newest_first()


def plans(home: Path) -> list[str]:
    folder = home / "models" / ".sealed" / IDENTIFIER / "plans"
    return [path.stem for path in folder.glob("*/*.json")]


def nobody_trades(home: Path) -> None:
    """Forget the strategies of earlier runs, as if their processes had ended."""
    sharing._noted.clear()
    for path in (home / "models" / ".sealed").rglob("in_use/*.json"):
        path.unlink()


# ---------------------------------------------------------------------- runs with other settings


def test_a_run_trades_by_its_own_policies_whatever_another_seals_meanwhile(
    tmp_path: Path, market: Path, watch: Watch
) -> None:
    alone = {}
    for name, overlay in (("first", EXACT), ("other", OTHER)):
        run = FreqtradeBacktest(tmp_path / name, market, **overlay)
        run.run()
        alone[name] = run.trades()
        Backtesting.cleanup()
    first = FreqtradeBacktest(tmp_path / "home", market, **EXACT)
    first.run()
    other = FreqtradeBacktest(tmp_path / "home", market, **OTHER)
    other.run()
    trades = {"other": other.trades()}
    Backtesting.cleanup()
    trades["first"] = first.trades()
    for name, frame in trades.items():
        pd.testing.assert_frame_equal(frame, alone[name])
    assert not trades["first"].equals(trades["other"])


def test_a_run_after_one_with_other_settings_trains_nothing_again(
    tmp_path: Path, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {}
    for name, overlay in (("first", EXACT), ("other", OTHER)):
        columns[name] = predictions(FreqtradeBacktest(tmp_path, market, **overlay).run())
    assert len(watch.trained) == 6
    for name, overlay in (("first", EXACT), ("other", OTHER), ("first", EXACT)):
        caplog.clear()
        again = FreqtradeBacktest(tmp_path, market, **overlay)
        pd.testing.assert_frame_equal(predictions(again.run()), columns[name])
        assert "the files of 3 of 3 periods were put back from" in caplog.text
    assert len(watch.trained) == 6


def test_what_is_sealed_takes_no_space_twice(tmp_path: Path, market: Path, watch: Watch) -> None:
    run = FreqtradeBacktest(tmp_path, market, **EXACT)
    run.run()
    [version] = versions(tmp_path)
    for path in version.iterdir():
        assert path.samefile(run.folder(PERIODS[1]) / path.name)
    assert (version / run.feather(PERIODS[1]).name).samefile(run.feather(PERIODS[1]))
    # New predictions of the same policy.
    predicted = FreqtradeBacktest(tmp_path, market, freqai={"rl_config": {"decision_mode": "replay"}})
    predicted.run()
    assert len(watch.trained) == 3
    newest, oldest = versions(tmp_path)
    zip_name = f"cb_btc_{PERIODS[1]}_model.zip"
    assert (newest / zip_name).samefile(oldest / zip_name)
    assert not (newest / "cb_btc").exists()


def test_no_later_run_changes_a_version(tmp_path: Path, market: Path, watch: Watch) -> None:
    # Held until the end: a plan whose strategy is gone is no longer in use.
    first = FreqtradeBacktest(tmp_path, market, **EXACT)
    first.run()
    [version] = versions(tmp_path)
    before = hashes(version)
    assert len(before) > 8
    for overlay in (OTHER, {"freqai": {"rl_config": {"decision_mode": "replay"}}}):
        FreqtradeBacktest(tmp_path, market, **overlay).run()
    assert hashes(version) == before
    assert not first.trades().empty


def test_the_newest_plans_stay_and_what_no_plan_refers_to_goes(tmp_path: Path, market: Path, watch: Watch) -> None:
    for overlay in (EXACT, OTHER, THIRD, EXACT):
        FreqtradeBacktest(tmp_path, market, **overlay).run()
        nobody_trades(tmp_path)
    # The first run's had gone with the third, and was trained again.
    assert len(watch.trained) == 12
    assert len(plans(tmp_path)) == 2
    assert len(versions(tmp_path)) == 2
    folder = tmp_path / "models" / ".sealed" / IDENTIFIER / "plans"
    assert len(list(folder.glob("*/*.npz"))) == 1


@pytest.mark.acceptance
def test_a_setting_says_how_many_runs_stay(tmp_path: Path, market: Path, watch: Watch) -> None:
    for number in range(3):
        rl = {"decision_mode": "exact", "learning_rate": 0.01 + number / 100, "kept_runs": 3}
        FreqtradeBacktest(tmp_path, market, freqai={"rl_config": rl}).run()
    assert len(plans(tmp_path)) == len(versions(tmp_path)) == 3
    FreqtradeBacktest(tmp_path, market, freqai={"rl_config": rl | {"kept_runs": 3}}).run()
    assert len(watch.trained) == 9


def test_a_plan_that_is_traded_by_stays(tmp_path: Path, market: Path, watch: Watch) -> None:
    first = FreqtradeBacktest(tmp_path, market, **EXACT)
    first.run()
    for overlay in (OTHER, THIRD, EXACT | {"fee": 0.001}):
        FreqtradeBacktest(tmp_path, market, **overlay).run()
    assert not first.trades().empty


@pytest.mark.acceptance
def test_periods_of_another_range_stay(tmp_path: Path, market: Path, watch: Watch) -> None:
    """Their files lie in FreqAI's folder too, which an analysis deletes."""
    for timerange in ("20240905-20240906", "20240906-20240907", "20240907-20240908"):
        FreqtradeBacktest(tmp_path, market, timerange=timerange, **EXACT).run()
    shutil.rmtree(tmp_path / "models" / IDENTIFIER)
    watch.forget()
    FreqtradeBacktest(tmp_path, market, **EXACT).run()
    assert watch.trained == []


@pytest.mark.acceptance
def test_what_another_key_sealed_is_not_removed(tmp_path: Path, market: Path, watch: Watch) -> None:
    FreqtradeBacktest(tmp_path, market, **EXACT).run()
    [foreign] = versions(tmp_path)
    (tmp_path / KEY_NAME).unlink()
    for overlay in (OTHER, THIRD, OTHER):
        FreqtradeBacktest(tmp_path, market, **overlay).run()
    assert foreign in versions(tmp_path)


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, market: Path, watch: Watch) -> None:
    FreqtradeBacktest(tmp_path, market, **EXACT).run()
    [version] = versions(tmp_path)
    stray, damaged = version.with_name(f".{version.name}.1.tmp"), version.with_name("0123456789abcdef")
    for folder in (stray, damaged):
        folder.mkdir()
        (folder / "half").write_bytes(b"half")
    FreqtradeBacktest(tmp_path, market, **EXACT).run()
    assert [path.name for path in version.parent.iterdir()] == [version.name]


def test_a_newest_plan_that_is_damaged_is_written_again(tmp_path: Path, market: Path, watch: Watch) -> None:
    FreqtradeBacktest(tmp_path, market, **EXACT).run()
    [path] = (tmp_path / "models" / ".sealed" / IDENTIFIER / "plans").glob("*/*.json")
    path.write_bytes(path.read_bytes()[:100])
    run = FreqtradeBacktest(tmp_path, market, **EXACT)
    run.run()
    assert not run.trades().empty
    assert json.loads(path.read_text())["pair"] == PAIR
    assert watch.trained == [PAIR] * 3


# ---------------------------------------------------------------------- freqtrade's analyses


def analysis(home: Path, market: Path, **overlay: Any) -> FreqtradeBacktest:
    """A backtest as freqtrade's analyses make them, which remove the identifier's folder first."""
    shutil.rmtree(home / "models" / IDENTIFIER, ignore_errors=True)
    run = FreqtradeBacktest(home, market, **overlay)
    config, exchange = run.backtesting.config, run.backtesting.exchange
    config["runmode"] = RunMode.UTIL_NO_EXCHANGE
    run.backtesting = Backtesting(config, exchange)
    [run.strategy] = run.backtesting.strategylist
    run.backtesting._set_strategy(run.strategy)
    run.candles, run.timerange = run.backtesting.load_bt_data()
    return run


def test_an_analysis_trains_and_costs_no_training_afterwards(
    tmp_path: Path, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    first = FreqtradeBacktest(tmp_path, market, **EXACT)
    columns = predictions(first.run())
    trades = first.trades()
    Backtesting.cleanup()
    for number in (1, 2, 3):
        watch.forget()
        analysed = analysis(tmp_path, market, **EXACT)
        analysed.run()
        # Not even the last analysis's policies are used again: it asks what a training gives.
        assert len(watch.trained) == 3, number
        assert not analysed.trades().empty
        Backtesting.cleanup()
    watch.forget()
    caplog.clear()
    again = FreqtradeBacktest(tmp_path, market, **EXACT)
    pd.testing.assert_frame_equal(predictions(again.run()), columns)
    assert watch.trained == []
    [told] = [record.getMessage() for record in caplog.records if "put back" in record.getMessage()]
    assert told.startswith(f"{PAIR}: the files of 3 of 3 periods were put back from ")
    pd.testing.assert_frame_equal(again.trades(), trades)


def test_an_analysis_is_no_run_that_a_chart_shows(tmp_path: Path, market: Path, watch: Watch) -> None:
    run = FreqtradeBacktest(tmp_path, market, **EXACT)
    run.run()
    newest = RunPlan.newest(run.archive, PAIR)
    analysis(tmp_path, market, **OTHER).run()
    assert RunPlan.newest(run.archive, PAIR) == newest


@pytest.mark.acceptance
def test_what_analyses_trained_goes_with_their_plans(tmp_path: Path, market: Path, watch: Watch) -> None:
    for rate in (0.01, 0.02, 0.03, 0.04):
        analysis(tmp_path, market, freqai={"rl_config": {"decision_mode": "exact", "learning_rate": rate}}).run()
        nobody_trades(tmp_path)
    kept = tmp_path / "models" / ".sealed" / ".analyses" / IDENTIFIER / "periods" / "BTC_USDT_USDT"
    assert [len(list(period.iterdir())) for period in kept.iterdir()] == [2, 2, 2]


# ---------------------------------------------------------------------- bots


def test_a_bot_whose_folder_an_analysis_deleted_goes_on_as_before(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch)
    bot.analyse()
    bot.train()
    before = bot.analyse()[ACTION_COLUMN]
    bot.model.shutdown()
    models = Path(bot.model.full_path)
    [folder] = models.glob("sub-train-*")
    files, dictionary, history = hashes(folder), dict(bot.model.dd.pair_dict), bot.model.dd.historic_predictions[PAIR]
    analysis(tmp_path, market).run()
    assert not folder.exists()
    caplog.clear()
    again = LiveBot(tmp_path, market, monkeypatch)
    assert again.model.dd.pair_dict == dictionary
    pd.testing.assert_series_equal(again.analyse()[ACTION_COLUMN], before)
    pd.testing.assert_frame_equal(again.model.dd.historic_predictions[PAIR], history)
    # But for FreqAI's own record of what it trained on, which nothing reads.
    assert hashes(folder) == {name: digest for name, digest in files.items() if not name.endswith("_df.pkl")}
    assert f"{folder}: it is missing; put back from {tmp_path / 'models' / '.sealed'}" in caplog.text


def test_of_a_bots_older_policies_nothing_is_kept(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch, freqai={"purge_old_models": 2})
    bot.analyse()
    for _ in range(4):
        bot.train()
        bot.analyse()
        bot.next_candle(12)
    bot.model.dd.purge_old_models()
    folders = {path.name for path in Path(bot.model.full_path).glob("sub-train-*")}
    assert len(folders) == 2
    kept = tmp_path / "models" / ".sealed" / IDENTIFIER / "bot"
    assert {path.name for path in kept.glob("sub-train-*")} == folders


@pytest.mark.acceptance
def test_two_backtests_of_other_pairs_leave_both_their_entries(tmp_path: Path, market: Path, watch: Watch) -> None:
    """A bot may start with what a backtest trained."""
    first = FreqtradeBacktest(tmp_path, market)
    other = FreqtradeBacktest(tmp_path, market, exchange={"pair_whitelist": [OTHER_PAIR]})
    # Both read the dictionary before either wrote it.
    first.strategy.ft_bot_start()
    other.strategy.ft_bot_start()
    first.run()
    other.run(OTHER_PAIR)
    written = json.loads((first.models / "pair_dictionary.json").read_text())
    assert {pair: entry["model_filename"] for pair, entry in written.items() if "/" in pair} == {
        PAIR: f"cb_btc_{PERIODS[-1]}",
        OTHER_PAIR: f"cb_eth_{PERIODS[-1]}",
    }


# ---------------------------------------------------------------------- links


@pytest.mark.acceptance
def test_a_file_system_without_links_gets_copies(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(artefacts.os, "link", refuse)
    run = FreqtradeBacktest(tmp_path / "home", market, **EXACT)
    run.run()
    [version] = versions(tmp_path / "home")
    model = version / f"cb_btc_{PERIODS[1]}_model.zip"
    assert not model.samefile(run.folder(PERIODS[1]) / model.name)
    assert artefacts.why_stale(version, {}, ("model", "predictions"), Seals(tmp_path / "home")) is None
    copy_home(tmp_path / "home", tmp_path / "copy")
    watch.forget()
    FreqtradeBacktest(tmp_path / "copy", market, **EXACT).run()
    assert watch.trained == []
