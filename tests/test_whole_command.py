"""The benchmark of the whole command: rounds of all contenders in turn, and ratios round by round."""

import importlib
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from mtfscalper.settings import NO_PART_OF_A_POLICY, RLSettings

ROOT = Path(__file__).parents[1]
# Seconds of each round; the machine is half as fast in the second.
SECONDS = {"fast": [60.0, 120.0, 66.0], "stock": [300.0, 600.0, 363.0], "stock_all": [240.0, 480.0, 264.0]}


@pytest.fixture
def whole_command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module("whole_command")
    ran: list[str] = []

    def seconds_of(contender: object, *_: object) -> dict[str, float]:
        [name] = [name for name, each in module.CONTENDERS.items() if each is contender]
        ran.append(name)
        return {"seconds": SECONDS[name][ran.count(name) - 1], "processor_seconds": 60.0, "trainings": 10}

    monkeypatch.setattr(module, "seconds_of", seconds_of)
    monkeypatch.setattr(module, "write_market", lambda _: None)
    monkeypatch.setattr(module, "ReplayExchange", lambda *_: nullcontext(SimpleNamespace(url="")))
    monkeypatch.setattr(module, "ran", ran, raising=False)
    return module


def test_contenders_of_a_round_follow_one_another_and_ratios_are_of_one_round(
    whole_command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert whole_command.main(["fast", "stock", "stock_all", "--rounds", "3", "--json", str(figures)]) == 0
    assert whole_command.ran == ["fast", "stock", "stock_all"] * 3
    lines = (re.split(r"\s*│\s*", line.strip(" │")) for line in capsys.readouterr().out.splitlines() if "│" in line)
    rows = {name: cells for name, *cells in lines}
    # Minutes: median, least to most, and how many times the first one's in the same round.
    assert rows["fast"][:3] == ["1.1", "1.0 to 2.0", "1.00"]
    assert rows["stock"][:3] == ["6.0", "5.0 to 10.0", "5.00"]
    assert rows["stock_all"][:3] == ["4.4", "4.0 to 8.0", "4.00"]
    runs = json.loads(figures.read_text())["runs"]
    assert [run["seconds"] for run in runs["stock"]] == SECONDS["stock"]


def test_freqtrades_learner_is_measured_as_it_is_and_with_every_processor(whole_command: ModuleType) -> None:
    stock, best = (whole_command.CONTENDERS[name] for name in ("stock", "stock_all"))
    assert (stock.model, best.model) == ("ReinforcementLearner", "AllProcessors")
    assert (ROOT / best.overlay["freqaimodel_path"] / f"{best.model}.py").is_file()
    assert {key: value for key, value in best.overlay.items() if key != "freqaimodel_path"} == stock.overlay


def test_the_main_command_is_measured_with_its_trainings_side_by_side(whole_command: ModuleType) -> None:
    in_turn, side_by_side = (whole_command.CONTENDERS[name] for name in ("main", "processes"))
    assert side_by_side._replace(overlay=None) == in_turn
    rl = side_by_side.overlay["freqai"]["rl_config"]
    # Nothing else than where and how it is computed.
    assert set(rl) <= {*NO_PART_OF_A_POLICY, "threads_per_job"}
    assert RLSettings(**rl).executor == "processes"
