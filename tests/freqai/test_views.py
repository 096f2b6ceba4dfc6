"""Charts: they show what the last backtest sealed, train nothing and write nothing."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from damage import DAMAGES, copy_home, flip
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch, configuration, predictions
from freqtrade.configuration import TimeRange, validate_config_consistency
from freqtrade.data.dataprovider import DataProvider
from freqtrade.data.history import load_data
from freqtrade.enums import CandleType, RunMode
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import StrategyResolver

from mtfscalper import artefacts
from mtfscalper.freqai.columns import ACTION_COLUMN, EXIT_COLUMN, PREDICTION_COLUMNS
from mtfscalper.trading.actions import Action

FIVE_MINUTES = pd.Timedelta(minutes=5)
VIEWS = (RunMode.PLOT, RunMode.WEBSERVER)
# Without which freqtrade refuses the run mode WEBSERVER.
API_SERVER = {
    "enabled": True,
    "listen_ip_address": "127.0.0.1",
    "listen_port": 8080,
    "username": "freqtrader",
    "password": "a password of a test",
    "jwt_secret_key": "a key of a test, as long as it is made",
}


class Made:
    """A finished backtest.

    :ivar home: its user directory
    :ivar rows: what it predicted
    """

    def __init__(self, home: Path, rows: pd.DataFrame) -> None:
        self.home, self.rows = home, rows


def chart(home: Path, datadir: Path, runmode: RunMode, timerange: str) -> pd.DataFrame:
    """The frame that ``plot-dataframe`` draws and ``/pair_history`` answers, made as they make it."""
    config, exchange = configuration(home, datadir, runmode, api_server=API_SERVER)
    config["timerange"] = timerange
    validate_config_consistency(config)
    # Neither command loads leverage tiers.
    exchange._leverage_tiers.clear()
    strategy = StrategyResolver.load_strategy(config)
    parsed = TimeRange.parse_timerange(timerange)
    candles = load_data(
        datadir=datadir,
        pairs=[PAIR],
        timeframe="5m",
        timerange=parsed,
        startup_candles=strategy.startup_candle_count,
        candle_type=CandleType.FUTURES,
    )[PAIR]
    strategy.dp = DataProvider(config, exchange)
    strategy.ft_bot_start()
    frame = strategy.analyze_ticker(candles, {"pair": PAIR})
    return frame[frame["date"] >= parsed.startdt].reset_index(drop=True)


def hashes(home: Path) -> dict[str, str]:
    """Every file and folder under the models' folder; a folder has no hash, but it counts."""
    paths = sorted((home / "models").rglob("*"))
    return {str(path.relative_to(home)): artefacts.file_hash(path) if path.is_file() else "" for path in paths}


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="decisive")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, market: Path) -> dict[str, Made]:
    made = {}
    for mode in ("exact", "replay"):
        home = tmp_path_factory.mktemp(mode) / "home"
        with pytest.MonkeyPatch.context() as monkeypatch:
            Watch(monkeypatch, policy="decisive")
            rows = FreqtradeBacktest(home, market, freqai={"rl_config": {"decision_mode": mode}}).run()
        made[mode] = Made(home, rows)
    return made


@pytest.fixture(params=["exact", "replay"])
def made(request: pytest.FixtureRequest, pristine: dict[str, Made], tmp_path: Path) -> Made:
    """A copy of a finished backtest in either mode."""
    run = pristine[request.param]
    return Made(copy_home(run.home, tmp_path / "home"), run.rows)


