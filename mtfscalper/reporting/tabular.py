"""The tables of a report, as text: a terminal and a page show the same ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mtfscalper.reporting.breakdowns import Group
from mtfscalper.reporting.intervals import LEVEL, Interval
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.periods import PeriodResult, Stretch
from mtfscalper.reporting.report import Report
from mtfscalper.reporting.wording import money, number, percent

NOTHING = "–"
GROUPED = {
    "reason": "Exit reason",
    "hour": "Hour of the entry, UTC",
    "holding": "Held for",
    "pair": "Pair",
}


class Table(NamedTuple):
    """A table of text.

    :ivar left: so many of the first columns hold words, the others numbers
    :ivar strong: positions of rows that stand out
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1
    strong: frozenset[int] = frozenset()


def profits(report: Report) -> Table:
    """What the run and its rivals earned."""
    columns = ("", "profit", "a trade", "trades", "Sharpe", "Sortino", "drawdown", "factor", "run earned more, a trade")
    rows = []
    for rival in (report.run, *report.rivals):
        figures = rival.statistics
        if figures is None:
            rows.append((rival.name, *[NOTHING] * 8))
            continue
        rows.append(
            (
                rival.name,
                percent(figures.profit_ratio, 1),
                percent(figures.per_trade, 3),
                NOTHING if figures.trades is None else f"{figures.trades:,}",
                number(figures.sharpe),
                number(figures.sortino),
                f"{100 * figures.max_drawdown_ratio:.1f} %",
                number(figures.profit_factor),
                NOTHING if rival.a_trade is None else span(rival.a_trade, 3),
            )
        )
    title = "This run beside its rivals, on the same candles"
    return Table(title, columns, tuple(rows), strong=frozenset({0}))


def costs(report: Report) -> Table:
    """What was paid."""
    columns = ("", "gross", "fees", "funding", "net", "run earned more, a day")
    rows = []
    for rival in (report.run, *report.rivals):
        figures = rival.statistics
        if figures is None:
            continue
        amounts = (figures.gross, -figures.fees, figures.funding, figures.net)
        more = NOTHING if rival.a_day is None else span(rival.a_day, 3)
        rows.append((rival.name, *(money(value) for value in amounts), more))
    return Table("Gross and net", columns, tuple(rows), strong=frozenset({0}))


def how_to_read(report: Report) -> str:
    """What the figures of the first two tables are."""
    return (
        f"Interval: {LEVEL * 100:.0f} %, stationary block bootstrap of paired daily differences. Money in "
        f"{report.origin.settings['stake_currency']}; drawdown, Sharpe and Sortino of the wallet marked daily (UTC)."
    )


def notes(report: Report) -> list[str]:
    """What else is to be known of rivals, a sentence each."""
    return [f"{rival.name}: {rival.note}." for rival in report.rivals if rival.note]


def deflated(report: Report) -> str:
    """What is left of the Sharpe ratio where several trials were made; empty where one was."""
    best = report.deflated_sharpe
    if best is None:
        return ""
    return (
        f"Of {best.trials} different backtests of this strategy on these days the best would show a Sharpe ratio "
        f"of {best.expected_best:.2f} if none earned anything: this run's is above zero with probability "
        f"{best.probability:.2f} (deflated Sharpe ratio)."
    )


def periods(report: Report) -> Table:
    """Period by period."""
    is_trained = any(period.training is not None for period in report.periods)
    columns = (
        *("pair", "from", "to", *(["training"] if is_trained else []), "evaluation", "by trades", "traded", "trades"),
        *("classic exits", "gap", "evaluations"),
    )
    rows = []
    for period in report.periods:
        evaluation = period.evaluation
        rows.append(
            (
                period.pair,
                moment(period.first_ms)[:10],
                moment(period.stop_ms)[:10],
                *([_a_day(period.training)] if is_trained else []),
                _a_day(evaluation),
                NOTHING if evaluation is None else str(evaluation.trades),
                _a_day(period.traded),
                str(period.traded.trades),
                _a_day(period.classic),
                percent(period.gap_a_day, 3),
                str(len(period.evaluations)),
            )
        )
    return Table("Period by period: log return a day", columns, tuple(rows), left=3)


def guarded_line(period: PeriodResult) -> str | None:
    """Who ends a period's trades, and why, in a sentence; None where its policy need not beat classic exits."""
    if period.guarded is None:
        return None
    who = "the rules end its trades" if period.falls_back else "the policy ends its trades"
    when = f"{moment(period.first_ms)[:10]} to {moment(period.stop_ms)[:10]}"
    return f"{period.pair} {when}, guarded: {who}; {period.guarded}."


def asked(report: Report) -> str:
    """How often the policy was asked; empty without a record."""
    found = report.decisions
    if found is None:
        return ""
    return (
        f"The policy was asked {found.questions:,} times about open trades, wanted to leave {found.leaves:,} times "
        f"and ended {found.ended:,} of {report.verdict.trades:,} trades."
    )


def groups(title: str, found: Sequence[Group]) -> Table:
    """Trades by what they have in common."""
    columns = ("", "trades", "won", "profit", "a trade", "over classic exits, a trade")
    rows = tuple(
        (
            group.key,
            f"{group.trades:,}",
            f"{100 * group.win_ratio:.0f} %",
            money(group.profit),
            percent(group.per_trade, 3),
            percent(group.over_classic, 3),
        )
        for group in found
    )
    return Table(title, columns, rows)


def excursions(report: Report) -> Table:
    """How far trades went."""
    columns = ("exit reason", "trades", "worst (MAE)", "best (MFE)", "left at")
    rows = tuple(
        (one.reason, f"{one.trades:,}", *(percent(move, 2) for move in (one.adverse, one.favourable, one.exit)))
        for one in report.excursions
    )
    return Table("How far trades went before their exit, before costs", columns, rows)


def origin(report: Report) -> Table:
    """Where a result comes from."""
    found = report.origin
    times = found.times
    rows = {
        "result": report.result,
        "settings": _said(found.settings),
        "rl_config": _said(found.rl_config) if found.rl_config else "",
        "seed": "" if found.seed is None else str(found.seed),
        "candles": "; ".join(
            f"{pair} {data['first']} to {data['last']} ({data['candles']:,})" for pair, data in found.data.items()
        ),
        "made": (
            f"{times['made']} UTC in {times['backtest_seconds']:.0f} s; {times['trainings']} trainings of "
            f"{times['timesteps']:,} timesteps in {times['training_seconds']:.0f} s together"
        ),
        "installed now": _said(found.versions),
        "this machine": _said(found.machine),
        "again": found.command,
    }
    return Table("Where it comes from", (), tuple((name, value) for name, value in rows.items() if value), left=2)


def span(interval: Interval, digits: int) -> str:
    """A mean with its interval."""
    mean = percent(interval.mean, digits)
    if interval.low is None or interval.high is None:
        return f"{mean} (too few to say)"
    return f"{mean} ({percent(interval.low, digits)} to {percent(interval.high, digits)})"


def said(values: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    """Settings as text, by name."""
    return ((name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items())


def _said(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in said(values))


def _a_day(stretch: Stretch | None) -> str:
    return NOTHING if stretch is None else percent(stretch.a_day, 3)
