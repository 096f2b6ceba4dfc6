"""What is attached to a trial: its pictures, and a note that says what there is to know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from made_up_study import curves, figures, trial
from optuna.trial import TrialState

from mtfscalper.search import installed
from mtfscalper.search.attachments import attach_pictures, note
from mtfscalper.search.errors import StudyError
from mtfscalper.search.gates import Gate
from mtfscalper.search.installed import check_installed
from mtfscalper.search.judgements import Judgement, Judgements
from mtfscalper.search.last_judgement import GateShown, Judged, last_judged
from mtfscalper.search.learning_curves import LearningCurve, learning_curves
from mtfscalper.search.pictures import draw_curves, draw_equity
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.training.report import TrainingReport

PNG = b"\x89PNG"


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def kept(models: Path, period: str, report: TrainingReport) -> None:
    folder = models / f"sub-train-{period}"
    folder.mkdir(parents=True)
    (folder / "training_report.json").write_text(json.dumps(report.as_json()))


def test_curves_are_those_of_all_trainings_and_of_each_member(tmp_path: Path) -> None:
    def report(*values: float) -> TrainingReport:
        made = [{"timesteps": 100.0 * (n + 1), "log_return": value} for n, value in enumerate(values)]
        return TrainingReport("BTC/USDT", "PPO", 300, evaluations=made)

    kept(tmp_path, "BTC_1", report(0.1, 0.3))
    both = report()
    both.members = [report(0.2), report(-0.1)]
    kept(tmp_path, "ETH_1", both)
    kept(tmp_path, "ETH_2", report())
    assert learning_curves(tmp_path) == [
        LearningCurve("BTC_1", (100, 200), (0.1, 0.3)),
        LearningCurve("ETH_1", (100,), (0.2,)),
        LearningCurve("ETH_1", (100,), (-0.1,)),
    ]
    assert learning_curves(tmp_path / "nowhere") == []


@pytest.mark.parametrize("n", [1, 3, 12])
def test_pictures_are_drawn_of_one_and_of_many(n: int, tmp_path: Path) -> None:
    draw_equity([figures(seed, 0.001, rng()) for seed in range(n)], tmp_path / "equity.png")
    short = LearningCurve("short", (100,), (0.1,))
    draw_curves([*curves(rng(), n), short], tmp_path / "curves.png")
    for path in tmp_path.iterdir():
        assert path.read_bytes()[:4] == PNG
        assert 5_000 < path.stat().st_size < 150_000


def test_a_note_says_what_a_trial_is_worth_by_seed_and_by_gate() -> None:
    ended = trial(4, TrialState.COMPLETE, 0, 1, 0.001, interval=[-0.0005, 0.001, 0.0025])
    gates = (GateShown("trades | all", "120", "≥ 100", True), GateShown("drawdown", "30 %", "≤ 25 %", False))
    runs = [figures(11, 0.0008, rng()), figures(12, 0.0012, rng())]
    text = note("mine", ended, runs, {"Equity": "/artifacts/0/4/abc"}, Judged(4, 2, gates))
    lines = text.splitlines()
    assert lines[0].startswith("**+0.100 % a day** over the same entries with classic exits")
    assert "90 % interval -0.050 % to +0.250 %" in lines[0]
    assert next(line for line in lines if line.startswith("| 11 |")).startswith("| 11 | +0.080 % | 120 |")
    assert next(line for line in lines if line.startswith("| 12 |")).startswith("| 12 | +0.120 % | 120 |")
    assert "![Equity](/artifacts/0/4/abc)" in lines
    assert "### Gates: 1 of 2 passed" in lines
    assert "| trades \\| all | 120 | ≥ 100 | passed |" in lines
    assert "Look 2 at the locked candles." in lines
    assert "(/tensorboard/?runFilter=study_mine_#timeseries)" in lines[-1]


def test_a_short_last_period_counts_by_its_days_in_a_note_as_in_a_trials_value() -> None:
    ended = trial(4, TrialState.PRUNED, 0, 1, 0.002, intermediate=(0.0, 0.03))
    run = figures(11, 0.0, rng())
    week = run.instances[0]._replace(days=14.0, difference=0.0)
    run = run._replace(instances=(week, week._replace(days=1.0, difference=0.03)))
    lines = note("mine", ended, [run], {}, None).splitlines()
    assert lines[0] == "**Pruned** after 2 instances, +0.200 % a day in the mean."
    assert next(line for line in lines if line.startswith("| 11 |")).startswith("| 11 | +0.200 % |")


@pytest.mark.parametrize(
    ("state", "attrs", "said"),
    [
        (TrialState.FAIL, {"error": "ValueError: `x`"}, "**Failed.** `ValueError: 'x'`"),
        (TrialState.FAIL, {"set_aside": "lost"}, "**Lost.**"),
        (TrialState.PRUNED, {}, "**Pruned** after 2 instances, +0.200 % a day in the mean."),
        (TrialState.COMPLETE, {}, "too few trades or days for an interval"),
    ],
)
def test_a_note_says_how_a_trial_ended(state: TrialState, attrs: dict[str, str], said: str) -> None:
    value = 0.001 if state is TrialState.COMPLETE else None
    ended = trial(0, state, 0, 1, value, intermediate=(0.001, 0.003), **attrs)
    # What the sampler learns from of a pruned trial is no instance.
    ended.intermediate_values[10**9 + 1] = 0.5
    first = note("mine", ended, [], {}, None).splitlines()[0]
    assert said in first


def test_without_a_dashboard_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    nothing: list[object] = []
    attach_pictures(nothing, nothing, nothing, nothing)  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"optuna-dashboard.*pip install 'mtfscalper\[search\]'"):
        check_installed("optuna_dashboard")


def test_a_judgement_is_shown_as_it_was_put_on_record(tmp_path: Path) -> None:
    folder = StudyFolder.of(tmp_path, "mine")
    ledger = Judgements(folder)
    gate = Gate("trades", "trades", 88.0, 100.0, False, "88", "≥ 100", "the fewest of 3 seeds")
    look = ledger.begin({"trial": 4}, {})
    ledger.end(
        Judgement(
            look, 4, "abc", 0.9, (gate,), 0.001, 0.01, (1, 2), "20250101-20250201", 9, {}, "code", "2025-02-01", {}
        )
    )
    assert last_judged(folder) == Judged(4, 1, (GateShown("trades", "88", "≥ 100", False),))
