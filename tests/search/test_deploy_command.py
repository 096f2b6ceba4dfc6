"""``mtfscalper study deploy``: what it deploys by itself, what it tells, and which requests it refuses."""

from __future__ import annotations

import io
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docs_commands import COMMANDS_IN_DOCS
from optuna.trial import FrozenTrial
from rich.console import Console
from search.judged_studies import CODE, finished, locked_run, make_study, study_folder

from mtfscalper import artefacts
from mtfscalper.cli import main
from mtfscalper.freqai.deployed_config import SECTION
from mtfscalper.search import attachments, deploy_command, judge_command
from mtfscalper.search.deploy_command import DeployRequest, watch
from mtfscalper.search.deployment import Deployments
from mtfscalper.search.errors import StudyError
from mtfscalper.search.gates import Limits
from mtfscalper.search.judge import judge
from mtfscalper.search.judgements import Judgement, Judgements
from mtfscalper.search.looks import looks_of
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.study_run import Opened


class EndedError(Exception):
    """The watch has looked often enough."""


class GrowingStudy:
    """A study whose trials are known one look after the other."""

    def __init__(self, *looks: list[FrozenTrial]) -> None:
        self._looks, self.user_attrs = list(looks), dict[str, Any]()

    def set_user_attr(self, name: str, value: Any) -> None:
        self.user_attrs[name] = value

    def get_trials(self, deepcopy: bool = True) -> list[FrozenTrial]:
        return self._looks[0]

    def next(self, _: float) -> None:
        if len(self._looks) == 1:
            raise EndedError
        del self._looks[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)
    # Where a dashboard is installed, a trial gets a note in the study's storage; these studies have none.
    monkeypatch.setattr(attachments, "is_dashboard_installed", lambda: False)
    return study_folder(tmp_path)


