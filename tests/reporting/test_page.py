"""A report's page: what it says, that nothing from a file becomes markup, and that a browser draws all of it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
import pytest
from markupsafe import escape
from reporting.report_values import HOSTILE, report_of_chance

from mtfscalper import cli
from mtfscalper.reporting.audit.audit import Audit, Reason
from mtfscalper.reporting.charts import CANDLES_SHOWN
from mtfscalper.reporting.page import render
from mtfscalper.reporting.page.render import default_path, page, write_page
from mtfscalper.reporting.page.sections import provenance, sections
from mtfscalper.reporting.report import Report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


@pytest.fixture(scope="module")
def report() -> Report:
    return report_of_chance()


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report)


class Elements(HTMLParser):
    """Names of the elements, and the attributes that could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.outside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        for name, value in attrs:
            if name.startswith("on") or (name in ("src", "href") and not (value or "").startswith(("#", "data:"))):
                self.outside.append(f"{tag} {name}={value}")


def test_nothing_from_a_file_becomes_markup_or_is_loaded(text: str) -> None:
    elements = Elements(text)
    assert elements.outside == []
    assert "img" not in elements.names
    assert elements.names.count("h1") == 1


def test_a_figure_cannot_end_the_script_that_it_lies_in() -> None:
    embedded = render._figure_json(go.Figure().update_layout(title=HOSTILE))
    assert not set("<>&") & set(embedded)
    assert json.loads(embedded)["layout"]["title"]["text"] == HOSTILE


def test_the_verdict_stands_before_everything_else(report: Report, text: str) -> None:
    sentence = str(escape(report.verdict.sentence)).replace(" %", "\N{NO-BREAK SPACE}%")
    order = ("<main>", ">No evidence of an edge</h1>", sentence, "<h2")
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_every_figure_has_its_words_and_every_table_its_headings(report: Report, text: str) -> None:
    figures = re.findall(r"<figure .*?</figure>", text, re.DOTALL)
    assert len(figures) == sum(len(section.plots) for section in sections(report)) >= 18
    for figure in figures:
        caption = re.search(r"<figcaption[^>]*>(.+?)</figcaption>", figure, re.DOTALL)
        assert caption is not None
        assert len(caption[1]) > 40
        assert 'role="img"' in figure
    assert text.count("<caption>") == text.count("<table>") >= 10


def test_everything_asked_for_is_on_the_page(report: Report, text: str) -> None:
    keys = {plot.key for section in sections(report) for plot in section.plots}
    assert keys >= {
        *("over-trade", "over-day", "paired", "equity", "drawdown", "overfitting", "walk-forward", "evaluations"),
        *("candles-0", "candles-1", "by-reason", "by-hour", "by-holding", "by-pair", "mae", "mfe"),
        *("actions", "importance", "exit-probability"),
    }
    titles = [table.title for table in provenance(report)]
    assert titles[:4] == ["The run", "Candles, UTC", "Settings in force", "rl_config"]
    for word in ("deflated Sharpe ratio", "freqtrade backtesting --strategy", "Sortino", "funding", "seed"):
        assert word in text


def test_the_audit_is_shown(report: Report) -> None:
    found = Audit(120, 118, (Reason("custom_stoploss", 2, f"{HOSTILE} on 2025-01-03"),), ("one note",))
    shown = page(report._replace(audit=found))
    assert "118 of 120 trades are what training assumed" in shown
    assert "custom_stoploss" in shown
    assert "one note" in shown
    assert "Audit" in [section.title for section in sections(report)]


def test_a_report_without_trades_or_policy_has_a_page(report: Report) -> None:
    empty = report._replace(
        policy=False,
        paired_days=(),
        paired_differences=(),
        deflated_sharpe=None,
        periods=(),
        groups={name: [] for name in report.groups},
        excursions=[],
        decisions=None,
        actions={},
        importance=None,
        trades=(),
        candles=(),
        audit=Audit(0, 0, (), ()),
    )
    keys = [section.key for section in sections(empty)]
    assert keys == ["rivals", "time", "audit"]
    assert "There are no trades to compare" in page(empty)


