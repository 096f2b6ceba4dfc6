"""A FreqAI backtest of one pair: its candles, its periods, and FreqAI's kitchen that goes through them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.exceptions import OperationalException
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.backtest_period import BEFORE_IT, BacktestPeriod
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.computed_frame import FrameSlice
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.fingerprint import rows_hash
from mtfscalper.freqai.missing_values import MissingValues
from mtfscalper.freqai.predictions import flat_columns, period_rows, prediction_columns
from mtfscalper.freqai.recollection import WARM_UP_CANDLES, warm_up
from mtfscalper.freqai.run_plan import forget_old_plans, save_arrays, write_plan
from mtfscalper.freqai.short_periods import neutral_rows, periods_without_rows
from mtfscalper.freqai.strategy_frame import StrategyFrame
from mtfscalper.market.tape import TapeError
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import decider_for
from mtfscalper.policy.recurrent import RECURRENT_PPO, RecurrentDecider
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.training.fit import model_zip
from mtfscalper.training.report import TrainingReport, doubts

logger = logging.getLogger(__name__)


class PeriodKitchen(FreqaiDataKitchen):
    """FreqAI's kitchen for backtests: it remembers the rows before a period and checks what it would reuse."""

    def __init__(self, run: BacktestRun, config: dict[str, Any]) -> None:
        super().__init__(config, False, run.candles.pair)
        self.run = run
        self.rows_before = DataFrame()
        if not run.left_out:
            run.leave_out_short_periods(self)

    @property
    def period(self) -> BacktestPeriod:
        """The period at hand."""
        return self.run.periods[self.model_filename]

    def of_period(self, training: TimeRange) -> PeriodKitchen:
        """Another kitchen, for one period alone: what is left in that one is not left in this one.

        :param training: what the period is trained on
        """
        kitchen = copy(self)
        kitchen.data, kitchen.unique_classes, kitchen.unique_class_list = dict(self.data), {}, []
        kitchen.set_paths(self.pair, int(training.stopts))
        kitchen.set_new_model_names(self.pair, int(training.stopts))
        return kitchen

    def take(self, frame: StrategyFrame) -> None:
        """Take what the strategy computed: reused periods are compared with it, and the others are made from it."""
        if self.run.computed.empty:
            self.run.computed = frame.computed
            if self.run.candles.traded is not None:
                # What the strategy says of its trades decides what is learned, as its features do.
                self.run.computed = frame.computed.merge(self.run.candles.traded, on="date", how="left")
        if len(self.run.left_out) == len(self.training_timeranges):
            # No period declares the columns that the strategy reads.
            self.label_list = list(frame.labels)

    def use_strategy_to_populate_indicators(  # type: ignore[override]  # As FreqAI's backtesting calls it.
        self, strategy: IStrategy, *, prediction_dataframe: DataFrame, pair: str
    ) -> DataFrame:
        """The rows that FreqAI's loop asks with: they have their features already, see :class:`StrategyFrame`.

        FreqAI would populate what is populated where an early period is trained and a later one reused.
        """
        return prediction_dataframe

    def slice_dataframe(self, timerange: TimeRange, df: DataFrame) -> DataFrame:
        """FreqAI's slice; the candles that its first rows look back on are kept beside it."""
        before = df.loc[df["date"] < timerange.startdt].tail(self.run.rows_before)
        # FreqAI renames the columns of what it slices.
        self.rows_before = self.remove_special_chars_from_feature_names(before.copy())
        return super().slice_dataframe(timerange, df)

    def filter_features(
        self,
        unfiltered_df: DataFrame,
        training_feature_list: list[str],
        label_list: list[str] | None = None,
        training_filter: bool = True,
    ) -> tuple[DataFrame, DataFrame]:
        """FreqAI's filter, which here names the features that rows lack; a new pair has nothing to download.

        :raises TapeError: if the indicators of a pair that was listed late leave too few rows to train on
        :raises OperationalException: if any other pair has no row left
        """
        if training_filter:
            missing = MissingValues.of(unfiltered_df, training_feature_list)
            n_rows, needed = missing.n_complete, self.run.settings.candles_needed
            if n_rows < needed and self.run.listed_late(self):
                raise TapeError(
                    f"{self.pair}: {n_rows} of {len(unfiltered_df)} candles to train on have every feature; accepted: "
                    f"at least {needed}; remedy: none, indicators need candles before they have a value"
                )
            complaint = missing.complaint(self.pair, self.model_filename)
            if complaint is not None and not self.run.told_of_missing:
                self.run.told_of_missing = True
                logger.warning("%s", complaint)
        return super().filter_features(unfiltered_df, training_feature_list, label_list, training_filter)

    def fill_predictions(self, dataframe: DataFrame) -> None:
        """FreqAI's zeros for candles without a prediction, for a pair without any too."""
        if self.full_df.empty:
            self.full_df = neutral_rows(dataframe["date"], self.label_list)
        super().fill_predictions(dataframe)  # type: ignore[no-untyped-call]

    def check_if_backtest_prediction_is_valid(self, len_backtest_df: int) -> bool:
        """Only predictions whose manifest matches today's candles, settings and code are reused."""
        # Now, because FreqAI moves the ends of the training range later (buffer_train_data_candles).
        period = self.run.begin_period(self)
        period.move_aside_if_not_ours()
        reused = period.reuse_predictions(self.run.account)
        valid = super().check_if_backtest_prediction_is_valid(len_backtest_df) and reused
        if valid:
            self.run.account = period.sealed_account()
            self.run.finished = period
        return valid

    def save_backtesting_prediction(self, append_df: DataFrame) -> None:
        """FreqAI's feather file, written whole or not at all, and sealed."""
        artefacts.write_atomically(self.backtesting_results_path, append_df.to_feather)
        self.period.seal(self.training_features_list)
        self.run.finished = self.period


