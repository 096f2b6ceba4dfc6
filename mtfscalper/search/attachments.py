"""What a dashboard shows of a trial beside Optuna's own figures: pictures in Optuna's artifact store, and a note.

Pictures are attached before a trial is told, for Optuna changes nothing of one that has ended; its note is kept with
the study, and is written anew when the trial is judged. Neither may cost a result: what cannot be drawn or written is
told of once, and all goes on.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mtfscalper.search.installed import is_dashboard_installed
from mtfscalper.search.last_judgement import Judged, last_judged
from mtfscalper.search.learning_curves import LearningCurve
from mtfscalper.search.leases import ERROR, SET_ASIDE
from mtfscalper.search.pictures import CURVES_NAME, EQUITY_NAME, draw_curves, draw_equity
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.trial_attributes import INTERVAL, PRUNED_STEP

if TYPE_CHECKING:
    import optuna
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from mtfscalper.search.run_figures import RunFigures

logger = logging.getLogger(__name__)

ARTIFACTS_FOLDER = "artifacts"
# Where the dashboard shows TensorBoard, whatever address it has itself.
TENSORBOARD_PATH = "/tensorboard/"
_TITLES = {EQUITY_NAME: "Equity", CURVES_NAME: "Learning curves"}
NOTHING = "–"
# What could not be made in this process, which is told of once.
_TOLD: set[str] = set()


@dataclass(frozen=True)
class _Noted:
    """A trial that has ended, as optuna-dashboard's ``save_note`` reads one."""

    storage: BaseStorage
    study: optuna.Study
    _trial_id: int


def artifacts_of(folder: StudyFolder) -> Path:
    """Where the artifact store of a study lies."""
    return folder.path / ARTIFACTS_FOLDER


def artifact_store(folder: StudyFolder) -> FileSystemArtifactStore:
    """Where the pictures of a study lie."""
    from optuna.artifacts import FileSystemArtifactStore

    return FileSystemArtifactStore(artifacts_of(folder))


@contextmanager
def _for_looking_alone(what: str) -> Iterator[None]:
    """Go on whatever goes wrong: hours of backtests are worth more than what a dashboard shows of them.

    :param what: what cannot be made, for the warning
    """
    try:
        yield
    except Exception as error:
        # Of a disk, a database, a damaged file or a library that draws.
        if what not in _TOLD:
            _TOLD.add(what)
            said = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("%s: %s. No figure and no verdict is touched by that; a dashboard shows less.", what, said)


def attach_pictures(
    trial: optuna.Trial, folder: StudyFolder, runs: Sequence[RunFigures], curves: Sequence[LearningCurve]
) -> None:
    """Draw a trial's pictures and attach them to it; call it before the trial is told.

    Where no dashboard is installed nothing is drawn. What cannot be drawn gets a warning.

    :param runs: that the trial has made
    :param curves: of all its trainings
    """
    if is_dashboard_installed():
        with _for_looking_alone("The pictures of trials cannot be attached"):
            _attach_pictures(trial, folder, runs, curves)


def _attach_pictures(
    trial: optuna.Trial, folder: StudyFolder, runs: Sequence[RunFigures], curves: Sequence[LearningCurve]
) -> None:
    from optuna.artifacts import upload_artifact

    artifacts_of(folder).mkdir(parents=True, exist_ok=True)
    store = artifact_store(folder)
    with tempfile.TemporaryDirectory() as made:
        equity, learned = Path(made) / EQUITY_NAME, Path(made) / CURVES_NAME
        if runs:
            draw_equity(runs, equity)
        if curves:
            draw_curves(curves, learned)
        for path in filter(Path.is_file, (equity, learned)):
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def write_note(study: optuna.Study, folder: StudyFolder, number: int) -> None:
    """Write the note of a trial that has ended, or was judged; one that says the same already is left.

    Where no dashboard is installed nothing is written. What cannot be written gets a warning.
    """
    if is_dashboard_installed():
        with _for_looking_alone("The notes of trials cannot be written"):
            _write_note(study, folder, number)


