"""What would train faster on this machine: the configuration to paste, and what speaks for it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from mtfscalper.monitoring.choices import Choice, as_config
from mtfscalper.monitoring.facts import TimedRun
from mtfscalper.monitoring.timing import GAIN_MIN, ROUNDS_MIN, Gain
from mtfscalper.monitoring.verdicts import counted


class Advice(NamedTuple):
    """
    :ivar headline: the advice in a sentence
    :ivar config: what to give as one more ``--config``; empty where nothing is to be changed
    :ivar rows: each way that was timed: its name, how many times as fast as the user's, and whether that is noise
    :ivar remarks: what else to know, a sentence each
    """

    headline: str
    config: dict[str, Any]
    rows: tuple[tuple[str, str, str], ...]
    remarks: tuple[str, ...]

    @property
    def pasted(self) -> str:
        """The configuration as a file holds it."""
        return json.dumps(self.config, indent=2)


def advise(timed_run: TimedRun) -> Advice:
    """Put what was timed into words."""
    timed = timed_run.timed
    rows = [(f"yours: {_words(timed.yours)}", "1.00", "")]
    for key, choice, found in timed.beside:
        name = f"{key} {getattr(choice, key)!r}"
        rows.append((name, "-", "could not run") if found is None else (name, *_figures(found)))
    remarks = [f"Not timed: {problem}." for problem in timed.problems]
    remarks.append(
        "Rollouts and updates as your training makes them; starting workers and evaluating are not part of it. "
        f"{timed_run.seconds:.0f} s of timing."
    )
    if timed.best is None:
        rounds = max((found.rounds for _, _, found in timed.beside if found is not None), default=0)
        why = f"nothing was {GAIN_MIN - 1:.0%} faster beyond noise."
        if rounds < ROUNDS_MIN:
            fitted = counted(rounds, "round")
            why = f"only {fitted} of {ROUNDS_MIN} fitted into the time; give more --seconds, or run it again alone."
        headline = f"No gain found, keep yours: {why}"
        return Advice(headline, {}, tuple(rows), tuple(remarks))
    choice, found = timed.best
    changes = timed.yours.differences(choice)
    rows.append((f"together: {_words(choice)}", *_figures(found)))
    if "precision" in changes:
        remarks.append("Another precision rounds otherwise: the policy will not be the same, bit for bit.")
    if "torch" in (choice.vec_env, timed.yours.vec_env) and "vec_env" in changes:
        remarks.append("'torch' draws its episodes otherwise than the other backends: the policy will not be the same.")
    headline = (
        f"Trains {found.ratio:.2f} times as fast ({found.low:.2f} to {found.high:.2f} in {found.rounds} rounds side by "
        "side). To have it, give this as one more --config:"
    )
    return Advice(headline, as_config(changes), tuple(rows), tuple(remarks))


def _figures(found: Gain) -> tuple[str, str]:
    if found.rounds < ROUNDS_MIN:
        return f"{found.ratio:.2f}", f"{counted(found.rounds, 'round')}, too few to tell"
    interval = f"{found.low:.2f} to {found.high:.2f}, {found.rounds} rounds"
    return f"{found.ratio:.2f}", interval if found.is_found else f"{interval}: no gain"


def _words(choice: Choice) -> str:
    return (
        f"{choice.vec_env}, {choice.cpu_count} + {choice.interop_threads} threads, {choice.precision}, {choice.device}"
    )
