"""A worker of a study: asks for parameters, runs the trial, tells what it came to, until there are trials enough.

Workers are peers, on one machine or many: whoever can reach the storage takes part. ``mtfscalper study run`` starts
them as ``python -m mtfscalper.search.worker``.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from _thread import interrupt_main
from collections.abc import Callable, Sequence
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from mtfscalper.offline import EXIT_INTERRUPTED
from mtfscalper.search import leases
from mtfscalper.search.attachments import write_note
from mtfscalper.search.best import best_trial
from mtfscalper.search.cut_candles import check_cut
from mtfscalper.search.errors import ChangedError, StudyError
from mtfscalper.search.leases import Lease, LeaseTimes, duplicate_of, set_aside, take_back
from mtfscalper.search.run_figures import Run
from mtfscalper.search.same_study import SameStudy
from mtfscalper.search.storage import STORAGE_VARIABLE, open_storage, open_study
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial import GivenUpError, ImpossibleError, RunBacktest, TrialRunner, remove_models
from mtfscalper.search.trial_config import study_config

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

# As many trials in a row end a study: what fails like that is not the parameters.
FAILURES = 3
# As many impossible ones: nearly nothing in the space can be.
IMPOSSIBLES = 20
# How often a worker without work looks for some.
LOOK_SECONDS = 2.0
EXIT_DONE, EXIT_REFUSED, EXIT_FAILURES, EXIT_CHANGED = 0, 2, 3, 4


class Plan(NamedTuple):
    """How long a worker works.

    :ivar trials: until so many of the study have finished
    :ivar deadline: no trial begins later, seconds since 1970; None for no end
    :ivar since: failures of trials that ended earlier are forgiven
    :ivar keep_models: whether policies stay of all trials, not of the best alone
    """

    trials: int
    deadline: float | None
    since: datetime
    keep_models: bool = False


class Worker:
    """Works at a study in this process."""

    def __init__(
        self,
        study: Study,
        folder: StudyFolder,
        spec: StudySpec,
        user_data_dir: Path,
        run: RunBacktest,
        times: LeaseTimes | None = None,
        parent: int | None = None,
        arguments: Sequence[str] | None = None,
        check_same: Callable[[], None] = lambda: None,
    ) -> None:
        """
        :param run: makes a backtest
        :param parent: a process without which this one gives its trial back and ends
        :param arguments: of ``freqtrade backtesting`` on this machine; None for those of the study
        :param check_same: raises :class:`ChangedError` where a backtest would be another than those before
        """
        self._study, self._spec, self._user_data_dir = study, spec, user_data_dir
        self._arguments = spec.arguments if arguments is None else arguments
        self._folder = folder
        self._runner = TrialRunner(study, folder, spec, run)
        self._times, self._parent, self._check_same = times or LeaseTimes(), parent, check_same
        self._without_lease: dict[int, float] = {}

    def work(self, plan: Plan) -> str | None:
        """Work until there are trials enough.

        :return: why the study cannot go on, None where it is done
        :raises ChangedError: if it is no longer what it began as; the trial under way is given back
        """
        while plan.deadline is None or time.time() < plan.deadline:
            self._check_parent()
            take_back(self._study, self._times, self._without_lease)
            trials = self._study.get_trials(deepcopy=False)
            if reason := failing(trials, plan.since):
                return reason
            finished, running = finished_of(trials), running_of(trials)
            if finished >= plan.trials:
                return None
            if finished + running >= plan.trials:
                # One of those that run may be lost yet.
                time.sleep(min(LOOK_SECONDS, self._times.refresh_seconds))
                continue
            self._take_one(plan)
        return None

    def _take_one(self, plan: Plan) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        self._check_same()
        try:
            trial = self._study.ask(self._runner.distributions)
            self._take(trial, plan)
        except UpdateFinishedTrialError:
            # Between two of its steps, such as the one that asks and the one that takes the lease.
            logger.warning("A trial was taken back by another worker before anything came of it.")

    def _take(self, trial: Trial, plan: Plan) -> None:
        frozen = self._study._storage.get_trial(trial._trial_id)
        try:
            with Lease(self._study._storage, trial._trial_id, self._times, self._interrupt_without_parent) as lease:
                trials = self._study.get_trials(deepcopy=False)
                if (other := duplicate_of(trials, trial.number)) is not None:
                    set_aside(self._study, frozen, leases.DUPLICATE, f"trial {other} is the same")
                elif sum(not _is_failed(one) for one in trials[: trial.number]) >= plan.trials:
                    set_aside(self._study, frozen, leases.SURPLUS, f"{plan.trials} trials were asked for")
                else:
                    self._run(trial, frozen, lease, plan)
        except (KeyboardInterrupt, ChangedError):
            # Enqueued again, for whoever goes on.
            if set_aside(self._study, frozen, leases.STOPPED):
                leases.enqueue_again(self._study)
            raise

    def _run(self, trial: Trial, frozen: FrozenTrial, lease: Lease, plan: Plan) -> None:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        def check() -> None:
            if lease.is_lost:
                raise GivenUpError
            self._check_same()

        try:
            outcome = self._runner.run(trial, self._arguments, check)
            trial.set_user_attr(leases.ENDED, time.time())
            if outcome.is_pruned:
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, outcome.value)
        except ImpossibleError as error:
            set_aside(self._study, frozen, leases.IMPOSSIBLE, str(error))
        except ChangedError:
            raise
        except (GivenUpError, UpdateFinishedTrialError):
            logger.warning("Trial %d was taken back by another worker: what came out here is dropped.", trial.number)
        except Exception as error:
            if _is_told(self._study, trial):
                logger.warning("Trial %d was taken back by another worker: what came out is dropped.", trial.number)
                return
            logger.exception("Trial %d failed.", trial.number)
            trial.set_user_attr(leases.ERROR, " ".join(f"{type(error).__name__}: {error}".split()))
            trial.set_user_attr(leases.ENDED, time.time())
            self._study.tell(trial, state=TrialState.FAIL)
        write_note(self._study, self._folder, trial.number)
        if not plan.keep_models:
            best = best_trial(self._study.get_trials(deepcopy=False))
            remove_models(self._study, self._user_data_dir, self._spec, keep=[best.number] if best else [])

    def _check_parent(self) -> None:
        if self._is_orphan:
            raise KeyboardInterrupt

    def _interrupt_without_parent(self) -> None:
        """From the lease's thread: a training may last hours."""
        if self._is_orphan:
            interrupt_main()

    @property
    def _is_orphan(self) -> bool:
        # One that was killed and not waited for still has its number; one that is gone left its children to another.
        return self._parent is not None and (os.getppid() != self._parent or not psutil.pid_exists(self._parent))


