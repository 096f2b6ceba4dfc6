"""One trial: its parameters, a backtest for each tuning seed, and what they are worth."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from freqtrade.exceptions import OperationalException

from mtfscalper import artefacts
from mtfscalper.freqai.archive import kept_folder
from mtfscalper.freqai.decision_record import records_folder
from mtfscalper.freqai.strategy_rules import settings_of_strategy
from mtfscalper.reporting.intervals import Interval, mean_interval
from mtfscalper.reporting.run_result import DAY_MS
from mtfscalper.search.attachments import attach_pictures
from mtfscalper.search.learning_curves import LearningCurve, learning_curves
from mtfscalper.search.leases import LOST, SET_ASIDE, STOPPED
from mtfscalper.search.run_figures import Instance, Run, RunFigures, mean_difference, mean_differences
from mtfscalper.search.space import SearchSpace
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial_attributes import (
    CONFIG_HASH,
    DAILY,
    INSTANCES,
    INTERVAL,
    PRUNED_STEP,
    RUN_SECONDS,
    SAMPLES_PER_SECOND,
    SECONDS,
    SEEDS_DONE,
    TIMESTEPS,
    TRADES,
)
from mtfscalper.search.trial_config import config_of_trial, identifier_of, overlay_hash, overlay_of, write_overlay

if TYPE_CHECKING:
    from optuna import Study, Trial

logger = logging.getLogger(__name__)

# From a config, a seed and an identifier to a run.
RunBacktest = Callable[[dict[str, Any], int, str], Run]


class ImpossibleError(ValueError):
    """Settings that cannot be together. The message says which."""


class GivenUpError(Exception):
    """A trial that somebody else has ended meanwhile, or that is to end."""


class Outcome(NamedTuple):
    """What a trial came to.

    :ivar value: mean of the instances' differences; of those that ran, where it was pruned
    """

    value: float
    is_pruned: bool


class TrialRunner:
    """Runs the trials of a study, one after the other."""

    def __init__(self, study: Study, folder: StudyFolder, spec: StudySpec, run: RunBacktest) -> None:
        """
        :param run: makes a backtest
        """
        self._study, self._folder, self._spec, self._run = study, folder, spec, run
        self._space = SearchSpace.from_json(spec.space)
        self.distributions = self._space.distributions()

    def run(self, trial: Trial, arguments: Sequence[str], check: Callable[[], None]) -> Outcome:
        """Run a trial: seed by seed, until all are done or it is worse than the best.

        :param arguments: of ``freqtrade backtesting``, of the study
        :param check: raises where the trial has to end; called between backtests
        :raises ImpossibleError: if no such settings can be
        """
        began, run_seconds = time.perf_counter(), 0.0
        parameters = self._space.values(trial.params)
        config_hash = overlay_hash(overlay_of(self._spec, parameters))
        trial.set_user_attr(CONFIG_HASH, config_hash)
        overlay = write_overlay(self._folder, self._spec, trial.number, parameters)
        config = self._config(arguments, overlay)
        figures: list[RunFigures] = []
        curves: list[LearningCurve] = []
        order = np.random.default_rng([self._spec.sampler_seed, trial.number])
        is_pruned = False
        for seed in order.permutation(self._spec.tuning_seeds).tolist():
            check()
            identifier = identifier_of(self._spec, config_hash, seed)
            run = self._run(config, seed, identifier)
            self._keep(trial.number, run)
            curves += learning_curves(self._folder.models / identifier)
            figures.append(run.figures)
            trial.set_user_attr(DAILY, _daily(self._spec, figures))
            run_seconds += run.figures.seconds
            for at in order.permutation(len(run.figures.instances)):
                instance = run.figures.instances[at]
                trial.report(instance.difference, step_of(self._spec, instance))
            if len(figures) < len(self._spec.tuning_seeds) and trial.should_prune():
                is_pruned = True
                break
        check()
        instances = [instance for each in figures for instance in each.instances]
        value = mean_difference(instances)
        if is_pruned:
            trial.report(value, PRUNED_STEP + len(figures))
        attach_pictures(trial, self._folder, figures, curves)
        interval, seconds = interval_of(figures), sum(each.training_seconds for each in figures)
        attrs = {
            INSTANCES: [instance._asdict() for instance in instances],
            SEEDS_DONE: [each.seed for each in figures],
            INTERVAL: [interval.low, interval.mean, interval.high],
            TRADES: sum(each.trades for each in figures),
            TIMESTEPS: sum(each.timesteps for each in figures),
            SAMPLES_PER_SECOND: sum(each.timesteps for each in figures) / seconds if seconds else 0.0,
            RUN_SECONDS: run_seconds,
            SECONDS: time.perf_counter() - began,
        }
        for name, attr in attrs.items():
            trial.set_user_attr(name, artefacts.plain_json(attr))
        return Outcome(value, is_pruned)

    def _config(self, arguments: Sequence[str], overlay: Path) -> dict[str, Any]:
        try:
            config = config_of_trial(arguments, overlay)
            settings_of_strategy(config)
        except OperationalException as error:
            raise ImpossibleError(" ".join(str(error).split())) from error
        return config

    def _keep(self, number: int, run: Run) -> None:
        figures = self._folder.run_file(number, run.figures.seed)
        artefacts.write_atomically(
            self._folder.trades_file(number, run.figures.seed), lambda path: run.trades.to_feather(path)
        )
        artefacts.write_json(figures, run.figures.as_json())


def step_of(spec: StudySpec, instance: Instance) -> int:
    """The step at which an instance is reported: the same one in every trial."""
    day = np.datetime64(instance.period, "D").astype(int) - np.datetime64(first_day(spec), "D").astype(int)
    seed, pair = spec.tuning_seeds.index(instance.seed), spec.pairs.index(instance.pair)
    return int((day * len(spec.pairs) + pair) * len(spec.tuning_seeds) + seed)


def _daily(spec: StudySpec, figures: Sequence[RunFigures]) -> dict[str, Any]:
    """What :data:`DAILY` holds."""
    runs = sorted(figures, key=lambda run: spec.tuning_seeds.index(run.seed))
    seeds = [run.seed for run in runs]
    return {"seeds": seeds, "first_day": runs[0].days[0], "differences": list(mean_differences(runs))}


def first_day(spec: StudySpec) -> str:
    """The first day of the validation, ISO date."""
    text = spec.validation.partition("-")[0]
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}"


def interval_of(figures: Sequence[RunFigures]) -> Interval:
    """The value of a trial with its interval: days drawn again, each the mean over pairs and seeds.

    The mean of days is that of instances, each of which counts by its days.
    """
    pairs = len({instance.pair for each in figures for instance in each.instances}) or 1
    sums = np.mean([each.differences for each in figures], axis=0) / pairs
    days = np.array(figures[0].days)
    # Of the first and the last day a part alone may have been traded.
    shares = np.clip((figures[0].last_ms - days * DAY_MS) / DAY_MS, 0.0, 1.0)
    shares -= np.clip((figures[0].first_ms - days * DAY_MS) / DAY_MS, 0.0, 1.0)
    return mean_interval(np.asarray(sums, dtype=np.float64), shares, seed=0)


def remove_models(study: Study, user_data_dir: Path, spec: StudySpec, *, keep: Sequence[int]) -> None:
    """Remove the policies of finished trials, but for those of some.

    :param keep: numbers of the trials whose policies stay
    """
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False)
    hashes = {trial.number: trial.user_attrs.get(CONFIG_HASH) for trial in trials}
    finished = {hashes[trial.number] for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)}
    kept = {hashes[trial.number] for trial in trials if trial.number in keep or trial.state == TrialState.RUNNING}
    # One that is tried again finds on disk what was trained already.
    lost = {hashes[trial.number] for trial in trials if trial.user_attrs.get(SET_ASIDE) in (LOST, STOPPED)}
    for config_hash in filter(None, set(hashes.values()) - kept - (lost - finished)):
        for seed in spec.tuning_seeds:
            for folder in folders_of(user_data_dir, identifier_of(spec, config_hash, seed)):
                shutil.rmtree(folder, ignore_errors=True)


def folders_of(user_data_dir: Path, identifier: str) -> tuple[Path, ...]:
    """Where the policies and records of an identifier lie."""
    models = user_data_dir / "models"
    records = records_folder({"user_data_dir": user_data_dir, "freqai": {"identifier": identifier}})
    return models / identifier, kept_folder(models, identifier), records
