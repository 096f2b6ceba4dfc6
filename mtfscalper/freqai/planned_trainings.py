"""The trainings that a pair's backtest lacks, made ready and run before FreqAI's loop comes to their periods.

FreqAI goes from period to period: slice, prepare, train, predict. An executor that runs several trainings together
needs them all first. FreqAI's loop cannot be gone through twice for that: on its way it counts pairs, writes metadata,
loads policies and predicts. What a period is trained on is therefore cut here, by the same methods of FreqAI's kitchen
in the same order, and is compared with what the loop hands over when it comes there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from freqtrade.configuration import TimeRange
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.executors.executor import Executor, Outcome, run_all
from mtfscalper.freqai.backtest_run import PeriodKitchen
from mtfscalper.freqai.preparation import hand_over
from mtfscalper.freqai.run_watching import BacktestWatch
from mtfscalper.training.job import TrainingJob

logger = logging.getLogger(__name__)

# From the candles of a training, one row a candle, and the period's kitchen, which keeps what it is prepared with.
MakeJob = Callable[[DataFrame, PeriodKitchen], TrainingJob]


@dataclass(frozen=True, eq=False)
class PlannedTraining:
    """The training of one period.

    :ivar kitchen: of this period alone, with what the training was prepared with
    :ivar frame: of the training, one row a candle
    :ivar prepared: the job, or what stopped it from being made
    """

    kitchen: PeriodKitchen
    frame: DataFrame
    prepared: TrainingJob | Exception


@dataclass
class PlannedTrainings:
    """Trainings that were planned and run, until FreqAI's loop comes to their periods.

    :ivar waiting: them and what became of them, by pair and FreqAI's name for the period's model
    """

    waiting: dict[tuple[str, str], tuple[PlannedTraining, Outcome]] = field(default_factory=dict)

    def take(self, frame: DataFrame, dk: PeriodKitchen) -> Outcome | None:
        """What became of the training of the period at hand.

        :param frame: that FreqAI's loop asks to train on
        :param dk: gets what the training was prepared with
        :return: None where none was planned
        """
        name = dk.pair, dk.model_filename
        if name not in self.waiting:
            return None
        planned, outcome = self.waiting.pop(name)
        if not planned.frame.equals(frame):
            logger.warning(
                "%s: %s is trained again: its candles are not those that it was planned with. Remedy: let "
                "set_freqai_targets give the same columns for the same candles.",
                *name,
            )
            return None
        if not isinstance(planned.prepared, Exception):
            hand_over(planned.kitchen, dk)
        return outcome

    def tell_lost(self) -> None:
        """Name the periods that were trained and will not be kept, because the run fails in one before them."""
        lost = [name for (_, name), (_, outcome) in self.waiting.items() if not isinstance(outcome, Exception)]
        if lost:
            logger.warning("Trained together with the one that failed, and not kept: %s.", ", ".join(lost))


def train_missing(
    rows: DataFrame,
    kitchen: PeriodKitchen,
    strategy: IStrategy,
    make_job: MakeJob,
    executor: Executor,
    own_trainings: Sequence[str] = (),
    watched: BacktestWatch | None = None,
) -> PlannedTrainings:
    """Train what a pair's backtest lacks, if the executor takes less time for that than for one after the other.

    :param rows: of the strategy's frame with its features, one row a candle
    :param kitchen: of the pair
    :param own_trainings: the user's own hooks that FreqAI's loop must call for each training
    :param watched: is told of them
    """
    if not executor.together:
        return PlannedTrainings()
    in_turn = None
    if kitchen.run.settings.continual_learning:
        in_turn = "with continual_learning each goes on from the one before it"
    elif own_trainings:
        in_turn = f"the FreqAI model has its own {' and '.join(own_trainings)}"
    if in_turn is not None:
        logger.info("%s: periods are trained one after the other: %s.", kitchen.pair, in_turn)
        return PlannedTrainings()
    return train_together(plan_trainings(rows, kitchen, strategy, make_job), executor, watched)


def plan_trainings(
    rows: DataFrame, kitchen: PeriodKitchen, strategy: IStrategy, make_job: MakeJob
) -> list[PlannedTraining]:
    """Make the trainings ready that a pair's backtest lacks: neither predictions nor a policy can be reused.

    It ends with the period in which the run will fail.

    :param rows: of the strategy's frame with its features, one row a candle
    :param kitchen: of the pair; nothing is left in it
    """
    run, planned = kitchen.run, []
    for training in kitchen.training_timeranges:
        dk = kitchen.of_period(training)
        if int(training.stopts) in run.left_out or not run.look_at(dk).needs_training():
            continue
        frame = _frame_to_train_on(rows, training, dk, strategy)
        try:
            planned.append(PlannedTraining(dk, frame, make_job(frame, dk)))
        except Exception as error:  # The loop raises it again when it comes there.
            planned.append(PlannedTraining(dk, frame, error))
            if not run.was_listed_too_late(dk, error):
                break
    return planned


def train_together(
    planned: Sequence[PlannedTraining], executor: Executor, watched: BacktestWatch | None = None
) -> PlannedTrainings:
    """Run planned trainings.

    :return: them with what became of them; where the executor itself fails, all of them did
    """
    jobs = [training.prepared for training in planned if isinstance(training.prepared, TrainingJob)]
    outcomes: dict[TrainingJob, Outcome]
    try:
        outcomes = dict(zip(jobs, _run(jobs, executor, watched), strict=True))
    except Exception as error:
        outcomes = dict.fromkeys(jobs, error)
    return PlannedTrainings(
        {
            (each.kitchen.pair, each.kitchen.model_filename): (
                each,
                each.prepared if isinstance(each.prepared, Exception) else outcomes[each.prepared],
            )
            for each in planned
        }
    )


def _run(jobs: list[TrainingJob], executor: Executor, watched: BacktestWatch | None) -> list[Outcome]:
    if not jobs:
        return []
    pairs = ", ".join(dict.fromkeys(job.train.pair for job in jobs))
    logger.info("Starting training %s (periods together: %d).", pairs, len(jobs))
    if watched is None:
        return run_all(executor, jobs)
    for job in jobs:
        watched.begin_training(job)
    return run_all(executor, jobs, None, watched.watch)


def _frame_to_train_on(rows: DataFrame, training: TimeRange, dk: PeriodKitchen, strategy: IStrategy) -> DataFrame:
    """What FreqAI's loop hands over to train on, see ``IFreqaiModel.start_backtesting``."""
    before = rows.loc[rows["date"] < training.stopdt, :]
    labelled = strategy.set_freqai_targets(before, metadata={"pair": dk.pair})
    frame = dk.slice_dataframe(dk.buffer_timerange(training.copy()), labelled)
    frame = dk.remove_special_chars_from_feature_names(frame)
    dk.get_unique_classes_from_labels(frame)
    dk.find_features(frame)
    dk.find_labels(frame)
    return frame
