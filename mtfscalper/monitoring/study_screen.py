"""A study as people see it: one screen on a terminal, else one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mtfscalper.monitoring.study_state import Ranked, Running, StudyState
from mtfscalper.progress.words import duration
from mtfscalper.search.last_judgement import Judged

# Trials that have a row of their own.
_RANKED = 5
_RUNNING = 8
_GB = 1e9
NOTHING = "–"


def screen(state: StudyState, load: str, judged: Judged | None) -> RenderableType:
    """The whole screen.

    :param load: of the machine, in one line
    """
    parts: list[RenderableType] = []
    if state.asked:
        bar = Table.grid(expand=True)
        share = min(state.finished / state.asked, 1.0)
        bar.add_row(ProgressBar(total=1.0, completed=share), f" {share:4.0%}")
        parts.append(bar)
    parts += [Text(counts(state)), Text(pace(state)), Text(load, style="dim")]
    # Tables have empty lines around them.
    parts.append(_running_table(state.running) if state.running else Text())
    parts.append(Text(standing(state), style="bold"))
    parts.append(_ranking_table(state.ranking[:_RANKED]) if state.ranking else Text())
    parts += _gates(judged)
    if state.last_error is not None:
        number, error = state.last_error
        parts.append(Text(f"Trial {number} failed: {error}", style="yellow"))
    return Panel(Group(*parts), title=Text(f"Study {state.name}"), title_align="left")


def line(state: StudyState, load: str, judged: Judged | None) -> str:
    """All of it in one line."""
    parts = [counts(state), pace(state), standing(state), gates_in_words(judged), load]
    return f"Study {state.name}: {' · '.join(parts)}"


def counts(state: StudyState) -> str:
    """How many trials are where."""
    of = "" if state.asked is None else f" of {state.asked}"
    silent = sum(one.is_lost for one in state.running)
    parts = [
        f"{state.finished}{of} trials finished: {state.done} completed, {state.pruned} pruned",
        f"{state.failed} failed",
        f"{state.impossible} impossible" if state.impossible else "",
        f"{state.again} lost or stopped and run again" if state.again else "",
        f"{len(state.running)} running" + (f" ({silent} without a sign of life)" if silent else ""),
        f"{state.waiting} waiting" if state.waiting else "",
    ]
    return "; ".join(filter(None, parts))


def pace(state: StudyState) -> str:
    """Trials an hour, time left, samples a second."""
    if state.is_over:
        left = "all done"
    elif state.seconds_left is not None:
        left = f"{duration(state.seconds_left)} left at this pace"
    elif state.asked is None:
        left = "time left: nobody said how many trials"
    else:
        left = "time left: known after the first trial"
    rate = NOTHING if state.trials_per_hour is None else _short(state.trials_per_hour)
    parts = [f"{rate} trials/h", left]
    if state.samples_per_second is not None and state.samples_per_second_in_all is not None:
        together = f"{state.samples_per_second_in_all:,.0f} of the whole study"
        parts.append(f"{state.samples_per_second:,.0f} samples/s of a training, {together}")
    return " · ".join(parts)


def standing(state: StudyState) -> str:
    """The best trial beside classic exits and beside its rivals."""
    if not state.ranking:
        return "no trial has been completed yet"
    best = state.ranking[0]
    said = f"best: trial {best.number}, {ratio(best.value)} a day over classic exits"
    if best.low is None or best.high is None:
        return f"{said}; too few trades or days for an interval"
    beats = "above zero" if best.low > 0 else "below zero" if best.high < 0 else "zero lies within"
    said = f"{said}, 90 % interval {ratio(best.low)} to {ratio(best.high)}: {beats}"
    rivals = len(state.ranking) - 1
    return f"{said}; {state.reaching} of {rivals} rivals may be as good" if rivals else said


def gates_in_words(judged: Judged | None) -> str:
    """What the last judgement found, in a few words."""
    if judged is None:
        return "not judged yet"
    verdict = "all passed" if judged.passed == len(judged.gates) else "not passed"
    return f"gates of trial {judged.trial}: {judged.passed} of {len(judged.gates)}, {verdict}"


def ratio(value: float | None) -> str:
    """A share as people read it."""
    return NOTHING if value is None else f"{100 * value:+.3f} %"


class IntervalBar:
    """An interval drawn in text, as wide as there is room: ``│`` where classic exits are, ``●`` at the value."""

    def __init__(self, one: Ranked, lowest: float, highest: float) -> None:
        """
        :param lowest: value at the left end, at most 0, as ``highest`` at the right end, at least 0
        """
        self._one, self._lowest, self._range = one, lowest, (highest - lowest) or 1.0

    def drawn(self, width: int) -> Text:
        """The bar, in so many columns."""

        def column(value: float) -> int:
            return round((value - self._lowest) / self._range * (width - 1))

        signs, style = [" "] * width, ""
        low, high = self._one.low, self._one.high
        if low is not None and high is not None:
            signs[column(low) : column(high) + 1] = "━" * (column(high) - column(low) + 1)
            style = "green" if low > 0 else "red" if high < 0 else ""
        signs[column(0.0)] = "│" if signs[column(0.0)] == " " else "┿"
        signs[column(self._one.value)] = "●"
        return Text("".join(signs), style=style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.drawn(options.max_width)


def _ranking_table(ranked: Sequence[Ranked]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for heading in ("trial", "a day", "90 % interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("│ classic exits", no_wrap=True, ratio=1)
    ends = [value for one in ranked for value in (one.low, one.high, one.value) if value is not None]
    lowest, highest = min(0.0, *ends), max(0.0, *ends)
    for one in ranked:
        span = NOTHING if one.low is None else f"{ratio(one.low)} to {ratio(one.high)}"
        table.add_row(str(one.number), ratio(one.value), span, IntervalBar(one, lowest, highest))
    return table


def _running_table(running: Sequence[Running]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("running", "worker", "for", "instances", "so far", "memory"):
        table.add_column(heading, justify="left" if heading == "worker" else "right", no_wrap=True)
    for one in running[:_RUNNING]:
        table.add_row(
            str(one.number),
            Text(f"{one.worker or NOTHING}{' lost' if one.is_lost else ''}", style="red" if one.is_lost else ""),
            duration(one.seconds),
            str(one.instances),
            ratio(one.mean),
            NOTHING if one.memory_bytes is None else f"{one.memory_bytes / _GB:.1f} GB",
        )
    if len(running) > _RUNNING:
        table.caption = f"and {len(running) - _RUNNING} more"
    return table


def _gates(judged: Judged | None) -> list[RenderableType]:
    if judged is None:
        return [Text("Gates: no trial has been judged on the locked candles yet (mtfscalper study judge)")]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("gate", "value", "threshold", ""):
        table.add_column(heading, justify="right" if heading in ("value", "threshold") else "left")
    for gate in judged.gates:
        verdict = Text("passed", style="green") if gate.passed else Text("not passed", style="red")
        table.add_row(gate.name, gate.has, gate.needs, verdict)
    return [Text(f"Last judged: {gates_in_words(judged)}; look {judged.look} at the locked candles"), table]


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
