"""Frames that wait on disk, and trainings that finished before their periods were sealed."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from stable_baselines3 import PPO

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.fingerprint import frame_hash
from mtfscalper.freqai.frame_shelf import _LOCK, FrameShelf, _remove_those_of_the_dead
from mtfscalper.freqai.kept_trainings import KEPT_DAYS, Kept, KeptTrainings
from mtfscalper.freqai.preparation import Prepared
from mtfscalper.seals import Seals
from mtfscalper.training.fit import model_zip, weights_hash
from mtfscalper.training.report import TrainingReport

PAIR, PERIOD, KEY = "BTC/USDT:USDT", "cb_btc_1725494400", "0123456789abcdef"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive("test", tmp_path / "models" / ".sealed" / "test", tmp_path / "locks")


@pytest.fixture
def seals(tmp_path: Path) -> Seals:
    return Seals(tmp_path)


def small_model(seed: int = 1) -> PPO:
    shape = {"net_arch": [4]}
    return PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, seed=seed, device="cpu", policy_kwargs=shape)


def kept(model: PPO) -> Kept:
    prepared = Prepared({"train_features": pd.DataFrame({"%a": [1.0]})}, None, None, {})
    return Kept(prepared, model, TrainingReport(PAIR, "PPO", 1))


def weights(model: Any) -> torch.Tensor:
    return torch.cat([value.flatten() for value in model.policy.state_dict().values()])


# ---------------------------------------------------------------------- trainings


def test_a_kept_training_comes_back_with_its_weights_and_is_forgotten_with_its_folders(
    archive: Archive, seals: Seals
) -> None:
    trainings, model = KeptTrainings(archive, seals), small_model()
    expected = weights(model)
    trainings.keep(PAIR, PERIOD, KEY, kept(model))
    # Another process.
    found = KeptTrainings(archive, seals).find(PAIR, PERIOD, KEY)
    assert found is not None
    assert torch.equal(weights(found.model), expected)
    assert found.prepared.data_dictionary["train_features"]["%a"].tolist() == [1.0]
    assert trainings.any_of(PAIR, PERIOD)
    assert trainings.find(PAIR, PERIOD, "another") is None
    trainings.forget(PAIR, PERIOD)
    assert not trainings.any_of(PAIR, PERIOD)
    assert list(archive.root.iterdir()) == []


def test_what_another_installation_sealed_is_not_unpickled(
    archive: Archive, seals: Seals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "other").mkdir()
    KeptTrainings(archive, Seals(tmp_path / "other")).keep(PAIR, PERIOD, KEY, kept(small_model()))
    assert KeptTrainings(archive, seals).find(PAIR, PERIOD, KEY) is None
    assert "is not what this user directory sealed" in caplog.text
    assert not KeptTrainings(archive, seals).any_of(PAIR, PERIOD)


def test_one_whose_users_code_read_what_has_changed_is_not_used(
    archive: Archive, seals: Seals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, trainings, training = tmp_path / "limits.json", KeptTrainings(archive, seals), kept(small_model())
    path.write_text("1")
    training.report.files_read[str(path)] = artefacts.file_hash(path)
    trainings.keep(PAIR, PERIOD, KEY, training)
    assert trainings.find(PAIR, PERIOD, KEY) is not None
    path.write_text("2")
    with caplog.at_level(logging.INFO):
        assert trainings.find(PAIR, PERIOD, KEY) is None
    assert f"is not used: changed since: what your code read of {path}." in caplog.text


def test_on_a_full_disk_a_training_is_kept_in_memory_and_one_line_says_so(
    archive: Archive, seals: Seals, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, os.strerror(28), str(path))

    trainings = KeptTrainings(archive, seals)
    monkeypatch.setattr(artefacts, "write_bytes", full)
    with caplog.at_level(logging.WARNING):
        trainings.keep(PAIR, PERIOD, KEY, kept(small_model()))
    [record] = [record for record in caplog.records if record.name.endswith("kept_trainings")]
    assert "No space left on device" in record.getMessage()
    assert trainings.find(PAIR, PERIOD, KEY) is not None
    assert not trainings.any_of("ETH/USDT:USDT", PERIOD)
    trainings.forget(PAIR, PERIOD)
    assert trainings.find(PAIR, PERIOD, KEY) is None


def test_a_model_is_the_same_by_its_weights_whenever_it_was_saved() -> None:
    model = small_model()
    once = weights_hash(model_zip(model))
    model.start_time = 1
    assert weights_hash(model_zip(model)) == once
    assert weights_hash(model_zip(small_model(seed=2))) != once
    # Its optimizer's state is what it goes on from too.
    model.policy.optimizer.param_groups[0]["lr"] *= 2
    assert weights_hash(model_zip(model)) != once


def test_trainings_that_no_run_asks_for_go_after_a_time_and_the_others_stay(
    archive: Archive, seals: Seals, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trainings = KeptTrainings(archive, seals)
    for pair, period in ((PAIR, PERIOD), (PAIR, "cb_btc_2"), ("GONE/USDT:USDT", PERIOD)):
        trainings.keep(pair, period, KEY, kept(small_model()))
    trainings.forget_old()
    assert trainings.has("GONE/USDT:USDT", PERIOD, KEY)
    for path in archive.all_trainings.rglob("*.training"):
        long_ago = path.stat().st_mtime - (KEPT_DAYS + 1) * 86_400
        os.utime(path, (long_ago, long_ago))
    # A run that was stopped long ago goes on.
    assert trainings.find(PAIR, PERIOD, KEY) is not None
    trainings.forget_old()
    assert trainings.has(PAIR, PERIOD, KEY)
    assert not trainings.has(PAIR, "cb_btc_2", KEY)
    assert [path.name for path in archive.all_trainings.iterdir()] == [archive.trainings(PAIR).name]
    assert f"Removed 2 finished trainings under {archive.all_trainings}" in caplog.text


def test_whoever_only_looks_changes_no_file(archive: Archive, seals: Seals, tmp_path: Path) -> None:
    KeptTrainings(archive, seals).keep(PAIR, PERIOD, KEY, kept(small_model()))
    KeptTrainings(archive, Seals(tmp_path / "other")).keep(PAIR, "cb_btc_2", KEY, kept(small_model()))
    before = {path: path.stat().st_mtime_ns for path in archive.all_trainings.rglob("*.training")}
    looking = KeptTrainings(archive, seals, looks_only=True)
    assert looking.find(PAIR, PERIOD, KEY) is not None
    assert looking.find(PAIR, "cb_btc_2", KEY) is None
    assert {path: path.stat().st_mtime_ns for path in before} == before


# ---------------------------------------------------------------------- frames


def frame() -> pd.DataFrame:
    dates = pd.date_range("2024-09-01", periods=3, freq="5min", tz="UTC", unit="ms")
    return pd.DataFrame({"date": dates, "%-a": [1.0, np.nan, 3.0], "tag": ["x", None, "y"]})


def test_a_frame_comes_back_as_it_was_and_nothing_is_left(archive: Archive, seals: Seals) -> None:
    shelf = FrameShelf(archive.frames, seals)
    shelf.put(PAIR, frame())
    pd.testing.assert_frame_equal(shelf.get(PAIR), frame())
    assert frame_hash(shelf.get(PAIR)) == frame_hash(frame())
    shelf.close()
    assert not archive.frames.exists()


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_has_is_not(
    archive: Archive, seals: Seals
) -> None:
    running = FrameShelf(archive.frames, seals)
    running.put(PAIR, frame())
    dead = archive.frames / "1234-dead"
    dead.mkdir()
    (dead / "rest.frame").write_bytes(b"x")
    FrameShelf(archive.frames, seals).close()
    assert not dead.exists()
    pd.testing.assert_frame_equal(running.get(PAIR), frame())
    running.close()


def test_a_shelf_that_another_process_takes_for_a_dead_ones_is_made_anew(
    archive: Archive, seals: Seals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the folder, which is made and not locked yet, and locks it first."""
    removed: list[Path] = []
    own = FrameShelf._is_locked

    def after_another(shelf: FrameShelf) -> bool:
        if removed:
            return own(shelf)
        removed.append(shelf._folder)
        with FileLock(shelf._folder / _LOCK):
            is_locked = own(shelf)
            shutil.rmtree(shelf._folder)
        archive.frames.rmdir()
        return is_locked

    monkeypatch.setattr(FrameShelf, "_is_locked", after_another)
    shelf = FrameShelf(archive.frames, seals)
    assert not removed[0].exists()
    shelf.put(PAIR, frame())
    # It is locked: nobody takes it for a dead one's.
    _remove_those_of_the_dead(archive.frames)
    pd.testing.assert_frame_equal(shelf.get(PAIR), frame())
    shelf.close()
    assert not archive.frames.exists()


@pytest.mark.parametrize(
    "changed",
    [
        frame().assign(tag=["x", None, "z"]),
        frame().iloc[::-1],
        frame().rename(columns={"%-a": "%-b"}),
        frame()[["date", "tag", "%-a"]],
    ],
)
def test_another_frame_has_another_hash(changed: pd.DataFrame) -> None:
    assert frame_hash(changed) != frame_hash(frame())


def test_the_unit_of_the_dates_does_not_change_a_hash() -> None:
    other = frame().assign(date=frame()["date"].dt.as_unit("ns"))
    assert frame_hash(other) == frame_hash(frame())
