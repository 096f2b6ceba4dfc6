"""A study's winner on the locked candles: looked at once, with seeds that no trial was trained from, and on record.

Each look is written down before it is run: what was seen cannot be unseen, whatever becomes of the run. A look that was
cut off is gone on with, for the same trial by the same limits, and stays one look.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from mtfscalper import artefacts
from mtfscalper.search.best import best_trial
from mtfscalper.search.errors import StudyError
from mtfscalper.search.gates import Limits, SeedDays, TrialDays, gates_of, interval_level
from mtfscalper.search.judgements import Begun, Judgement, Judgements, moment
from mtfscalper.search.leases import DUPLICATE, IMPOSSIBLE, SET_ASIDE, SURPLUS
from mtfscalper.search.looks import SharedLooks, looks_of_others
from mtfscalper.search.run_figures import Run, RunFigures, mean_differences
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial_attributes import DAILY, SEEDS_DONE
from mtfscalper.search.trial_config import overlay_hash, overlay_of
from mtfscalper.search.variations import varied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from optuna.trial import FrozenTrial

# Gives the run of a trial's settings with a seed on the locked candles.
RunSeed = Callable[[int], Run]
# Trials that never ran.
_NOT_RUN = (DUPLICATE, SURPLUS, IMPOSSIBLE)


# ---------------------------------------------------------------------- which trial


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The finished trial of the highest value.

    :raises StudyError: if none is finished
    """
    best = best_trial(trials)
    if best is None:
        raise StudyError(
            f"the study has no finished trial, of {len(trials)}; accepted: at least one; remedy: let mtfscalper study "
            "run go on"
        )
    return best


def finished_trial(trials: Sequence[FrozenTrial], number: int | None) -> FrozenTrial:
    """A trial by its number, or the best one.

    :raises StudyError: if there is none such that is finished
    """
    from optuna.trial import TrialState

    if number is None:
        return best_of(trials)
    found = next((trial for trial in trials if trial.number == number), None)
    if found is None or found.state != TrialState.COMPLETE:
        state = "not there" if found is None else found.state.name.lower()
        raise StudyError(
            f"--trial is {number}, which is {state}; accepted: a finished trial; remedy: leave --trial out for the best"
        )
    return found


def overlay_of_trial(spec: StudySpec, trial: FrozenTrial) -> dict[str, Any]:
    """A trial's settings as a freqtrade config, whichever machine it ran on."""
    return overlay_of(spec, SearchSpace.from_json(spec.space).values(trial.params))


def days_of_trials(folder: StudyFolder, trials: Sequence[FrozenTrial], seeds: Sequence[int]) -> list[TrialDays]:
    """What every trial that was ever run showed: finished, pruned, failed and running ones.

    A trial that was lost and begun again with the same parameters is one trial.

    :param seeds: of the tuning
    """
    from optuna.trial import TrialState

    again = {trial.user_attrs["again_of"] for trial in trials if "again_of" in trial.user_attrs}
    ever = [
        trial
        for trial in trials
        if trial.state != TrialState.WAITING
        and trial.number not in again
        and trial.user_attrs.get(SET_ASIDE) not in _NOT_RUN
    ]
    return [_trial_days(folder, trial, seeds, complete=trial.state == TrialState.COMPLETE) for trial in ever]


def _trial_days(folder: StudyFolder, trial: FrozenTrial, seeds: Sequence[int], *, complete: bool) -> TrialDays:
    attrs = trial.user_attrs
    wanted = len(seeds) if complete else len(attrs.get(SEEDS_DONE, ()))
    if (told := attrs.get(DAILY)) is not None and len(told["seeds"]) >= wanted:
        days = range(told["first_day"], told["first_day"] + len(told["differences"]))
        return TrialDays(trial.number, complete, tuple(days), tuple(told["differences"]))
    # Of a version that kept them in the folder alone.
    runs = [
        RunFigures.from_json(json.loads(path.read_text(encoding="utf-8")))
        for seed in seeds
        if (path := folder.run_file(trial.number, seed)).is_file()
    ]
    if len(runs) < wanted:
        raise StudyError(
            f"trial {trial.number} is {trial.state.name.lower()}, and {wanted - len(runs)} of its {wanted} runs are "
            f"missing in {folder.trial(trial.number)}; accepted: the figures of every run; remedy: copy its folder "
            "here from the machine that ran it"
        )
    if not runs:
        return TrialDays(trial.number, complete=False)
    if any(run.days != runs[0].days for run in runs):
        raise StudyError(
            f"the runs of trial {trial.number} are not of the same days; accepted: one timerange for all; remedy: move "
            f"{folder.trial(trial.number)} away and run the study again"
        )
    return TrialDays(trial.number, complete, runs[0].days, mean_differences(runs))