@pytest.mark.parametrize("runmode", VIEWS)
def test_a_chart_shows_the_columns_of_the_backtest_and_touches_nothing(
    made: Made, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, runmode: RunMode
) -> None:
    before = hashes(made.home)
    caplog.clear()
    shown = chart(made.home, market, runmode, "20240906-20240907")
    assert hashes(made.home) == before
    assert watch.trained == watch.replayed == []
    inside = shown[shown["date"] < datetime(2024, 9, 7, tzinfo=UTC)]
    expected = made.rows[made.rows["date"].isin(inside["date"])].reset_index(drop=True)
    assert len(expected) == 288
    pd.testing.assert_frame_equal(predictions(inside), predictions(expected), check_dtype=False)
    # Not for want of decisions.
    assert (inside["&-action"] != 0).any()
    assert not any("To see decisions" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("runmode", "entry_mode"),
    [(RunMode.PLOT, "classic"), (RunMode.PLOT, "gated"), (RunMode.PLOT, "agent"), (RunMode.WEBSERVER, "agent")],
)
def test_a_chart_shows_what_was_decided_about_the_trades_of_the_backtest(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, runmode: RunMode, entry_mode: str
) -> None:
    """In exact mode the columns themselves are those of a flat account."""
    Watch(monkeypatch, leaves=0.1)
    exact = {"freqai": {"rl_config": {"decision_mode": "exact", "entry_mode": entry_mode}}}
    run = FreqtradeBacktest(tmp_path, market, **exact)
    rows = run.run()
    trades = run.trades()
    Backtesting.cleanup()
    before = hashes(tmp_path), sorted(tmp_path.rglob("*.feather"))
    shown = chart(tmp_path, market, runmode, "20240905-20240908").set_index("date")
    shown = shown[shown.index < pd.Timestamp("20240908", tz="UTC")]
    assert (hashes(tmp_path), sorted(tmp_path.rglob("*.feather"))) == before
    panels = [run.strategy.plot_config["main_plot"], *run.strategy.plot_config["subplots"].values()]
    plotted = [name for panel in panels for name in panel]
    assert set(PREDICTION_COLUMNS) <= set(plotted)
    assert shown[plotted].notna().all(axis=None)
    [file] = (tmp_path / "decisions" / "test").glob("*.feather")
    asked = pd.read_feather(file)
    row_dates = asked["candle"] - FIVE_MINUTES
    assert shown.loc[row_dates, EXIT_COLUMN].to_numpy() == pytest.approx(asked["probability"].to_numpy())
    # An exit stands on the row before the candle that it filled at, as an entry does.
    left = trades[trades["exit_reason"] == "rl_exit"]
    assert len(left) > 5
    exits = {
        trade.close_date - FIVE_MINUTES: Action.SHORT_EXIT if trade.is_short else Action.LONG_EXIT
        for trade in left.itertuples()
    }
    drawn = shown.loc[shown[ACTION_COLUMN].isin([Action.LONG_EXIT, Action.SHORT_EXIT]), ACTION_COLUMN]
    assert drawn.to_dict() == exits
    for column, side in (("exit_long", False), ("exit_short", True)):
        assert shown.index[shown[column] == 1].tolist() == sorted(
            left.loc[left["is_short"] == side, "close_date"] - FIVE_MINUTES
        )
    # All else is what was decided flat.
    others = ~shown.index.isin(row_dates)
    flat = rows.set_index("date").loc[shown.index]
    pd.testing.assert_series_equal(shown.loc[others, ACTION_COLUMN], flat.loc[others, ACTION_COLUMN], check_dtype=False)
    assert (flat[EXIT_COLUMN] == 0).all()


@pytest.mark.parametrize("runmode", VIEWS)
def test_rows_outside_the_backtest_are_neutral_and_one_line_says_what_to_run(
    made: Made, market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, runmode: RunMode
) -> None:
    before = hashes(made.home)
    shown = chart(made.home, market, runmode, "20240907-20240909")
    assert hashes(made.home) == before
    assert watch.trained == []
    outside = shown[shown["date"] >= datetime(2024, 9, 8, tzinfo=UTC)]
    assert len(outside) >= 288
    assert not outside[[*PREDICTION_COLUMNS, "do_predict"]].any(axis=None)
    assert (shown.loc[shown["date"] < datetime(2024, 9, 8, tzinfo=UTC), "do_predict"] == 1).any()
    [line] = [message for record in caplog.records if "To see decisions" in (message := record.getMessage())]
    assert f"{PAIR}: the last backtest decided on 288 of 576 candles" in line
    assert "freqtrade backtesting --timerange 20240907-20240909" in line


