"""``make freqtrade-tests``: freqtrade's own FreqAI tests from a checkout, with this package's model in them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from freqai_runs import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# In the shape of freqtrade's tests/freqai/test_freqai_interface.py.
ORIGINALS = """
import pytest
import freqtrade
from freqtrade.resolvers import StrategyResolver
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver
from tests.here import HERE


@pytest.mark.parametrize(
    "model",
    ["LightGBMRegressor", "ReinforcementLearner", "ReinforcementLearner_multiproc", "ReinforcementLearner_test_3ac"],
)
def test_extract_data_and_train_model_Standard(model, tmp_path):
    assert "site-packages" in freqtrade.__file__
    made = FreqaiModelResolver.load_freqaimodel({
        "freqaimodel": model, "user_data_dir": tmp_path, "timeframe": "5m", "runmode": "backtest", "config_files": [],
        "timerange": "20240904-20240906", "exchange": {"pair_whitelist": ["ADA/BTC"]}, "freqai": {
            "enabled": True, "identifier": "id", "train_period_days": 2, "backtest_period_days": 1,
            "feature_parameters": {"include_timeframes": ["5m"], "indicator_periods_candles": [10]},
            "data_split_parameters": {"test_size": 0.33, "shuffle": True}, "model_training_parameters": {},
            "rl_config": {
                "model_type": "PPO", "policy_type": "MlpPolicy", "cpu_count": 1, "model_reward_parameters": {}
            },
        },
    })
    print(model, "is", type(made).__name__, type(made).__mro__[1].__module__)


def test_get_state_info():
    print("get_state_info ran")


def test_freqai_informative_pairs():
    raise AssertionError("not of a learner")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What stands for a checkout of freqtrade, whose own package nobody may import."""
    root = tmp_path / "freqtrade"
    for folder in ("freqtrade", "tests", "tests/freqai"):
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.py").touch()
    (root / "freqtrade" / "__init__.py").write_text("raise ImportError('the checkout, not what is installed')\n")
    (root / "tests" / "here.py").write_text("HERE = True\n")
    (root / "tests" / "freqai" / "test_freqai_interface.py").write_text(ORIGINALS)
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--dist loadscope"\n')
    return root


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """This repository as far as the target needs it, set up already."""
    root = tmp_path / "clone"
    (root / "tests").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "tests/freqtrade_originals.py"):
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "user_data" / "freqaimodels", root / "user_data" / "freqaimodels")
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (root / ".venv" / ".installed").touch()
    return root


def make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "freqtrade-tests", *arguments]
    # What a pytest around this one has set is not the inner one's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.acceptance
def test_the_originals_of_freqtrades_learners_run_with_this_packages_model(clone: Path, checkout: Path) -> None:
    done = make(clone, f"FREQTRADE={checkout}", "PYTEST_ARGS=-s -p no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    for learner in ("ReinforcementLearner", "ReinforcementLearner_multiproc"):
        assert f"{learner} is MtfScalperRLModel mtfscalper.freqai.model" in done.stdout
    assert "get_state_info ran" in done.stdout
    assert "3 passed, 3 deselected" in done.stdout


def test_without_a_checkout_they_are_skipped_in_one_line(clone: Path) -> None:
    done = make(clone)
    assert done.returncode == 0
    assert done.stdout.count("\n") == 1
    assert done.stdout.startswith("freqtrade-tests: skipped: name a checkout of freqtrade")
    assert done.stderr == ""


def test_a_folder_that_is_no_checkout_is_refused(clone: Path) -> None:
    done = make(clone, f"FREQTRADE={clone}")
    assert done.returncode != 0
    assert f"FREQTRADE is '{clone}', which has no tests/freqai; accepted: " in done.stderr