# ---------------------------------------------------------------------- the look


def judge(
    folder: StudyFolder,
    trials: Sequence[FrozenTrial],
    trial: FrozenTrial,
    run_seed: RunSeed,
    limits: Limits | None = None,
    *,
    again: bool = False,
    progress: Callable[[str], None] = lambda _: None,
    candles: Callable[[], str] = lambda: "",
    shared: SharedLooks | None = None,
) -> tuple[Judgement, bool]:
    """Look at the locked candles with a trial's settings, or repeat what an earlier look showed.

    :param trials: all of the study
    :param trial: finished
    :param run_seed: makes a run on the locked candles
    :param limits: None for the usual ones, or those that the trial has been judged by
    :param again: whether to look anew where that trial has been judged
    :param progress: is told what is done next
    :param candles: gives a hash of the locked candles; raises where those before them are not the study's
    :param shared: looks in the study's storage, which other machines have too
    :return: the judgement, and whether it was looked for it now
    :raises StudyError: if the study does not hold what is needed, somebody looks now, the trial has been judged by
        other limits, or the locked candles are others than at an earlier look
    """
    spec = folder.spec
    overlay = overlay_hash(overlay_of_trial(spec, trial))
    found = Judgements(folder, shared)
    known = found.of(trial.number, overlay)
    if known is not None and not again:
        _check_limits(trial.number, "was judged", known.limits, limits)
        return known, False
    _check_seeds(spec.tuning_seeds, spec.test_seeds)
    tried = days_of_trials(folder, trials, spec.tuning_seeds)
    code = artefacts.code_hash()
    terms = {"trial": trial.number, "overlay": overlay, "code": code, "locked": spec.locked}
    with _alone(folder):
        seen = candles()
        _check_candles(spec, found.candles_seen() - {seen})
        begun = _gone_on_with(found.unfinished(terms), trial.number, limits, again=again)
        limits = limits or (Limits() if begun is None else Limits(**begun.limits or {}))
        look = _begin(found, folder, spec, terms, limits, seen) if begun is None else begun.look
        seeds = []
        try:
            for nth, seed in enumerate(spec.test_seeds, 1):
                progress(f"trial {trial.number} on the locked candles, seed {nth} of {len(spec.test_seeds)}")
                # Hours may lie between two seeds.
                _check_candles(spec, {candles()} - {seen})
                seeds.append(_seed(found.seed_file(look, seed), seed, run_seed, limits))
        except BaseException as error:
            found.fail(look, error)
            raise
        progress("the gates")
        days = [days for days, _ in seeds]
        judgement = Judgement(
            look=look,
            trial=trial.number,
            overlay=overlay,
            level=interval_level(look),
            gates=gates_of(days, tried, look, limits),
            difference=float(np.mean([one.differences.mean() for one in days])),
            profit=float(np.mean([sum(figures.profits) for _, figures in seeds])),
            seeds=spec.test_seeds,
            locked=spec.locked,
            trials=len(tried),
            limits=limits.model_dump(),
            code=code,
            at=moment(),
            looks_of_others=next(one.looks_of_others for one in found.begun() if one.look == look),
        )
        found.end(judgement)
    return judgement, True


