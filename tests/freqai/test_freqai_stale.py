"""What was computed decides what is made anew, wherever its cause stands; text that computes nothing does not."""

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, ROOT, STRATEGY, FreqtradeBacktest, Watch, predictions
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen

from mtfscalper import artefacts
from mtfscalper.offline.synthetic import write_market

EXACT = {"rl_config": {"decision_mode": "exact"}}
DAY = "20240905-20240906"
HELPER = "users_feature_helper"
SCALING = "users_scaling_helper"


class Files(NamedTuple):
    """Text of a user's files, each in a folder of its own.

    :ivar scaling: what the model's file imports
    """

    strategy: str
    helper: str
    model: str
    scaling: str

    def edited(self, file: str, old: str, new: str) -> "Files":
        text = getattr(self, file)
        assert text.count(old) == 1
        return self._replace(**{file: text.replace(old, new)})

    def run(self, folder: Path, home: Path, market: Path, timerange: str = DAY) -> FreqtradeBacktest:
        """Write the files, and run them as freqtrade loads them.

        :param folder: a new one, for Python remembers what it read in an old one
        """
        strategies, models = folder / "strategies", folder / "models"
        for path, name, text in (
            (strategies, STRATEGY, self.strategy),
            (strategies, HELPER, self.helper),
            (models, "MtfScalperRLModel", self.model),
            (models, SCALING, self.scaling),
        ):
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.py").write_text(text)
            sys.modules.pop(name, None)
        run = FreqtradeBacktest(
            home, market, strategy_path=strategies, model_path=models, timerange=timerange, freqai=EXACT
        )
        run.run()
        return run


def users_files() -> Files:
    """The shipped strategy with a feature of its own, which hangs on an attribute, a constant and a helper."""
    files = Files(
        strategy=(ROOT / "strategies" / f"{STRATEGY}.py").read_text(),
        helper="def moved(values):\n    return values.shift(1).fillna(0.5)\n",
        model=(
            "from datasieve.pipeline import Pipeline\n"
            "from datasieve.transforms import SKLearnWrapper\n"
            "from sklearn.preprocessing import MinMaxScaler\n"
            f"from {SCALING} import OFFSET\n"
            "from mtfscalper.freqai.model import MtfScalperFreqaiModel\n\n\n"
            "class MtfScalperRLModel(MtfScalperFreqaiModel):\n"
            "    def define_data_pipeline(self, threads=-1):\n"
            "        scaler = MinMaxScaler(feature_range=(-1 + OFFSET, 1 + OFFSET))\n"
            '        return Pipeline([("scaler", SKLearnWrapper(scaler))])\n'
        ),
        scaling="OFFSET = 0\n",
    )
    files = files.edited(
        "strategy", "logger = logging", f"from {HELPER} import moved\n\nSHARE = 100.0\nlogger = logging"
    )
    # The average over 200 candles, a side of which a signal needs, forgets its first ones by then.
    files = files.edited("strategy", "startup_candle_count = 400", "startup_candle_count = 1000")
    files = files.edited("strategy", "    leverage_used = 1.0\n", "    leverage_used = 1.0\n    own_candles = 14\n")
    return files.edited(
        "strategy",
        "        # FreqAI merged",
        '        dataframe["%-own"] = moved(ta.RSI(dataframe, timeperiod=self.own_candles) / SHARE)\n'
        "        # FreqAI merged",
    )


