"""The checks as a table for the terminal, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from mtfscalper.monitoring.advice import Advice
from mtfscalper.monitoring.verdicts import Check, Verdict

_STYLES = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.FAILED: "bold red"}


def checks_table(checks: Sequence[Check]) -> Table:
    """One line a check; a remedy stands under what was expected."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("seen", overflow="fold")
    table.add_column("expected", max_width=40, overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for number, check in enumerate(checks):
        expected = Text(check.expected)
        if check.remedy:
            expected.append(f"\n→ {check.remedy}", style=_STYLES[check.verdict])
        last_of_group = number + 1 == len(checks) or checks[number + 1].group != check.group
        table.add_row(
            check.name,
            Text(check.seen),
            expected,
            Text(check.verdict, style=_STYLES[check.verdict]),
            end_section=last_of_group,
        )
    return table


def advice_table(advice: Advice) -> Table:
    """One line for each way to train that was timed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="timed side by side on this machine", title_justify="left")
    table.add_column("way to train")
    table.add_column("times as fast", justify="right", no_wrap=True)
    table.add_column("90 % interval")
    for name, ratio, interval in advice.rows:
        table.add_row(Text(name), ratio, Text(interval))
    return table


def summary(checks: Sequence[Check]) -> str:
    """The outcome in one line."""
    counts = Counter(check.verdict for check in checks)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])


def passed(checks: Sequence[Check]) -> bool:
    """Whether no check failed."""
    return all(check.verdict is not Verdict.FAILED for check in checks)
