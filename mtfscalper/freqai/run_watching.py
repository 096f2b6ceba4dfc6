"""Which trainings a backtest is still to come to, and how people see them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from copy import copy
from datetime import UTC, datetime

from freqtrade.enums import RunMode
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.loggers import error_console
from stable_baselines3.common.utils import get_device

from mtfscalper import artefacts
from mtfscalper.freqai.backtest_run import PeriodKitchen
from mtfscalper.progress.display import RunWatch
from mtfscalper.progress.run import RunProgress
from mtfscalper.settings import Settings
from mtfscalper.training.job import TrainingJob


def period_name(dk: FreqaiDataKitchen) -> str:
    """The period at hand of a kitchen, as people call it: when its policy's training ends, UTC.

    :return: "" where a kitchen that was made by hand knows none
    """
    seconds = str(getattr(dk, "model_filename", "")).rpartition("_")[2]
    return day_name(int(seconds)) if seconds.isdecimal() else ""


def day_name(seconds: int) -> str:
    """What people call the period whose policy's training ends at a moment.

    :param seconds: since 1970
    """
    ends_at = datetime.fromtimestamp(seconds, UTC)
    return f"{ends_at:%Y-%m-%d}" if seconds % 86_400 == 0 else f"{ends_at:%Y-%m-%dT%H:%M}"


def watch_of(settings: Settings, runmode: RunMode | None, jobs: Sequence[TrainingJob] = ()) -> RunWatch:
    """How a run's trainings are watched: with a display in a backtest, else by lines in the log.

    A hyperopt has a display of its own, and what a bot writes is read later.

    :param jobs: all trainings of the run, where they are known
    """
    shows = runmode == RunMode.BACKTEST and settings.rl.progress_bar
    # The console that freqtrade's log goes to: what is printed there moves a display instead of tearing it.
    console = error_console if shows else None
    run = RunProgress()
    run.expect({job.name for job in jobs}, settings.rl.ensemble)
    return RunWatch(run, console, gpu=get_device(settings.rl.device).type == "cuda")


class BacktestWatch:
    """Watches the trainings of a backtest, pair after pair.

    What lies sealed on disk is taken for reusable until its period comes, for only then is it known what it would have
    to be made from. Once one such period is trained all the same, the others are expected to be.

    :ivar watch: is told how far each training is
    """

    def __init__(self, watch: RunWatch, members: int) -> None:
        """
        :param members: trainings of each policy
        """
        self.watch, self._members = watch, members
        self._begun: set[str] = set()
        self._trusts_disk = True
        self._is_planned = False
        # Of the pair at hand and those to come, in the order of the run.
        self._names: list[str] = []
        self._missing: set[str] = set()
        self._started: set[str] = set()

    def begin_plan(self, missing: Collection[str]) -> AbstractContextManager[None]:
        """Say that all that is missing is trained now, of one pair or of all.

        :param missing: names of the trainings
        :return: a context in which the display is kept
        """
        self._is_planned, self._names = True, []
        self.watch.run.expect(self._started | set(missing), self._members)
        return self.watch.shown()

    def begin_pair(self, kitchen: PeriodKitchen, pairs: Collection[str]) -> AbstractContextManager[None]:
        """Say that a pair's turn has come.

        :param kitchen: of the pair
        :param pairs: of the whole run
        :return: a context in which the display is kept
        """
        self._begun.add(kitchen.pair)
        self._names, self._missing = [], set()
        if self._is_planned:
            return self.watch.shown()
        for pair in [kitchen.pair, *(pair for pair in pairs if pair not in self._begun)]:
            for training in kitchen.training_timeranges:
                stop = int(training.stopts)
                if pair == kitchen.pair and stop in kitchen.run.left_out:
                    continue
                dk = copy(kitchen)
                dk.set_new_model_names(pair, stop)
                name = f"{pair} {period_name(dk)}"
                self._names.append(name)
                versions = kitchen.run.archive.versions(pair, dk.model_filename)
                if artefacts.read_manifest(dk.data_path) is None and not versions.to_reuse():
                    self._missing.add(name)
        self._expect(0)
        return self.watch.shown()

    def begin_training(self, job: TrainingJob) -> None:
        """Say that a policy is trained now, or beside others."""
        name = job.name
        self._started.add(name)
        if name in self._names:
            self._trusts_disk = self._trusts_disk and name in self._missing
            self._expect(self._names.index(name))
        self.watch.begin(job)

    def _expect(self, at: int) -> None:
        """Expect what has been started and, from a place in the order on, what is missing or not trusted.

        What the run has passed by without a training has been reused.
        """
        to_come = {name for name in self._names[at:] if name in self._missing or not self._trusts_disk}
        self.watch.run.expect(self._started | to_come, self._members)