def _is_told(study: Study, trial: Trial) -> bool:
    """Whether a trial has been ended, by another worker."""
    return bool(study._storage.get_trial(trial._trial_id).state.is_finished())


def finished_of(trials: Sequence[FrozenTrial]) -> int:
    """How many trials came to a value."""
    return sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in trials)


def running_of(trials: Sequence[FrozenTrial]) -> int:
    """How many trials are worked at."""
    return sum(trial.state.name == "RUNNING" for trial in trials)


def _is_failed(trial: FrozenTrial) -> bool:
    return bool(trial.state.name == "FAIL")


def failing(trials: Sequence[FrozenTrial], since: datetime) -> str | None:
    """Why a study should not go on: its last trials all failed.

    :param since: what ended earlier is forgiven
    """
    ends = {trial.number: end for trial in trials if (end := leases.ended_at(trial)) is not None}
    ended = [trial for trial in trials if ends.get(trial.number, 0.0) >= since.timestamp()]
    ended.sort(key=lambda trial: ends[trial.number])
    of_parameters = [trial for trial in ended if trial.user_attrs.get(leases.SET_ASIDE) in (None, leases.IMPOSSIBLE)]
    for count, what, is_so in (
        (FAILURES, "failed", lambda trial: _is_failed(trial) and leases.SET_ASIDE not in trial.user_attrs),
        (IMPOSSIBLES, "were impossible", _is_failed),
    ):
        last = of_parameters[-count:]
        if len(last) == count and all(map(is_so, last)):
            numbers = ", ".join(str(trial.number) for trial in last[-FAILURES:])
            return (
                f"the last {count} trials {what} (trials {numbers}), the newest with: "
                f"{last[-1].user_attrs.get(leases.ERROR)}; remedy: correct that and run the study again, which goes on "
                "from there"
            )
    return None


