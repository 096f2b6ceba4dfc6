"""A study whose trials are kept in a database, as those who look on see it.

SQLite, which ``mtfscalper study run`` refuses, is good enough to read from; ``tests/acceptance/test_studies.py`` looks
at one that two machines share in PostgreSQL.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from asked_dashboard import ask, served
from made_up_study import MadeUp, judge, made_up_study

from mtfscalper import cli
from mtfscalper.search.installed import is_dashboard_installed
from mtfscalper.search.storage import STORAGE_VARIABLE


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'studies.sqlite'}"


@pytest.fixture
def made(tmp_path: Path, url: str) -> MadeUp:
    study = made_up_study(tmp_path / "user_data", [0.001, None, 0.002], asked=3, url=url)
    judge(study, 2)
    assert not study.folder.journal.exists()
    return study


@pytest.mark.parametrize("is_in_environment", [False, True])
def test_watch_shows_its_trials(
    is_in_environment: bool, made: MadeUp, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [] if is_in_environment else ["--storage", url]
    if is_in_environment:
        monkeypatch.setenv(STORAGE_VARIABLE, url)
    before = _database(url)
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--once", *words]) == 0
    said = capsys.readouterr().out
    assert "3 of 3 trials finished: 2 completed, 1 pruned" in said
    assert "+0.200 %" in said
    assert "deflated Sharpe ratio" in said
    assert _database(url) == before


def test_without_its_storage_it_is_said_where_to_look(made: MadeUp, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["study", "watch", "--userdir", str(made.userdir), "--once"]) == 2
    assert "--storage URL if the study keeps its trials in a database" in capsys.readouterr().err
    assert not made.folder.journal.exists()


@pytest.mark.skipif(not is_dashboard_installed(), reason="optuna-dashboard is not installed: make setup")
def test_the_dashboard_shows_its_trials_and_changes_nothing(made: MadeUp, url: str) -> None:
    before = _database(url)
    with served("--userdir", str(made.userdir), "--storage", url) as port:
        [listed] = json.loads(ask(port, "/api/studies")[1])["study_summaries"]
        number = listed["study_id"]
        study = json.loads(ask(port, f"/api/studies/{number}")[1])
        assert [trial["state"] for trial in study["trials"]] == ["Complete", "Pruned", "Complete"]
        notes = [trial["note"]["body"] for trial in study["trials"]]
        assert "+0.100 % a day" in notes[0]
        assert "Gates: 2 of 3 passed" in notes[2]
        best = study["trials"][2]
        assert sorted(one["filename"] for one in best["artifacts"]) == ["equity.png", "learning_curves.png"]
        for one in best["artifacts"]:
            path = f"/artifacts/{number}/{best['trial_id']}/{one['artifact_id']}"
            assert f"({path})" in notes[2]
            assert ask(port, path)[0] == 200
        renamed = ask(port, f"/api/studies/{number}/rename", "POST", '{"study_name": "mine"}')
        assert renamed[0] == 403
    assert _database(url) == before


def _database(url: str) -> bytes:
    return Path(url.removeprefix("sqlite:///")).read_bytes()
