"""A FreqAI backtest of one pair: its periods, what each is made from, what of it lies on disk and may be reused."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper import artefacts
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.candles import PairCandles
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.fingerprint import rows_hash
from mtfscalper.freqai.policy_store import PlannedPeriod, RunPlan, save_arrays
from mtfscalper.freqai.predictions import flat_columns, period_rows, prediction_columns
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import decider_for
from mtfscalper.seals import Seals
from mtfscalper.settings import Settings
from mtfscalper.trading.account import FLAT, Account

logger = logging.getLogger(__name__)


class PeriodKitchen(FreqaiDataKitchen):
    """FreqAI's kitchen for backtests: it remembers the rows before a period and checks what it would reuse."""

    def __init__(self, run: BacktestRun, config: dict[str, Any]) -> None:
        super().__init__(config, False, run.candles.pair)
        self.run = run
        self.rows_before = DataFrame()

    @property
    def period(self) -> BacktestPeriod:
        """The period at hand."""
        return self.run.periods[self.model_filename]

    def slice_dataframe(self, timerange: TimeRange, df: DataFrame) -> DataFrame:
        """FreqAI's slice; the candles that its first rows look back on are kept beside it."""
        before = df.loc[df["date"] < timerange.startdt].tail(self.run.environment.lookback - 1)
        # FreqAI renames the columns of what it slices.
        self.rows_before = self.remove_special_chars_from_feature_names(before.copy())
        return super().slice_dataframe(timerange, df)

    def check_if_backtest_prediction_is_valid(self, len_backtest_df: int) -> bool:
        """Only predictions whose manifest matches today's candles, settings and code are reused."""
        # Now, because FreqAI moves the ends of the training range later (buffer_train_data_candles).
        period = self.run.begin_period(self)
        period.move_aside_if_not_ours(self.pair)
        if period.predictions.is_file():
            stale = period.why_predictions_are_stale(self.run.account)
            if stale is not None:
                logger.info("%s: predictions of %s are made anew: %s.", self.pair, self.model_filename, stale)
                period.predictions.unlink()
        valid = super().check_if_backtest_prediction_is_valid(len_backtest_df)
        if valid:
            self.run.account = period.sealed_account()
        return valid

    def save_backtesting_prediction(self, append_df: DataFrame) -> None:
        """FreqAI's feather file, written whole or not at all, and sealed."""
        artefacts.write_atomically(self.backtesting_results_path, append_df.to_feather)
        self.period.seal(pair=self.pair, features=self.training_features_list)


