"""A study in a browser: what is drawn, who may look, and that nobody changes anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asked_dashboard import ask, served
from made_up_study import NAME, MadeUp, judge, made_up_study

from mtfscalper import cli
from mtfscalper.search.errors import StudyError

pytest.importorskip("optuna_dashboard")

from mtfscalper.monitoring.dashboard import token_for
from mtfscalper.monitoring.dashboard_door import is_loopback
from mtfscalper.monitoring.study_options import TOKEN_VARIABLE

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TOKEN = "0123456789abcdef"
BEST = 2


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    study = made_up_study(tmp_path_factory.mktemp("user_data"), [0.001, None, 0.002])
    judge(study, BEST)
    return study


@pytest.fixture(scope="module")
def port(made: MadeUp) -> Iterator[int]:
    with served("--userdir", str(made.userdir)) as at:
        yield at


@pytest.fixture
def guarded(made: MadeUp, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    with served("--userdir", str(made.userdir), "--study", NAME) as at:
        yield at


# ---------------------------------------------------------------------- what is shown


def test_every_trial_has_its_note_and_pictures_and_the_judged_one_its_gates(port: int) -> None:
    study = json.loads(ask(port, "/api/studies/0")[1])
    notes = [trial["note"]["body"] for trial in study["trials"]]
    assert "+0.100 % a day" in notes[0]
    assert "Not judged" in notes[0]
    assert notes[1].startswith("**Pruned** after 3 instances, -0.100 % a day")
    assert "Gates: 2 of 3 passed" in notes[BEST]
    assert "| trades | 88 | ≥ 100 | **not passed** |" in notes[BEST]
    assert "90 % interval +0.150 % to +0.250 %" in notes[BEST]
    for trial in (study["trials"][0], study["trials"][BEST]):
        assert sorted(one["filename"] for one in trial["artifacts"]) == ["equity.png", "learning_curves.png"]
        for one in trial["artifacts"]:
            path = f"/artifacts/0/{trial['trial_id']}/{one['artifact_id']}"
            assert f"({path})" in trial["note"]["body"]
            status, _, headers = ask(port, path)
            assert (status, headers["Content-Type"]) == (200, "image/png")
            assert "Access-Control-Allow-Origin" not in headers


def test_tensorboard_is_beside_it(port: int) -> None:
    assert "<tf-tensorboard" in ask(port, "/tensorboard/")[1] or "TensorBoard" in ask(port, "/tensorboard/")[1]
    assert ask(port, "/tensorboard/data/plugins_listing")[0] == 200


# ---------------------------------------------------------------------- who may look, and do no more


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/api/studies/0", None),
        ("POST", "/api/trials/0/tell", '{"state": "fail"}'),
        ("POST", "/api/studies/0/rename", '{"study_name": "mine"}'),
        ("PUT", "/api/studies/0/note", '{"version": 1, "body": "mine"}'),
        ("DELETE", "/api/artifacts/0/0/00000000-0000-0000-0000-000000000000", None),
        ("POST", "/dashboard/../api/studies/0/rename", '{"study_name": "mine"}'),
    ],
)
def test_nothing_is_changed_through_it(made: MadeUp, port: int, method: str, path: str, body: str | None) -> None:
    before = made.folder.journal.read_bytes()
    status, text, _ = ask(port, path, method, body, **{"Content-Type": "application/json"})
    assert status == 403
    assert "only shows" in text
    assert made.folder.journal.read_bytes() == before


def test_whoever_looks_writes_no_record(made: MadeUp, port: int) -> None:
    before = {path: path.read_bytes() for path in made.folder.path.rglob("*") if path.is_file()}
    for path in ("/dashboard", "/api/studies", "/api/studies/0", "/api/studies/0/param_importances", "/csv/0"):
        assert ask(port, path)[0] == 200
    assert {path: path.read_bytes() for path in made.folder.path.rglob("*") if path.is_file()} == before


def test_a_name_that_was_made_to_lead_here_is_refused(port: int) -> None:
    assert ask(port, "/api/studies", Host="rebound.example")[0] == 403
    assert ask(port, "/api/studies", Host=f"localhost:{port}")[0] == 200
    assert ask(port, "/api/studies", Host=f"[::1]:{port}")[0] == 200


def test_with_a_token_nobody_looks_without_it(guarded: int) -> None:
    for path in (
        "/dashboard",
        "/api/studies",
        "/artifacts/0/0/a",
        "/tensorboard/",
        "/font-roboto/x",
        "/static/bundle.js",
    ):
        status, text, _ = ask(guarded, path)
        assert status == 401
        assert "planted" not in text
    assert ask(guarded, "/api/studies", Authorization="Bearer 0123456789abcdeX")[0] == 401
    assert ask(guarded, "/api/studies", Authorization=f"Bearer {TOKEN}")[0] == 200
    assert ask(guarded, "/api/studies/0", "DELETE", Authorization=f"Bearer {TOKEN}")[0] == 403
    assert ask(guarded, "/api/studies", Cookie=f"mtfscalper_dashboard={TOKEN}")[0] == 401


def test_the_page_that_asks_for_the_token_gives_a_cookie(guarded: int) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask(guarded, "/login", "POST", "token=wrong", **form)[0] == 401
    assert ask(guarded, "/login", "POST", "token=" + "x" * 100_000, **form)[0] == 413
    status, _, headers = ask(guarded, "/login", "POST", f"token={TOKEN}", **form)
    assert (status, headers["Location"]) == (303, "/dashboard")
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    assert ask(guarded, "/api/studies", Cookie=cookie.partition(";")[0])[0] == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "studies.example"])
def test_another_address_needs_a_token(
    host: str, made: MadeUp, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert cli.main(["dashboard", "--userdir", str(made.userdir), "--host", host]) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert host in said
    assert TOKEN_VARIABLE in said
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(StudyError, match="5 characters"):
        token_for(host)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert token_for(host) == TOKEN


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("[::1]", True), ("", False)])
def test_addresses_of_this_machine_alone(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_a_study_that_is_not_there_is_one_sentence(
    made: MadeUp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["dashboard", "--userdir", str(made.userdir), "--study", "other"]) == 2
    assert NAME in capsys.readouterr().err
    assert cli.main(["dashboard", "--userdir", str(tmp_path)]) == 2
    assert "mtfscalper study run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser is installed; accepted: {', '.join(BROWSERS)}; Debian: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


class Tab:
    """A page of the dashboard that notes what it says and asks for."""

    def __init__(self, browser: Any, port: int, width: int) -> None:
        self.place = f"http://127.0.0.1:{port}"
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(120_000)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def go(self, path: str) -> Any:
        self.page.goto(self.place + path)
        return self.page

    @property
    def asked_elsewhere(self) -> list[str]:
        return [url for url in self.requests if not url.startswith((self.place, "data:", "blob:"))]


@pytest.mark.parametrize("width", [390, 1600])
def test_a_browser_shows_the_study_and_a_trial_and_asks_nobody_else(width: int, port: int, chromium: Any) -> None:
    tab = Tab(chromium, port, width)
    page = tab.go("/dashboard/studies/0")
    # Of the history, a mark for each trial that has a value.
    page.wait_for_function("document.querySelectorAll('#plot-history .points path').length >= 2")
    page = tab.go(f"/dashboard/studies/0/trials?numbers={BEST}")
    page.get_by_text("Gates: 2 of 3 passed").wait_for()
    page.wait_for_function(
        "['Equity', 'Learning curves'].every((name) => [...document.querySelectorAll(`img[alt='${name}']`)]"
        ".some((one) => one.complete && one.naturalWidth > 600))"
    )
    assert page.get_by_role("cell", name="deflated Sharpe ratio").count() == 1
    assert page.get_by_role("link", name="TensorBoard").get_attribute("href").startswith("/tensorboard/?runFilter=")
    page.close()
    assert tab.errors == []
    assert tab.asked_elsewhere == []


def test_tensorboard_shows_the_trainings_of_the_study_alone(made: MadeUp, port: int, chromium: Any) -> None:
    from torch.utils.tensorboard import SummaryWriter

    for name in (f"study_{NAME}_abc_1", "another"):
        with SummaryWriter(str(made.userdir / "models" / name / "tensorboard" / "BTC")) as board:
            board.add_scalar("eval/log_return", 0.1, 1)
    tab = Tab(chromium, port, 1600)
    page = tab.go(f"/tensorboard/?runFilter=study_{NAME}_#timeseries")
    # TensorBoard looks for new files every five seconds, and its page asks when it is told to.
    for _ in range(240):
        if page.get_by_text(f"study_{NAME}_abc_1").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    page.get_by_text(f"study_{NAME}_abc_1").first.wait_for()
    assert page.get_by_text("another/").count() == 0
    page.get_by_text("eval", exact=True).first.wait_for()
    page.close()
    assert tab.errors == []
    assert tab.asked_elsewhere == []
