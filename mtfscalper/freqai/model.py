"""FreqAI's hooks, tied to training and to decisions."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.enums import TRADE_MODES
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.executors.choice import bots_executor, executor_for, executor_here
from mtfscalper.executors.executor import run_all
from mtfscalper.freqai import bookkeeping
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_run import BacktestRun, PeriodKitchen
from mtfscalper.freqai.bot_hooks import BotHooks
from mtfscalper.freqai.bot_journal import BotJournal
from mtfscalper.freqai.bot_record import repeats_bot
from mtfscalper.freqai.candle_door import CandleDoor
from mtfscalper.freqai.fallen_periods import FallenPeriods
from mtfscalper.freqai.health_writer import HealthWriter
from mtfscalper.freqai.hooks import check_hooks, noting_files, own_trainings
from mtfscalper.freqai.live import LivePairs
from mtfscalper.freqai.live_pass import LivePasses
from mtfscalper.freqai.own_reward import users_reward
from mtfscalper.freqai.preparation import Preparation, preparation_of
from mtfscalper.freqai.routine_lines import leave_out_routine
from mtfscalper.freqai.run_planning import PLAN_ONLY, RunPlanning
from mtfscalper.freqai.run_watching import BacktestWatch, watch_of
from mtfscalper.freqai.sharing import Download, Writers
from mtfscalper.freqai.start_checks import checked_settings
from mtfscalper.freqai.strategy_rules import UserParts
from mtfscalper.freqai.trade_decisions import follow_plan
from mtfscalper.freqai.traded_strategy import TradedStrategy
from mtfscalper.freqai.training_folder import noted, says_all
from mtfscalper.freqai.training_loop import TrainingLoop
from mtfscalper.freqai.unconnected import pairs_of
from mtfscalper.freqai.views import is_view, may_be_view, with_sealed_columns
from mtfscalper.freqai.written_config import config_in_force
from mtfscalper.machine import set_torch_threads
from mtfscalper.seals import Seals
from mtfscalper.training.job import TrainingJob

logger = logging.getLogger(__name__)


class MtfScalperFreqaiModel(BotHooks):
    """PPO on parallel trading environments for FreqAI; its settings: docs/reference/settings.md."""

    def __init__(self, **kwargs: Any) -> None:
        check_hooks(type(self), MtfScalperFreqaiModel)
        self.config = kwargs["config"]
        self._reward = users_reward(type(self), self.config)
        self._asked = checked_settings(self.config, own_reward=self._reward is not None)
        self._traded: TradedStrategy | None = None
        self._is_set_up = False
        # FreqAI makes its folder and writes into it when it begins, which a view must not.
        if not may_be_view(self.config):
            self._set_up()

    def _set_up(self) -> None:
        config, rl = self.config, self.settings.rl
        self._is_set_up = True
        self._user = UserParts.from_settings(self.settings, config, self._reward)
        self._seals = Seals(Path(config["user_data_dir"]), rl.trust_models)
        self._archive = Archive.from_config(config)
        plans_only = bool(config.get(PLAN_ONLY))
        if not plans_only and not repeats_bot(config):
            # What only reads a bot's files need not wait for the bot's end.
            Writers(self._archive).begin(config["runmode"])
        self._download = Download(Path(config["datadir"])) if config["runmode"] in TRADE_MODES else None
        if self._download is not None:
            # freqtrade downloads right after this, and the first pass reads.
            self._download.begin()
        with bookkeeping.installed(self._seals, self._archive, looks_only=plans_only):
            super().__init__(config=config_in_force(config, self.settings))
        self.torch_threads = set_torch_threads(rl.torch_threads, rl.interop_threads)
        logger.info("torch runs %d intra-op and %d inter-op threads.", *self.torch_threads)
        if config["runmode"] not in TRADE_MODES:
            leave_out_routine()
        self._watched = BacktestWatch(watch_of(self.settings, config["runmode"]), rl.ensemble)
        self._code = artefacts.code_hash()
        self._own = own_trainings(type(self), MtfScalperFreqaiModel)
        self._training_failure: Exception | None = None
        self.live = config["runmode"] in TRADE_MODES  # FreqAI sets it in start.
        # Policy, pipeline and feature names change as one: FreqAI replaces them one after the other, while it predicts.
        self._preparations: WeakKeyDictionary[BaseAlgorithm, Preparation] = WeakKeyDictionary()
        self._run: BacktestRun | None = None
        self._planning = RunPlanning(
            *(config, self._archive, self._seals, self._watched, self._own),
            *(lambda: executor_for(self.settings), self._run_of, self._planned_job),
        )
        self._fallen, self._live = FallenPeriods(), LivePairs(self.settings)
        self._journal = BotJournal.from_config(config)
        self._replay = None
        self._owner = self.dd.owner
        self._passes = LivePasses(self.dd, self._live, self._owner, self.freqai_info)
        self.dd.trained_with = lambda pair: self.traded.trained_with(pair)
        self._trainings = TrainingLoop(self, self.dd, self._owner, self._tell_health, self._at_once, self._waits)
        self._health = HealthWriter(self, self.dd, self._owner, self._trainings)
        self._door = CandleDoor(self._owner, config["freqai"]["feature_parameters"])
        self.dd.candles.report_to(self._owner)

    def run_of(self, pair: str) -> BacktestRun | None:
        """The backtest of a pair, while it is the last one that was begun."""
        return self._run if self._run is not None and self._run.candles.pair == pair else None

    # ------------------------------------------------------------------ FreqAI's entry points

    def start(self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy) -> DataFrame:
        """FreqAI's entry point, kept to note whose trades are learned. A view gets what the last backtest sealed."""
        if is_view(self.config, strategy):
            return with_sealed_columns(dataframe, metadata["pair"], self.config, self.settings.rl.trust_models)
        self._learn_from(strategy)
        return super().start(dataframe, metadata, strategy)

    @noting_files
    def start_backtesting(
        self, dataframe: DataFrame, metadata: dict[str, Any], dk: FreqaiDataKitchen, strategy: IStrategy
    ) -> FreqaiDataKitchen:
        """FreqAI's loop over periods, with a kitchen that checks what it reuses."""
        self._learn_from(strategy)
        pair = metadata["pair"]
        frame, self._run, _ = self._planning.begin_pair(self.traded, dk, dataframe, pair)
        self.dk = kitchen = PeriodKitchen(self._run, self.config)
        kitchen.take(frame)
        with (
            Writers(self._archive).of_pair(pair),
            bookkeeping.clear_file_errors(),
            self._watched.begin_pair(kitchen, pairs_of(self.config, strategy)),
        ):
            done = super().start_backtesting(frame.rows, metadata, kitchen, strategy)
            follow_plan(strategy, pair, self._run.write_plan(), self._archive)
        self._planning.end_pair(self._run)
        self._run.tell_reused()
        self._run.tell_doubts()
        self._fallen.note(self._run, pairs_of(self.config, strategy))
        vars(dk).update(vars(done))  # Whoever calls this hook goes on with the kitchen that he gave.
        return done

    def ensure_data_exists(self, len_dataframe_backtest: int, tr_backtest: TimeRange, pair: str) -> bool:
        """Whether a period is worth a training: FreqAI passes over the others, whose columns stay 0."""
        return self._run is None or int(self.training_timerange.stopts) not in self._run.left_out

    def train(self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen, **kwargs: Any) -> Any:
        """The best policy by evaluation for one pair and period; None for one that there is too little to train on."""
        try:
            return self._train(unfiltered_df, pair, dk)
        except Exception as error:
            kitchen = dk if isinstance(dk, PeriodKitchen) else None
            is_left_out = kitchen is not None and kitchen.run.leaves_out(kitchen, error)
            # FreqAI goes on with neutral predictions: _append_null_backtesting_predictions does not.
            self._training_failure = None if is_left_out else error
            if is_left_out or (kitchen is not None and says_all(error)):
                return None
            raise

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        """Train on the tapes that :meth:`train` puts into the dictionary: ``train_tape`` and ``evaluation_tape``."""
        if isinstance(dk, PeriodKitchen):
            initial_model = dk.run.initial_model(dk.period, self.model)
        else:
            initial_model = self._live.initial_model(self.dd.model_dictionary.get(dk.pair))
        job = self.traded.job(data_dictionary, dk, tensorboard=self.activate_tensorboard, initial_model=initial_model)
        if (progress := self._trainings.progress_of(dk.pair) if self.live else None) is None:
            self._watched.begin_training(job)
            [outcome] = run_all(executor_here(self.settings), [job], None, self._watched.watch)
        else:
            watch = watch_of(self.settings, self.config["runmode"], [job])
            watch.begin(job)
            executor = bots_executor(self.settings, progress.check)
            with self._trainings.aside():
                [outcome] = run_all(executor, [job], progress.mark, watch)
        return noted(outcome, dk, self.traded.terms.terms(dk.pair), self.dd.origins)

    def predict(
        self, unfiltered_df: DataFrame, dk: FreqaiDataKitchen, **kwargs: Any
    ) -> tuple[DataFrame, npt.NDArray[np.int_]]:
        """Decide on every row of a frame, which is a backtest's period, or the candles a live bot has.

        :return: one row a candle with the labels the strategy declares, and whether each row can be trusted
        """
        dk.find_features(unfiltered_df)
        before = dk.rows_before if isinstance(dk, PeriodKitchen) else DataFrame()
        rows = pd.concat([before, unfiltered_df]) if len(before) else unfiltered_df
        prepared = self._preparations.get(self.model) or preparation_of(dk)
        if isinstance(dk, PeriodKitchen):
            features, usable = prepared.scaled(dk, rows, drops_prices=self.settings.rl.drop_ohlc_from_features)
            columns = dk.run.predict(self.model, dk, rows, features, usable)
        else:
            environment = self.traded.terms.environment(dk.pair)
            drops_prices = self._live.standing(self.model, environment).drops_prices
            features, usable = prepared.scaled(dk, rows, drops_prices=drops_prices)
            columns = self._live.predict(self.model, dk, rows, features, usable, environment)
        dk.do_predict = usable[len(before) :].astype(np.int_)
        return columns, dk.do_predict

    def model_exists(self, dk: FreqaiDataKitchen) -> bool:
        """Whether a period's model can be reused: on disk, whole, and made from what there is now."""
        if not isinstance(dk, PeriodKitchen):
            return super().model_exists(dk)
        if not dk.period.reuse_model():
            return False
        # FreqAI would hand out the pipeline of the pair's last period instead of this one's.
        self.dd.meta_data_dictionary.pop(dk.pair, None)
        return True

    def _append_null_backtesting_predictions(self, dk: FreqaiDataKitchen, dataframe_backtest: DataFrame) -> None:
        """A failed training fails the run: FreqAI would cache neutral predictions. A period left out stays empty."""
        error = self._training_failure
        if error is None:
            return
        raise OperationalException(
            f"Training of {dk.pair}, period {dk.model_filename}, failed: {type(error).__name__}: {error}"
        ) from error

    # ------------------------------------------------------------------ training

    def _train(self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen) -> BaseAlgorithm:
        outcome = None
        if isinstance(dk, PeriodKitchen) and not self._own:
            initial_model = dk.run.initial_model(dk.period, self.model)
            outcome = self._planning.trainings.take(unfiltered_df, dk, initial_model)
        if outcome is not None:
            model = noted(outcome, dk, self.traded.terms.terms(pair), self.dd.origins, is_told=True)
        else:
            model = self.fit(self._training_data(unfiltered_df, pair, dk), dk)
        self._preparations[model] = Preparation(dk.feature_pipeline, list(dk.training_features_list))
        return model

    def _training_data(self, frame: DataFrame, pair: str, dk: FreqaiDataKitchen) -> dict[str, Any]:
        return self.traded.training_data(pair, frame, dk, self.dd, self.define_data_pipeline(threads=dk.thread_count))

    def _run_of(self, traded: TradedStrategy, pair: str, frame: DataFrame) -> BacktestRun:
        return traded.backtest(pair, frame, self._code, type(self), self._seals, self._archive)

    def _planned_job(self, frame: DataFrame, dk: PeriodKitchen, initial_model: bytes | None) -> TrainingJob:
        data = self._training_data(frame, dk.pair, dk)
        return self.traded.job(data, dk, tensorboard=self.activate_tensorboard, initial_model=initial_model)
