"""The windows of a FreqAI backtest: what each is made from, what of it lies on disk, and what may be reused."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.freqai.policy_store import PlannedWindow
from mtfscalper.settings import Settings
from mtfscalper.trading.account import Account

logger = logging.getLogger(__name__)

# freqtrade's methods whose code decides what features are.
_FEATURE_METHODS = (
    "feature_engineering_expand_all",
    "feature_engineering_expand_basic",
    "feature_engineering_standard",
    "set_freqai_targets",
)


class WindowOwner(Protocol):
    """The FreqAI model, as far as its windows ask it."""

    config: Any
    settings: Settings

    def note_window(self, dk: WindowKitchen) -> None:
        """Work out what the window at hand depends on."""
        ...

    def why_predictions_are_stale(self, dk: WindowKitchen) -> str | None:
        """Why the cached predictions of a window cannot be used, None if they can."""
        ...

    def predictions_reused(self, dk: WindowKitchen) -> None:
        """Go on from a window whose cached predictions are used."""
        ...

    def seal_window(self, dk: WindowKitchen) -> None:
        """Note that the files of a window are all there."""
        ...


class WindowKitchen(FreqaiDataKitchen):
    """FreqAI's kitchen for backtests: it remembers the rows before a window and checks what it would reuse."""

    def __init__(self, pair: str, owner: WindowOwner) -> None:
        super().__init__(owner.config, False, pair)
        self.rows_before = DataFrame()
        self._owner = owner

    def slice_dataframe(self, timerange: TimeRange, df: DataFrame) -> DataFrame:
        """FreqAI's slice; the candles that the first windows of features look back on are kept beside it."""
        before = df.loc[df["date"] < timerange.startdt].tail(self._owner.settings.window - 1)
        # FreqAI renames the columns of what it slices.
        self.rows_before = self.remove_special_chars_from_feature_names(before.copy())
        return super().slice_dataframe(timerange, df)

    def check_if_backtest_prediction_is_valid(self, len_backtest_df: int) -> bool:
        """Only predictions whose manifest matches today's candles, settings and code are reused."""
        # Now, because FreqAI moves the ends of the training range later (buffer_train_data_candles).
        self._owner.note_window(self)
        folder = self.full_path / self.backtest_predictions_folder
        path = folder / f"{self.model_filename}_prediction.feather"
        if path.is_file():
            stale = self._owner.why_predictions_are_stale(self)
            if stale is not None:
                logger.info("%s: predictions of %s are made anew: %s.", self.pair, self.model_filename, stale)
                path.unlink()
        valid = super().check_if_backtest_prediction_is_valid(len_backtest_df)
        if valid:
            self._owner.predictions_reused(self)
        return valid

    def save_backtesting_prediction(self, append_df: DataFrame) -> None:
        """FreqAI's feather file, written whole or not at all, and sealed."""
        artefacts.write_atomically(self.backtesting_results_path, append_df.to_feather)
        self._owner.seal_window(self)


@dataclass(frozen=True)
class BacktestWindow:
    """One window of one pair.

    :ivar first_ms: the first row that it predicts
    :ivar stop_ms: the first row that it no longer predicts
    :ivar folder: relative to the identifier's
    :ivar fingerprint: what its policy is made from, name to hash
    :ivar decision_mode: how its predictions are made
    """

    first_ms: int
    stop_ms: int
    folder: str
    fingerprint: Mapping[str, str]
    decision_mode: str

    @staticmethod
    def decisions_path(dk: WindowKitchen) -> Path:
        """Where the rows lie that decisions about open trades are made on."""
        return Path(dk.data_path) / f"{dk.model_filename}_decisions.npz"

    def why_predictions_are_stale(self, dk: WindowKitchen, account: Account, *, keeps_models: bool) -> str | None:
        """Why cached predictions cannot be used, None if they can.

        :param account: the account that the window before this one ended with
        :param keeps_models: whether a run has to leave its models on disk
        """
        roles = ["predictions", "metadata"]
        if keeps_models:
            roles.append("model")
        if self.decision_mode == "exact":
            roles.append("decisions")
        stale = artefacts.why_stale(dk.data_path, self._of_predictions, tuple(roles))
        if stale is not None:
            return stale
        if self._manifest(dk).get("account_before") != list(account):
            return "the window before it now ends with another account"
        return None

    def account_after(self, dk: WindowKitchen) -> Account:
        """The account that the cached window ended with."""
        return Account(*self._manifest(dk)["account_after"])

    def seal(self, dk: WindowKitchen, account_before: Account, account_after: Account) -> None:
        """Write the manifest of a window whose files are all there."""
        stem = dk.data_path / dk.model_filename
        artefacts.write_manifest(
            dk.data_path,
            self._of_predictions,
            {
                "model": Path(f"{stem}_model.zip"),
                "metadata": Path(f"{stem}_metadata.json"),
                "feature_pipeline": Path(f"{stem}_feature_pipeline.pkl"),
                "label_pipeline": Path(f"{stem}_label_pipeline.pkl"),
                "predictions": Path(dk.backtesting_results_path),
                "decisions": self.decisions_path(dk),
            },
            pair=dk.pair,
            features=dk.training_features_list,
            account_before=list(account_before),
            account_after=list(account_after),
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @property
    def planned(self) -> PlannedWindow:
        """The window as decisions about open trades look for it."""
        return PlannedWindow(self.first_ms, self.stop_ms, self.folder, self._of_predictions)

    @property
    def _of_predictions(self) -> dict[str, str]:
        return {**self.fingerprint, "decision mode": self.decision_mode}

    @staticmethod
    def _manifest(dk: WindowKitchen) -> dict[str, Any]:
        return artefacts.read_manifest(dk.data_path) or {}


def feature_sources(strategy: type[Any]) -> list[str]:
    """The code that may decide what features are, parents and helpers included.

    :param strategy: the class of a strategy
    :return: sources of the feature methods, of whatever a strategy adds to freqtrade's methods, and of the functions
        beside it in its file; not of freqtrade's other methods, such as ``custom_exit``
    """
    sources = []
    for kind in strategy.__mro__:
        if kind.__module__.partition(".")[0] in ("freqtrade", "abc", "builtins"):
            continue
        beside: dict[str, Any] = {}
        for name, value in sorted(vars(kind).items()):
            function = inspect.unwrap(getattr(value, "fget", None) or getattr(value, "__func__", None) or value)
            if not inspect.isfunction(function):
                continue
            beside |= function.__globals__
            if name in _FEATURE_METHODS or not hasattr(IStrategy, name):
                sources.append(inspect.getsource(function))
        sources += [
            inspect.getsource(value)
            for _, value in sorted(beside.items())
            if inspect.isfunction(value) and value.__globals__.get("__file__") == beside.get("__file__")
        ]
    return sources


def entry_parameters(strategy: IStrategy | None) -> dict[str, Any]:
    """Values of the hyperopt parameters that features and signals may depend on: all but those of exits."""
    if strategy is None:
        return {}
    return {name: parameter.value for name, parameter in strategy.enumerate_parameters() if parameter.space != "sell"}


def rows_hash(frames: list[DataFrame], start: datetime, stop: datetime) -> str:
    """A hash of the rows of [start, stop), whatever the unit that their dates are stored in."""
    hashes = []
    for frame in frames:
        rows = frame[(frame["date"] >= start) & (frame["date"] < stop)]
        rows = rows.assign(date=rows["date"].dt.as_unit("ms"))
        hashes.append([len(rows), int(pd.util.hash_pandas_object(rows, index=False).sum())])
    return artefacts.value_hash(hashes)
