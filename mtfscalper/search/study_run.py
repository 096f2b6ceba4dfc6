"""``mtfscalper study run``: begins a study or goes on with it, starts workers, and tells what comes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from freqtrade.resolvers import StrategyResolver
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtfscalper import artefacts
from mtfscalper.reporting.intervals import ENOUGH_DAYS
from mtfscalper.reporting.quiet import only_what_goes_wrong
from mtfscalper.reporting.wording import percent
from mtfscalper.search import leases
from mtfscalper.search.best import best_first, best_trial
from mtfscalper.search.errors import StudyError
from mtfscalper.search.new_study import Asked, begin_study, check_begun, join_study
from mtfscalper.search.same_study import SameStudy
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.storage import STORAGE_VARIABLE, check_optuna, open_storage, open_study, put_spec, shown, spec_in
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial_attributes import ASKED, INTERVAL, SECONDS, SEEDS_DONE, TRADES
from mtfscalper.search.trial_config import study_config
from mtfscalper.search.worker import EXIT_CHANGED, EXIT_DONE, EXIT_FAILURES, Plan, command_of, failing, finished_of

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

LOOK_SECONDS = 1.0
# A worker that ends sooner did not come to work; after so many in a row no other is started.
_TOO_SOON_SECONDS = 60.0
_TOO_SOON = 3
# So many may be killed, by a system without memory for one, while no trial finishes.
_KILLED = 20
# What a worker has to give its trial back.
_STOP_SECONDS = 120.0
_SHOWN_TRIALS = 5


class Request(NamedTuple):
    """What ``mtfscalper study run`` is asked for.

    :ivar name: of the study
    :ivar arguments: of ``freqtrade backtesting``; those of the study where none are given
    :ivar given: what of ``asked`` the user wrote, by name: of a study that has begun it has to be as it began
    :ivar trials: until so many have finished in all
    :ivar storage: address of a database; None for a journal in the study's folder
    :ivar timeout_seconds: no trial begins later; None for no end
    :ivar user_data_dir: where the study lies, where the arguments do not say it
    """

    name: str
    arguments: Sequence[str]
    trials: int
    workers: int
    asked: Asked
    storage: str | None = None
    timeout_seconds: float | None = None
    keep_models: bool = False
    user_data_dir: Path = Path("user_data")
    given: Mapping[str, int] = MappingProxyType({})


def run_study(request: Request, console: Console) -> int:
    """Run a study until it has as many trials as are asked for.

    :return: exit status: 0 done, 3 stopped because trials failed
    :raises StudyError: if it cannot be run, as :class:`freqtrade.exceptions.OperationalException`
    """
    check_optuna()
    with only_what_goes_wrong():
        opened = open_or_begin(request, console)
    study = opened.study
    # For those who look on.
    study.set_user_attr(ASKED, request.trials)
    _tell_study(opened, request, console)
    began = datetime.now()
    deadline = None if request.timeout_seconds is None else time.time() + request.timeout_seconds
    plan = Plan(request.trials, deadline, began, request.keep_models)
    team = _Team(opened, request, plan)
    told = {trial.number for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()}
    try:
        team.start()
        while team.works():
            if _tell_finished(study, told, console):
                team.killed = 0
            time.sleep(LOOK_SECONDS)
    finally:
        team.stop()
    _tell_finished(study, told, console)
    trials = study.get_trials(deepcopy=False)
    reason = failing(trials, began) or team.failure
    _tell_end(opened, trials, request, reason, console)
    return EXIT_DONE if reason is None else EXIT_FAILURES


class Opened(NamedTuple):
    """A study that is there.

    :ivar arguments: of ``freqtrade backtesting`` on this machine
    :ivar config: that they give
    """

    folder: StudyFolder
    spec: StudySpec
    study: Study
    arguments: tuple[str, ...]
    config: dict[str, Any]


def open_or_begin(request: Request, console: Console) -> Opened:
    """Open the study that a request names, after checking that it still is that study; or begin it."""
    arguments = tuple(request.arguments)
    folder = StudyFolder.of(request.user_data_dir, request.name)
    if not arguments:
        arguments = folder.spec.arguments
    config = study_config(arguments)
    folder = StudyFolder.of(Path(config["user_data_dir"]), request.name)
    check_storage(folder, request.storage)
    if folder.exists:
        spec = folder.spec
        check_begun(spec, request.given)
        SameStudy(spec, arguments, config, StrategyResolver.load_strategy(deepcopy(config))).check_loaded()
        study = _study(folder, spec, request.storage)
    else:
        if request.asked.holdout_days < ENOUGH_DAYS:
            console.print(
                f"--holdout-days is {request.asked.holdout_days}, and an interval needs {ENOUGH_DAYS} days: mtfscalper "
                "study judge will let no trial of this study pass; remedy: hold out more days",
                style="yellow",
                markup=False,
            )
        if request.asked.seeds == 1:
            console.print(
                "--seeds is 1: whether a trial is given up is asked between its seeds, so none will be; and one seed "
                "says little of a setting, as trainings differ; remedy: more seeds",
                style="yellow",
                markup=False,
            )
        console.print(f"Beginning the study {request.name}: checking the space and copying candles ...", markup=False)
        spec = _begin_or_join(folder, arguments, config, request)
        _note_storage(folder, request.storage)
        study = _study(folder, spec, request.storage)
    if not study.get_trials(deepcopy=False):
        # The config as it is: whatever the search finds has to be better.
        study.enqueue_trial(spec.first, user_attrs={leases.FIRST: True})
    return Opened(folder, spec, study, arguments, config)


def _study(folder: StudyFolder, spec: StudySpec, url: str | None) -> Study:
    return open_study(open_storage(url, folder), spec, [spec.sampler_seed, os.getpid()])


def _begin_or_join(
    folder: StudyFolder, arguments: tuple[str, ...], config: dict[str, Any], request: Request
) -> StudySpec:
    shared = _shared_spec(folder, request)
    if shared is None:
        spec = begin_study(folder, arguments, config, request.asked)
        # In the storage first: another machine may have begun the study while candles were copied here.
        shared = put_spec(open_storage(request.storage, folder), spec)
        if shared.shared_sha256 == spec.shared_sha256:
            folder.write_spec(spec)
            return spec
    check_begun(shared, request.given)
    return join_study(folder, arguments, config, shared)


def _shared_spec(folder: StudyFolder, request: Request) -> StudySpec | None:
    """The spec of a study that has begun in its storage: by another machine, or here, where that was cut off."""
    if request.storage is None and not folder.journal.is_file():
        return None
    return spec_in(open_storage(request.storage, folder), request.name)


def _storage_note(folder: StudyFolder) -> Path:
    return folder.path / "storage.json"


def _note_storage(folder: StudyFolder, url: str | None) -> None:
    artefacts.write_json(_storage_note(folder), {"storage": shown(url)})


def check_storage(folder: StudyFolder, url: str | None) -> None:
    """
    :raises StudyError: if the study's trials lie in another storage than the one that is named
    """
    try:
        noted = json.loads(_storage_note(folder).read_text(encoding="utf-8"))["storage"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if noted != shown(url):
        remedy = "leave --storage away" if noted == "journal" else "name it with --storage"
        raise StudyError(
            f"--storage is {shown(url)}, and the trials of the study {folder.path.name} are kept in {noted}; accepted: "
            f"the same; remedy: {remedy}, or begin another study"
        )


class _Team:
    """The workers of this machine.

    :ivar failure: why they do not work any more, None where they have done what they were to do
    :ivar killed: how many were killed since a trial finished
    """

    def __init__(self, opened: Opened, request: Request, plan: Plan) -> None:
        self._opened, self._request, self._plan = opened, request, plan
        self._workers: dict[int, tuple[subprocess.Popen[bytes], float]] = {}
        self._too_soon, self.killed = 0, 0
        self.failure: str | None = None

    def start(self) -> None:
        for index in range(self._request.workers):
            self._start(index)

    def works(self) -> bool:
        """Whether any works; one that was killed is started again."""
        for index, (process, began) in list(self._workers.items()):
            status = process.poll()
            if status is None:
                continue
            del self._workers[index]
            if status in (EXIT_DONE, EXIT_FAILURES):
                continue
            if status == EXIT_CHANGED:
                # A new worker would refuse it too.
                self.failure = f"{_last_words(self._log(index))}; its log: {self._log(index)}"
                self.stop()
                return False
            if status < 0:
                self.killed += 1
            else:
                self._too_soon = self._too_soon + 1 if time.monotonic() - began < _TOO_SOON_SECONDS else 0
            if self._too_soon >= _TOO_SOON or self.killed >= _KILLED:
                times = self.killed if self.killed >= _KILLED else self._too_soon
                self.failure = (
                    f"{times} workers ended without a trial, the last with status {status}: "
                    f"{_last_words(self._log(index))}; its log: {self._log(index)}"
                )
                self.stop()
                return False
            self._start(index)
        return bool(self._workers)

    def stop(self) -> None:
        """Let the workers give their trials back and end."""
        for process, _ in self._workers.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
        end = time.monotonic() + _STOP_SECONDS
        for process, _ in self._workers.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._workers.clear()

    def _log(self, index: int) -> Path:
        return self._opened.folder.logs / f"worker_{index}.log"

    def _start(self, index: int) -> None:
        opened = self._opened
        log = self._log(index)
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "COLUMNS": os.environ.get("COLUMNS", "200")}
        environment.pop(STORAGE_VARIABLE, None)
        if self._request.storage is not None:
            environment[STORAGE_VARIABLE] = self._request.storage
        with log.open("ab") as output:
            process = subprocess.Popen(
                command_of(opened.folder, opened.arguments, index, self._plan, os.getpid()),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches this process, which lets them give their trials back.
                start_new_session=True,
            )
        self._workers[index] = (process, time.monotonic())


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR" in line or "Error" in line]
    return " ".join((errors or lines or ["nothing was said"])[-1].split())


# ---------------------------------------------------------------------- what is told


def _tell_study(opened: Opened, request: Request, console: Console) -> None:
    spec, trials = opened.spec, opened.study.get_trials(deepcopy=False)
    finished = finished_of(trials)
    console.print(
        f"Study {spec.name}: {', '.join(spec.pairs)}; trials on {spec.validation}, each with {len(spec.tuning_seeds)} "
        f"seeds; locked: {spec.locked}, which no trial can read. Trials are kept in: {shown(request.storage)}.",
        markup=False,
    )
    table = Table("searched", "over", title="Search space", title_justify="left")
    for key, entry in SearchSpace.from_json(spec.space).as_json().items():
        table.add_row(key, escape(_range(entry)))
    console.print(table)
    goes_on = f"{finished} have finished; goes on to" if trials and finished else "Runs"
    workers = f"{request.workers} worker{'s' * (request.workers != 1)}"
    console.print(f"{goes_on} {request.trials} trials with {workers}. Ctrl-C stops, the same command goes on.")


def _range(entry: dict[str, Any]) -> str:
    if entry["type"] == "categorical":
        return ", ".join(map(json.dumps, entry["choices"]))
    log = ", logarithmic" if entry["log"] else ""
    step = f", steps of {entry['step']:g}" if entry["step"] not in (None, 1) else ""
    return f"{entry['low']:g} to {entry['high']:g}{log}{step}"


def _tell_finished(study: Study, told: set[int], console: Console) -> bool:
    """Tell of trials that have ended.

    :return: whether any of them came to a value
    """
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished()]
    new = [trial for trial in ended if trial.number not in told]
    told |= {trial.number for trial in new}
    for trial in new:
        console.print(_line(trial, best_trial(trials)), markup=False)
    return finished_of(new) > 0


def _line(trial: FrozenTrial, best: FrozenTrial | None) -> str:
    attrs = trial.user_attrs
    if trial.state.name == "FAIL":
        reason = attrs.get(leases.SET_ASIDE)
        again = "; enqueued again" if reason in (leases.LOST, leases.STOPPED) else ""
        return f"trial {trial.number}: {reason or 'failed'}{again}{_because(attrs)}"
    pruned = f", given up after {len(attrs.get(SEEDS_DONE, ()))} seeds" if trial.state.name == "PRUNED" else ""
    is_best = " (best)" if best is not None and best.number == trial.number else ""
    return (
        f"trial {trial.number}: {_value(trial)} a day over classic exits, {attrs.get(TRADES, 0)} trades, "
        f"{attrs.get(SECONDS, 0.0):.0f} s{pruned}{is_best}"
    )


def _because(attrs: dict[str, Any]) -> str:
    return f": {attrs[leases.ERROR]}" if leases.ERROR in attrs else ""


def _value(trial: FrozenTrial) -> str:
    low, _, high = trial.user_attrs.get(INTERVAL) or (None, None, None)
    value = percent(float(trial.value or 0.0), 3)
    return value if low is None or high is None else f"{value} ({percent(low, 3)} to {percent(high, 3)})"


def _tell_end(
    opened: Opened, trials: Sequence[FrozenTrial], request: Request, reason: str | None, console: Console
) -> None:
    finished = best_first(trials)
    if finished:
        table = Table(
            "trial",
            "a day over classic exits (90 %)",
            "trades",
            "parameters",
            title=f"Best of {finished_of(trials)} trials, on the candles they were chosen by",
            title_justify="left",
        )
        for trial in finished[:_SHOWN_TRIALS]:
            parameters = ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items())
            table.add_row(str(trial.number), _value(trial), str(trial.user_attrs.get(TRADES, 0)), escape(parameters))
        console.print(table)
        console.print(
            "The best of many is better here than it will be: what it is worth, the locked candles say. Next: "
            f"mtfscalper study judge --study {opened.spec.name}",
            markup=False,
        )
    if reason is not None:
        console.print(f"The study stops: {reason}", markup=False, style="red")
    elif finished_of(trials) < request.trials:
        console.print("The time is over; the same command goes on from here.")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
