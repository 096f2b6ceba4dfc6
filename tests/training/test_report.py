"""A report is read without torch."""

import json
import subprocess
import sys

import pytest
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport, doubts

READ = """
import sys
from mtfscalper.training.report import TrainingReport
values = {"pair": "P", "model_type": "PPO", "timesteps_asked": 1, "phases": [["update", 1, 3]]}
report = TrainingReport.from_json(values)
print(report.seconds_of("update"), sorted({"torch", "stable_baselines3", "numpy", "freqtrade"} & set(sys.modules)))
"""


def test_reading_a_report_imports_no_torch() -> None:
    result = subprocess.run([sys.executable, "-c", READ], capture_output=True, text=True, check=True)
    assert result.stdout.split(maxsplit=1) == ["2.0", "[]\n"]


def test_the_report_is_json_even_with_numbers_that_are_not_finite() -> None:
    report = TrainingReport("P", "PPO", 1, reward_terms={"equity": float("nan")}, phases=[("rollout", 0.0, 1.0)])
    text = json.dumps(report.as_json(), allow_nan=False)
    assert json.loads(text)["reward_terms"] == {"equity": None}
    assert json.loads(text)["phases"] == [["rollout", 0.0, 1.0]]


def test_a_report_comes_back_from_json_as_it_was() -> None:
    report = TrainingReport("P", "PPO", 1, fused=True, phases=[("rollout", 0.0, 1.0)], evaluations=[{"trades": 3}])
    assert TrainingReport.from_json(json.loads(json.dumps(report.as_json()))) == report


def test_a_report_of_before_there_were_ensembles_is_read() -> None:
    report = TrainingReport("P", "PPO", 1)
    values = {name: value for name, value in report.as_json().items() if name != "members"}
    assert TrainingReport.from_json(values) == report


def report_of(asked: int = 1000, rollout: int = 100, evaluations: int = 5, trades: int | None = 50) -> TrainingReport:
    best = None if trades is None else {"trades": float(trades)}
    made = [{"trades": 1.0}] * evaluations
    return TrainingReport("P", "PPO", asked, rollout_timesteps=rollout, evaluations=made, best_evaluation=best)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        (report_of(asked=99), ["99 timesteps (train_cycles x candles) are fewer than one rollout of 100"]),
        (report_of(evaluations=2), ["evaluations to choose the best policy from: 2, fewer than 3"]),
        (report_of(trades=0), ["the best policy made no trade on the candles held out (0 trades)"]),
        (report_of(trades=19), ["trades that the best policy was chosen by: 19, fewer than 20"]),
        (report_of(asked=99, evaluations=1, trades=1), ["99 timesteps", "from: 1, fewer", "by: 1, fewer"]),
        (report_of(asked=100, evaluations=3, trades=20), []),
        # Nothing was held out, or there are no rollouts: nothing to be said.
        (report_of(evaluations=0, trades=None), []),
        (report_of(rollout=0), []),
    ],
)
def test_what_little_a_training_shows_is_told_with_its_numbers(report: TrainingReport, told: list[str]) -> None:
    text = doubts([report])
    if not told:
        assert text is None
        return
    assert text is not None
    head, *lines = text.split("\n  ")
    assert head == "P: little can be said of what was trained:"
    assert len(lines) == len(told)
    for line, start in zip(lines, told, strict=True):
        assert start in line
        assert "; remedy: " in line


def test_many_trainings_of_a_pair_are_doubted_in_one_warning() -> None:
    reports = [report_of(trades=trades) for trades in (0, 3, 12, 40)]
    text = doubts([*reports, report_of(asked=50, evaluations=1)])
    assert text is not None
    _, *lines = text.split("\n  ")
    assert [line.partition(" trainings ")[0] for line in lines] == ["in 1 of 5", "in 1 of 5", "in 1 of 5", "in 2 of 5"]
    assert "chosen by: 3 to 12, fewer than 20" in lines[-1]


def test_a_training_says_how_long_its_rollouts_are() -> None:
    settings = tiny_settings(n_steps=128)
    _, report = TrainingJob(settings, random_tape(), random_tape(80, seed=2), env_settings_of(settings)).run()
    assert (report.timesteps_asked, report.rollout_timesteps) == (200, 256)
    text = doubts([report])
    assert text is not None
    assert "200 timesteps (train_cycles x candles) are fewer than one rollout of 256" in text
