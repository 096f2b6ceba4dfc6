"""What a run left on disk: read where it is sound, and seen where it was broken."""

import json
import zipfile
from pathlib import Path

import joblib
import pandas as pd
import pytest
from stable_baselines3.common.logger import configure

from mtfscalper import artefacts
from mtfscalper.monitoring.left_behind import (
    exported_frames,
    predictions_in,
    questions_asked,
    remove_all,
    tensorboard_tags,
    wrong_with,
)
from mtfscalper.seals import Seals

PAIR = "BTC/USDT:USDT"
DATES = pd.date_range("2024-10-01", periods=4, freq="5min", tz="UTC")
VALUES = {"&-action": [0.0, 1.0, 0.0, 2.0], "&-p_exit": [0.1, 0.2, 0.3, 0.4], "do_predict": [1, 1, 1, 1]}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """One period, sealed."""
    folder = tmp_path / "models" / "mine" / "sub-train-BTC_1727740800"
    folder.mkdir(parents=True)
    artefacts.write_json(folder / artefacts.REPORT_NAME, {"pair": PAIR})
    pd.DataFrame({"date": DATES, **VALUES}).to_feather(folder / "cb_btc_prediction.feather")
    model = folder / "cb_btc_model.zip"
    model.write_bytes(b"policy")
    artefacts.write_manifest(folder, {}, {"model": model}, Seals(tmp_path))
    return folder.parent


def frame(**changes: list[float]) -> pd.DataFrame:
    """The rows of the strategy's frame with a signal: the second and the last."""
    return pd.DataFrame({"date": DATES, "close": 1.0, **VALUES, **changes}).iloc[[1, 3]]


def test_a_sealed_folder_has_nothing_wrong(models: Path, tmp_path: Path) -> None:
    assert list(wrong_with(models / "sub-train-BTC_1727740800", Seals(tmp_path))) == []


def test_a_damaged_a_missing_and_a_planted_file_are_named(models: Path, tmp_path: Path) -> None:
    folder = models / "sub-train-BTC_1727740800"
    (folder / "cb_btc_model.zip").write_bytes(b"other")
    assert list(wrong_with(folder, Seals(tmp_path))) == ["model (cb_btc_model.zip) is missing or damaged"]
    # Whoever plants a file writes its hash as well; the seal they cannot make.
    manifest = json.loads((folder / artefacts.MANIFEST_NAME).read_text())
    manifest["files"]["model"]["sha256"] = artefacts.file_hash(folder / "cb_btc_model.zip")
    artefacts.write_json(folder / artefacts.MANIFEST_NAME, manifest)
    assert list(wrong_with(folder, Seals(tmp_path))) == ["this user directory did not seal it"]
    (folder / artefacts.MANIFEST_NAME).unlink()
    assert list(wrong_with(folder, Seals(tmp_path))) == ["it has no readable manifest"]


def test_predictions_in_the_strategys_frame_are_compared_with_the_periods(models: Path) -> None:
    assert predictions_in({PAIR: frame()}, models) == (4, 2, 2)
    assert predictions_in({PAIR: frame(**{"&-p_exit": [0.1, 0.9, 0.3, 0.4]})}, models) == (4, 2, 1)
    assert predictions_in({PAIR: frame(do_predict=[1, 1, 1, 0])}, models) == (4, 2, 1)
    assert predictions_in({PAIR: frame().drop(columns="&-p_exit")}, models) == (4, 2, 0)
    assert predictions_in({}, models) == (4, 0, 0)
    # Of another time.
    assert predictions_in({PAIR: frame().assign(date=DATES[[1, 3]] + pd.Timedelta(days=1))}, models) == (4, 0, 0)


def test_exported_frames_are_read_from_freqtrades_zip(tmp_path: Path) -> None:
    path, dumped = tmp_path / "result.zip", tmp_path / "signals.pkl"
    joblib.dump({"Strategy": {PAIR: frame()}}, dumped)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(dumped, "backtest-result_signals.pkl")
    assert list(exported_frames(path)) == [PAIR]
    assert exported_frames(path)[PAIR].equals(frame())


def test_questions_without_an_answer_are_counted(tmp_path: Path) -> None:
    assert questions_asked(tmp_path) == (0, 0)
    asked = pd.DataFrame({"probability": [0.1, float("nan"), 0.3], "policy": ["a", "a", ""]})
    asked.to_feather(tmp_path / "backtest_Mine.feather")
    assert questions_asked(tmp_path) == (3, 1)


def test_all_that_a_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("models/mine", "models/.sealed/mine", "decisions/mine")]
    others = [tmp_path / name for name in ("models/other", "models/.sealed/other", "decisions/other")]
    for folder in (*mine, *others):
        folder.mkdir(parents=True)
    remove_all(tmp_path / "models" / "mine", tmp_path)
    assert not any(folder.exists() for folder in mine)
    assert all(folder.is_dir() for folder in others)


def test_tags_are_read_from_tensorboards_files(tmp_path: Path) -> None:
    logger = configure(str(tmp_path / "tensorboard" / "BTC" / "PPO_1"), ["tensorboard"])
    logger.record("train/loss", 1.0)
    logger.dump(1)
    logger.close()
    assert tensorboard_tags(tmp_path) == {"tensorboard/BTC/PPO_1": ("train/loss",)}