@pytest.fixture
def watched(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What watches a study to its end: it is given trials by look, and how good each trial's policies are."""

    # Whose config is that of no study.
    monkeypatch.setattr(deploy_command, "_why_changed", lambda _: None)

    def watched(*looks: list[FrozenTrial], skill: dict[int, float], **asked: Any) -> str:
        study, text = GrowingStudy(*looks), io.StringIO()
        opened = Opened(folder, folder.spec, study, (), {"user_data_dir": folder.path.parents[1]})  # type: ignore[arg-type]
        monkeypatch.setattr(deploy_command, "open_study_there", lambda *_: opened)

        class Runs(judge_command._LockedRuns):
            def run(self, seed: int) -> Any:
                return locked_run(seed, skill[self._trial.number])

            def candles(self) -> str:
                return "candles"

        monkeypatch.setattr(judge_command, "_LockedRuns", Runs)
        request = DeployRequest("small", "line", folder.path.parents[1], **{"after_trials": 8, **asked})
        with pytest.raises(EndedError):
            watch(request, Console(file=text, width=200), wait=study.next)
        return text.getvalue()

    return watched


def refusals(folder: StudyFolder) -> list[str]:
    """Why each line of the log says that nothing was done; every line does."""
    records = Deployments(folder.path.parents[1]).log.records()
    assert {record["action"] for record in records} <= {"refuse"}
    return [record["why"] for record in records]


def test_each_new_best_is_judged_once_and_deployed_when_it_passes(
    folder: StudyFolder, watched: Callable[..., str]
) -> None:
    trials, best = make_study(folder)
    assert best.number == 0
    # The same figures under another number: a better trial that comes later.
    for path in folder.trial(0).glob("*.json"):
        artefacts.write_json(folder.trial(8) / path.name, json.loads(path.read_text()))
    later = finished(8, (best.value or 0) * 2, 5e-4)
    told = watched(trials[:7], trials, trials, [*trials, later], [*trials, later], skill={0: 0.0, 8: 1.0})
    judged = Judgements(folder).done()
    # Not before eight have finished; the one that does not pass is not looked at again.
    assert [(one.trial, one.look, one.passed) for one in judged] == [(0, 1, False), (8, 2, True)]
    section = json.loads((folder.path.parents[1] / "deployed" / "line.json").read_text())[SECTION]
    assert (section["trial"], section["passed"], section["look"]) == (8, True, 2)
    actions = [record["action"] for record in Deployments(folder.path.parents[1]).log.records()]
    assert actions == ["judge", "judge", "deploy"]
    assert "Trial 8 of study small is deployed" in told


def test_a_winner_whose_run_lost_is_left_to_whoever_wants_it(
    folder: StudyFolder, watched: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, _ = make_study(folder)
    monkeypatch.setattr(Judgement, "loses", property(lambda _: True))
    told = watched(trials, trials, skill={0: 1.0})
    assert "That is no profit" in told
    assert "Not deployed by itself: the run of trial 0 lost" in told
    judged, refused = Deployments(folder.path.parents[1]).log.records()
    assert (judged["action"], refused["action"], refused["trial"]) == ("judge", "refuse", 0)
    assert "run of trial 0 lost" in refused["why"]


@pytest.mark.parametrize("limit", [None, 0.25, 0.2])
def test_a_best_trial_that_has_passed_before_is_deployed_without_another_look(
    folder: StudyFolder, watched: Callable[..., str], limit: float | None
) -> None:
    """It was judged by hand, or by a watch that was cut off before it had deployed it."""
    trials, best = make_study(folder)
    judgement, _ = judge(folder, trials, best, lambda seed: locked_run(seed, 1.0))
    assert judgement.passed
    deployments, limits = Deployments(folder.path.parents[1]), None if limit is None else Limits(drawdown=limit)
    told = watched(trials, trials, skill={}, limits=limits)
    assert looks_of(folder) == 1
    if limit == 0.2:
        assert "judged by other limits than are asked for now" in told
        assert not deployments.path("line").exists()
        assert len(refusals(folder)) == 1
        return
    assert [record["action"] for record in deployments.log.records()] == ["deploy"]
    # What its owner has taken back, another watch does not put back.
    deployments.path("line").unlink()
    watched(trials, skill={}, limits=limits)
    assert not deployments.path("line").exists()


def test_what_was_edited_since_its_judgement_is_not_deployed_by_itself(
    folder: StudyFolder, watched: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, best = make_study(folder)
    judge(folder, trials, best, lambda seed: locked_run(seed, 1.0))
    monkeypatch.setattr(deploy_command, "_why_changed", lambda _: "Mine.py changed since the study small began")
    assert "Not deployed by itself: Mine.py changed" in watched(trials, trials, skill={})
    assert refusals(folder) == ["Mine.py changed since the study small began"]


def test_what_cannot_be_compared_with_what_was_judged_is_deployed_for_a_reason_alone(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, best = make_study(folder)
    judge(folder, trials, best, lambda seed: locked_run(seed, 1.0))
    monkeypatch.setattr(deploy_command, "open_storage", lambda *_: None)
    monkeypatch.setattr(deploy_command, "open_study", lambda *_: GrowingStudy(trials))
    # The study's config.json is not there.
    request = DeployRequest("small", "line", folder.path.parents[1])
    with pytest.raises(StudyError, match="cannot be seen from here"):
        deploy_command.deploy_study(request, Console(file=io.StringIO()))
    deployments = Deployments(folder.path.parents[1])
    assert not deployments.path("line").exists()
    assert [record["action"] for record in deployments.log.records()] == ["refuse"]
    deployed = deploy_command.deploy_study(request._replace(force="I know it"), Console(file=io.StringIO()))
    assert json.loads(deployed.path.read_text())[SECTION]["passed"] is False


def test_a_judgement_by_other_code_does_not_end_the_watch(
    folder: StudyFolder, watched: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, best = make_study(folder)
    judge(folder, trials, best, lambda seed: locked_run(seed, 1.0))
    monkeypatch.setattr(artefacts, "code_hash", lambda: "other")
    assert "was judged with code c0de, and other is installed" in watched(trials, trials, skill={})
    [why] = refusals(folder)
    assert "was judged with code c0de" in why


def test_a_bot_that_does_not_follow_does_not_end_the_watch(
    folder: StudyFolder, watched: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, _ = make_study(folder)

    def reload(*_: Any) -> None:
        raise StudyError("nobody answers at http://127.0.0.1:1")

    monkeypatch.setattr(deploy_command, "reload_bot", reload)
    told = watched(trials, trials, skill={0: 1.0}, reload="http://127.0.0.1:1")
    assert "no bot follows it yet: nobody answers" in told
    [*_, last] = Deployments(folder.path.parents[1]).log.records()
    assert (last["action"], last["ok"], last["version"]) == ("reload", False, 1)


def test_what_is_deployed_without_a_bot_that_follows_has_a_status_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = StudyFolder.of(tmp_path, "small")
    trials, best = make_study(folder)
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)
    judge(folder, trials, best, lambda seed: locked_run(seed, 1.0))
    monkeypatch.setattr(deploy_command, "open_storage", lambda *_: None)
    monkeypatch.setattr(deploy_command, "open_study", lambda *_: GrowingStudy(trials))
    monkeypatch.setattr(deploy_command, "_why_changed", lambda _: None)

    def reload(*_: Any) -> None:
        raise StudyError("nobody answers at http://127.0.0.1:1")

    monkeypatch.setattr(deploy_command, "reload_bot", reload)
    words = ["study", "deploy", "--userdir", str(tmp_path), "--reload", "http://127.0.0.1:1"]
    for _ in range(2):
        assert main([*words, "--study", "small"]) == 3
        assert "is in place, and no bot follows it yet: nobody answers" in capsys.readouterr().err
    assert main([*words, "--rollback", "--name", "small"]) == 3
    # There is nothing before the first version.
    assert main([*words, "--rollback", "--name", "small"]) == 2
    actions = [record["action"] for record in Deployments(tmp_path).log.records()]
    assert actions == [*("deploy", "reload") * 2, "rollback", "reload", "refuse"]


def test_what_the_docs_ask_to_be_watched_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[DeployRequest] = []
    monkeypatch.setattr(deploy_command, "watch", lambda request, _: asked.append(request))
    [line] = {one.line for one in COMMANDS_IN_DOCS if one.form == "mtfscalper study deploy --reload --study --watch"}
    assert main(shlex.split(line)[1:]) == 0
    [request] = asked
    assert (request.study, request.line, request.reload) == ("NAME", "NAME", "http://127.0.0.1:8080")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rollback", "--trial", "1", "--name", "a"], "--trial means nothing with --rollback"),
        (["--rollback", "--storage", "x", "--name", "a"], "--storage means nothing with --rollback"),
        (["--rollback", "--force", "x", "--name", "a"], "--force means nothing with --rollback"),
        (["--rollback", "--study", "b", "--name", "a"], "--study beside --name means nothing with --rollback"),
        (["--study", "a", "--watch", "--force", "x"], "--force means nothing with --watch"),
        (["--study", "a", "--after-trials", "3"], "--after-trials means nothing with a single deployment"),
        (["--study", "a", "--max-drawdown", "0.3"], "--max-drawdown means nothing with a single deployment"),
        (["--study", "a", "--force", " "], "--force is empty"),
        (["--study", "a", "--name", "../a"], "--name is '../a'"),
        (["--study", "a", "--reload", "localhost"], "--reload is localhost"),
        (["--study", "a"], "study.json does not exist"),
        (["--rollback"], "--name is missing"),
        (["--rollback", "--name", "a"], "is no config that was deployed"),
        ([], "--study is missing"),
        (["--name", "a"], "--study is missing"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "deploy", "--userdir", str(tmp_path), *words]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("error: ")
    assert said in told


@pytest.mark.parametrize("share", ["0", "1", "25", "much"])
def test_a_limit_is_a_share(share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["study", "judge", "--study", "a", "--max-drawdown", share])
    assert "a share between 0 and 1" in capsys.readouterr().err
