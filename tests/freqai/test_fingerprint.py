"""What a period's policy depends on: the code of its features, wherever a strategy keeps it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mtfscalper.freqai.fingerprint import feature_sources

SOURCE = """
from freqtrade.strategy import IStrategy


def scaled(frame):
    return frame / 10


class Parent(IStrategy):
    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        return self.shifted(scaled(dataframe))

    @staticmethod
    def shifted(frame):
        return frame.shift(1)

    @property
    def lag(self):
        return 2

    def custom_exit(self, pair, trade, current_time, current_rate, current_profit, **kwargs):
        return "never"


class Child(Parent):
    def feature_engineering_standard(self, dataframe, metadata, **kwargs):
        return super().feature_engineering_standard(dataframe, metadata)
"""


def loaded(path: Path, source: str) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sources(path: Path, source: str) -> list[str]:
    return feature_sources(loaded(path, source).Child)


@pytest.mark.parametrize(
    ("old", "new", "matters"),
    [
        ("frame / 10", "frame / 20", True),
        ("frame.shift(1)", "frame.shift(2)", True),
        ("return 2", "return 3", True),
        ("self.shifted(scaled(dataframe))", "self.shifted(dataframe)", True),
        ("super().feature_engineering_standard(dataframe, metadata)", "dataframe", True),
        ('"never"', '"always"', False),
    ],
)
def test_whatever_features_may_be_made_of_matters(tmp_path: Path, old: str, new: str, matters: bool) -> None:
    assert SOURCE.count(old) == 1
    before = sources(tmp_path / "before.py", SOURCE)
    after = sources(tmp_path / "after.py", SOURCE.replace(old, new))
    assert (before != after) == matters
