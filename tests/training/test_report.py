"""A report is read without torch."""

import json
import subprocess
import sys

from mtfscalper.training.report import TrainingReport

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
