"""What ``mtfscalper train`` prints: the plan of a run, and what became of it."""

from __future__ import annotations

from collections import Counter

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mtfscalper.monitoring.estimate import training_seconds
from mtfscalper.monitoring.train_run import Plan, Trained
from mtfscalper.progress.words import duration
from mtfscalper.training.memory import memory_needed

_STATES = {"missing": "to train", "finished": "trained, not sealed yet", "reused": "reusable"}
_STYLES = {"missing": "yellow", "finished": "green", "reused": "green"}


def print_plan(plan: Plan, peak_flops: float, console: Console) -> None:
    """Print what a run would train, and roughly what that takes.

    :param peak_flops: of matrix products by second
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="what a run would train", title_justify="left")
    for column in ("pair", "trained from", "to", "candles", "policy"):
        table.add_column(column, justify="right" if column == "candles" else "left", overflow="fold")
    for pair in plan.pairs:
        for number, period in enumerate(pair.periods):
            state = Text(_STATES[period.state], style=_STYLES[period.state])
            if period.why:
                state.append(f": {period.why}", style="")
            dates = (period.training.start_fmt, period.training.stop_fmt)
            table.add_row(
                escape(pair.pair), *dates, f"{period.candles:,}", state, end_section=number + 1 == len(pair.periods)
            )
    console.print(table)
    counted = Counter(period.state for pair in plan.pairs for period in pair.periods)
    members = plan.settings.rl.ensemble
    of_members = f" of {members} members each" if members > 1 else ""
    console.print(
        f"{counted['missing']} policies to train{of_members}, {counted['reused']} reusable, {counted['finished']} "
        "trained by a run that was stopped."
    )
    if counted["missing"]:
        each = training_seconds(plan.settings, plan.timeframe, peak_flops)
        memory = sum(need.n_bytes for need in memory_needed(plan.settings, plan.n_features))
        rl = plan.settings.rl
        at_once = rl.workers if rl.executor == "processes" else 1 if rl.executor == "inline" else "auto"
        if at_once == "auto":
            in_all = f"how many at a time, executor {rl.executor!r} finds out as it runs"
        else:
            in_all = f"{duration(counted['missing'] * each / at_once)} in all, {at_once} at a time"
        console.print(
            f"Roughly {duration(each)} each, {in_all}; at least {memory / 1e6:,.1f} MB of "
            f"memory each beside its process ({plan.n_features} features a candle)."
        )


def print_trained(trained: Trained, console: Console) -> None:
    """Print what became of a run."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="trainings", title_justify="left")
    for column in ("pair", "trained", "reused"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    table.add_column("")
    for pair in trained.pairs:
        outcome = Text("all there", style="green") if pair.failure is None else Text(pair.failure, style="bold red")
        table.add_row(escape(pair.pair), str(pair.trained), str(pair.reused), outcome)
    console.print(table)
    n_trained = sum(pair.trained for pair in trained.pairs)
    console.print(f"{n_trained} policies trained in {duration(trained.seconds)}.")
    if not trained.is_whole:
        console.print("What has finished is kept: the next run, or the backtest, goes on from there.")
