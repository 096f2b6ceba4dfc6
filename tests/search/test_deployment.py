"""What is deployed: gates first, every version kept, money left alone, everything on record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from freqtrade.configuration.load_config import load_from_files
from search.judged_studies import CODE, PAIR, STRATEGY, TUNING_SEEDS, make_spec

from mtfscalper import artefacts
from mtfscalper.freqai.deployed_config import SECTION, why_not_as_deployed
from mtfscalper.search.deployment import Deployments, overlay_for, why_refused
from mtfscalper.search.errors import StudyError
from mtfscalper.search.gates import Gate
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.ledger import Ledger

LINE = "btc"


@pytest.fixture
def deployments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployments:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)
    return Deployments(tmp_path)


def judgement(trial: int = 0, passed: bool = True, code: str = CODE) -> Judgement:
    gate = Gate("trades", "trades", 99.0 + passed, 100.0, passed, "100", "≥ 100", "as counted")
    return Judgement(
        1, trial, "hash", 0.9, (gate,), 0.1, 0.05, (5,), "20240301-", 8, {}, code, "2026-11-27T12:00:00Z", {}
    )


def overlay(rate: float = 1e-4) -> dict[str, Any]:
    return overlay_for(make_spec(), {"freqai": {"rl_config": {"learning_rate": rate}}}, LINE)


def deploy(deployments: Deployments, trial: int, **more: Any) -> Any:
    more = {"judgement": judgement(trial), **more}
    found = more.pop("judgement")
    return deployments.deploy(LINE, make_spec(), trial, overlay(1e-4 * (trial + 1)), found, **more)


def rate(path: Path) -> float:
    return float(json.loads(path.read_text())["freqai"]["rl_config"]["learning_rate"])


def log(deployments: Deployments) -> list[dict[str, Any]]:
    return deployments.log.records()


def test_what_is_deployed_is_a_config_to_lay_over_ones_own(deployments: Deployments, tmp_path: Path) -> None:
    deployed = deploy(deployments, 3, parameters={"learning_rate": 4e-4}, value=0.02)
    own = tmp_path / "own.json"
    mine = {"stake_amount": 7, "dry_run": True, "exchange": {"key": "k"}, "freqai": {"rl_config": {"seed": 1}}}
    own.write_text(json.dumps(mine))
    config = load_from_files([str(own), str(deployed.path)])
    # The trial's settings, those of its study below them, and the seed of its first run.
    assert config["freqai"]["rl_config"] == {"n_steps": 64, "seed": TUNING_SEEDS[0], "learning_rate": 4e-4}
    assert config["freqai"]["identifier"] == f"deployed_{LINE}"
    assert (config["strategy"], config["freqaimodel"]) == (STRATEGY, "MtfScalperRLModel")
    assert (config["stoploss"], config["timeframe"]) == (-0.05, "5m")
    # Whose money, on which exchange and whether orders are real is not the study's affair.
    assert (config["stake_amount"], config["dry_run"], config["exchange"]["key"]) == (7, True, "k")
    assert config["exchange"]["pair_whitelist"] == [PAIR]
    section = config[SECTION]
    assert (section["study"], section["trial"], section["value"], section["passed"]) == ("small", 3, 0.02, True)
    assert section["parameters"] == {"learning_rate": 4e-4}
    assert section["gates"][0]["key"] == "trades"
    assert section["data"] == {"validation": "20240101-20240301", "locked": "20240301-20240410", "pairs": [PAIR]}
    assert section["code"] == CODE
    assert section["versions"]["freqtrade"]


def test_what_decides_beside_a_deployed_config_is_told(deployments: Deployments, tmp_path: Path) -> None:
    deployed, own = deploy(deployments, 3).path, tmp_path / "own.json"

    def told(values: dict[str, Any], *, last: bool = False) -> str | None:
        own.write_text(json.dumps(values))
        files = [str(deployed), str(own)] if last else [str(own), str(deployed)]
        return why_not_as_deployed(load_from_files(files))

    # A bot's own affair, what the deployed file overrides, and where trainings run.
    mine = {
        "stake_amount": 7,
        "stoploss": -0.3,
        "freqai": {"live_retrain_hours": 4, "rl_config": {"seed": 1, "workers": 2}},
    }
    assert told(mine) is None
    beside = told({"minimal_roi": {"30": 0.01}, "freqai": {"rl_config": {"ensemble": 4}}})
    assert beside is not None
    assert "freqai.rl_config.ensemble is 4 and there not set; minimal_roi.30 is 0.01 and there not set" in beside
    assert str(deployed) in beside
    # Named in the wrong order.
    assert "stoploss is -0.3 and there -0.05" in str(told(mine, last=True))
    assert why_not_as_deployed({"freqai": {}}) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "has not been judged"),
        (judgement(passed=False), "did not pass: trades"),
        (judgement(code="other"), "was judged with code other"),
    ],
)
def test_without_passed_gates_nothing_is_deployed_but_by_a_reason_that_is_recorded(
    deployments: Deployments, found: Judgement | None, words: str
) -> None:
    for force in (None, " "):
        with pytest.raises(StudyError, match=words):
            deploy(deployments, 0, judgement=found, force=force)
    assert not deployments.path(LINE).exists()
    assert [(record["action"], record["trial"]) for record in log(deployments)] == [("refuse", 0)] * 2
    assert words in log(deployments)[0]["why"]
    deployed = deploy(deployments, 0, judgement=found, force=" a dry run to look at ")
    section = json.loads(deployed.path.read_text())[SECTION]
    assert (section["passed"], section["forced"]) == (False, "a dry run to look at")
    assert words in section["not_passed"]
    assert log(deployments)[-1]["forced"] == "a dry run to look at"


def test_what_trades_otherwise_than_it_was_judged_is_not_deployed(deployments: Deployments) -> None:
    changed = "Strategy.py changed since the study small began; remedy: put it back"
    with pytest.raises(StudyError, match=r"Strategy.py changed .*--force"):
        deploy(deployments, 0, changed=changed)
    assert [record["action"] for record in log(deployments)] == ["refuse"]
    section = json.loads(deploy(deployments, 0, changed=changed, force="it is a comment").path.read_text())[SECTION]
    assert (section["passed"], section["forced"]) == (False, "it is a comment")
    assert "Strategy.py" in section["not_passed"]


def test_a_judgement_that_passed_needs_no_force(deployments: Deployments) -> None:
    assert why_refused("small", 0, judgement()) is None
    deployed = deploy(deployments, 0, force="for nothing")
    assert json.loads(deployed.path.read_text())[SECTION]["forced"] is None


def test_every_version_is_kept_and_put_back_one_by_one(deployments: Deployments) -> None:
    files = [deploy(deployments, trial).path for trial in (0, 1, 2)]
    assert len(set(files)) == 1
    path = files[0]
    kept = path.read_bytes()
    back = deployments.rollback(LINE)
    assert (back.version, back.trial, rate(path)) == (2, 1, 2e-4)
    assert (deployments.rollback(LINE).trial, rate(path)) == (0, 1e-4)
    with pytest.raises(StudyError, match="none before it"):
        deployments.rollback(LINE)
    assert rate(path) == 1e-4
    # Another deployment stands before what was in force, and takes no number that was used.
    again = deploy(deployments, 5)
    assert (again.version, again.previous) == (4, 1)
    assert deployments.rollback(LINE).version == 1
    assert deployments.version_file(LINE, 3).read_bytes() == kept
    [refused] = [record for record in log(deployments) if record["action"] == "refuse"]
    actions = [(record["action"], record["version"]) for record in log(deployments) if record != refused]
    assert actions == [
        *[("deploy", 1), ("deploy", 2), ("deploy", 3), ("rollback", 2), ("rollback", 1)],
        *[("deploy", 4), ("rollback", 1)],
    ]
    assert refused["why"].startswith("btc has version 1 and none before it")
    assert refused["asked"] == "rollback"


def test_the_identifier_of_a_line_is_one_whatever_is_deployed(deployments: Deployments) -> None:
    found = set()
    for trial in (0, 1):
        deployed = deploy(deployments, trial)
        found.add(json.loads(deployed.path.read_text())["freqai"]["identifier"])
    deployments.rollback(LINE)
    found.add(json.loads(deployed.path.read_text())["freqai"]["identifier"])
    assert found == {f"deployed_{LINE}"}


def test_what_was_changed_by_hand_is_not_lost(deployments: Deployments) -> None:
    path = deploy(deployments, 0).path
    edited = json.loads(path.read_text()) | {"max_open_trades": 9}
    path.write_text(json.dumps(edited))
    deployed = deploy(deployments, 1)
    assert deployed.set_aside is not None
    assert json.loads(deployed.set_aside.read_text()) == edited
    assert deploy(deployments, 2).set_aside is None
    # A file of the user's own under that name.
    path.write_text('{"max_open_trades": 1}')
    with pytest.raises(StudyError, match="is no config that was deployed"):
        deployments.rollback(LINE)
    deployed = deploy(deployments, 3)
    assert deployed.previous is None
    assert deployed.set_aside is not None
    assert deployed.set_aside.read_text() == '{"max_open_trades": 1}'


def test_a_version_that_is_damaged_is_not_put_back(deployments: Deployments) -> None:
    for trial in (0, 1):
        path = deploy(deployments, trial).path
    deployments.version_file(LINE, 1).write_text("{")
    with pytest.raises(StudyError, match="is missing or damaged"):
        deployments.rollback(LINE)
    assert rate(path) == 2e-4


@pytest.mark.parametrize("line", ["", "a/b", "../up", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(deployments: Deployments, line: str) -> None:
    with pytest.raises(StudyError, match="--name is"):
        deployments.path(line)


def test_nothing_is_written_by_looking(tmp_path: Path) -> None:
    deployments = Deployments(tmp_path)
    assert deployments.current(LINE) is None
    assert deployments.lines() == []
    assert Ledger(tmp_path / "none").records() == []
    assert list(tmp_path.iterdir()) == []
