"""A module that has moved answers an import of its old name with the new one."""

import logging
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from freqtrade.exceptions import OperationalException
from freqtrade.resolvers import StrategyResolver

from mtfscalper.moved import MOVED

STRATEGY = """
from freqtrade.strategy import IStrategy

{old_import}


class MyScalper(IStrategy):
    timeframe = "5m"
    stoploss = -0.02
    minimal_roi = {{"0": 0.04}}

    def populate_indicators(self, dataframe, metadata):
        return dataframe

    def populate_entry_trend(self, dataframe, metadata):
        return dataframe

    def populate_exit_trend(self, dataframe, metadata):
        return dataframe
"""


@pytest.mark.parametrize("old", MOVED)
def test_the_import_of_an_old_name_is_an_error_with_the_new_one(old: str) -> None:
    with pytest.raises(ImportError) as raised:
        import_module(old)
    assert str(raised.value) == f"{old} is now {MOVED[old]}; import from there"


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_the_new_name_is_there(new: str) -> None:
    assert find_spec(new) is not None


@pytest.mark.parametrize(
    ("statement", "new"),
    [
        ("from mtfscalper.trade_decisions import TradeDecisions", "mtfscalper.strategy"),
        ("from mtfscalper.policy.columns import ACTION_COLUMN", "mtfscalper.strategy"),
        ("from mtfscalper import strategy_rules", "mtfscalper.strategy"),
        ("import mtfscalper.replay.exchange", "mtfscalper.offline"),
        ("from mtfscalper.freqai_model import MtfScalperFreqaiModel", "mtfscalper.freqai.model"),
    ],
)
def test_every_form_of_import_is_answered(statement: str, new: str) -> None:
    with pytest.raises(ImportError, match=rf"is now {new};"):
        exec(statement, {})


def test_a_folder_left_behind_with_compiled_files_is_no_module(tmp_path: Path) -> None:
    """Git leaves one where Python has written ``__pycache__``, and Python takes any folder for a package."""
    (tmp_path / "replay").mkdir()
    script = f"import mtfscalper; mtfscalper.__path__.append({str(tmp_path)!r}); import mtfscalper.replay"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "ImportError: mtfscalper.replay is now mtfscalper.offline; import from there" in done.stderr


def test_other_modules_that_are_missing_are_missing_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'mtfscalper.nothing'"):
        import_module("mtfscalper.nothing")


def test_freqtrade_tells_the_new_name_of_what_an_old_strategy_imports(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = {"strategy": "MyScalper", "strategy_path": str(tmp_path), "user_data_dir": tmp_path}
    file = tmp_path / "MyScalper.py"
    file.write_text(STRATEGY.format(old_import="from mtfscalper.trade_decisions import TradeDecisions"))
    with caplog.at_level(logging.WARNING), pytest.raises(OperationalException, match=r"contains Python code errors"):
        StrategyResolver.load_strategy(dict(config))
    told = [record.getMessage() for record in caplog.records if "is now" in record.getMessage()]
    # Once for each folder that freqtrade looks in.
    assert set(told) == {
        f"Could not import {file} due to 'mtfscalper.trade_decisions is now mtfscalper.strategy; import from there'"
    }
    # The remedy is the one named.
    file.write_text(STRATEGY.format(old_import="from mtfscalper.strategy import TradeDecisions"))
    assert StrategyResolver.load_strategy(dict(config)).timeframe == "5m"
