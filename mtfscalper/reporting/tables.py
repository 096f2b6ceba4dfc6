"""A report in a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from mtfscalper.reporting.breakdowns import Group
from mtfscalper.reporting.intervals import LEVEL, Interval
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.periods import PeriodResult, Stretch
from mtfscalper.reporting.report import Report
from mtfscalper.reporting.rivals import Rival
from mtfscalper.reporting.wording import money, number, percent

_COLOURS = {"for": "green", "against": "red", "none": "yellow", "too_few": "yellow", "no_trades": "yellow"}
_GROUPED = {
    "reason": "Exit reason",
    "hour": "Hour of the entry, UTC",
    "holding": "Held for",
    "pair": "Pair",
}


def print_report(report: Report, console: Console) -> None:
    """Print a report, the verdict first."""
    verdict = report.verdict
    text = "\n".join(line for line in (verdict.sentence, verdict.beside) if line)
    console.print(Panel(escape(text), title="verdict", border_style=_COLOURS[verdict.finding]))
    console.print(_profits(report))
    console.print(_costs(report))
    console.print(
        f"[dim]Interval: {LEVEL * 100:.0f} %, stationary block bootstrap of paired daily differences. Money in "
        f"{escape(str(report.origin.settings['stake_currency']))}; drawdown, Sharpe and Sortino of the wallet marked "
        "daily (UTC).[/dim]"
    )
    for rival in report.rivals:
        if rival.note:
            console.print(f"[dim]{escape(_sentence(rival.name, rival.note))}[/dim]")
    if report.deflated_sharpe is not None:
        best = report.deflated_sharpe
        console.print(
            f"Of {best.trials} different backtests of this strategy on these days the best would show a Sharpe ratio "
            f"of {best.expected_best:.2f} if none earned anything: this run's is above zero with probability "
            f"{best.probability:.2f} (deflated Sharpe ratio)."
        )
    if report.periods:
        console.print(_periods(report.periods))
        for period in report.periods:
            line = guarded_line(period)
            if line is not None:
                console.print(escape(line), style="yellow" if period.falls_back else None)
    if report.decisions is not None:
        asked = report.decisions
        console.print(
            f"The policy was asked {asked.questions:,} times about open trades, wanted to leave {asked.leaves:,} times "
            f"and ended {asked.ended:,} of {verdict.trades:,} trades."
        )
    for name, title in _GROUPED.items():
        if report.groups[name]:
            console.print(_groups(title, report.groups[name]))
    if report.excursions:
        console.print(_excursions(report))
    _print_origin(report, console)
    for sentence in report.missing:
        console.print(f"[yellow]not in this report:[/yellow] {escape(sentence)}")


def _sentence(name: str, note: str) -> str:
    return f"{name}: {note}."


def _table(title: str, columns: Iterable[str], left: int = 1) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < left else "right", overflow="fold")
    return table


def _profits(report: Report) -> Table:
    table = _table(
        "This run beside its rivals, on the same candles",
        ("", "profit", "a trade", "trades", "Sharpe", "Sortino", "drawdown", "factor", "run earned more, a trade"),
    )
    for rival in (report.run, *report.rivals):
        figures = rival.statistics
        if figures is None:
            table.add_row(escape(rival.name), *["–"] * 8)
            continue
        table.add_row(
            escape(rival.name),
            percent(figures.profit_ratio, 1),
            percent(figures.per_trade, 3),
            "–" if figures.trades is None else f"{figures.trades:,}",
            number(figures.sharpe),
            number(figures.sortino),
            f"{100 * figures.max_drawdown_ratio:.1f} %",
            number(figures.profit_factor),
            _interval(rival),
            style="bold" if rival is report.run else None,
        )
    return table


def _costs(report: Report) -> Table:
    table = _table("Gross and net", ("", "gross", "fees", "funding", "net", "run earned more, a day"))
    for rival in (report.run, *report.rivals):
        figures = rival.statistics
        if figures is None:
            continue
        amounts = (figures.gross, -figures.fees, figures.funding, figures.net)
        table.add_row(
            escape(rival.name),
            *(money(value) for value in amounts),
            "–" if rival.a_day is None else _span(rival.a_day, 3),
            style="bold" if rival is report.run else None,
        )
    return table


def _periods(periods: Sequence[PeriodResult]) -> Table:
    table = _table(
        "Period by period: log return a day",
        (
            *("pair", "from", "to", "training", "evaluation", "by trades", "traded", "trades", "classic exits", "gap"),
            "evaluations",
        ),
        left=3,
    )
    for period in periods:
        evaluation = period.evaluation
        table.add_row(
            escape(period.pair),
            moment(period.first_ms)[:10],
            moment(period.stop_ms)[:10],
            _a_day(period.training),
            _a_day(evaluation),
            "–" if evaluation is None else str(evaluation.trades),
            _a_day(period.traded),
            str(period.traded.trades),
            _a_day(period.classic),
            percent(period.gap_a_day, 3),
            str(len(period.evaluations)),
        )
    return table


def guarded_line(period: PeriodResult) -> str | None:
    """Who ends a period's trades, and why, in a sentence; None where its policy need not beat classic exits."""
    if period.guarded is None:
        return None
    who = "the rules end its trades" if period.falls_back else "the policy ends its trades"
    when = f"{moment(period.first_ms)[:10]} to {moment(period.stop_ms)[:10]}"
    return f"{period.pair} {when}, guarded: {who}; {period.guarded}."


