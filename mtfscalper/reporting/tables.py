"""A report in a terminal."""

from __future__ import annotations

from rich import table as rich_table
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from mtfscalper.reporting import tabular
from mtfscalper.reporting.audit.table import print_audit
from mtfscalper.reporting.report import Report
from mtfscalper.reporting.tabular import Table
from mtfscalper.reporting.verdict import Verdict

_COLOURS = {"for": "green", "against": "red", "none": "yellow", "too_few": "yellow", "no_trades": "yellow"}


def print_report(report: Report, console: Console) -> None:
    """Print a report, the verdict first."""
    print_verdict(report.verdict, console)
    for table in (tabular.profits(report), tabular.costs(report)):
        console.print(_rich(table))
    for sentence in (tabular.how_to_read(report), *tabular.notes(report)):
        console.print(f"[dim]{escape(sentence)}[/dim]")
    if deflated := tabular.deflated(report):
        console.print(deflated)
    if report.periods:
        console.print(_rich(tabular.periods(report)))
        for period in report.periods:
            if line := tabular.guarded_line(period):
                console.print(escape(line), style="yellow" if period.falls_back else None)
    if asked := tabular.asked(report):
        console.print(asked)
    for name, title in tabular.GROUPED.items():
        if report.groups[name]:
            console.print(_rich(tabular.groups(title, report.groups[name])))
    if report.excursions:
        console.print(_rich(tabular.excursions(report)))
    print_audit(report.audit, console)
    console.print(_rich(tabular.origin(report)))
    for sentence in report.missing:
        console.print(f"[yellow]not in this report:[/yellow] {escape(sentence)}")


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Print a verdict in its frame."""
    text = "\n".join(line for line in (verdict.sentence, verdict.beside) if line)
    console.print(Panel(escape(text), title="verdict", border_style=_COLOURS[verdict.finding]))


def _rich(table: Table) -> rich_table.Table:
    made = rich_table.Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_header=bool(table.columns),
    )
    for at, column in enumerate(table.columns or [""] * table.left):
        made.add_column(column, justify="left" if at < table.left else "right", overflow="fold")
    for at, row in enumerate(table.rows):
        made.add_row(*map(escape, row), style="bold" if at in table.strong else None)
    return made
