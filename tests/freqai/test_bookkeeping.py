"""FreqAI's own files: whatever becomes of one, a bot and a backtest start, and say what they did."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from damage import DAMAGES
from freqai_runs import PAIR, FreqtradeBacktest, Watch, predictions
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException
from live_bot import LiveBot

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.bookkeeping import Bookkeeper
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.stray_files import remove_stray_files
from mtfscalper.seals import Seals

FILES = ("pair_dictionary.json", "global_metadata.json", "metric_tracker.json", "historic_predictions.pkl")


@pytest.fixture
def make_drawer(tmp_path: Path) -> Callable[[], Bookkeeper]:
    folder = tmp_path / "models" / "test"
    folder.mkdir(parents=True)
    config = {
        "user_data_dir": tmp_path,
        "runmode": RunMode.DRY_RUN,
        "freqai": {"identifier": "test", "write_metrics_to_disk": True},
    }
    return lambda: Bookkeeper(Seals(tmp_path), Archive.from_config(config), folder, config)


FIRST = pd.Timestamp("2024-09-01", tz="UTC")


def kept(drawer: Bookkeeper) -> list[Any]:
    return [
        drawer.pair_dict,
        drawer.load_global_metadata_from_disk(),
        drawer.metric_tracker,
        {pair: frame.to_dict("list") for pair, frame in drawer.historic_predictions.items()},
    ]


def filled(drawer: Bookkeeper) -> list[Any]:
    """A drawer with something in each file."""
    drawer.pair_dict = {
        PAIR: {"model_filename": "cb_btc_1", "trained_timestamp": 1, "data_path": "/a/sub-train-BTC_1", "extras": {}}
    }
    drawer.metric_tracker = {PAIR: {"train_time": {"timestamp": [1], "value": [2.5]}}}
    dates = pd.date_range(FIRST, periods=3, freq="5min").as_unit("ms")
    drawer.historic_predictions = {PAIR: pd.DataFrame({ACTION_COLUMN: [1.0, 2.0, 0.0], "date_pred": dates})}
    drawer.save_drawer_to_disk()
    drawer.save_metric_tracker_to_disk()
    drawer.save_historic_predictions_to_disk()
    drawer.save_global_metadata_to_disk({"start_dry_live_date": int(FIRST.timestamp())})
    return kept(drawer)


def test_what_was_written_is_read_back(make_drawer: Callable[[], Bookkeeper]) -> None:
    before = filled(make_drawer())
    assert all(before)
    assert kept(make_drawer()) == before


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_file_is_restored_and_one_line_says_so(
    make_drawer: Callable[[], Bookkeeper],
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    drawer = make_drawer()
    before = filled(drawer)
    damage(drawer.full_path / file)
    caplog.clear()
    assert kept(make_drawer()) == before
    told = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    [line] = told
    assert f"{drawer.full_path / file} is missing or damaged; restored from" in line


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_without_a_second_copy_it_is_made_anew(
    make_drawer: Callable[[], Bookkeeper],
    caplog: pytest.LogCaptureFixture,
    file: str,
    damage: Callable[[Path], None],
) -> None:
    drawer = make_drawer()
    before = filled(drawer)
    path = drawer.full_path / file
    whole = {path.read_bytes()}
    for name in (path, path.with_name(f"{path.stem}.backup{path.suffix}"), drawer._kept(path)):
        # The first and the last may be names of one file, which is not to be flipped twice.
        if name.exists() and name.read_bytes() in whole:
            damage(name)
    caplog.clear()
    after = kept(make_drawer())
    at = FILES.index(file)
    if file == "global_metadata.json":
        # The bot's first day is that of its first prediction.
        assert after == before
    else:
        assert not after[at]
        assert after[:at] + after[at + 1 :] == before[:at] + before[at + 1 :]
    told = {record.getMessage() for record in caplog.records if record.levelname == "WARNING"}
    assert len(told) == (0 if damage is Path.unlink else 1)
    assert all(str(path) in line for line in told)
    assert filled(make_drawer()) == before


@pytest.mark.parametrize(
    "content", ["[]", "3", "null", '{"BTC/USDT:USDT": 3}', '{"BTC/USDT:USDT": {"model_filename": null}}', "\x00"]
)
def test_a_dictionary_of_another_shape_is_not_used(make_drawer: Callable[[], Bookkeeper], content: str) -> None:
    (make_drawer().full_path / "pair_dictionary.json").write_text(content)
    assert make_drawer().pair_dict == {}


def test_what_freqai_wrote_before_is_read(make_drawer: Callable[[], Bookkeeper]) -> None:
    entry = '{"model_filename": "cb_btc_1", "trained_timestamp": 1, "data_path": "x", "extras": {}}'
    (make_drawer().full_path / "pair_dictionary.json").write_text(f'{{"{PAIR}": {entry}}}')
    assert make_drawer().pair_dict[PAIR]["trained_timestamp"] == 1


# ---------------------------------------------------------------------- a full disk


def full_disk(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_bot_that_cannot_write_is_told_once_and_writes_when_it_can(
    make_drawer: Callable[[], Bookkeeper], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drawer = make_drawer()
    before = filled(drawer)
    drawer.historic_predictions[PAIR].loc[0, ACTION_COLUMN] = 3.0
    sent: list[str] = []
    monkeypatch.setattr(drawer.owner, "_send", sent.append)
    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_atomically", full_disk)
        caplog.clear()
        for _ in range(3):
            drawer.save_historic_predictions_to_disk()
        [record] = caplog.records
        assert "No space left on device" in record.getMessage()
        # The owner too, by freqtrade's own messages.
        assert sent == list(drawer.owner.troubles.values()) == [record.getMessage()]
        assert kept(make_drawer()) == before
    drawer.save_historic_predictions_to_disk()
    assert sent[1:] == [f"{drawer.historic_predictions_path} has been written."]
    assert drawer.owner.troubles == {}
    assert kept(make_drawer()) == kept(drawer) != before


def test_a_full_disk_does_not_end_the_training_thread_and_the_policy_decides_from_memory(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch)
    bot.analyse()
    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_atomically", full_disk)
        bot.train()
        bot.model.dd.save_historic_predictions_to_disk()
        assert (bot.analyse()[ACTION_COLUMN] != 0).any()
        bot.next_candle()
        assert bot.analyse()["do_predict"].iloc[-1] == 1
    assert f"the policy of {PAIR} cannot be written (" in caplog.text
    assert f"writing the policy of {PAIR}" in bot.model._owner.troubles
    # Written as soon as there is room.
    bot.model.dd.save_historic_predictions_to_disk()
    assert bot.model._owner.troubles == {}
    again = LiveBot(tmp_path, market, monkeypatch)
    assert (again.analyse()[ACTION_COLUMN] != 0).any()


def test_freqais_training_thread_lives_on(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bot = LiveBot(tmp_path, market, monkeypatch)
    tried = threading.Semaphore(0)
    monkeypatch.setattr(bot.model, "extract_data_and_train_model", lambda *_: tried.release())
    monkeypatch.setattr(artefacts, "write_atomically", full_disk)
    bot.model.scanning = False
    bot.analyse()
    # The second one keeps its funding rates up to date.
    thread, _ = bot.model._threads
    # Between two trainings the predictions are saved, which fails: at the third it has gone on twice.
    for _ in range(3):
        assert tried.acquire(timeout=120)
    assert thread.is_alive()
    bot.model.shutdown()
    assert not thread.is_alive()
    assert caplog.text.count("historic_predictions.pkl cannot be written") == 1


def test_a_backtest_on_a_full_disk_stops_with_one_message(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market)
    run.strategy.ft_bot_start()
    monkeypatch.setattr(artefacts, "write_atomically", full_disk)
    with pytest.raises(OperationalException, match=r"No space left on device; accepted: .*; remedy: free space"):
        run.run()


# ---------------------------------------------------------------------- read only


@pytest.mark.parametrize("mode", ["replay", "exact"])
def test_a_run_that_trains_nothing_writes_nothing(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    watch = Watch(monkeypatch)
    freqai = {"rl_config": {"decision_mode": mode}}
    columns = predictions(FreqtradeBacktest(tmp_path, market, freqai=freqai).run())
    watch.forget()
    written: list[Path] = []

    def read_only(path: Path, _: Any) -> None:
        written.append(path)
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(artefacts, "write_atomically", read_only)
    again = FreqtradeBacktest(tmp_path, market, freqai=freqai)
    pd.testing.assert_frame_equal(predictions(again.run()), columns)
    assert watch.trained == []
    # But for the note that the run's plan is in use, which it can do without.
    assert {path.parent for path in written} == {again.archive.in_use}


# ---------------------------------------------------------------------- what a killed writer leaves


def test_files_of_killed_writers_are_removed_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    below = tmp_path / "sub-train-BTC_1"
    below.mkdir()
    stray, own, reused, other = (
        below / f".model.zip.{ended.pid}.tmp",
        tmp_path / f".plan.json.{os.getpid()}.tmp",
        tmp_path / f".history.pkl.{os.getpid()}.tmp",
        tmp_path / ".somebody.tmp",
    )
    for path in (stray, own, reused, other):
        path.write_bytes(b"half")
    # Written before the process that now has the number began.
    os.utime(reused, (1, 1))
    remove_stray_files(tmp_path.rglob("*.tmp"))
    assert sorted(path.name for path in tmp_path.rglob("*.tmp")) == sorted([own.name, other.name])