def _gone_on_with(begun: Begun | None, trial: int, limits: Limits | None, *, again: bool) -> Begun | None:
    """The look that was cut off, if it is to be gone on with: what it showed by then may have been read."""
    if begun is None or (limits is not None and again and begun.limits != limits.model_dump()):
        return None
    _check_limits(trial, f"is being judged at look {begun.look}, which was cut off,", begun.limits or {}, limits)
    return begun


def _check_candles(spec: StudySpec, others: Collection[str]) -> None:
    """
    :param others: hashes of locked candles that were seen before, other than those that there are now
    """
    if others:
        raise StudyError(
            f"the locked candles of {', '.join(spec.pairs)} in {spec.datadir}, {spec.locked}, are others than an "
            f"earlier look at them saw (hash {', '.join(sorted(others))}); accepted: the same, as what was seen once "
            "chooses otherwise among repaired candles; remedy: put back the files of that look, or begin another study"
        )


def _begin(
    found: Judgements, folder: StudyFolder, spec: StudySpec, terms: Mapping[str, Any], limits: Limits, candles: str
) -> int:
    # Two studies that begin to look at once are each other's first look, and one of them is the second.
    with FileLock(folder.path.parent / ".looks.lock"):
        return found.begin(terms, looks_of_others(folder, spec), limits.model_dump(), candles)


def _seed(path: Path, seed: int, run_seed: RunSeed, limits: Limits) -> tuple[SeedDays, RunFigures]:
    """One seed's run, or what is on disk of it from a look that was cut off."""
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["terms"] == _terms(limits):
            figures = RunFigures.from_json(values["figures"])
            return _seed_days(figures, values["dear"], values["late"]), figures
    run = run_seed(seed)
    figures = run.figures
    dear = _varied(run, fee_factor=limits.fee_factor)
    late = _varied(run, late_candles=limits.late_candles)
    values = {"figures": figures.as_json(), "dear": dear, "late": late, "terms": _terms(limits)}
    artefacts.write_json(path, artefacts.plain_json(values))
    return _seed_days(figures, dear, late), figures


def _terms(limits: Limits) -> dict[str, Any]:
    return {"fee_factor": limits.fee_factor, "late_candles": limits.late_candles}


def _seed_days(figures: RunFigures, dear: float | None, late: float | None) -> SeedDays:
    daily = np.array(figures.differences) / _pairs(figures)
    return SeedDays(figures.seed, daily, figures.trades, figures.max_drawdown, dear, late)


def _pairs(figures: RunFigures) -> int:
    return len({instance.pair for instance in figures.instances}) or 1


def _varied(run: Run, *, fee_factor: float = 1.0, late_candles: int = 0) -> float | None:
    """The paired difference of a day and pair on other terms; None without trades."""
    found = varied(run.trades, run.tapes, run.rules, fee_factor=fee_factor, late_candles=late_candles)
    return found.difference / len(run.figures.days) / _pairs(run.figures) if len(found.trades) else None


def _check_limits(trial: int, said: str, known: Mapping[str, Any], limits: Limits | None) -> None:
    asked = known if limits is None else limits.model_dump()
    if others := {name: value for name, value in asked.items() if known.get(name) != value}:
        received = ", ".join(f"{name} {value:g}" for name, value in others.items())
        judged = ", ".join(f"{name} {known.get(name)}" for name in others)
        raise StudyError(
            f"trial {trial} {said} by another limit ({judged}) than is asked for ({received}); accepted: that one; "
            "remedy: leave the limit away, or look anew with --again, which makes the gates harder to pass"
        )


def _check_seeds(tuning: Sequence[int], test: Sequence[int]) -> None:
    if not test or set(tuning) & set(test):
        raise StudyError(
            f"the study's test seeds are {list(test)} and its tuning seeds {list(tuning)}; accepted: test seeds that "
            "no trial was trained from; remedy: begin another study"
        )


@contextmanager
def _alone(folder: StudyFolder) -> Iterator[None]:
    try:
        with FileLock(folder.path / ".judging.lock", timeout=0):
            yield
    except Timeout:
        raise StudyError(
            f"another process looks at the locked candles of {folder.path}; accepted: one at a time; remedy: wait for "
            "its end"
        ) from None
