"""The figures of a report, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from mtfscalper.reporting import figures
from mtfscalper.reporting.charts import ChosenCandles
from mtfscalper.reporting.figures.walk_forward import Period
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.periods import Stretch
from mtfscalper.reporting.report import Report
from mtfscalper.reporting.tabular import GROUPED
from mtfscalper.reporting.wording import money, percent

# Dots of one figure: a browser draws each by itself.
DOTS = 3000
# Rows of the shares of actions.
_SHARES = 24
_SHORT = {
    "classic_exits": "classic exits",
    "own_exits": "strategy's exits",
    "classic_run": "full classic run",
    "strategy_run": "full strategy run",
    "random_exits": "random exits",
    "flat": "always flat",
    "buy_and_hold": "buy and hold",
    "equal_weight": "equal weight",
}


class Plot(NamedTuple):
    """A figure of the page.

    :ivar key: its name in the page
    :ivar caption: what it shows, in words: for whoever cannot see it too
    :ivar is_folded: whether it is drawn when it is asked for
    """

    key: str
    title: str
    caption: str
    figure: go.Figure
    is_folded: bool = False
    is_wide: bool = False


def over_rivals(report: Report) -> Iterator[Plot]:
    """How much more the run earned than each rival: entry by entry, and day by day."""
    of_trades = [rival for rival in report.rivals if rival.a_trade is not None]
    of_days = [rival for rival in report.rivals if rival.a_day is not None]
    for key, title, rivals, intervals, basis in (
        ("over-trade", "Earned more, a trade", of_trades, [rival.a_trade for rival in of_trades], "share of the stake"),
        ("over-day", "Earned more, a day", of_days, [rival.a_day for rival in of_days], "share of the wallet"),
    ):
        known = [one for one in intervals if one is not None]
        if not known:
            continue
        spans = [None if one.low is None or one.high is None else (one.low, one.high) for one in known]
        figure = figures.spans([_SHORT[rival.key] for rival in rivals], [one.mean for one in known], spans)
        caption = (
            f"This run's profit less each rival's, as a {basis}: the dot is the mean, the bar its 90 % interval. Only "
            "a bar that lies on one side of the line at zero says anything; a dot alone stands for too few trades."
        )
        yield Plot(key, title, caption, figure)


def over_time(report: Report) -> Iterator[Plot]:
    """Day by day: paired differences, equity, drawdown."""
    if report.paired_days:
        total = sum(report.paired_differences)
        caption = (
            f"What the run earned more than its own entries with classic exits, on {len(report.paired_days)} days on "
            f"which either held a trade: {percent(total, 1)} of the stakes in sum. The verdict's interval is drawn "
            "from these days."
        )
        figure = figures.paired_differences(report.paired_days, report.paired_differences)
        yield Plot("paired", "Paired differences, day by day", caption, figure, is_wide=True)
    equity = {"this run": report.run.equity} | {
        _SHORT[rival.key]: rival.equity for rival in report.rivals if rival.equity
    }
    settings = report.origin.settings
    start, currency = float(settings["starting_balance"]), str(settings["stake_currency"])
    figure = figures.equities(report.days, equity, currency)
    caption = (
        f"The wallet at the end of each day (UTC), open trades marked; it began with {start:,.0f} {currency}. Rivals "
        "by the same entries may hold more trades at once than the run had slots. A click on a name hides its line."
    )
    yield Plot("equity", "Equity", caption, figure)
    caption = "How far each of these wallets was below its highest mark so far."
    yield Plot("drawdown", "Drawdown", caption, figures.drawdowns(report.days, equity, start))


def walk_forward(report: Report) -> Iterator[Plot]:
    """Period by period: what was promised and what was earned."""
    if not report.periods:
        return
    periods = [
        Period(
            pair=one.pair,
            name=f"{one.pair} from {moment(one.first_ms)[:10]}",
            first_ms=one.first_ms,
            training=_a_day(one.training),
            evaluation=_a_day(one.evaluation),
            traded=one.traded.a_day,
            classic=one.classic.a_day,
            trades=(None if one.evaluation is None else one.evaluation.trades, one.traded.trades),
            evaluations=_evaluations(one.evaluations, one.evaluation),
            chosen_timesteps=one.chosen_timesteps,
            falls_back=one.falls_back,
        )
        for one in report.periods
    ]
    gaps = [one.gap_a_day for one in report.periods if one.gap_a_day is not None]
    gap = f" The median fall from evaluation to trading is {100 * float(np.median(gaps)):.3f} % a day." if gaps else ""
    caption = (
        "Each grey line is one period's policy: where it learned (if that was noted), on the candles by which it was "
        "chosen, and where it then traded; beside it the same entries with classic exits. A line that falls is a "
        f"promise not kept: the fall is the overfitting.{gap}"
    )
    compared = [period for period in periods if not period.falls_back]
    if compared:
        yield Plot("overfitting", "From promise to trading", caption, figures.overfitting(compared))
    caption = "The same in time: the line between evaluation and traded is each period's gap."
    yield Plot("walk-forward", "Period by period", caption, figures.walk_forward(periods))
    if any(period.evaluations for period in periods):
        chosen = [one.evaluation.trades for one in report.periods if one.evaluation is not None]
        caption = (
            "All evaluations on held-out candles while the policies were trained; larger marks had more trades, a star "
            f"is the one that was kept. It was chosen by {_span(chosen)} trades (median {float(np.median(chosen)):g}): "
            "the fewer, the more it was chosen by chance."
            if chosen
            else "All evaluations on held-out candles while the policies were trained."
        )
        yield Plot(
            "evaluations", "Evaluations during the trainings", caption, figures.evaluations(periods), is_wide=True
        )


def _a_day(stretch: Stretch | None) -> float | None:
    return None if stretch is None else stretch.a_day


def _evaluations(points: tuple, best: Stretch | None) -> list[tuple[int, float, int]]:  # type: ignore[type-arg]
    days = best.days if best is not None and best.days else 1.0
    return [(one.timesteps, one.log_return / days, one.trades) for one in points]


def _span(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def candles(report: Report) -> Iterator[Plot]:
    """Candles of each pair with its trades; the first is open."""
    for at, chosen in enumerate(report.candles):
        trades = [report.trades[position] for position in chosen.trades]
        asked = sum(len(one.dates_ms) for one in chosen.asked)
        first, last = moment(chosen.dates_ms[0]), moment(chosen.dates_ms[-1])
        below = (
            f" Below them, for each trade, the probability of leaving that the policy gave, at {asked:,} questions."
            if asked
            else " No record of a policy's answers belongs to these trades."
        )
        caption = (
            f"{len(chosen.dates_ms):,} of {chosen.of:,} candles of {chosen.pair}, {first} to {last} UTC: the stretch "
            f"with the most entries, {len(trades)} trades. Triangles are entries, other marks exits by reason.{below}"
        )
        yield Plot(f"candles-{at}", chosen.pair, caption, _chart(chosen, trades), is_folded=at > 0, is_wide=True)


def _chart(chosen: ChosenCandles, trades: list[dict]) -> go.Figure:  # type: ignore[type-arg]
    rates = np.asarray(chosen.rates)
    marks = [
        figures.TradeMark(
            bool(trade["is_short"]),
            int(trade["open_ms"]),
            float(trade["open_rate"]),
            int(trade["close_ms"]),
            float(trade["close_rate"]),
            str(trade["exit_reason"]),
            float(trade["profit_ratio"]),
        )
        for trade in trades
    ]
    lines = [figures.PolicyLine(*one) for one in chosen.asked]
    return figures.candles(figures.CandleChart(np.asarray(chosen.dates_ms), *rates.T), marks, lines)


def groups(report: Report) -> Iterator[Plot]:
    """Profit by exit reason, hour, holding time and pair."""
    currency = str(report.origin.settings["stake_currency"])
    for name, title in GROUPED.items():
        found = report.groups[name]
        if found:
            figure = figures.profits(
                [group.key for group in found],
                [group.profit for group in found],
                [group.classic_profit for group in found],
                [group.trades for group in found],
                currency,
            )
            best = max(found, key=lambda group: group.profit)
            worst = min(found, key=lambda group: group.profit)
            caption = (
                f"Bars are the run's profit, diamonds that of the same entries with classic exits. Most: {best.key} "
                f"({money(best.profit)} {currency}); least: {worst.key} ({money(worst.profit)})."
            )
            yield Plot(f"by-{name}", title, caption, figure)


def excursions(report: Report) -> Iterator[Plot]:
    """How far each trade went, against where it was left."""
    if not report.trades:
        return
    every = max(-(-len(report.trades) // DOTS), 1)
    shown = report.trades[::every]
    some = f" Every {every}th of {len(report.trades):,} trades is drawn." if every > 1 else ""
    reasons, left = [str(trade["exit_reason"]) for trade in shown], [trade["exit_move"] for trade in shown]
    for key, title, axis, words in (
        ("mae", "Worst excursion (MAE) against the exit", "worst it stood at", "above it, the more it had recovered"),
        ("mfe", "Best excursion (MFE) against the exit", "best it stood at", "below it, the more it had given back"),
    ):
        caption = (
            "One dot a trade, before costs, by exit reason. On the dotted line a trade was left right there; the "
            f"farther {words} before its exit.{some}"
        )
        yield Plot(key, title, caption, figures.excursions(reasons, [trade[key] for trade in shown], left, axis))


def policy(report: Report) -> Iterator[Plot]:
    """What the policy does, and what it looks at."""
    if report.actions:
        shares = dict(list(report.actions.items())[:_SHARES])
        more = "" if len(shares) == len(report.actions) else f" The first {len(shares)} rows of {len(report.actions)}."
        caption = (
            "Flat: what the policy chose after each closed candle, as if no trade were open. In a trade: what it "
            f"answered when it was asked about an open one.{more}"
        )
        yield Plot("actions", "Shares of the actions", caption, figures.action_shares(shares))
    if report.importance is not None:
        found = report.importance
        caption = (
            f"{found.questions:,} of the run's questions were asked again of {found.policies} policies, one group "
            "of inputs being taken from other questions. The bar is how far p(leave) moved on average. "
            f"Groups overlap: an indicator on all timeframes, a timeframe of all. Most: {found.groups[0].name}."
        )
        shown = found.groups[:30]
        figure = figures.importances([group.name for group in shown], [group.change for group in shown])
        yield Plot("importance", "What the policy looks at", caption, figure)
    if report.decisions is not None:
        grid = report.decisions.grid
        caption = (
            "The mean probability of leaving, by the trade's profit and the candles held when the policy was asked. "
            "Cells hold about as many questions in each direction; their edges are written at the axes."
        )
        figure = figures.exit_probability(grid.profit_edges, grid.held_edges, grid.probability, grid.questions)
        yield Plot("exit-probability", "Exit probability over profit and time held", caption, figure, is_wide=True)