# ---------------------------------------------------------------------- the process


def sampler_entropy(spec: StudySpec, index: int, trials: int, *, is_shared: bool) -> list[int]:
    """What a worker's sampler draws from: never the same as another's that asks at the same time.

    On one machine it is the same whenever the study is run, so that one worker tries the same settings again.

    :param index: of the worker among those of its driver
    :param trials: that there are as it begins
    :param is_shared: whether workers of several machines, or drivers, may have the same index
    """
    return [spec.sampler_seed, index, trials, *(leases.worker_name().encode()[:64] if is_shared else b"")]


def run_worker(
    folder: StudyFolder, url: str | None, arguments: Sequence[str], index: int, plan: Plan, parent: int | None
) -> int:
    """Work at a study of a folder, by freqtrade's own exchange.

    :param arguments: of ``freqtrade backtesting``
    :param index: of the worker among those of its driver
    :return: exit status
    """
    from freqtrade.resolvers import ExchangeResolver, StrategyResolver

    from mtfscalper.search.trial_run import run_backtest

    spec, config = folder.spec, study_config(arguments)
    check_cut(config, folder.candles, spec.pairs, spec.lock_ms)
    storage = open_storage(url, folder)
    trials = storage.get_n_trials(storage.get_study_id_from_name(spec.name))
    study = open_study(storage, spec, sampler_entropy(spec, index, trials, is_shared=url is not None))
    # Once for all trials: freqtrade asks the exchange for its markets.
    exchange = ExchangeResolver.load_exchange(config, load_leverage_tiers=True)

    def run(config: dict[str, Any], seed: int, identifier: str) -> Run:
        return run_backtest(
            config,
            seed,
            timerange=spec.validation,
            datadir=folder.candles,
            identifier=identifier,
            exchange=exchange,
        )

    same = SameStudy(spec, arguments, config, StrategyResolver.load_strategy(deepcopy(config)))
    worker = Worker(
        *(study, folder, spec, Path(config["user_data_dir"]), run),
        parent=parent,
        arguments=arguments,
        check_same=same.check,
    )
    try:
        reason = worker.work(plan)
    finally:
        exchange.close()  # type: ignore[no-untyped-call]
    if reason is not None:
        logger.error("The study stops: %s", reason)
    return EXIT_DONE if reason is None else EXIT_FAILURES


def command_of(folder: StudyFolder, arguments: Sequence[str], index: int, plan: Plan, parent: int) -> list[str]:
    """The command line of a worker; its storage stands in its environment."""
    words = [sys.executable, "-m", "mtfscalper.search.worker", "--folder", str(folder.path), "--index", str(index)]
    words += ["--trials", str(plan.trials), "--since", plan.since.isoformat(), "--parent", str(parent)]
    words += [] if plan.deadline is None else ["--deadline", repr(plan.deadline)]
    words += ["--keep-models"] if plan.keep_models else []
    return [*words, "--", *arguments]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker's command line."""
    parser = argparse.ArgumentParser(prog="python -m mtfscalper.search.worker")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--since", type=datetime.fromisoformat, required=True)
    parser.add_argument("--deadline", type=float)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--keep-models", action="store_true")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s - %(name)s - %(levelname)s - %(message)s")
    # As Ctrl-C: the trial is given back.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    plan = Plan(args.trials, args.deadline, args.since, args.keep_models)
    arguments = [word for at, word in enumerate(args.arguments) if at or word != "--"]
    try:
        return run_worker(
            StudyFolder(args.folder), os.environ.get(STORAGE_VARIABLE), arguments, args.index, plan, args.parent
        )
    except StudyError as error:
        logger.error("%s", error)
        return EXIT_CHANGED if isinstance(error, ChangedError) else EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
