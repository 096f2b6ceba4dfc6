"""A report as one HTML file."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mtfscalper import artefacts
from mtfscalper.reporting.run_result import ReportError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from mtfscalper.reporting.report import Report

_HERE = Path(__file__).parent


def check_plotly() -> None:
    """Refuse before anything is worked out.

    :raises ReportError: if plotly is not installed
    """
    if find_spec("plotly") is None:
        raise ReportError(
            "the package plotly is not installed, which draws the figures of a report's page; accepted: 7.0 or newer; "
            "remedy: pip install 'mtfscalper[report]'"
        )


def default_path(report: Report) -> Path:
    """Beside the export, under its name: freqtrade removes it with the export."""
    result = Path(report.result)
    return result.with_name(f"{result.stem}_{report.strategy}.html")


def write_page(report: Report, path: Path) -> None:
    """Write a report's page, whole or not at all.

    :raises ReportError: if plotly is not installed
    :raises OSError: if the file cannot be written
    """
    artefacts.write_bytes(path, page(report).encode())


def page(report: Report) -> str:
    """A report's page: HTML that contacts nobody, plotly.js included.

    :raises ReportError: if plotly is not installed
    """
    check_plotly()
    # Here, because they import plotly.
    from plotly.offline import get_plotlyjs

    from mtfscalper.reporting.figures import TEMPLATES
    from mtfscalper.reporting.page.sections import VERDICTS, cards, provenance, sections

    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["figure_json"] = _figure_json
    environment.filters["unbroken"] = _unbroken
    return environment.get_template("page.html").render(
        report=report,
        finding=VERDICTS[report.verdict.finding],
        cards=cards(report),
        sections=sections(report),
        provenance=provenance(report),
        templates=_embedded(json.dumps(TEMPLATES)),
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup((_HERE / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def _unbroken(text: str) -> str:
    """Text in which no line ends between a number and its percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _figure_json(figure: go.Figure) -> Markup:
    return _embedded(str(figure.to_json()))


def _embedded(text: str) -> Markup:
    """JSON inside a script element, where a name with ``</script>`` in it must not end that."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