def test_three_thousand_trades_are_few_megabytes(tmp_path: Path) -> None:
    report = report_of_chance(3000, n_days=120)
    write_page(report, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 8e6


def test_the_page_lies_beside_the_result_under_its_name(report: Report) -> None:
    assert default_path(report._replace(strategy="Own")).name == "backtest-result-2025-02-10_Own.html"


def test_without_plotly_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(render, "find_spec", lambda name: None)
    assert cli.main(["report", "nowhere.zip"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "plotly" in said[0]
    assert "pip install 'mtfscalper[report]'" in said[0]


# ---------------------------------------------------------------------- in a browser


def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser is installed; accepted: {', '.join(BROWSERS)}; Debian: apt install chromium")
    return found


# Of text, by colour scheme.
INK = {"dark": "rgb(228, 232, 239)", "light": "rgb(28, 36, 48)"}


class Looked(NamedTuple):
    """What a browser made of the page.

    :ivar drawn: marks of each figure by its key: paths, dots, cells of a picture
    """

    verdict: str
    drawn: dict[str, int]
    width: int
    ink: str
    plot_ink: str
    said: list[str]
    requests: list[str]


_LOOK = """() => {
  const marks = (place) => place.querySelectorAll(
    '.main-svg .trace path, .main-svg .point path, .main-svg path.box, .main-svg image, .main-svg .points path').length;
  return {
    verdict: document.getElementById('sentence').innerText,
    drawn: Object.fromEntries([...document.querySelectorAll('.drawing')].map((one) => [one.id, marks(one)])),
    width: document.documentElement.scrollWidth,
    ink: getComputedStyle(document.body).color,
    plot_ink: getComputedStyle(document.querySelector('.xtick text')).fill,
  };
}"""


def look(context: Any, file: Path, then: str) -> tuple[Looked, Looked]:
    """The page, and what becomes of it once its reader prefers another colour scheme."""
    tab, said, requests = context.new_page(), [], []
    tab.set_default_timeout(120_000)
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(file.as_uri())
    tab.wait_for_selector("html[data-drawn=done]")
    tab.evaluate("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    tab.wait_for_function("[...document.querySelectorAll('.drawing')].every((one) => one.dataset.drawn === 'done')")
    first = tab.evaluate(_LOOK)
    tab.emulate_media(color_scheme=then)
    tab.wait_for_function(
        "ink => [...document.querySelectorAll('.xtick text')].every((one) => getComputedStyle(one).fill === ink)",
        arg=INK[then],
    )
    second = tab.evaluate(_LOOK)
    tab.close()
    asked = [url for url in requests if not url.startswith("data:")]
    return Looked(**first, said=said, requests=asked), Looked(**second, said=said, requests=asked)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    path = browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1600, "light")])
def test_a_browser_draws_every_figure_and_asks_nobody(
    width: int, scheme: str, chromium: Any, report: Report, tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    write_page(report, file)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    other = {"dark": "light", "light": "dark"}[scheme]
    looks = look(context, file, other)
    context.close()
    n_trades, n_days = len(report.trades), len(report.days)
    at_least = {"plot-mae": n_trades, "plot-mfe": n_trades, "plot-paired": n_days, "plot-candles-0": CANDLES_SHOWN}
    for colours, seen in zip((scheme, other), looks, strict=True):
        assert seen.verdict.replace("\N{NO-BREAK SPACE}", " ") == report.verdict.sentence
        assert seen.said == []
        assert seen.requests == [file.as_uri()]
        assert len(seen.drawn) == sum(len(section.plots) for section in sections(report))
        assert min(seen.drawn.values()) > 0, seen.drawn
        assert {key: seen.drawn[key] for key, marks in at_least.items() if seen.drawn[key] < marks} == {}
        # The page itself does not scroll sideways.
        assert seen.width <= width
        assert seen.ink == seen.plot_ink == INK[colours]
