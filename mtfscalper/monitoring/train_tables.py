"""What ``mtfscalper train`` prints: the plan of a run, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mtfscalper.executors.choice import trains_as_one_batch
from mtfscalper.executors.worker_count import counts_to_time, fitting_processes
from mtfscalper.monitoring.run_estimate import Machine, RunEstimate, run_estimate
from mtfscalper.monitoring.train_run import Plan, Trained
from mtfscalper.progress.words import duration
from mtfscalper.training.memory import memory_needed

_STATES = {"missing": "to train", "finished": "trained, not sealed yet", "reused": "reusable"}
_STYLES = {"missing": "yellow", "finished": "green", "reused": "green"}


def print_plan(plan: Plan, machine: Machine, console: Console) -> None:
    """Print what a run would train, and roughly what that takes.

    :param machine: that the command runs on
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
        memory = sum(need.n_bytes for need in memory_needed(plan.settings, plan.n_features))
        console.print(
            f"Roughly {_time_needed(plan, machine)}; at least {memory / 1e6:,.1f} MB of "
            f"memory each beside its process ({plan.n_features} features a candle)."
        )


def _time_needed(plan: Plan, machine: Machine) -> str:
    """How long the trainings take, for as many at a time as there may be."""
    rl = plan.settings.rl
    missing = [len(pair.missing) for pair in plan.pairs if pair.missing]

    def estimate(workers: int) -> RunEstimate:
        return run_estimate(plan.settings, plan.timeframe, plan.n_features, missing, machine, workers)

    if rl.executor == "processes":
        fitting = fitting_processes(plan.settings, plan.n_features)
        if rl.workers == "auto":
            found = [estimate(workers) for workers in counts_to_time(min(machine.processors, fitting))]
            each, seconds = _range([one.each for one in found]), _range([one.seconds for one in found])
            at_once = f"1 to {found[-1].at_once}"
            return f"{each} each, {seconds} in all: workers 'auto' measures how many at a time, {at_once}"
        return _said(estimate(min(rl.workers, fitting)), machine)
    if rl.executor == "ray":
        here = estimate(max(1, machine.processors // min(rl.torch_threads, machine.processors)))
        if rl.ray_address is None:
            return _said(here, machine)
        return f"{_said(here, machine)}, if the cluster had one node like this machine"
    if trains_as_one_batch(plan.settings):
        return f"{_said(estimate(1), machine)} at most, for they are trained as one batch"
    return _said(estimate(1), machine)


def _said(estimate: RunEstimate, machine: Machine) -> str:
    return (
        f"{duration(estimate.each)} each, {duration(estimate.seconds)} in all, {estimate.at_once} at a time on "
        f"{machine.processors} processors"
    )


def _range(seconds: Sequence[float]) -> str:
    least, most = duration(min(seconds)), duration(max(seconds))
    return least if least == most else f"{least} to {most}"


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
