"""What a dashboard shows of a trial beside Optuna's own figures: pictures in Optuna's artifact store, and a note.

Pictures are attached before a trial is told, for Optuna changes nothing of one that has ended; its note is kept with
the study, and is written anew when the trial is judged.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mtfscalper.search.last_judgement import Judged, last_judged
from mtfscalper.search.learning_curves import LearningCurve
from mtfscalper.search.pictures import CURVES_NAME, EQUITY_NAME, DrawnRun, draw_curves, draw_equity

if TYPE_CHECKING:
    import optuna
    from optuna.artifacts import FileSystemArtifactStore
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

ARTIFACTS_FOLDER = "artifacts"
# Where the dashboard shows TensorBoard, whatever address it has itself.
TENSORBOARD_PATH = "/tensorboard/"
_TITLES = {EQUITY_NAME: "Equity", CURVES_NAME: "Learning curves"}
NOTHING = "–"


@dataclass(frozen=True)
class _Noted:
    """A trial that has ended, as optuna-dashboard's ``save_note`` reads one."""

    storage: BaseStorage
    study: optuna.Study
    _trial_id: int


def artifact_store(folder: Path) -> FileSystemArtifactStore:
    """Where the pictures of a study lie.

    :param folder: the study's
    """
    from optuna.artifacts import FileSystemArtifactStore

    return FileSystemArtifactStore(folder / ARTIFACTS_FOLDER)


def attach_pictures(
    trial: optuna.Trial, folder: Path, runs: Sequence[DrawnRun], curves: Sequence[LearningCurve]
) -> None:
    """Draw a trial's pictures and attach them to it; call it before the trial is told.

    :param folder: the study's
    :param runs: that the trial has made
    :param curves: of all its trainings
    """
    from optuna.artifacts import upload_artifact

    (folder / ARTIFACTS_FOLDER).mkdir(parents=True, exist_ok=True)
    store = artifact_store(folder)
    with tempfile.TemporaryDirectory() as made:
        for name, draw, drawn in ((EQUITY_NAME, draw_equity, runs), (CURVES_NAME, draw_curves, curves)):
            if drawn:
                path = Path(made) / name
                draw(drawn, path)  # type: ignore[operator]
                upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=trial)


def write_note(study: optuna.Study, folder: Path, number: int) -> None:
    """Write the note of a trial that has ended, or was judged; one that says the same already is left.

    :param folder: the study's
    """
    from optuna.artifacts import get_all_artifact_meta
    from optuna_dashboard import get_note, save_note

    storage = study._storage
    trial = study.get_trials(deepcopy=False)[number]
    metas = get_all_artifact_meta(trial, storage=storage)
    pictures = {
        _TITLES[meta.filename]: f"/artifacts/{study._study_id}/{trial._trial_id}/{meta.artifact_id}"
        for meta in metas
        if meta.filename in _TITLES
    }
    runs = [json.loads(path.read_text()) for path in sorted((folder / "trials" / str(number)).glob("seed_*.json"))]
    body = note(study.study_name, trial, runs, pictures, last_judged(folder, number))
    noted: Any = _Noted(storage, study, trial._trial_id)
    if get_note(noted) != body:
        save_note(noted, body)


def note(
    name: str,
    trial: FrozenTrial,
    runs: Sequence[Mapping[str, Any]],
    pictures: Mapping[str, str],
    judged: Judged | None,
) -> str:
    """A trial's note, in Markdown.

    :param name: of the study
    :param runs: the figures of each, see :class:`mtfscalper.search.run_figures.RunFigures`
    :param pictures: their paths in the dashboard, by title
    """
    parts = [_verdict(trial)]
    if runs:
        rows = [
            (str(run["seed"]), _percent(_a_day(run["differences"])), f"{run['trades']:,}")
            + (_percent(sum(run["profits"])), f"{100 * run['max_drawdown']:.1f} %", f"{run['seconds']:,.0f} s")
            for run in runs
        ]
        heads = ("seed", "over classic exits, a day", "trades", "profit", "largest drawdown", "took")
        parts.append(_table(heads, rows))
    parts += [f"### {title}\n\n![{title}]({path})" for title, path in pictures.items()]
    if judged is None:
        parts.append(
            "### Gates\n\nNot judged on the locked candles. `mtfscalper study judge` does that; every look is counted."
        )
    else:
        rows = [(gate.name, gate.has, gate.needs, "passed" if gate.passed else "**not passed**") for gate in judged.gates]
        parts.append(
            f"### Gates: {judged.passed} of {len(judged.gates)} passed\n\n"
            f"{_table(('gate', 'value', 'threshold', 'verdict'), rows)}\n\nLook {judged.looks} at the locked candles."
        )
    parts.append(f"[TensorBoard]({tensorboard_link(name)}): trainings of this study that run or whose logs are kept.")
    return "\n\n".join(parts)


def tensorboard_link(name: str) -> str:
    """Where the dashboard shows a study's trainings in TensorBoard."""
    return f"{TENSORBOARD_PATH}?{urlencode({'runFilter': f'study_{name}_'})}#timeseries"


def _verdict(trial: FrozenTrial) -> str:
    if "error" in trial.user_attrs:
        return f"**Failed.** `{str(trial.user_attrs['error']).replace('`', chr(39))}`"
    if trial.value is None or not trial.state.is_finished():
        return f"**{trial.state.name.capitalize()}.**"
    said = f"**{_percent(trial.value)} a day** over the same entries with classic exits, share of the stakes"
    low, _, high = trial.user_attrs.get("interval") or (None, None, None)
    if low is None or high is None:
        return f"{said}; too few trades or days for an interval."
    return f"{said}; 90 % interval {_percent(low)} to {_percent(high)}."


def _a_day(differences: Sequence[float]) -> float | None:
    return sum(differences) / len(differences) if differences else None


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:+.3f} %"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
