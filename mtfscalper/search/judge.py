"""A study's winner on the locked candles: looked at once, with seeds that no trial was trained from, and on record.

Each look is written down before it is run: what was seen cannot be unseen, whatever becomes of the run. A look that was
cut off is gone on with, for the same trial, and stays one look.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from mtfscalper import artefacts
from mtfscalper.search.errors import StudyError
from mtfscalper.search.gates import Gate, Limits, SeedDays, TrialDays, gates_of, interval_level
from mtfscalper.search.leases import DUPLICATE, IMPOSSIBLE, SET_ASIDE, SURPLUS
from mtfscalper.search.ledger import Ledger
from mtfscalper.search.looks import looks_of, looks_of_others
from mtfscalper.search.run_figures import Run, RunFigures
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec
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
_BEGUN, _DONE, _FAILED = "begun", "done", "failed"


class Judgement(NamedTuple):
    """What a look at the locked candles showed of a trial.

    :ivar look: how many times they had been looked at, this time included, by this study and by others
    :ivar trial: its number in the study
    :ivar overlay: hash of its settings
    :ivar level: of the interval, see :func:`mtfscalper.search.gates.interval_level`
    :ivar difference: paired, of a day and pair, the mean of all seeds, as a trial's value is
    :ivar profit: of the run itself on these candles, a share of the wallet at the start, the mean of all seeds
    :ivar seeds: of the trainings
    :ivar trials: that the study had run by then, those pruned too
    :ivar code: hash of the package's code that was judged
    :ivar at: when, ISO date and time, UTC
    :ivar looks_of_others: those of them that other studies had, by study
    """

    look: int
    trial: int
    overlay: str
    level: float
    gates: tuple[Gate, ...]
    difference: float
    profit: float
    seeds: tuple[int, ...]
    locked: str
    trials: int
    limits: dict[str, Any]
    code: str
    at: str
    looks_of_others: dict[str, int]

    @property
    def passed(self) -> bool:
        """Whether every gate is."""
        return all(gate.passed for gate in self.gates)

    @property
    def loses(self) -> bool:
        """Whether the run itself earned nothing: gates ask for better exits, whatever the entries cost."""
        return self.profit <= 0

    @property
    def refused_by(self) -> tuple[str, ...]:
        """The gates that are not passed, by name."""
        return tuple(gate.name for gate in self.gates if not gate.passed)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = self._asdict() | {"gates": [gate.as_json() for gate in self.gates], "passed": self.passed}
        return artefacts.plain_json(values)  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Judgement:
        """The judgement that :meth:`as_json` made."""
        # Before looks of other studies were counted, none was on record.
        values = {"looks_of_others": {}, **values}
        found = {name: values[name] for name in cls._fields}
        return cls(
            **{**found, "gates": tuple(map(Gate.from_json, found["gates"])), "seeds": tuple(found["seeds"])},
        )


class Judgements:
    """Every look at a study's locked candles."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder, self._ledger = folder, Ledger(folder.judgements)

    def done(self) -> list[Judgement]:
        """Those that came to an end, the oldest first."""
        return [
            Judgement.from_json(record["judgement"])
            for record in self._ledger.records()
            if record.get("state") == _DONE
        ]

    def of(self, trial: int, overlay: str) -> Judgement | None:
        """The last one of a trial's settings; None where there is none."""
        return next((one for one in reversed(self.done()) if (one.trial, one.overlay) == (trial, overlay)), None)

    def unfinished(self, terms: Mapping[str, Any]) -> int | None:
        """The last look, where it was one on the same terms and did not come to its end."""
        records = self._ledger.records()
        ended = {record.get("look") for record in records if record.get("state") == _DONE}
        begun = [record for record in records if record.get("state") == _BEGUN]
        if not begun or begun[-1]["look"] in ended or begun[-1]["terms"] != dict(terms):
            return None
        look: int = begun[-1]["look"]
        return look

    def begin(self, terms: Mapping[str, Any], looks_of_others: Mapping[str, int]) -> int:
        """Put a look on record, before it is one.

        :param terms: by which a look that was cut off is known again
        :param looks_of_others: that other studies had at these candles, by study
        :return: its number
        """
        looks = looks_of(self._folder) + sum(looks_of_others.values())
        # Where another study was removed with its looks, no number comes twice.
        look: int = 1 + max([looks, *(record.get("look", 0) for record in self._ledger.records())])
        others = dict(looks_of_others)
        self._ledger.add({"state": _BEGUN, "look": look, "at": _now(), "terms": dict(terms), "looks_of_others": others})
        return look

    def looks_of_others_at(self, look: int) -> dict[str, int]:
        """Looks that other studies had had when one of this study began, by study."""
        begun = [record for record in self._ledger.records() if record.get("state") == _BEGUN]
        return next((dict(record.get("looks_of_others", {})) for record in begun if record["look"] == look), {})

    def end(self, judgement: Judgement) -> None:
        """Put on record what a look showed."""
        self._ledger.add({"state": _DONE, "look": judgement.look, "judgement": judgement.as_json()})

    def fail(self, look: int, error: BaseException) -> None:
        """Put on record that a look did not come to its end, and why."""
        said = f"{type(error).__name__}: {error}"
        self._ledger.add({"state": _FAILED, "look": look, "at": _now(), "error": said})

    def seed_file(self, look: int, seed: int) -> Path:
        """Figures of one seed's run at a look."""
        return self._folder.path / "judgements" / f"look_{look}" / f"seed_{seed}.json"


