"""What would train faster on this machine: the configuration to paste, and what speaks for it."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from mtfscalper.monitoring.choices import as_config
from mtfscalper.monitoring.facts import TimedRun
from mtfscalper.monitoring.others import Others
from mtfscalper.monitoring.timing import GAIN_MIN, ROUNDS_MIN, Gain, Timed
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


def advise(timed_run: TimedRun, processors: int) -> Advice:
    """Put what was timed into words.

    :param processors: that the run may use
    """
    timed, others = timed_run.timed, Others(timed_run.others_cores)
    rows = [(f"yours: {timed.yours}", "1.00", "")]
    for _, choice, found in timed.beside:
        name = ", ".join(f"{key} {value!r}" for key, value in timed.yours.differences(choice).items())
        rows.append((name, "-", "could not run") if found is None else (name, *_figures(found)))
    if timed.candidate is not None:
        rows.append((f"once more: {timed.candidate[0]}", *_figures(timed.candidate[1])))
    busy = f"while other programs used {others.cores:.1f} of {counted(processors, 'core')}" if others.is_busy else ""
    remarks = [f"Not timed: {problem}." for problem in timed.problems]
    if busy:
        remarks.insert(0, f"Timed {busy}: alone, another way may be the faster one. Run it again alone.")
    if timed.best is None:
        return Advice(f"No gain found, keep yours: {_why_none(timed)}", {}, tuple(rows), (*remarks, _what(timed_run)))
    choice, found = timed.best
    changes = timed.yours.differences(choice)
    remarks.append(
        f"A whole training: about {whole_gain(found.ratio, timed_run.rest_share):.2f} times as fast, for "
        f"{timed_run.rest_share:.0%} of this run's was the start of workers and evaluations, which stay as they are."
    )
    remarks.append(_what(timed_run))
    if "precision" in changes:
        remarks.append("Another precision rounds otherwise: the policy will not be the same, bit for bit.")
    if "torch" in (choice.vec_env, timed.yours.vec_env) and "vec_env" in changes:
        remarks.append("'torch' draws its episodes otherwise than the other backends: the policy will not be the same.")
    headline = (
        f"Rollouts and updates {found.ratio:.2f} times as fast ({found.low:.2f} to {found.high:.2f} in {found.rounds} "
        f"rounds side by side{f', {busy}' if busy else ''}). To have it, give this as one more --config, the last:"
    )
    return Advice(headline, as_config(changes), tuple(rows), tuple(remarks))


def whole_gain(ratio: float, rest_share: float) -> float:
    """How many times as fast a whole training is, once its rollouts and updates are (Amdahl's law).

    :param rest_share: of the training, what stays as it is
    """
    return 1.0 / (rest_share + (1.0 - rest_share) / ratio)


def _why_none(timed: Timed) -> str:
    rounds = max((found.rounds for _, _, found in timed.beside if found is not None), default=0)
    if timed.candidate is None:
        if rounds >= ROUNDS_MIN:
            return f"nothing looked {GAIN_MIN - 1:.0%} faster."
        what = "nothing looked faster"
    else:
        rounds, what = timed.candidate[1].rounds, "something looked faster"
        if rounds >= ROUNDS_MIN:
            return f"what looked faster was not {GAIN_MIN - 1:.0%} faster beyond noise when it was timed once more."
    return f"{what}, but only {counted(rounds, 'round')} of {ROUNDS_MIN} fitted into the time; give more --seconds."


def _what(timed_run: TimedRun) -> str:
    return (
        f"Timed were rollouts and updates as this run made them, {timed_run.seconds:.0f} s in all; each way differs "
        "from yours in what its line names."
    )


def _figures(found: Gain) -> tuple[str, str]:
    if found.rounds < ROUNDS_MIN:
        return f"{found.ratio:.2f}", f"{counted(found.rounds, 'round')}, too few to tell"
    interval = f"{found.low:.2f} to {found.high:.2f}, {found.rounds} rounds"
    return f"{found.ratio:.2f}", interval if found.is_found else f"{interval}: no gain"
