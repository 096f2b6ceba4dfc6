"""The config of a trial: the study's, with what the trial varies on top. The overlay's file is all of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqtrade.misc import deep_merge_dicts

from mtfscalper import artefacts
from mtfscalper.freqai.backtester import backtest_config
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec


def overlay_of(spec: StudySpec, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's settings as a freqtrade config.

    :param parameters: by the keys of the search space
    """
    space = SearchSpace.from_json(spec.space)
    overlay: dict[str, Any] = deep_merge_dicts(space.overlay(parameters), artefacts.plain_json(spec.overlay))
    return overlay


def write_overlay(folder: StudyFolder, spec: StudySpec, number: int, parameters: Mapping[str, Any]) -> Path:
    """Write a trial's settings.

    :return: the file
    """
    path = folder.overlay(number)
    artefacts.write_json(path, overlay_of(spec, parameters))
    return path


def config_of_trial(arguments: Sequence[str], overlay: Path) -> dict[str, Any]:
    """freqtrade's config of a trial, as ``freqtrade backtesting ... --config OVERLAY`` loads it.

    :param arguments: of ``freqtrade backtesting``: those of the study
    :param overlay: see :meth:`StudyFolder.overlay`
    :raises freqtrade.exceptions.OperationalException: if it cannot be used
    """
    return backtest_config([*arguments, "--config", str(overlay)])


def overlay_hash(overlay: Mapping[str, Any]) -> str:
    """A short hash of a trial's settings, by which its policies are found again."""
    return artefacts.value_hash(overlay)


def identifier_of(spec: StudySpec, config_hash: str, seed: int) -> str:
    """FreqAI's identifier of a trial's run: the same settings and seed find the same policies."""
    return f"study_{spec.name}_{config_hash}_{seed}"