def _write_note(study: optuna.Study, folder: StudyFolder, number: int) -> None:
    from optuna.artifacts import get_all_artifact_meta
    from optuna_dashboard import get_note, save_note

    # It imports freqtrade and torch, which those who only look do without.
    from mtfscalper.search.run_figures import RunFigures

    storage = study._storage
    trial = study.get_trials(deepcopy=False)[number]
    metas = get_all_artifact_meta(trial, storage=storage)
    pictures = {
        _TITLES[meta.filename]: f"/artifacts/{study._study_id}/{trial._trial_id}/{meta.artifact_id}"
        for meta in metas
        if meta.filename in _TITLES
    }
    files = sorted(folder.trial(number).glob("seed_*.json"))
    runs = [RunFigures.from_json(json.loads(path.read_text(encoding="utf-8"))) for path in files]
    body = note(study.study_name, trial, runs, pictures, last_judged(folder, number))
    noted: Any = _Noted(storage, study, trial._trial_id)
    if get_note(noted) != body:
        save_note(noted, body)


def note(
    name: str,
    trial: FrozenTrial,
    runs: Sequence[RunFigures],
    pictures: Mapping[str, str],
    judged: Judged | None,
) -> str:
    """A trial's note, in Markdown.

    :param name: of the study
    :param pictures: their paths in the dashboard, by title
    """
    # It imports freqtrade, which those who only look do without.
    from mtfscalper.search.run_figures import mean_difference

    parts = [_verdict(trial)]
    if runs:
        rows = [
            (
                *(str(run.seed), _percent(mean_difference(run.instances) if run.instances else None)),
                *(f"{run.trades:,}", _percent(sum(run.profits))),
                *(f"{100 * run.max_drawdown:.1f} %", f"{run.seconds:,.0f} s"),
            )
            for run in runs
        ]
        heads = ("seed", "over classic exits, a day", "trades", "profit", "largest drawdown", "took")
        parts.append(_table(heads, rows))
    if judged is None:
        parts.append(
            "### Gates\n\nNot judged on the locked candles. `mtfscalper study judge` does that; every look is counted."
        )
    else:
        verdicts = {True: "passed", False: "**not passed**"}
        held = [(gate.name, gate.has, gate.needs, verdicts[gate.passed]) for gate in judged.gates]
        parts.append(
            f"### Gates: {judged.passed} of {len(judged.gates)} passed\n\n"
            f"{_table(('gate', 'value', 'threshold', 'verdict'), held)}\n\nLook {judged.look} at the locked candles."
        )
    parts += [f"### {title}\n\n![{title}]({path})" for title, path in pictures.items()]
    parts.append(f"[TensorBoard]({tensorboard_link(name)}): trainings of this study that run or whose logs are kept.")
    return "\n\n".join(parts)


def tensorboard_link(name: str) -> str:
    """Where the dashboard shows a study's trainings in TensorBoard."""
    return f"{TENSORBOARD_PATH}?{urlencode({'runFilter': f'study_{name}_'})}#timeseries"


def _verdict(trial: FrozenTrial) -> str:
    attrs = trial.user_attrs
    if trial.state.name == "FAIL":
        reason = str(attrs.get(SET_ASIDE, "failed")).capitalize()
        return f"**{reason}.**" + (f" `{str(attrs[ERROR]).replace('`', chr(39))}`" if ERROR in attrs else "")
    if trial.state.name != "COMPLETE" or trial.value is None:
        seen = [value for step, value in trial.intermediate_values.items() if step < PRUNED_STEP]
        # What a trial that was given up had come to counts each instance by its days, as every value does.
        value = fmean(seen) if trial.value is None and seen else trial.value
        mean = f" after {len(seen)} instances, {_percent(value)} a day in the mean" if seen else ""
        return f"**{trial.state.name.capitalize()}**{mean}."
    said = f"**{_percent(trial.value)} a day** over the same entries with classic exits, share of the stakes"
    low, _, high = attrs.get(INTERVAL) or (None, None, None)
    if low is None or high is None:
        return f"{said}; too few trades or days for an interval."
    return f"{said}; 90 % interval {_percent(low)} to {_percent(high)}."


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:+.3f} %"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
