"""Figures as tables on a terminal."""

import sys

from rich.console import Console
from rich.table import Table

# Of what is no terminal: a file or a pipe.
WIDTH = 130

# Of each figure the heading of its column, and its format.
Columns = dict[str, tuple[str, str]]


def wide_console() -> Console:
    """Where tables go: as wide as the terminal, else as wide as they need."""
    return Console(width=None if sys.stdout.isatty() else WIDTH)


def table(title: str, columns: Columns, rows: dict[str, dict[str, float | None]]) -> Table:
    """A table of numbers under a column of names."""
    made = Table("", title=title)
    for heading, _ in columns.values():
        made.add_column(heading, justify="right", no_wrap=True)
    for name, figures in rows.items():
        values = [(figures.get(key), form) for key, (_, form) in columns.items()]
        made.add_row(name, *("" if value is None else form.format(value) for value, form in values))
    return made
