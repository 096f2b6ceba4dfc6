"""What a run left on disk beside its policies: logs for TensorBoard, manifests, and signs that predictions arrived."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from mtfscalper import artefacts
from mtfscalper.freqai.archive import kept_folder
from mtfscalper.freqai.columns import PREDICTION_COLUMNS
from mtfscalper.freqai.decision_record import records_folder
from mtfscalper.monitoring.facts import LeftBehind
from mtfscalper.seals import Seals

_DECIDED = "do_predict"


def left_behind(models: Path, result: Path, user_data: Path) -> LeftBehind:
    """Read what a run left.

    :param models: ``user_data/models/<identifier>``
    :param result: freqtrade's zip, with the signals exported
    :param user_data: freqtrade's user directory of the run
    """
    folders = sorted(models.glob("sub-train-*"))
    seals = Seals(user_data)
    bad = tuple(f"{folder.name}: {why}" for folder in folders for why in wrong_with(folder, seals))
    frames = exported_frames(result)
    predicted, rows, equal = predictions_in(frames, models)
    questions, answered = questions_asked(
        records_folder({"user_data_dir": user_data, "freqai": {"identifier": models.name}})
    )
    return LeftBehind(
        tags=tensorboard_tags(models),
        bad_manifests=bad,
        manifests=len(folders),
        predicted_rows=predicted,
        frame_rows=rows,
        frame_equal=equal,
        questions=questions,
        answered=answered,
    )


def remove_all(models: Path, user_data: Path) -> None:
    """Remove what a run left in the project's own folder: models, their seals, the record of decisions.

    :param models: ``user_data/models/<identifier>``
    """
    record = records_folder({"user_data_dir": user_data, "freqai": {"identifier": models.name}})
    for path in (models, kept_folder(models.parent, models.name), record):
        shutil.rmtree(path, ignore_errors=True)


def tensorboard_tags(models: Path) -> dict[str, tuple[str, ...]]:
    """The tags that have a value, by the folder of their run."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in sorted({path.parent for path in models.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder))
        events.Reload()
        found[str(folder.relative_to(models))] = tuple(sorted(events.Tags()["scalars"]))
    return found


def wrong_with(folder: Path, seals: Seals) -> Iterator[str]:
    """What is wrong with a training's manifest, or with a file that it seals."""
    manifest = artefacts.read_manifest(folder)
    if manifest is None:
        yield "it has no readable manifest"
        return
    if (unsealed := artefacts.why_unsealed(folder, seals)) is not None:
        yield unsealed.split(",")[0]
    for role, sealed in manifest["files"].items():
        if not artefacts.is_whole(folder / sealed["path"], sealed):
            yield f"{role} ({sealed['path']}) is missing or damaged"


def exported_frames(result: Path) -> dict[str, pd.DataFrame]:
    """The rows of the strategy's frame that ``--export signals`` writes, those before a trade; by pair."""
    with zipfile.ZipFile(result) as archive:
        names = [name for name in archive.namelist() if name.endswith("_signals.pkl")]
        frames: dict[str, pd.DataFrame] = {}
        for name in names:
            with archive.open(name) as file:
                # Freqtrade wrote it a moment ago, in a process that this one started.
                by_strategy: Mapping[str, Mapping[str, pd.DataFrame]] = joblib.load(file)
            for by_pair in by_strategy.values():
                frames.update(by_pair)
        return frames


def predictions_in(frames: Mapping[str, pd.DataFrame], models: Path) -> tuple[int, int, int]:
    """Predicted candles, rows of the strategy's frames among them, and those that hold what was predicted for them.

    :param models: ``user_data/models/<identifier>``
    """
    candles = rows = equal = 0
    for folder in models.glob("sub-train-*"):
        report = json.loads((folder / artefacts.REPORT_NAME).read_text())
        path = next(folder.glob("*_prediction.feather"), None)
        frame = frames.get(report["pair"])
        if path is None:
            continue
        predicted = pd.read_feather(path)
        candles += len(predicted)
        if frame is None or frame.empty:
            continue
        columns = [name for name in (*PREDICTION_COLUMNS, _DECIDED) if name in predicted]
        predicted = predicted.assign(date=pd.to_datetime(predicted["date"], utc=True)).set_index("date")[columns]
        dates = pd.to_datetime(frame["date"], utc=True)
        within = frame[dates.isin(predicted.index).to_numpy()]
        rows += len(within)
        if any(name not in frame for name in columns):
            continue
        expected = predicted.reindex(pd.DatetimeIndex(within["date"]).tz_convert("UTC")).to_numpy(dtype=float)
        same = np.isclose(within[columns].to_numpy(dtype=float), expected, rtol=1e-6, atol=1e-9).all(axis=1)
        equal += int((same & (within[_DECIDED].to_numpy() == 1)).sum())
    return candles, rows, equal


def questions_asked(folder: Path) -> tuple[int, int]:
    """Questions about open trades that the strategy asked, and those that a policy answered.

    :param folder: of the identifier's records
    """
    frames = [pd.read_feather(path) for path in sorted(folder.glob("backtest_*.feather"))]
    if not frames:
        return 0, 0
    asked = pd.concat(frames)
    answered = asked["probability"].between(0.0, 1.0) & asked["policy"].astype(bool)
    return len(asked), int(answered.sum())
