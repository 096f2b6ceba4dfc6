"""The config of a study, and of a trial: what the trial varies on top is all in its overlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freqtrade.misc import deep_merge_dicts

from mtfscalper import artefacts
from mtfscalper.freqai.backtester import config_of_parsed, parsed_arguments
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec

# As freqtrade writes all candles that there are: it backtests FreqAI with a timerange alone.
_ALL_CANDLES = "19700101-"


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


def study_config(arguments: Sequence[str], overlay: Path | None = None) -> dict[str, Any]:
    """freqtrade's config of a study, as ``freqtrade backtesting ...`` loads it.

    Without a timerange it is that of all candles.

    :param arguments: of ``freqtrade backtesting``
    :param overlay: a config file to lay over the others, which may be those that freqtrade takes if none is named
    :raises freqtrade.exceptions.OperationalException: if it cannot be used
    """
    parsed = parsed_arguments(arguments)
    if overlay is not None:
        parsed["config"] = [*parsed["config"], str(overlay)]
    parsed["timerange"] = parsed.get("timerange") or _ALL_CANDLES
    return config_of_parsed(parsed)


def config_of_trial(arguments: Sequence[str], overlay: Path) -> dict[str, Any]:
    """freqtrade's config of a trial, as ``freqtrade backtesting ... --config OVERLAY`` loads it.

    :param arguments: of ``freqtrade backtesting``: those of the study
    :param overlay: see :meth:`StudyFolder.overlay`
    :raises freqtrade.exceptions.OperationalException: if it cannot be used
    """
    return study_config(arguments, overlay)


def overlay_hash(overlay: Mapping[str, Any]) -> str:
    """A short hash of a trial's settings, by which its policies are found again."""
    return artefacts.value_hash(overlay)


def identifier_of(spec: StudySpec, config_hash: str, seed: int) -> str:
    """FreqAI's identifier of a trial's run: the same settings and seed find the same policies."""
    return f"study_{spec.name}_{config_hash}_{seed}"