def _groups(title: str, groups: Sequence[Group]) -> Table:
    table = _table(title, ("", "trades", "won", "profit", "a trade", "over classic exits, a trade"))
    for group in groups:
        table.add_row(
            escape(group.key),
            f"{group.trades:,}",
            f"{100 * group.win_ratio:.0f} %",
            money(group.profit),
            percent(group.per_trade, 3),
            percent(group.over_classic, 3),
        )
    return table


def _excursions(report: Report) -> Table:
    table = _table(
        "How far trades went before their exit, before costs",
        ("exit reason", "trades", "worst (MAE)", "best (MFE)", "left at"),
    )
    for one in report.excursions:
        moves = (one.adverse, one.favourable, one.exit)
        table.add_row(escape(one.reason), f"{one.trades:,}", *(percent(move, 2) for move in moves))
    return table


def _print_origin(report: Report, console: Console) -> None:
    origin = report.origin
    table = Table(title="Where it comes from", title_justify="left", title_style="bold", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    times = dict(origin.times)
    rows = {
        "result": report.result,
        "settings": _said(origin.settings),
        "rl_config": _said(origin.rl_config) if origin.rl_config else "",
        "seed": "" if origin.seed is None else str(origin.seed),
        "candles": "; ".join(
            f"{pair} {data['first']} to {data['last']} ({data['candles']:,})" for pair, data in origin.data.items()
        ),
        "made": (
            f"{times['made']} UTC in {times['backtest_seconds']:.0f} s; {times['trainings']} trainings of "
            f"{times['timesteps']:,} timesteps in {times['training_seconds']:.0f} s together"
        ),
        "installed now": _said(origin.versions),
        "this machine": _said(origin.machine),
        "again": origin.command,
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, escape(value))
    console.print(table)


def _said(values: Mapping[str, object]) -> str:
    return ", ".join(
        f"{name} {value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()
    )


def _interval(rival: Rival) -> str:
    return "–" if rival.a_trade is None else _span(rival.a_trade, 3)


def _span(interval: Interval, digits: int) -> str:
    mean = percent(interval.mean, digits)
    if interval.low is None or interval.high is None:
        return f"{mean} (too few to say)"
    return f"{mean} ({percent(interval.low, digits)} to {percent(interval.high, digits)})"


def _a_day(stretch: Stretch | None) -> str:
    return "–" if stretch is None else percent(stretch.a_day, 3)
