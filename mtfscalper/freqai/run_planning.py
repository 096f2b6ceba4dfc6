"""What a run does before FreqAI's loop begins: it computes all pairs' features, finds what is missing, and trains it.

FreqAI sees one pair at a time. At the first pair's turn the strategy is therefore asked for the others
(:mod:`mtfscalper.freqai.asked_pairs`), their features go to disk, and FreqAI's loop takes them from there, so that they
are computed once. Where a strategy cannot be asked, each pair is planned when its turn comes.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.executors.choice import here_if_alone
from mtfscalper.executors.executor import Executor
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.asked_pairs import NotAskedError, State, ask
from mtfscalper.freqai.backtest_run import BacktestRun, PeriodKitchen
from mtfscalper.freqai.fingerprint import frame_hash
from mtfscalper.freqai.frame_shelf import FrameShelf
from mtfscalper.freqai.kept_trainings import KeptTrainings
from mtfscalper.freqai.planned_trainings import MakeJob, PlannedPair, PlannedTrainings, Trainer, plan_pair
from mtfscalper.freqai.run_watching import BacktestWatch
from mtfscalper.freqai.sharing import Writers
from mtfscalper.freqai.strategy_frame import StrategyFrame
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.freqai.unconnected import pairs_of
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)

# Set in freqtrade's config by whoever wants to see what a run would train, and nothing written.
PLAN_ONLY = "mtfscalper_plan_only"


class PlanMade(BaseException):  # No error: it ends freqtrade's run where it has served its purpose.
    """Carries what a run would train to whoever asked for that alone.

    :ivar pairs: in the order of the run
    :ivar settings: in force
    :ivar n_features: of a candle
    """

    def __init__(self, pairs: Sequence[PlannedPair], settings: Settings, n_features: int) -> None:
        super().__init__("planned")
        self.pairs, self.settings, self.n_features = pairs, settings, n_features


class PairFrame(NamedTuple):
    """A pair at the moment at which its strategy hands its frame to FreqAI.

    :ivar frame: with its features
    :ivar handed: a hash of what the strategy handed over, before its features
    """

    frame: StrategyFrame
    run: BacktestRun
    handed: str


class RunPlanning:
    """Plans the backtests of a model, and hands over what was made ready for each pair."""

    def __init__(
        self,
        config: dict[str, Any],
        archive: Archive,
        seals: Seals,
        watched: BacktestWatch,
        own_trainings: Sequence[str],
        executor: Callable[[], Executor],
        make_run: Callable[[TradedStrategy, str, DataFrame], BacktestRun],
        make_job: MakeJob,
    ) -> None:
        """
        :param config: the freqtrade config
        :param own_trainings: the user's own hooks that FreqAI's loop must call for each training
        :param executor: of the trainings, once the settings are known
        :param make_run: the backtest of a pair, from the strategy's frame of it
        """
        self._config, self._archive, self._seals, self._watched = config, archive, seals, watched
        self._own_trainings, self._executor = own_trainings, executor
        self._make_run, self._make_job = make_run, make_job
        self._plans_only = bool(config.get(PLAN_ONLY))
        self._kept = KeptTrainings(archive, seals, looks_only=self._plans_only)
        self.trainings = PlannedTrainings(self._kept)
        # Pairs whose turn is still to come in this run, and whether they were planned.
        self._to_come: dict[str, bool] = {}
        # What was made ready for them.
        self._in_memory: dict[str, PairFrame] = {}
        self._shelf: FrameShelf | None = None

    def begin_pair(self, traded: TradedStrategy, dk: FreqaiDataKitchen, frame: DataFrame, pair: str) -> PairFrame:
        """Come to a pair: to the first one of a run with a plan for all, to the others with what it made ready.

        :param dk: FreqAI's own kitchen, of the pair
        :param frame: that the strategy hands over
        :raises PlanMade: where a plan is all that is wanted
        """
        if not (self._plans_only or (self._executor().together and not self._archive.is_analysis)):
            return self._made(traded, dk, frame, pair)
        begins = pair not in self._to_come
        if begins:
            self._begin_run(self._pairs(traded, pair))
        if self._own_trainings and not self._plans_only:
            if begins:
                logger.info(
                    "Policies are trained one after the other: the FreqAI model has its own %s.",
                    " and ".join(self._own_trainings),
                )
            self._to_come.pop(pair)
            return self._made(traded, dk, frame, pair)
        if not self._to_come[pair]:
            self._plan(traded, dk, frame, [*self._to_come] if begins else [pair])
        return self._taken(traded, dk, frame, pair)

    def end_pair(self, run: BacktestRun) -> None:
        """Leave a pair, whose periods are sealed."""
        for name in run.periods:
            self._kept.forget(run.candles.pair, name)
        if not self._plans_only:
            self._kept.forget_old()

    def _begin_run(self, pairs: Sequence[str]) -> None:
        self._close_shelf()
        self._to_come = dict.fromkeys(pairs, False)
        self._in_memory.clear()
        self.trainings.failed.clear()
        self.trainings.done.clear()

    def _close_shelf(self) -> None:
        if self._shelf is not None:
            self._shelf.close()
            self._shelf = None

    # ------------------------------------------------------------------ a pair's turn

    def _taken(self, traded: TradedStrategy, dk: FreqaiDataKitchen, frame: DataFrame, pair: str) -> PairFrame:
        """What was made ready for a pair, if it was made of what the strategy hands over now."""
        taken = self._ready(pair)
        self._in_memory.pop(pair, None)
        self._to_come.pop(pair)
        if not any(self._to_come.values()):
            self._close_shelf()
        if taken.handed == frame_hash(frame):
            return taken
        logger.warning(
            "%s: the strategy hands FreqAI another frame than it did when it was asked for all pairs: its features are "
            "computed again. Remedy: let populate_indicators depend on nothing but the pair and its candles.",
            pair,
        )
        return self._made(traded, dk, frame, pair)

    def _made(
        self,
        traded: TradedStrategy,
        dk: FreqaiDataKitchen,
        frame: DataFrame,
        pair: str,
        strategy: IStrategy | None = None,
    ) -> PairFrame:
        """Let the strategy compute a pair's features, or a copy of it."""
        computed = traded.compute(dk, frame, pair, strategy)
        run = self._make_run(traded, pair, frame)
        run.looks_only = self._plans_only
        return PairFrame(computed, run, "")

    # ------------------------------------------------------------------ the plan

    def _plan(
        self,
        traded: TradedStrategy,
        dk: FreqaiDataKitchen,
        frame: DataFrame,
        pairs: Sequence[str],
    ) -> None:
        """Plan pairs and train what they lack.

        :param dk: of the first of them
        :param frame: of the first of them
        """
        with ExitStack() as held:
            if not self._plans_only:
                # In one order, so that of two runs none waits for the other.
                for pair in sorted(pairs):
                    held.enter_context(Writers(self._archive).of_pair(pair))
            planned, n_features = self._planned(traded, dk, frame, pairs)
            if self._plans_only:
                raise PlanMade(planned, traded.settings, n_features)
            _tell(planned)
            if n_missing := sum(len(each.missing) for each in planned):
                held.enter_context(self._watched.begin_plan([name for each in planned for name in each.names_missing]))
                trainer = Trainer(traded.strategy, self._open, self._make_job, self.trainings, self._watched)
                trainer.train(planned, here_if_alone(traded.settings, n_missing) or self._executor())
                self._tell_failed()

    def _planned(
        self, traded: TradedStrategy, dk: FreqaiDataKitchen, frame: DataFrame, pairs: Sequence[str]
    ) -> tuple[list[PlannedPair], int]:
        """The plans of pairs, with what each is planned from; of the first alone, if others cannot be asked for."""
        first, *others = pairs
        state = State(traded.strategy)
        made = self._made(traded, dk, frame, first)
        n_features = sum(name.startswith("%") for name in made.frame.rows.columns)
        planned = [self._put(traded, first, frame, made, in_memory=not others)]
        del made
        try:
            if others:
                state.check_same(traded.strategy)
            for pair in others:
                planned += self._asked(traded, pair, frame)
        except NotAskedError as error:
            logger.info(
                "Pairs are planned one after the other, their periods together: the strategy cannot be asked for all "
                "pairs before the first one is through (%s).",
                error,
            )
            self._to_come |= dict.fromkeys(others, False)
            planned = planned[:1]
        return planned, n_features

    def _asked(self, traded: TradedStrategy, pair: str, first: DataFrame) -> list[PlannedPair]:
        """The plan of a pair whose turn is to come; none where freqtrade has no candles of it, and passes over it.

        :param first: the frame that the strategy handed over for the first pair
        :raises NotAskedError: if the strategy cannot be asked for it
        """
        if traded.strategy.dp.get_pair_dataframe(pair, traded.strategy.timeframe).empty:
            return []
        asked = ask(traded.strategy, pair, first)
        state = State(asked.strategy)
        try:
            made = self._made(traded, FreqaiDataKitchen(self._config, False, pair), asked.frame, pair, asked.strategy)
        except OperationalException:
            raise
        except Exception as error:
            raise NotAskedError(f"for {pair} it raises {type(error).__name__}: {error}") from error
        state.check_same(asked.strategy)
        return [self._put(traded, pair, asked.frame, made)]

    def _put(
        self, traded: TradedStrategy, pair: str, handed: DataFrame, made: PairFrame, *, in_memory: bool = False
    ) -> PlannedPair:
        """Plan a pair, and put it on disk with what the look at its periods has shown.

        :param in_memory: whether it stays in memory, as the only pair
        :raises NotAskedError: if nothing can be written
        """
        kitchen = PeriodKitchen(made.run, self._config)
        kitchen.take(made.frame)
        planned = plan_pair(made.frame.rows, kitchen, traded.strategy, self._kept)
        ready = made._replace(frame=made.frame._replace(computed=made.run.computed), handed=frame_hash(handed))
        if in_memory:
            self._in_memory[pair] = ready
        elif not self._plans_only:
            try:
                self._shelf = self._shelf or FrameShelf(self._archive.frames, self._seals)
                self._shelf.put(pair, ready)
            except OSError as error:
                if any(self._to_come.values()):
                    raise NotAskedError(f"{self._archive.frames} cannot be written: {error.strerror}") from error
                # The first pair, which comes at once.
                self._in_memory[pair] = ready
        self._to_come[pair] = True
        return planned

    def _ready(self, pair: str) -> PairFrame:
        """What was made ready for a pair."""
        if pair in self._in_memory:
            return self._in_memory[pair]
        assert self._shelf is not None
        ready: PairFrame = self._shelf.get(pair)
        return ready

    def _open(self, pair: str) -> tuple[DataFrame, PeriodKitchen]:
        ready = self._ready(pair)
        return ready.frame.rows, PeriodKitchen(ready.run, self._config)

    def _pairs(self, traded: TradedStrategy, first: str) -> list[str]:
        """The pairs of a run, from the one that it has come to."""
        others = [pair for pair in pairs_of(self._config, traded.strategy) if pair != first]
        # FreqAI's hooks may be called by hand, with a strategy that has no candles to ask it on.
        return [first, *others] if getattr(traded.strategy, "dp", None) is not None else [first]

    def _tell_failed(self) -> None:
        for (pair, name), error in self.trainings.failed.items():
            logger.error("Training of %s, period %s, failed: %s: %s", pair, name, type(error).__name__, error)


def _tell(planned: Sequence[PlannedPair]) -> None:
    """Say what a plan comes to."""
    states = Counter(period.state for pair in planned for period in pair.periods)
    logger.info(
        "Planned %s: %d policies to train, %d of an earlier run, %d finished by one that was stopped.",
        f"{len(planned)} pairs" if len(planned) > 1 else planned[0].pair,
        *(states[state] for state in ("missing", "reused", "finished")),
    )
