"""FreqAI's hooks of a bot: its passes over its pairs, its trainings beside them, and its end."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from freqtrade.configuration import TimeRange
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.RL.BaseReinforcementLearningModel import BaseReinforcementLearningModel
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.executors.choice import bots_trainings_at_once
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.bookkeeping import Bookkeeper
from mtfscalper.freqai.bot_journal import BotJournal
from mtfscalper.freqai.candle_door import CandleDoor
from mtfscalper.freqai.exit_policy import ExitPolicy
from mtfscalper.freqai.health_writer import HealthWriter
from mtfscalper.freqai.live import LivePairs
from mtfscalper.freqai.live_pass import LivePasses
from mtfscalper.freqai.live_replay import LiveReplay
from mtfscalper.freqai.owner import Owner
from mtfscalper.freqai.run_planning import PLAN_ONLY
from mtfscalper.freqai.sharing import Download
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.freqai.traded_strategy import NO_STRATEGY_SEEN, TradedStrategy
from mtfscalper.freqai.training_loop import TrainingLoop
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings

logger = logging.getLogger(__name__)


class BotHooks(BaseReinforcementLearningModel):
    """What FreqAI calls in ``freqtrade trade``, and whose trades are learned, which backtests ask too."""

    dd: Bookkeeper
    _asked: Settings
    _user: UserParts
    _live: LivePairs
    _passes: LivePasses
    _owner: Owner
    _trainings: TrainingLoop
    _health: HealthWriter
    _door: CandleDoor
    _download: Download | None
    _traded: TradedStrategy | None
    _is_set_up: bool
    _archive: Archive
    _seals: Seals
    _journal: BotJournal | None
    _replay: LiveReplay | None

    @abstractmethod
    def _set_up(self) -> None:
        """Begin, where the constructor did not."""

    def start_live(
        self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy, dk: FreqaiDataKitchen
    ) -> FreqaiDataKitchen:
        """A bot's pass over a pair, kept to note the pair's candles."""
        self._learn_from(strategy)
        self._owner.reach_by(strategy.dp)
        self._trainings.look_after(strategy)
        if self._door.guard(metadata["pair"], strategy.dp):
            # FreqAI keeps the correlated pairs' features for all pairs of a candle, those made before one came too.
            self.get_corr_dataframes = True
        if not self._live.has_seen(pair := metadata["pair"]):
            self.traded.compute(dk, dataframe, pair)
        self.traded.source.funding.refresh_unwatched(pair)
        self._live.see(self.traded.candles_to_decide(pair, dataframe))
        if pair not in dk.all_pairs:
            # A trade is open on a pair that has left the whitelist: without its candles FreqAI fails at every one.
            dk.all_pairs.append(pair)
        try:
            done = super().start_live(dataframe, metadata, strategy, dk)
        finally:
            if self._download is not None:
                self._download.end()
            self._passes.mind_clock(pair)
        if self._journal is not None:
            self._journal.note_pass(pair, done.return_dataframe, self._live.policy_of(pair, dataframe["date"].iloc[-1]))
        self._health.passed(pair, strategy, done.return_dataframe, self._live.falls_back(pair))
        return done

    def start_backtesting_from_historic_predictions(
        self, dataframe: DataFrame, metadata: dict[str, Any], dk: FreqaiDataKitchen
    ) -> FreqaiDataKitchen:
        """A backtest of what a bot did: see :mod:`mtfscalper.freqai.live_replay`."""
        if self._replay is None or self._replay.traded is not self.traded:
            self._replay = LiveReplay(self.traded, self.config, self._archive, self._seals)
        dk.return_dataframe = self._replay.frame(dataframe, metadata["pair"], dk, self.dd.historic_predictions)
        return dk

    def build_strategy_return_arrays(
        self, dataframe: DataFrame, dk: FreqaiDataKitchen, pair: str, trained_timestamp: int
    ) -> None:
        """The decision on the candle that closed last, joined with those before it by their dates."""
        self._passes.decide(self, self.traded, dataframe, dk)

    def start_scanning(self, strategy: IStrategy) -> None:
        """FreqAI's training thread, and one that keeps the funding rates up to date beside it."""
        self._trainings.start(strategy)
        self._threads.append(self.traded.source.funding.start_watching(self._stop_event))

    def _start_scanning(self, strategy: IStrategy) -> None:
        """FreqAI's loop of that thread."""
        self._trainings.run(strategy)

    def _tell_health(self) -> None:
        self._health.write()

    def _waits(self, pair: str) -> bool:
        """Whether a training has to wait for the bot's first pass over a pair.

        It loads the policy that continual learning goes on from, and finds out how that stands to what is in force.
        """
        if not self.settings.continual_learning or self.dd.policy_in_use(pair) is None:
            return False
        model = self.dd.model_dictionary.get(pair)
        if model is None:
            return True
        origin = self.dd.origins.get(model)
        return origin is not None and origin.from_disk and model not in self._live.standings

    def _at_once(self) -> int:
        return bots_trainings_at_once(self.settings.rl)

    def extract_data_and_train_model(
        self,
        new_trained_timerange: TimeRange,
        pair: str,
        strategy: IStrategy,
        dk: FreqaiDataKitchen,
        data_load_timerange: TimeRange,
    ) -> None:
        """A bot's training of a pair, on all the funding there has been."""
        self._learn_from(strategy)
        self.traded.source.funding.refresh([pair])
        self.dd.tell_if_short(pair, datetime.fromtimestamp(new_trained_timerange.startts, UTC))
        super().extract_data_and_train_model(new_trained_timerange, pair, strategy, dk, data_load_timerange)

    def exit_policy(self, pair: str, row_ms: int) -> ExitPolicy | None:
        """See :class:`mtfscalper.freqai.trade_decisions.ExitPolicySource`; a bot asks with its last prediction."""
        return self._live.policies.get(pair)

    def _on_stop(self) -> None:
        # Training ends at its next step (the stop event) and closes its environments itself: here it would hang.
        steps: list[tuple[str, Callable[[], None]]] = []
        if self._journal is not None:
            steps.append(("its journal", self._journal.close))
        if self._download is not None:
            steps.append(("its download", self._download.end))
        steps.append(("what the bot predicted", self.dd.save_historic_predictions_to_disk))
        steps.append(("its health", self._health.stopped))
        for what, step in steps:
            try:
                step()
            except Exception:
                # Whatever it is, the other steps are taken, and FreqAI waits for its threads after that.
                logger.exception("The bot stops, and %s could not be brought to an end.", what)

    def set_full_path(self) -> None:
        """FreqAI's folder, which is made where something will be written."""
        if self.config.get(PLAN_ONLY):
            self.full_path = Path(self.config["user_data_dir"]) / "models" / self.identifier
        else:
            super().set_full_path()

    # ------------------------------------------------------------------ whose trades are learned

    def _learn_from(self, strategy: IStrategy) -> None:
        """Note whose trades are learned: FreqAI's hooks are called by themselves too, without :meth:`start`."""
        if not self._is_set_up:
            self._set_up()
        if self._traded is None or self._traded.strategy is not strategy:
            self._traded = TradedStrategy(strategy, self.config, self._asked, self._user)

    @property
    def settings(self) -> Settings:
        """What is in force: the config's settings, once a strategy has decided what they leave to it."""
        return self._asked if self._traded is None else self._traded.settings

    @property
    def traded(self) -> TradedStrategy:
        """Whose trades are learned."""
        if self._traded is None:
            raise OperationalException(NO_STRATEGY_SEEN)
        return self._traded