@pytest.fixture(scope="module")
def long_market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough candles for indicators to forget their beginning, and for a week more at either end."""
    datadir = tmp_path_factory.mktemp("long")
    start, stop = datetime(2024, 8, 8, tzinfo=UTC), datetime(2024, 9, 16, tzinfo=UTC)
    write_market(datadir, start=start, stop=stop, pairs=(PAIR, OTHER_PAIR))
    return datadir


@pytest.fixture(scope="module")
def sealed_home(tmp_path_factory: pytest.TempPathFactory, long_market: Path) -> Path:
    """The user directory after a run of one day; to be copied."""
    folder = tmp_path_factory.mktemp("sealed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = Watch(monkeypatch)
        users_files().run(folder, folder / "home", long_market)
        assert watch.trained == [PAIR]
    return folder / "home"


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


@pytest.fixture
def home(tmp_path: Path, sealed_home: Path) -> Path:
    shutil.copytree(sealed_home, tmp_path / "home")
    return tmp_path / "home"


COMPUTED = r"computed %-own"
MATTERS: dict[str, tuple[str, str, str, str]] = {
    # File, text, what becomes of it, and what the log names.
    "class attribute": ("strategy", "own_candles = 14", "own_candles = 28", COMPUTED),
    "module constant": ("strategy", "SHARE = 100.0", "SHARE = 50.0", COMPUTED),
    "helper in another file": ("helper", "shift(1)", "shift(2)", COMPUTED),
    "new feature": (
        "strategy",
        '        dataframe["%-weekday"]',
        '        dataframe["%-new"] = 1.0\n        dataframe["%-weekday"]',
        "computed columns (%-new is new)",
    ),
    "scaling in the model's file": ("model", "(-1 + OFFSET, 1 + OFFSET)", "(-5, 5)", "model class"),
    "helper of the model's file": ("scaling", "OFFSET = 0", "OFFSET = 1", "model class"),
}


@pytest.mark.parametrize("change", MATTERS)
def test_what_changes_the_computation_trains_anew_and_is_named(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    file, old, new, named = MATTERS[change]
    users_files().edited(file, old, new).run(tmp_path, home, long_market)
    assert watch.trained == [PAIR]
    assert f"is trained anew: changed since: {named}" in caplog.text
    watch.forget()
    users_files().edited(file, old, new).run(tmp_path / "again", home, long_market)
    assert watch.trained == []


@pytest.mark.parametrize("reused", [False, True])
def test_the_frame_is_made_once_and_is_the_one_the_loop_uses(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch, reused: bool
) -> None:
    made: list[int] = []
    real = FreqaiDataKitchen.populate_features

    def populate_features(self: FreqaiDataKitchen, dataframe: pd.DataFrame, *arguments: Any) -> pd.DataFrame:
        made.append(len(dataframe))
        return real(self, dataframe, *arguments)

    monkeypatch.setattr(FreqaiDataKitchen, "populate_features", populate_features)
    if not reused:
        shutil.rmtree(home / "models")
    run = users_files().run(tmp_path / "files", home, long_market, "20240905-20240907")
    assert len(watch.trained) == (1 if reused else 2)
    assert made == [len(run.frame)]


INDIFFERENT: dict[str, tuple[str, str]] = {
    "nothing": ("SHARE = 100.0", "SHARE = 100.0"),
    "a comment": ("SHARE = 100.0", "SHARE = 100.0  # Percent."),
    "plot_config": ('{"color": "blue", "type": "bar"}', '{"color": "black", "type": "bar"}'),
    "custom_exit": (
        "    def custom_exit(\n",
        "    def custom_exit_before(self):\n        pass\n\n    def custom_exit(\n",
    ),
    "the way it is written": ("/ SHARE)", "/ (SHARE / 2) / 2)"),
}


@pytest.mark.parametrize("change", INDIFFERENT)
def test_what_changes_no_computation_trains_nothing(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch, change: str
) -> None:
    users_files().edited("strategy", *INDIFFERENT[change]).run(tmp_path, home, long_market)
    assert watch.trained == []


@pytest.mark.parametrize("library", ["TA-Lib", "datasieve", "scikit-learn"])
def test_another_version_of_a_library_trains_anew(
    tmp_path: Path,
    home: Path,
    long_market: Path,
    watch: Watch,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    library: str,
) -> None:
    versions = artefacts.library_versions() | {library: "99.0"}
    monkeypatch.setattr(artefacts, "library_versions", lambda: versions)
    users_files().run(tmp_path, home, long_market)
    assert watch.trained == [PAIR]
    assert "is trained anew: changed since: versions." in caplog.text


def test_a_candle_that_only_warms_indicators_up_trains_anew(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(long_market, tmp_path / "market")
    file = tmp_path / "market" / "futures" / "BTC_USDT_USDT-5m-futures.feather"
    candles = pd.read_feather(file)
    # Ten minutes before the training period, and no finer than the market's price steps.
    candles.loc[candles["date"] == "2024-09-02 23:50+00:00", ["high", "close"]] += 100.0
    candles.to_feather(file)
    users_files().run(tmp_path, home, tmp_path / "market")
    assert watch.trained == [PAIR]
    assert "is trained anew: changed since: computed %-" in caplog.text


# ---------------------------------------------------------------------- more candles


def outside(market: Path, folder: Path, keep: Callable[["pd.Series[pd.Timestamp]"], "pd.Series[bool]"]) -> Path:
    """A market cut to some of its dates."""
    shutil.copytree(market, folder)
    for file in folder.rglob("*.feather"):
        candles = pd.read_feather(file)
        candles[keep(candles["date"])].reset_index(drop=True).to_feather(file)
    return folder


def computed_features(run: FreqtradeBacktest) -> pd.DataFrame:
    """What the strategy computed, on the rows of the first day's training."""
    frame = run.strategy.freqai._run.computed
    rows = (frame["date"] >= "2024-09-03") & (frame["date"] < "2024-09-05")
    return frame[rows].drop(columns="date").reset_index(drop=True)


@pytest.mark.parametrize(("timerange", "more"), [("20240829-20240906", 7), ("20240905-20240913", 7)])
def test_a_week_more_at_either_end_trains_the_week_and_nothing_inside(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch, timerange: str, more: int
) -> None:
    inside = users_files().run(tmp_path / "inside", home, long_market)
    assert watch.trained == []
    longer = users_files().run(tmp_path / "longer", home, long_market, timerange)
    assert len(watch.trained) == more
    day = longer.frame["date"].between("2024-09-05", "2024-09-05 23:55")
    there = inside.frame["date"].between("2024-09-05", "2024-09-05 23:55")
    pd.testing.assert_frame_equal(
        predictions(longer.frame[day]).reset_index(drop=True), predictions(inside.frame[there]).reset_index(drop=True)
    )


def test_a_period_that_ended_early_is_predicted_further_by_its_own_policy(
    tmp_path: Path, home: Path, long_market: Path, watch: Watch
) -> None:
    # Half a day more than the day sealed.
    half = f"{1725494400}-{1725494400 + 36 * 3600}"
    users_files().run(tmp_path / "half", home, long_market, half)
    assert len(watch.trained) == 1
    users_files().run(tmp_path / "whole", home, long_market, "20240905-20240907")
    assert len(watch.trained) == 1


def test_candles_that_begin_a_week_earlier_train_nothing_though_every_row_differs_in_its_last_bits(
    tmp_path: Path, long_market: Path, watch: Watch
) -> None:
    short = outside(long_market, tmp_path / "short", lambda dates: dates >= "2024-08-24")
    home = tmp_path / "home"
    before = computed_features(users_files().run(tmp_path / "a", home, short))
    assert watch.trained == [PAIR]
    earlier = outside(long_market, tmp_path / "earlier", lambda dates: dates >= "2024-08-17")
    after = computed_features(users_files().run(tmp_path / "b", home, earlier))
    assert watch.trained == [PAIR]
    assert (before != after).any(axis=1).mean() > 0.9
