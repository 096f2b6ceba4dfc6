"""No test trades by what a hyperopt has left beside the strategy."""

import re
from pathlib import Path

from freqtrade.configuration.load_config import load_from_files
from freqtrade.resolvers import StrategyResolver
from shipped import STRATEGIES

ROOT = Path(__file__).parents[1]
# Where a test would hand the folder itself to freqtrade.
BESIDE_THE_JSON = re.compile(r"strategy[-_]path.*ROOT / \"strategies\"|project_options\(")
# They name options and run nothing, or put another folder in their place.
NO_RUN = {"shipped.py", "test_shipped.py", "test_freqtrade_command.py", "test_hyperopt.py"}


def test_no_test_hands_the_folder_that_hyperopt_writes_to_on_to_freqtrade() -> None:
    tests = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in NO_RUN]
    assert len(tests) > 100
    assert [path.name for path in tests if BESIDE_THE_JSON.search(path.read_text(encoding="utf-8"))] == []


def test_the_tests_strategy_is_the_projects_without_its_json() -> None:
    assert [path.name for path in STRATEGIES.iterdir() if path.is_file()] == ["MtfScalper_RL_Hybrid.py"]
    assert (STRATEGIES / "MtfScalper_RL_Hybrid.py").read_bytes() == (
        ROOT / "strategies" / "MtfScalper_RL_Hybrid.py"
    ).read_bytes()


def test_git_ignores_what_hyperopt_writes() -> None:
    assert "/strategies/*.json" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_freqtrade_would_trade_by_it(tmp_path: Path) -> None:
    """What the tests are kept from: the control of the above."""
    file = tmp_path / "MtfScalper_RL_Hybrid.py"
    file.write_bytes((STRATEGIES / file.name).read_bytes())
    file.with_suffix(".json").write_text(
        '{"strategy_name": "MtfScalper_RL_Hybrid", "params": {"stoploss": {"stoploss": -0.31}}}'
    )
    config = {
        **load_from_files([str(ROOT / "configs" / "config_rl_hybrid.json")]),
        "strategy": file.stem,
        "user_data_dir": tmp_path,
        "freqai": {"enabled": False},
    }
    assert StrategyResolver.load_strategy({**config, "strategy_path": str(tmp_path)}).stoploss == -0.31
    assert StrategyResolver.load_strategy({**config, "strategy_path": str(STRATEGIES)}).stoploss == -0.02
