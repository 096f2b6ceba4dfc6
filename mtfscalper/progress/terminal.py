"""Whether there is a terminal to draw on, and how often there is something to say without one."""

from __future__ import annotations

from rich.console import Console

LINE_SECONDS = 60.0


def has_display(console: Console) -> bool:
    """Whether something can be drawn again in the same place."""
    return console.is_terminal and not console.is_dumb_terminal
