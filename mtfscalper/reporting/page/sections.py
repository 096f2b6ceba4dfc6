"""The sections of a report's page, in the order in which they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from mtfscalper.reporting import tabular
from mtfscalper.reporting.audit.audit import Audit
from mtfscalper.reporting.page import plots
from mtfscalper.reporting.page.plots import Plot
from mtfscalper.reporting.report import Report
from mtfscalper.reporting.tabular import Table
from mtfscalper.reporting.wording import money, number, percent

VERDICTS = {
    "for": "Evidence of an edge",
    "against": "Evidence against an edge",
    "none": "No evidence of an edge",
    "too_few": "Too few trades to say",
    "no_trades": "Nothing to judge",
}


class Card(NamedTuple):
    """A figure at the top, with what it is beside classic exits."""

    name: str
    value: str
    beside: str


class Section(NamedTuple):
    """A part of the page.

    :ivar lead: sentences before the figures
    :ivar tables: after the plots
    :ivar folded: titles of tables that are shown when they are asked for
    """

    key: str
    title: str
    lead: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    folded: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


def cards(report: Report) -> list[Card]:
    """The run in six figures."""
    ours = report.run.statistics
    classic = next((one.statistics for one in report.rivals if one.key == "classic_exits"), None)
    if ours is None:
        return []
    shown: list[tuple[str, Callable[[Any], str]]] = [
        ("Profit", lambda of: percent(of.profit_ratio, 2)),
        ("A trade", lambda of: percent(of.per_trade, 3)),
        ("Won", lambda of: tabular.NOTHING if of.win_ratio is None else f"{100 * of.win_ratio:.0f} %"),
        ("Sharpe", lambda of: number(of.sharpe)),
        ("Drawdown", lambda of: f"{100 * of.max_drawdown_ratio:.1f} %"),
        ("Fees", lambda of: money(-of.fees)),
    ]
    return [Card(name, text(ours), "" if classic is None else text(classic)) for name, text in shown]


def sections(report: Report) -> list[Section]:
    """All that there is to say of a run; sections without anything to show are left out."""
    made = [
        Section(
            "rivals",
            "Beside its rivals",
            ("Everything below trades on the same candles, with the same fee and the same funding.",),
            tuple(plots.over_rivals(report)),
            (tabular.profits(report), tabular.costs(report)),
            notes=tuple(filter(None, (tabular.how_to_read(report), *tabular.notes(report), tabular.deflated(report)))),
        ),
        Section("time", "Over time", (), tuple(plots.over_time(report))),
        Section(
            "walk-forward",
            "Promised and earned",
            (
                "Policies were trained and chosen on earlier candles, then traded on later ones. Log returns a day, "
                "after costs, of an account that makes one trade after the other.",
            ),
            tuple(plots.walk_forward(report)),
            notes=tuple(filter(None, map(tabular.guarded_line, report.periods))),
            folded=(tabular.periods(report),) if report.periods else (),
        ),
        Section("candles", "Trades on their candles", (), tuple(plots.candles(report))),
        Section(
            "groups",
            "Where the profit comes from",
            (),
            tuple(plots.groups(report)),
            folded=tuple(
                tabular.groups(title, report.groups[name])
                for name, title in tabular.GROUPED.items()
                if report.groups[name]
            ),
        ),
        Section(
            "excursions",
            "How far trades went",
            (),
            tuple(plots.excursions(report)),
            (tabular.excursions(report),) if report.excursions else (),
        ),
        Section(
            "policy",
            "What the policy does",
            tuple(filter(None, (tabular.asked(report),))),
            tuple(plots.policy(report)),
            folded=tuple(_importance(report)),
        ),
    ]
    return [one for one in made if one.plots or one.tables] + [_audit(report.audit)]


def _importance(report: Report) -> Iterator[Table]:
    if report.importance is not None:
        columns = ("inputs", "kind", "how many", "change of the probability", "answers changed")
        rows = tuple(
            (one.name, one.kind, str(one.inputs), f"{one.change:.4f}", f"{100 * one.changed_minds:.1f} %")
            for one in report.importance.groups
        )
        yield Table("What the policy looks at", columns, rows, left=2)


def _audit(audit: Audit) -> Section:
    """Whether the trades are what training assumed."""
    rows = tuple((reason.name, f"{reason.count:,}", reason.first) for reason in audit.reasons)
    table = Table("Why the others differ", ("reason", "trades", "the first of them"), rows)
    return Section("audit", "Audit", (audit.sentence,), tables=(table,) if rows else (), notes=audit.notes)


def provenance(report: Report) -> list[Table]:
    """Where the run comes from: settings, versions, data, times and machine."""
    found, times = report.origin, report.origin.times
    candles = tuple(
        (pair, str(data["first"]), str(data["last"]), f"{data['candles']:,}") for pair, data in found.data.items()
    )
    fee = found.settings.get("fee_ratio")
    run = (
        ("result", report.result),
        ("strategy", report.strategy),
        ("made", f"{times['made']} UTC"),
        ("backtest", f"{times['backtest_seconds']:,.0f} s"),
        (
            "trainings",
            f"{times['trainings']:,}, {times['timesteps']:,} timesteps in {times['training_seconds']:,.0f} s together",
        ),
        ("seed", tabular.NOTHING if found.seed is None else str(found.seed)),
        ("fee", tabular.NOTHING if fee is None else f"{100 * fee:.3f} % a side"),
    )
    made = [
        Table("The run", ("", ""), run, left=2),
        Table("Candles, UTC", ("pair", "first", "last", "candles"), candles, left=3),
        Table("Settings in force", ("", ""), tuple(tabular.said(found.settings)), left=2),
        Table("rl_config", ("", ""), tuple(tabular.said(found.rl_config)), left=2),
        Table("Installed now", ("", ""), tuple(tabular.said(found.versions)), left=2),
        Table("The machine that made this report", ("", ""), tuple(tabular.said(found.machine)), left=2),
    ]
    return [table for table in made if table.rows]