@dataclass
class BacktestRun:
    """The backtest of one pair.

    :ivar candles: all of them
    :ivar other_candles: of the other timeframes and pairs that features are made of
    :ivar environment: what the policies are trained in
    :ivar trained_with: what a bot compares, see :mod:`mtfscalper.freqai.trained_with`
    :ivar fingerprint: what every policy of the run is made from, name to hash
    :ivar seals: of the user directory
    :ivar archive: where the run keeps what it seals
    :ivar account: handed on from period to period, where the policy runs through the rules (decision_mode "replay")
    :ivar periods: those begun, by FreqAI's name for their model
    :ivar looked_at: those that were looked at and not begun yet, by the same
    :ivar finished: the last one whose files are all there
    :ivar computed: what the strategy computes of the candles, see :class:`StrategyFrame`
    :ivar reports: of the trainings so far
    :ivar looks_only: whether nothing may be written
    :ivar told_of_missing: whether a warning named features without values
    """

    candles: PairCandles
    other_candles: list[DataFrame]
    environment: EnvSettings
    settings: Settings
    trained_with: Mapping[str, Any]
    fingerprint: Mapping[str, str]
    seals: Seals
    archive: Archive
    account: Account = FLAT
    periods: dict[str, BacktestPeriod] = field(default_factory=dict)
    looked_at: dict[str, BacktestPeriod] = field(default_factory=dict)
    left_out: frozenset[int] = frozenset()
    finished: BacktestPeriod | None = None
    computed: DataFrame = field(default_factory=DataFrame)
    reports: list[TrainingReport] = field(default_factory=list)
    looks_only: bool = False
    told_of_missing: bool = False

    @property
    def rows_before(self) -> int:
        """Rows before a period that its policy is shown: what its first ones look back on, and what it remembers."""
        remembers = self.settings.rl.model_type == RECURRENT_PPO
        return self.environment.lookback - 1 + (WARM_UP_CANDLES if remembers else 0)

    def leave_out_short_periods(self, dk: PeriodKitchen) -> None:
        """Note and name the periods whose candles are too few to decide anything."""
        needed = self.settings.candles_needed + 2 * dk.freqai_config["feature_parameters"]["buffer_train_data_candles"]
        short = periods_without_rows(
            self.candles.frame["date"], dk.training_timeranges, dk.backtesting_timeranges, needed
        )
        self.left_out = frozenset(short)
        if short:
            logger.warning(
                "%s decides nothing (do_predict 0) in %d of %d periods, for want of candles: %s.",
                dk.pair,
                len(short),
                len(dk.training_timeranges),
                "; ".join(short.values()),
            )

    def listed_late(self, dk: PeriodKitchen) -> bool:
        """Whether the pair's candles begin inside the training of the period at hand of a kitchen."""
        training, _ = self._ranges(dk)
        return bool(self.candles.frame["date"].iloc[0] > training.startdt)

    def was_listed_too_late(self, dk: PeriodKitchen, failure: Exception) -> bool:
        """Whether a training cannot be, because the pair had too few candles by then.

        :param failure: of the training of the period at hand of a kitchen
        """
        return isinstance(failure, TapeError) and self.listed_late(dk)

    def leaves_out(self, dk: PeriodKitchen, failure: Exception) -> bool:
        """Whether the period at hand of a kitchen decides nothing: its pair was listed too late to train on it.

        :param failure: of the training
        """
        if not self.was_listed_too_late(dk, failure):
            return False
        _, test = self._ranges(dk)
        logger.warning(
            "%s decides nothing (do_predict 0) from %s to %s: its candles begin at %s, too late to train on: %s",
            dk.pair,
            test.start_fmt,
            test.stop_fmt,
            self.candles.frame["date"].iloc[0],
            failure,
        )
        self.periods.pop(dk.model_filename)
        return True

    def look_at(self, dk: PeriodKitchen, predecessor: BacktestPeriod | None = None) -> BacktestPeriod:
        """The period at hand of a kitchen, before it is begun.

        :param predecessor: the one before it, which was looked at and whose model can be reused
        """
        period = self.looked_at[dk.model_filename] = self.period_of(dk, predecessor)
        return period

    def begin_period(self, dk: PeriodKitchen) -> BacktestPeriod:
        """The period at hand of a kitchen, from now on one of the run's."""
        name = dk.model_filename
        period = self.periods[name] = (
            self.looked_at.pop(name) if name in self.looked_at else self.period_of(dk, self.finished)
        )
        return period

    def period_of(self, dk: PeriodKitchen, predecessor: BacktestPeriod | None = None) -> BacktestPeriod:
        """Work out what the period at hand of a kitchen depends on.

        :param predecessor: the one before it that has a model
        """
        train, test = self._ranges(dk)
        frames = [self.candles.frame, *self.other_candles]
        # The candle after the last row shows where the decision on that row is carried out.
        stop = test.stopdt + pd.Timedelta(milliseconds=self.candles.timeframe_ms)
        model_fingerprint = {
            "candles": rows_hash(frames, train.startdt, train.stopdt),
            "training period": train.timerange_str,
            **self.fingerprint,
        }
        if not self.settings.continual_learning:
            predecessor = None
        else:
            # A chain's first policy is not one that another run made from an earlier one.
            model_fingerprint[BEFORE_IT] = "" if predecessor is None else predecessor.model_made
        mode = self.settings.rl.decision_mode
        return BacktestPeriod(
            pair=dk.pair,
            first_ms=int(test.startts) * 1000,
            stop_ms=int(test.stopts) * 1000,
            folder=Path(dk.data_path),
            name=dk.model_filename,
            predictions=dk.full_path / dk.backtest_predictions_folder / f"{dk.model_filename}_prediction.feather",
            versions=self.archive.versions(dk.pair, dk.model_filename),
            trained_on=FrameSlice(self.computed, train.startdt, train.stopdt),
            predicts_on=FrameSlice(self.computed, test.startdt, test.stopdt),
            trained_with=self.trained_with,
            model_fingerprint=model_fingerprint,
            fingerprint={
                **model_fingerprint,
                "candles predicted on": rows_hash(frames, test.startdt, stop),
                "predicted period": test.timerange_str,
                "decision mode": mode,
            },
            decision_mode=mode,
            predecessor=predecessor,
            saves_model=self.settings.save_backtest_models,
            # With continual learning the next period goes on from it.
            needs_model=self.settings.save_backtest_models or self.settings.continual_learning,
            seals=self.seals,
            chooses_environments=self.settings.rl.n_envs == "auto",
            looks_only=self.looks_only,
            is_guarded=self.settings.rl.fallback is not None,
        )

    @staticmethod
    def _ranges(dk: PeriodKitchen) -> tuple[Any, Any]:
        """What the period at hand of a kitchen trains on, and what it decides on: freqtrade's TimeRange, whole."""
        model_id = int(dk.model_filename.rsplit("_", 1)[1])
        ranges = zip(dk.training_timeranges, dk.backtesting_timeranges, strict=True)
        # It is where the training ended before FreqAI moved its ends (buffer_train_data_candles).
        return next((train, test) for train, test in ranges if int(test.startts) == model_id)

    def initial_model(self, period: BacktestPeriod, trained_before: BaseAlgorithm | None) -> bytes | None:
        """The zip of the model that continual learning goes on from.

        :param trained_before: the policy of the period before, where it was trained in this run and not saved
        :return: None where there is none
        """
        if period.predecessor is None:
            return None
        sealed = period.predecessor.sealed_model()
        if sealed is None and trained_before is not None:
            return model_zip(trained_before)
        return sealed

    def predict(
        self,
        model: BaseAlgorithm,
        dk: PeriodKitchen,
        rows: DataFrame,
        features: npt.NDArray[np.float32],
        usable: npt.NDArray[np.bool_],
    ) -> DataFrame:
        """The columns of a period: flat decisions, and beside them on disk what decides about open trades.

        In replay mode the policy runs through the rules instead, from where the last period left its account.

        :param rows: of the period, after those that its first ones look back on
        :param features: scaled, shape (n_rows, n_features)
        :param usable: rows whose features were all there, shape (n_rows,)
        :raises OperationalException: if the candles cannot be used
        """
        environment, period, n_before = self.environment, dk.period, len(dk.rows_before)
        try:
            tape = self.candles.tape(rows, features, usable, with_next=True)
        except TapeError as error:
            # freqtrade prints this kind of error without a traceback, as that of a failed training.
            raise OperationalException(
                f"Prediction of {dk.pair}, period {dk.model_filename}, failed: TapeError: {error}"
            ) from error
        period.judge_unjudged()
        period.account_before = self.account
        if self.settings.rl.decision_mode == "replay":
            looped = closed_loop.loop_decider(model, tape.features, environment.lookback)
            memory = None
            if isinstance(looped, RecurrentDecider):
                history = self.candles.history()
                memory = warm_up(looped, tape, environment, n_before, self.account, history)
            result = closed_loop.run(
                looped,
                tape,
                environment,
                n_before,
                len(rows),
                account=self.account,
                policy_exits=not period.falls_back,
                memory=memory,
            )
            self.account = result.account
            columns = prediction_columns(
                dk.label_list, result.actions, result.flat, result.exit_probability, period.falls_back
            )
        else:
            decider = decider_for(model, tape.features, environment.lookback)
            seen = period_rows(tape, environment, len(rows))
            save_arrays(period.decisions, seen._asdict())
            columns = flat_columns(dk.label_list, decider, tape, environment, seen.decidable, period.falls_back)
            columns = columns.iloc[n_before:].reset_index(drop=True)
        period.account_after = self.account
        return columns

    def tell_reused(self) -> None:
        """Say once how many periods were not trained, for their policies or predictions still hold."""
        reused = len(self.periods) - len(self.reports)
        if reused:
            logger.info(
                "%s: %d of %d periods are those of an earlier run.", self.candles.pair, reused, len(self.periods)
            )

    def tell_doubts(self) -> None:
        """Warn once of what little the trainings of this run show, and of the periods whose policy has fallen back."""
        doubted = doubts(self.reports)
        if doubted:
            logger.warning("%s", doubted)
        fallen = [period for period in self.periods.values() if period.falls_back]
        if fallen:
            logger.warning(
                "%s: in %d of %d periods the policy does not beat the same entries with classic exits, and the rules "
                "end its trades (rl_config.fallback): %s.",
                self.candles.pair,
                len(fallen),
                len(self.periods),
                "; ".join(
                    f"{period.name} from {_day(period.first_ms)} to {_day(period.stop_ms)}, {period.why_fallen}"
                    for period in fallen
                ),
            )

    def why_fallen(self) -> Counter[str]:
        """The periods whose policy has fallen back, counted by why."""
        return Counter(period.why_fallen for period in self.periods.values() if period.falls_back)

    def write_plan(self) -> str:
        """Leave on disk which period decides about open trades when.

        :return: the plan's name
        """
        pair, archive = self.candles.pair, self.archive
        terms = TradeTerms.from_environment(self.environment, self.settings.rl.model_type)
        periods = tuple(period.planned(archive.root) for period in self.periods.values())
        plan = write_plan(archive, pair, terms, periods, self.candles.history())
        put_back = sum(period.was_put_back for period in self.periods.values())
        if put_back:
            logger.info(
                "%s: the files of %d of %d periods were put back from %s, where runs keep what they sealed.",
                pair,
                put_back,
                len(self.periods),
                archive.root,
            )
        with artefacts.told(f"{pair}: what older runs left"):
            forget_old_plans(archive, pair, self.settings.rl.kept_runs, self.seals)
        return plan


def _day(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M}"
