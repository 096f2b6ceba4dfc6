"""The benchmark of the first hour gives the tutorial's commands, and says what each took and left."""

import importlib
import json
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from docs_commands import COMMANDS_IN_DOCS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def first_hour(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("first_hour")


def test_what_it_measures_is_what_the_tutorial_prints(first_hour: ModuleType) -> None:
    tutorial = [command.line for command in COMMANDS_IN_DOCS if command.page == "docs/tutorial.md"]
    measured = [shlex.join(shlex.split(step.line)) for step in first_hour.STEPS if step.where == "folder"]
    # Candles are made, the demo was the clone's, and the environment is made from the wheel.
    left_out = ("freqtrade download-data", "mtfscalper demo", "python", "source", "pip")
    assert measured == [line for line in tutorial if not line.startswith(left_out)]
    assert first_hour.STEPS[0].line in [command.line for command in COMMANDS_IN_DOCS if command.page == "README.md"]


def test_each_command_is_given_where_it_belongs_and_told_with_its_time_and_size(
    first_hour: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[tuple[str, str]] = []

    def clone_into(home: Path) -> None:
        for folder in ("clone/.venv", "environment", "folder/user_data/models", "folder/user_data/backtest_results"):
            (home / folder).mkdir(parents=True)

    def run(words: list[str], folder: Path, environment: dict[str, str]) -> None:
        given.append((folder.name, " ".join(words)))
        assert "PYTHONPATH" not in environment
        assert environment["PIP_NO_CACHE_DIR"] == "1"
        if words[0] == "make":
            (folder / ".venv" / "package").write_bytes(b"x" * 3_000_000)
        if "--dry-run" in words:
            config = json.loads((folder / first_hour.EXCHANGE).read_text())
            assert config["user_data_dir"] == "user_data"
            assert config["exchange"]["ccxt_config"]["urls"]["api"]["fapiPublic"].startswith("http://127.0.0.1:")

    monkeypatch.setattr(first_hour, "clone_into", clone_into)
    monkeypatch.setattr(first_hour, "wheel_of", lambda clone: clone / "mine.whl")
    monkeypatch.setattr(first_hour, "write_market", lambda folder: folder.mkdir(parents=True))
    monkeypatch.setattr(first_hour, "ReplayExchange", Exchange)
    monkeypatch.setattr(first_hour, "run", run)
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    figures = tmp_path / "figures.json"
    assert first_hour.main(["--no-cache", "--json", str(figures)]) == 0
    assert given[0] == ("clone", "make demo")
    assert given[2][1].endswith("/clone/mine.whl[report]")
    configs = (
        "--config configs/config_rl_hybrid.json --config configs/config_rl_fast.json --config exchange.json --strategy"
    )
    assert [configs in line for _, line in given] == [step.needs_exchange for step in first_hour.STEPS]
    steps = json.loads(figures.read_text())["steps"]
    assert [step["line"] for step in steps] == [step.line for step in first_hour.STEPS]
    assert steps[0]["size_bytes"] >= 3_000_000
    assert "3.0 MB" in capsys.readouterr().out


class Exchange:
    """Stands for the one that serves candles."""

    url = "http://127.0.0.1:1"

    def __init__(self, _: Path) -> None: ...

    def __enter__(self) -> "Exchange":
        return self

    def __exit__(self, *_: object) -> None: ...


def test_times_and_sizes_are_written_as_in_the_docs(first_hour: ModuleType) -> None:
    assert [first_hour.duration(seconds) for seconds in (1.24, 76.4, 672)] == ["1.2 s", "76 s", "11.2 minutes"]
    assert [first_hour.size(each) for each in (None, 2_340_000_000, 630_000)] == ["", "2.3 GB", "0.6 MB"]