# ---------------------------------------------------------------------- which trial


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial:
    """The finished trial of the highest value.

    :raises StudyError: if none is finished
    """
    from optuna.trial import TrialState

    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None]
    if not finished:
        raise StudyError(
            f"the study has no finished trial, of {len(trials)}; accepted: at least one; remedy: let mtfscalper study "
            "run go on"
        )
    return max(finished, key=lambda trial: (trial.value or 0.0, -trial.number))


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
    runs = [
        RunFigures.from_json(json.loads(path.read_text(encoding="utf-8")))
        for seed in seeds
        if (path := folder.run_file(trial.number, seed)).is_file()
    ]
    if complete and len(runs) < len(seeds):
        raise StudyError(
            f"trial {trial.number} is finished, and {len(seeds) - len(runs)} of its {len(seeds)} runs are missing in "
            f"{folder.trial(trial.number)}; accepted: the figures of every run; remedy: copy its folder here "
            "from the machine that ran it"
        )
    if not runs:
        return TrialDays(trial.number, complete=False)
    if any(run.days != runs[0].days for run in runs):
        raise StudyError(
            f"the runs of trial {trial.number} are not of the same days; accepted: one timerange for all; remedy: move "
            f"{folder.trial(trial.number)} away and run the study again"
        )
    mean = np.mean([run.differences for run in runs], axis=0)
    return TrialDays(trial.number, complete, runs[0].days, tuple(mean.tolist()))


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
) -> tuple[Judgement, bool]:
    """Look at the locked candles with a trial's settings, or repeat what an earlier look showed.

    :param trials: all of the study
    :param trial: finished
    :param run_seed: makes a run on the locked candles
    :param limits: None for the usual ones, or those that the trial has been judged by
    :param again: whether to look anew where that trial has been judged
    :param progress: is told what is done next
    :return: the judgement, and whether it was looked for it now
    :raises StudyError: if the study does not hold what is needed, somebody looks now, or the trial has been judged by
        other limits
    """
    spec = folder.spec
    overlay = overlay_hash(overlay_of_trial(spec, trial))
    found = Judgements(folder)
    known = found.of(trial.number, overlay)
    if known is not None and not again:
        _check_limits(known, limits)
        return known, False
    limits = limits or Limits()
    _check_seeds(spec.tuning_seeds, spec.test_seeds)
    tried = days_of_trials(folder, trials, spec.tuning_seeds)
    code = artefacts.code_hash()
    terms = {"trial": trial.number, "overlay": overlay, "code": code, "locked": spec.locked}
    with _alone(folder):
        look = found.unfinished(terms) or _begin(found, folder, spec, terms)
        seeds = []
        try:
            for nth, seed in enumerate(spec.test_seeds, 1):
                progress(f"trial {trial.number} on the locked candles, seed {nth} of {len(spec.test_seeds)}")
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
            at=_now(),
            looks_of_others=found.looks_of_others_at(look),
        )
        found.end(judgement)
    return judgement, True


def _begin(found: Judgements, folder: StudyFolder, spec: StudySpec, terms: Mapping[str, Any]) -> int:
    # Two studies that begin to look at once are each other's first look, and one of them is the second.
    with FileLock(folder.path.parent / ".looks.lock"):
        return found.begin(terms, looks_of_others(folder, spec))


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


def _check_limits(known: Judgement, limits: Limits | None) -> None:
    asked = known.limits if limits is None else limits.model_dump()
    if others := {name: value for name, value in asked.items() if known.limits.get(name) != value}:
        received = ", ".join(f"{name} {value:g}" for name, value in others.items())
        judged = ", ".join(f"{name} {known.limits.get(name)}" for name in others)
        raise StudyError(
            f"trial {known.trial} was judged by another limit ({judged}) than is asked for ({received}); accepted: "
            "that one; remedy: leave the limit away, or look anew with --again, which makes the gates harder to pass"
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


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
