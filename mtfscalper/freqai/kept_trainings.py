"""Trainings that have finished and whose periods are not sealed yet: on disk from the moment each has finished.

A run trains what it lacks before FreqAI's loop comes to it. If it is stopped in between, the next run finds what had
finished: a training is known by what it is made from. One that no run has asked for in :data:`KEPT_DAYS` days is
removed: its pair or its periods are no longer traded.
"""

from __future__ import annotations

import logging
import os
import pickle
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cloudpickle
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.files_read import why_changed
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_period import BEFORE_IT, BacktestPeriod
from mtfscalper.freqai.computed_frame import computed_columns
from mtfscalper.freqai.fingerprint import frame_hash
from mtfscalper.freqai.preparation import Prepared
from mtfscalper.seals import Seals
from mtfscalper.training.fit import leave_out_training, weights_hash
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)

_PURPOSE = "training"
_SUFFIX = ".training"
# As long a training waits for a run that asks for it.
KEPT_DAYS = 30.0


class Kept(NamedTuple):
    """A training that has finished.

    :ivar prepared: what it was prepared with
    """

    prepared: Prepared
    model: BaseAlgorithm
    report: TrainingReport


def training_key(period: BacktestPeriod, frame: DataFrame, initial_model: bytes | None) -> str:
    """A name for all that a training is made from: two of one name give the same policy.

    :param period: what else it is made from
    :param frame: of the training, one row a candle
    :param initial_model: zip of the model to go on from
    """
    # The model before it counts by its weights: it may not lie sealed on disk yet.
    made_from = {name: value for name, value in period.model_fingerprint.items() if name != BEFORE_IT}
    before = None if initial_model is None else weights_hash(initial_model)
    return artefacts.value_hash(
        [made_from, frame_hash(computed_columns(frame)), frame_hash(period.trained_on.cut()), before]
    )


class KeptTrainings:
    """The finished trainings of an identifier, by pair, FreqAI's name for the period's model, and key."""

    def __init__(self, archive: Archive, seals: Seals, *, looks_only: bool = False) -> None:
        """
        :param archive: of the identifier
        :param seals: of the user directory, for a training is unpickled
        :param looks_only: whether no file may change as one is found
        """
        self._archive, self._seals, self._looks_only = archive, seals, looks_only
        # What could not be written.
        self._in_memory: dict[Path, Kept] = {}

    def keep(self, pair: str, period: str, key: str, kept: Kept) -> None:
        """Keep a training; where it cannot be written, as long as this process runs."""
        path = self._path(pair, period, key)
        leave_out_training(kept.model)
        try:
            artefacts.write_bytes(path, self._seals.append(_PURPOSE, cloudpickle.dumps(tuple(kept))))
        except OSError as error:
            logger.warning(
                "The training %s of %s cannot be written to %s (%s): if this run is stopped, it is lost. Remedy: free "
                "space.",
                *(period, pair, path.parent, error),
            )
            self._in_memory[path] = kept

    def has(self, pair: str, period: str, key: str) -> bool:
        """Whether a training is kept, without a look into it."""
        path = self._path(pair, period, key)
        return path in self._in_memory or path.is_file()

    def any_of(self, pair: str, period: str) -> bool:
        """Whether there is any training of a period, whatever it is made from."""
        folder = self._archive.trainings(pair) / period
        return any(path.parent == folder for path in self._in_memory) or bool(self._of_period(pair, period))

    def find(self, pair: str, period: str, key: str) -> Kept | None:
        """A training; None where there is none that this user directory sealed."""
        path = self._path(pair, period, key)
        if path in self._in_memory:
            return self._in_memory[path]
        try:
            content = self._seals.content(_PURPOSE, path.read_bytes())
        except FileNotFoundError:
            return None
        if content is None:
            logger.warning("%s is not what this user directory sealed; the period is trained again.", path)
            if not self._looks_only:
                path.unlink(missing_ok=True)
            return None
        if not self._looks_only:
            # It was asked for. A folder may be read only.
            with suppress(OSError):
                os.utime(path)
        kept = Kept(*pickle.loads(content))
        differs = why_changed(kept.report.files_read, path.parent)
        if differs is not None:
            logger.info("%s: the finished training of %s is not used: changed since: %s.", pair, period, differs)
            return None
        return kept

    def forget(self, pair: str, period: str) -> None:
        """Remove the trainings of a period: what came of one lies sealed now."""
        folder = self._archive.trainings(pair) / period
        self._in_memory = {path: kept for path, kept in self._in_memory.items() if path.parent != folder}
        for path in self._of_period(pair, period):
            path.unlink(missing_ok=True)
        _remove_if_empty(folder)

    def forget_old(self) -> None:
        """Remove trainings of any pair that no run has asked for in :data:`KEPT_DAYS` days."""
        before = time.time() - KEPT_DAYS * 86_400
        old = []
        for path in self._archive.all_trainings.glob(f"*/*/*{_SUFFIX}"):
            # Another run of the identifier may remove it too.
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    old.append(path)
                    _remove_if_empty(path.parent)
        if old:
            logger.info(
                "Removed %d finished trainings under %s that no run has asked for in %.0f days.",
                *(len(old), self._archive.all_trainings, KEPT_DAYS),
            )

    def _of_period(self, pair: str, period: str) -> list[Path]:
        return list((self._archive.trainings(pair) / period).glob(f"*{_SUFFIX}"))

    def _path(self, pair: str, period: str, key: str) -> Path:
        return self._archive.trainings(pair) / period / f"{key}{_SUFFIX}"


def _remove_if_empty(folder: Path) -> None:
    """Remove a period's folder, and those above it, where it held the last training of them."""
    with suppress(OSError):
        for empty in (folder, *list(folder.parents)[:2]):
            empty.rmdir()
