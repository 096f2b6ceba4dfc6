"""An audit in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtfscalper.reporting.audit.audit import Audit


def print_audit(audit: Audit, console: Console) -> None:
    """Print an audit: the sentence, the reasons, what else is to be known."""
    console.print(f"[bold {'yellow' if audit.reasons else 'green'}]{escape(audit.sentence)}[/]")
    if audit.reasons:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        table.add_column("why", max_width=30)
        table.add_column("trades", justify="right")
        table.add_column("the first one", overflow="fold")
        for reason in audit.reasons:
            table.add_row(escape(reason.name), str(reason.count), escape(reason.first))
        console.print(table)
    for note in audit.notes:
        console.print(f"[dim]note:[/dim] {escape(note)}.")
