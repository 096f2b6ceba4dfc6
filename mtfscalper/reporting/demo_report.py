"""What a demo shows of its backtest's report."""

from __future__ import annotations

import time
from pathlib import Path

from freqtrade.exceptions import OperationalException
from rich.console import Console

from mtfscalper.market.tape import TapeError
from mtfscalper.reporting.page.render import check_plotly, default_path, write_page
from mtfscalper.reporting.report import report_of
from mtfscalper.reporting.run_result import Asked, ReportError
from mtfscalper.reporting.tables import print_verdict


def report_on_demo(console: Console, result: Path, datadir: Path) -> None:
    """Show the verdict of a demo and write its page; a demo without either is still one."""
    began = time.perf_counter()
    try:
        check_plotly()
        with console.status("") as status:
            report = report_of(Asked(result=result, datadir=datadir), lambda text: status.update(f"report: {text} ..."))
        file = default_path(report)
        write_page(report, file)
    except (ReportError, TapeError, OperationalException, OSError) as error:
        console.out(f"report       none: {' '.join(str(error).split())}")
        return
    print_verdict(report.verdict, console)
    console.out(f"report       {_from_here(file)} (made in {time.perf_counter() - began:.0f} s)")


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