def test_without_a_backtest_all_is_neutral_and_no_folder_is_made(
    market: Path, tmp_path: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    shown = chart(tmp_path, market, RunMode.WEBSERVER, "20240906-20240907")
    assert hashes(tmp_path) == {}
    assert watch.trained == []
    assert not shown[[*PREDICTION_COLUMNS, "do_predict"]].any(axis=None)
    [line] = [message for record in caplog.records if "To see decisions" in (message := record.getMessage())]
    assert "decided on 0 of 288 candles" in line
    assert "holds no plan of a run" in line


@pytest.mark.parametrize("harm", DAMAGES)
@pytest.mark.parametrize("name", ["feather", "manifest", "plan", "pair_dictionary", "run_params", "history"])
def test_what_is_damaged_is_shown_neutral_or_whole_and_left_as_it_is(
    pristine: dict[str, Made],
    tmp_path: Path,
    market: Path,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    harm: Callable[[Path], None],
) -> None:
    home = copy_home(pristine["exact"].home, tmp_path / "home")
    models = home / "models" / "test"
    files = {
        "feather": models / "backtesting_predictions" / f"cb_btc_{PERIODS[1]}_prediction.feather",
        "manifest": models / f"sub-train-BTC_{PERIODS[1]}" / artefacts.MANIFEST_NAME,
        "plan": next((models.parent / ".sealed" / "test" / "plans" / "BTC_USDT_USDT").glob("*.json")),
        # FreqAI's own, which a view does without.
        "pair_dictionary": models / "pair_dictionary.json",
        "run_params": models / "run_params.json",
        "history": models / "historic_predictions.pkl",
    }
    files["history"].write_bytes(b"no pickle")
    harm(files[name])
    before = hashes(home)
    shown = chart(home, market, RunMode.WEBSERVER, "20240906-20240907")
    assert hashes(home) == before
    assert watch.trained == []
    inside = shown[shown["date"] < datetime(2024, 9, 7, tzinfo=UTC)]
    told = any("To see decisions" in record.getMessage() for record in caplog.records)
    # A bit of a manifest may be one that nothing hangs on, and a name that is gone is not the only one.
    if harm is not flip or name == "feather":
        assert told == (name == "plan" or (name in ("feather", "manifest") and harm is not Path.unlink))
    if told:
        assert not inside[[*PREDICTION_COLUMNS, "do_predict"]].any(axis=None)
    else:
        rows = pristine["exact"].rows
        expected = rows[rows["date"].isin(inside["date"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(predictions(inside), predictions(expected), check_dtype=False)


class Bomb:
    """Runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_view_unpickles_nothing(pristine: dict[str, Made], tmp_path: Path, market: Path) -> None:
    home = copy_home(pristine["exact"].home, tmp_path / "home")
    mark = tmp_path / "executed"
    pickles = [*home.rglob("*.pkl"), home / "models" / "test" / "historic_predictions.pkl"]
    assert len(pickles) > 3
    for path in pickles:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    shown = chart(home, market, RunMode.PLOT, "20240906-20240907")
    assert (shown["do_predict"] == 1).any()
    assert not mark.exists()
    # The control: it would have run.
    pickle.loads(pickles[0].read_bytes())
    assert mark.exists()


@pytest.mark.parametrize("runmode", [*VIEWS, RunMode.UTIL_NO_EXCHANGE])
def test_a_backtesting_in_any_run_mode_is_a_backtest(
    tmp_path: Path, market: Path, watch: Watch, runmode: RunMode
) -> None:
    """FreqUI's, and those of freqtrade's two analyses."""
    run = FreqtradeBacktest(tmp_path, market, api_server=API_SERVER)
    config, exchange = run.backtesting.config, run.backtesting.exchange
    config["runmode"] = runmode
    backtesting = Backtesting(config, exchange)
    [strategy] = backtesting.strategylist
    backtesting._set_strategy(strategy)
    candles, _ = backtesting.load_bt_data()
    frame = strategy.advise_all_indicators(candles)[PAIR]
    assert watch.trained == [PAIR] * 3
    assert (frame["do_predict"] == 1).any()
    assert json.loads((tmp_path / "models" / "test" / "run_params.json").read_text())["pairs"] == [PAIR]
