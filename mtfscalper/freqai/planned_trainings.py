"""The trainings that a run lacks, made ready and run before FreqAI's loop comes to their periods.

FreqAI goes from period to period: slice, prepare, train, predict. An executor that runs several trainings together
needs them first. FreqAI's loop cannot be gone through twice for that: on its way it counts pairs, writes metadata,
loads policies and predicts. What a period is trained on is therefore cut here, by the same methods of FreqAI's kitchen
in the same order. A training is kept by what it is made from, and the loop asks for it by what it hands over to train
on: what differs is trained again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from freqtrade.configuration import TimeRange
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.executors.executor import Executor, Outcome, Running
from mtfscalper.freqai.backtest_period import BacktestPeriod
from mtfscalper.freqai.backtest_run import PeriodKitchen
from mtfscalper.freqai.kept_trainings import Kept, KeptTrainings, training_key
from mtfscalper.freqai.preparation import Prepared
from mtfscalper.freqai.run_watching import BacktestWatch, day_name
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob

logger = logging.getLogger(__name__)

# From the candles of a training, one row a candle, the period's kitchen, which keeps what it is prepared with, and the
# zip of a model to go on from.
MakeJob = Callable[[DataFrame, PeriodKitchen, bytes | None], TrainingJob]
# Opens a pair that was planned: its rows with their features, and its kitchen.
OpenPair = Callable[[str], tuple[DataFrame, PeriodKitchen]]


class PlannedPeriod(NamedTuple):
    """A period of a run, before anything is trained.

    :ivar name: FreqAI's, of its model
    :ivar training: what its policy is trained on
    :ivar candles: as many
    :ivar state: ``reused`` from an earlier run, ``finished`` by one that was stopped before it was sealed, ``missing``
    :ivar why: a policy that is there cannot be reused; "" where there is none
    """

    pair: str
    name: str
    training: TimeRange
    candles: int
    state: str
    why: str = ""

    @property
    def people_say(self) -> str:
        """What people call its training, see :attr:`mtfscalper.training.request.TrainingRequest.name`."""
        return f"{self.pair} {day_name(int(self.training.stopts))}"


@dataclass
class PlannedPair:
    """A pair's periods.

    :ivar initial_model: that its first missing period goes on from
    """

    pair: str
    periods: list[PlannedPeriod]
    initial_model: bytes | None = None

    @property
    def missing(self) -> list[PlannedPeriod]:
        """Those that have to be trained."""
        return [period for period in self.periods if period.state == "missing"]

    @property
    def names_missing(self) -> list[str]:
        """Those, as people call their trainings."""
        return [period.people_say for period in self.missing]


def plan_pair(rows: DataFrame, kitchen: PeriodKitchen, strategy: IStrategy, kept: KeptTrainings) -> PlannedPair:
    """Find which of a pair's periods have neither predictions nor a policy that can be reused.

    :param rows: of the strategy's frame with its features, one row a candle
    :param kitchen: of the pair; nothing is left in it
    """
    run, planned = kitchen.run, PlannedPair(kitchen.pair, [])
    goes_on = run.settings.continual_learning
    # With continual learning: the last period that is reused, and the model of the last one that is not.
    reused: BacktestPeriod | None = None
    model: bytes | None = None
    model_known, all_reused = True, True
    for training in kitchen.training_timeranges:
        dk = kitchen.of_period(training)
        if int(training.stopts) in run.left_out:
            continue
        period = run.look_at(dk, reused) if all_reused else run.period_of(dk)
        state, why = "missing", "the policy before it, from which it goes on, is trained anew"
        if all_reused and not period.needs_training():
            state, why = "reused", ""
            reused = period if goes_on else None
        elif model_known:
            why = period.why_trained or ""
            if all_reused and reused is not None:
                model = reused.sealed_model()
            finished = _finished(rows, training, dk, period, model, strategy, kept)
            if finished is not None:
                state = "finished"
            else:
                planned.initial_model = model
            if goes_on:
                all_reused, model_known = False, finished is not None
                model = model_zip(finished.model) if finished is not None else None
        candles = int(rows["date"].between(training.startdt, training.stopdt, inclusive="left").sum())
        planned.periods.append(PlannedPeriod(dk.pair, dk.model_filename, training, candles, state, why))
    return planned


def _finished(
    rows: DataFrame,
    training: TimeRange,
    dk: PeriodKitchen,
    period: BacktestPeriod,
    initial_model: bytes | None,
    strategy: IStrategy,
    kept: KeptTrainings,
) -> Kept | None:
    """The training of a period, where a run that was stopped had finished it."""
    if not kept.any_of(dk.pair, dk.model_filename):
        return None
    frame = frame_to_train_on(rows, training, dk, strategy)
    return kept.find(dk.pair, dk.model_filename, training_key(period, frame, initial_model))


class _UnderWay(NamedTuple):
    """A training that an executor has. Holds on to none of its pair's features.

    :ivar name: as people call it
    """

    turn: _Turn
    period: PlannedPeriod
    name: str
    key: str
    prepared: Prepared


@dataclass
class _Turn:
    """Where a pair's trainings stand.

    :ivar model: zip of the model that the next one goes on from
    :ivar left: periods still to be trained
    :ivar goes_on: whether each goes on from the one before it
    :ivar waits: whether the next one goes on from one that is under way
    """

    pair: str
    model: bytes | None
    left: list[PlannedPeriod]
    goes_on: bool = False
    waits: bool = False


@dataclass
class PlannedTrainings:
    """What became of the trainings of a plan, until FreqAI's loop comes to their periods.

    :ivar kept: those that finished
    :ivar failed: what the others raised, by pair and FreqAI's name for the period's model
    :ivar done: the periods of those that finished
    """

    kept: KeptTrainings
    failed: dict[tuple[str, str], Exception] = field(default_factory=dict)
    done: set[tuple[str, str]] = field(default_factory=set)

    def take(self, frame: DataFrame, dk: PeriodKitchen, initial_model: bytes | None) -> Outcome | None:
        """What became of the training of the period at hand.

        :param frame: that FreqAI's loop asks to train on
        :param dk: gets what the training was prepared with
        :param initial_model: zip of the model to go on from
        :return: None where it has not been trained
        """
        name = dk.pair, dk.model_filename
        if name in self.failed:
            return self.failed.pop(name)
        was_planned = name in self.done
        self.done.discard(name)
        if not self.kept.any_of(*name):
            return None
        kept = self.kept.find(*name, training_key(dk.period, frame, initial_model))
        if kept is not None:
            kept.prepared.hand_over(dk)
            return kept.model, kept.report
        if was_planned:
            logger.warning(
                "%s: %s is trained again: its candles are not those that it was planned with. Remedy: let "
                "set_freqai_targets give the same columns for the same candles.",
                *name,
            )
        return None


class Trainer:
    """Makes the trainings of a plan ready, each when there is room for it, and keeps each as it finishes."""

    def __init__(
        self,
        strategy: IStrategy,
        open_pair: OpenPair,
        make_job: MakeJob,
        trainings: PlannedTrainings,
        watched: BacktestWatch,
    ) -> None:
        """
        :param strategy: that says what is learned
        :param trainings: gets what became of each
        :param watched: is told of them
        """
        self._strategy, self._open_pair, self._make_job = strategy, open_pair, make_job
        self._trainings, self._watched = trainings, watched
        self._turns: list[_Turn] = []
        # The pair that lies in memory.
        self._opened: tuple[str, DataFrame, PeriodKitchen] | None = None

    def train(self, pairs: Sequence[PlannedPair], executor: Executor) -> None:
        """Train what pairs lack, as many at a time as the executor takes; of a pair that goes on, one at a time."""
        self._turns = [_Turn(each.pair, each.initial_model, each.missing) for each in pairs if each.missing]
        under_way: dict[TrainingJob, _UnderWay] = {}
        try:
            with executor.start(None, self._watched.watch) as running:
                try:
                    self._feed(running, under_way)
                except BaseException:
                    # Broken off: what has ended meanwhile is kept too.
                    for job, outcome in running.take_finished():
                        self._note(under_way.pop(job), outcome)
                    raise
        except Exception as error:
            # The executor's own: the run fails in the first period that it leaves untrained.
            lost = [of_job.period for of_job in under_way.values()]
            lost += [period for turn in self._turns for period in turn.left]
            for period in lost:
                self._trainings.failed.setdefault((period.pair, period.name), error)

    def _feed(self, running: Running, under_way: dict[TrainingJob, _UnderWay]) -> None:
        """Hand trainings over as there is room, until all are through."""
        while True:
            while running.room > 0 and (made := self._next()) is not None:
                job, of_job = made
                under_way[job] = of_job
                self._watched.begin_training(job)
                running.submit(job)
            if not under_way:
                return
            job, outcome = running.next_finished()
            self._note(under_way.pop(job), outcome)

    def _next(self) -> tuple[TrainingJob, _UnderWay] | None:
        """The next training that can run; None where there is none, or what runs must finish first."""
        for turn in self._turns:
            while turn.left and not turn.waits:
                made = self._made(turn, turn.left.pop(0))
                if made is not None:
                    return made
        return None

    def _made(self, turn: _Turn, period: PlannedPeriod) -> tuple[TrainingJob, _UnderWay] | None:
        """Make a training ready; None where it need not be, or cannot."""
        if self._opened is None or self._opened[0] != turn.pair:
            # Before the next one is read.
            self._opened = None
            self._opened = turn.pair, *self._open_pair(turn.pair)
        _, rows, kitchen = self._opened
        dk, run = kitchen.of_period(period.training), kitchen.run
        name = period.pair, period.name
        turn.goes_on = run.settings.continual_learning
        try:
            frame = frame_to_train_on(rows, period.training, dk, self._strategy)
            key = training_key(run.period_of(dk), frame, turn.model)
            if turn.goes_on and (kept := self._trainings.kept.find(*name, key)) is not None:
                turn.model = model_zip(kept.model)
                self._trainings.done.add(name)
                return None
            job = self._make_job(frame, dk, turn.model)
        except Exception as error:  # The loop raises it again when it comes there.
            self._trainings.failed[name] = error
            if not run.was_listed_too_late(dk, error):
                turn.left.clear()
            return None
        turn.waits = turn.goes_on
        return job, _UnderWay(turn, period, job.name, key, Prepared.in_kitchen(dk))

    def _note(self, of_job: _UnderWay, outcome: Outcome) -> None:
        """Keep what a training gave."""
        turn, period = of_job.turn, of_job.period
        name = period.pair, period.name
        turn.waits = False
        if isinstance(outcome, Exception):
            self._trainings.failed[name] = outcome
            if turn.goes_on:
                turn.left.clear()
            return
        model, report = outcome
        logger.info("Done training %s: %s", of_job.name, report.summary())
        self._trainings.kept.keep(*name, of_job.key, Kept(of_job.prepared, model, report))
        self._trainings.done.add(name)
        if turn.goes_on:
            turn.model = model_zip(model)


def frame_to_train_on(rows: DataFrame, training: TimeRange, dk: PeriodKitchen, strategy: IStrategy) -> DataFrame:
    """What FreqAI's loop hands over to train on, see ``IFreqaiModel.start_backtesting``.

    :param rows: of the strategy's frame with its features, one row a candle
    :param dk: of the period alone
    """
    before = rows.loc[rows["date"] < training.stopdt, :]
    labelled = strategy.set_freqai_targets(before, metadata={"pair": dk.pair})
    frame = dk.slice_dataframe(dk.buffer_timerange(training.copy()), labelled)
    frame = dk.remove_special_chars_from_feature_names(frame)
    dk.get_unique_classes_from_labels(frame)
    dk.find_features(frame)
    dk.find_labels(frame)
    return frame