@dataclass
class BacktestPeriod:
    """One period of one pair.

    :ivar first_ms: the first row that it predicts
    :ivar stop_ms: the first row that it no longer predicts
    :ivar folder: where its files lie
    :ivar name: FreqAI's, with which its files' names begin
    :ivar predictions: the file of its columns
    :ivar model_fingerprint: what its policy is made from, name to hash
    :ivar decision_mode: how its predictions are made
    :ivar keeps_model: whether a run has to leave the model on disk
    :ivar seals: of the user directory
    :ivar account_before: the account that it was predicted from, as ``account_after``
    """

    first_ms: int
    stop_ms: int
    folder: Path
    name: str
    predictions: Path
    model_fingerprint: Mapping[str, str]
    decision_mode: str
    keeps_model: bool
    seals: Seals
    account_before: Account = FLAT
    account_after: Account = FLAT

    @property
    def decisions(self) -> Path:
        """The file of the rows that decisions about open trades are made on."""
        return self.folder / f"{self.name}_decisions.npz"

    def move_aside_if_not_ours(self, pair: str) -> None:
        """Let files that another installation sealed, or none, lie where a run neither reads nor overwrites them."""
        unsealed = artefacts.why_unsealed(self.folder, self.seals)
        # Without a manifest they were never finished.
        if unsealed is None or artefacts.read_manifest(self.folder) is None:
            return
        if self.predictions.is_file():
            artefacts.move_aside(self.predictions)
        aside = artefacts.move_aside(self.folder)
        logger.warning("%s: %s is trained anew: %s. Its files now lie in %s.", pair, self.name, unsealed, aside)

    def why_model_is_stale(self) -> str | None:
        """Why the policy on disk cannot be used, None if it can."""
        roles = tuple(artefacts.policy_files(self.folder, self.name))
        return artefacts.why_stale(self.folder, self.model_fingerprint, roles, self.seals)

    def why_predictions_are_stale(self, account: Account) -> str | None:
        """Why the predictions on disk cannot be used, None if they can.

        :param account: the account that the period before this one ended with
        """
        needed = {"model": self.keeps_model, "decisions": self.decision_mode == "exact"}
        roles = ("predictions", "metadata", *(role for role, is_needed in needed.items() if is_needed))
        stale = artefacts.why_stale(self.folder, self.fingerprint, roles, self.seals)
        if stale is not None:
            return stale
        if self._manifest().get("account_before") != list(account):
            return "the period before it now ends with another account"
        return None

    def sealed_account(self) -> Account:
        """The account that the predictions on disk end with."""
        return Account(*self._manifest()["account_after"])

    def seal(self, *, pair: str, features: list[str]) -> None:
        """Write the manifest: the files are all there.

        :param features: the names of what the policy was trained on
        """
        files = artefacts.policy_files(self.folder, self.name)
        artefacts.write_manifest(
            self.folder,
            self.fingerprint,
            files | {"predictions": self.predictions, "decisions": self.decisions},
            self.seals,
            pair=pair,
            features=features,
            account_before=list(self.account_before),
            account_after=list(self.account_after),
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def planned(self, root: Path) -> PlannedPeriod:
        """The period as decisions about open trades look for it.

        :param root: the identifier's folder
        """
        return PlannedPeriod(self.first_ms, self.stop_ms, os.path.relpath(self.folder, root), self.fingerprint)

    @property
    def fingerprint(self) -> dict[str, str]:
        """What its predictions are made from, name to hash."""
        return {**self.model_fingerprint, "decision mode": self.decision_mode}

    def _manifest(self) -> dict[str, Any]:
        return artefacts.read_manifest(self.folder) or {}


@dataclass
class BacktestRun:
    """The backtest of one pair.

    :ivar candles: all of them
    :ivar other_candles: of the other timeframes and pairs that features are made of
    :ivar signals: ``date`` and the classic signals, as the strategy had set them before FreqAI
    :ivar environment: what the policies are trained in
    :ivar fingerprint: what every policy of the run is made from, name to hash
    :ivar seals: of the user directory
    :ivar account: handed on from period to period, where the policy runs through the rules (decision_mode "replay")
    :ivar periods: those begun, by FreqAI's name for their model
    """

    candles: PairCandles
    other_candles: list[DataFrame]
    signals: DataFrame
    environment: EnvSettings
    settings: Settings
    fingerprint: Mapping[str, str]
    seals: Seals
    account: Account = FLAT
    periods: dict[str, BacktestPeriod] = field(default_factory=dict)

    def begin_period(self, dk: PeriodKitchen) -> BacktestPeriod:
        """Work out what the period at hand of a kitchen depends on."""
        model_id = int(dk.model_filename.rsplit("_", 1)[1])
        ranges = zip(dk.training_timeranges, dk.backtesting_timeranges, strict=True)
        train, test = next((train, test) for train, test in ranges if int(train.stopts) == model_id)
        # The candle after the last row shows where the decision on that row is carried out.
        stop = test.stopdt + pd.Timedelta(milliseconds=self.candles.timeframe_ms)
        fingerprint = {
            "candles": rows_hash([self.candles.frame, *self.other_candles], train.startdt, stop),
            "signals": rows_hash([self.signals], train.startdt, stop),
            "periods": artefacts.value_hash([train.timerange_str, test.timerange_str]),
            **self.fingerprint,
        }
        period = BacktestPeriod(
            first_ms=int(test.startts) * 1000,
            stop_ms=int(test.stopts) * 1000,
            folder=Path(dk.data_path),
            name=dk.model_filename,
            predictions=dk.full_path / dk.backtest_predictions_folder / f"{dk.model_filename}_prediction.feather",
            model_fingerprint=fingerprint,
            decision_mode=self.settings.rl.decision_mode,
            keeps_model=self.settings.save_backtest_models,
            seals=self.seals,
        )
        self.periods[dk.model_filename] = period
        return period

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
        """
        environment, period, n_before = self.environment, dk.period, len(dk.rows_before)
        tape = self.candles.tape(rows, features, usable, with_next=True)
        decider = decider_for(model, tape.features, environment.lookback)
        period.account_before = self.account
        if self.settings.rl.decision_mode == "replay":
            result = closed_loop.run(decider, tape, environment, n_before, len(rows), account=self.account)
            self.account = result.account
            columns = prediction_columns(dk.label_list, result.actions, result.flat, result.exit_probability)
        else:
            seen = period_rows(tape, environment, len(rows))
            save_arrays(period.decisions, seen._asdict())
            columns = flat_columns(dk.label_list, decider, tape, environment, seen.decidable)
            columns = columns.iloc[n_before:].reset_index(drop=True)
        period.account_after = self.account
        return columns

    def write_plan(self, root: Path) -> None:
        """Leave on disk which period decides about open trades when.

        :param root: the identifier's folder
        """
        terms = TradeTerms.from_environment(self.environment, self.settings.rl.model_type)
        periods = tuple(period.planned(root) for period in self.periods.values())
        RunPlan(self.candles.pair, terms, periods).write(root, self.candles.history())
