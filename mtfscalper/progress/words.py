"""How far a run is, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # They import torch, which whoever looks at a study does without.
    from mtfscalper.progress.run import RunProgress
    from mtfscalper.training.evaluation import Evaluation
    from mtfscalper.training.request import TrainingRequest
    from mtfscalper.training.watching import TrainingState

# Of trainings at once, as many are named in a line.
_NAMED = 8


def duration(seconds: float) -> str:
    """A duration as people say it: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def left(run: RunProgress) -> str:
    """What is left of the whole run."""
    seconds = run.seconds_left
    return (
        "time left: known after the first update" if seconds is None else f"{duration(seconds)} left of the whole run"
    )


def beginning(run: RunProgress, job: TrainingRequest) -> str:
    """Which training begins, on what, and how much of the run is left."""
    candles = [(len(job.train), "candles")]
    candles += [
        (len(tape), purpose) for tape, purpose in ((job.evaluation, "held out"), (job.judging, "to judge")) if tape
    ]
    said = ", ".join(f"{n} {purpose}" for n, purpose in candles)
    place = f"{run.number_of(job.name)} of {run.n_policies}"
    rest = "" if run.seconds_left is None else f", {left(run)}"
    return f"Starting training {job.name}: {said}; {place}{rest}."


def which(run: RunProgress, state: TrainingState) -> str:
    """Which training of how many it is."""
    member = f", {state.part}" if state.part else ""
    return f"{state.name}{member} ({run.number_of(state.name)} of {run.n_policies})"


def pace(run: RunProgress) -> str:
    """Samples a second."""
    rate = run.samples_per_second
    return "- samples/s" if rate is None else f"{rate:,.0f} samples/s"


def learned(state: TrainingState) -> str:
    """Evaluation and entropy."""
    if state.evaluation is None or state.best is None:
        evaluation = "not evaluated yet"
    else:
        evaluation = f"evaluation {_log_return(state.evaluation)}, best {_log_return(state.best)}"
    entropy = "" if state.entropy is None else f" · entropy {state.entropy:.3f}"
    return evaluation + entropy


def row(run: RunProgress, state: TrainingState) -> str:
    """One of several trainings that are under way."""
    return f"{share_of(state):4.0%} {which(run, state)} · {learned(state)}"


def share_of(state: TrainingState) -> float:
    """Of a training, how much is done, from 0 to 1."""
    return min(state.timesteps / max(state.timesteps_planned, 1), 1.0)


def lines_of_several(run: RunProgress, running: Sequence[TrainingState]) -> str:
    """How far several trainings at once are, in one line for a log."""
    each = ", ".join(f"{which(run, state)} {share_of(state):.0%}" for state in running[:_NAMED])
    more = f" and {len(running) - _NAMED} more" if len(running) > _NAMED else ""
    return f"{len(running)} trainings at once: {each}{more} · {pace(run)} · {left(run)}."


def line(run: RunProgress, state: TrainingState) -> str:
    """All of it in one line, for a log."""
    return (
        f"Training {which(run, state)}: {state.timesteps:,} of {state.timesteps_planned:,} samples, {pace(run)} · "
        f"{learned(state)} · {left(run)}."
    )


def _log_return(evaluation: Evaluation) -> str:
    return f"{evaluation.log_return:+.4f} ({evaluation.trades} trades)"
