"""What stands between a strategy's frame and a policy's features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame, DatetimeIndex

from mtfscalper.freqai.candles import PairCandles
from mtfscalper.market.folds import Folds
from mtfscalper.market.tape import MarketTape
from mtfscalper.settings import Settings

# What FreqAI's kitchen keeps of a training in its ``data``.
_KEPT_DATA = ("filter_drop_index_training", "labels_mean", "labels_std")
_RAW_PRICE_FEATURES = ("%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close")


class Preparation(NamedTuple):
    """A pipeline and the features it was fitted on: made in a policy's training, and changed with the policy."""

    pipeline: Any
    features: list[str]

    def scaled(
        self, dk: FreqaiDataKitchen, rows: DataFrame, *, drops_prices: bool
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """
        :param rows: of a strategy's frame, shape (n, ...)
        :param drops_prices: whether the pipeline was fitted without the raw prices among the features
        :return: scaled features, shape (n, n_features), and the rows whose features are all there, shape (n,)
        """
        filtered, _ = dk.filter_features(rows, self.features, training_filter=False)
        usable = np.asarray(dk.do_predict, dtype=bool)
        scaled, _, _ = self.pipeline.transform(
            trained_features(filtered, drops_prices=drops_prices), outlier_check=True
        )
        return np.asarray(scaled, dtype=np.float32), usable


def preparation_of(dk: FreqaiDataKitchen) -> Preparation:
    """That of a policy that was loaded with FreqAI's kitchen.

    The features that FreqAI found in a frame last (``dk.training_features_list``) are the strategy's of now.
    """
    return Preparation(dk.feature_pipeline, dk.data.get("training_features_list") or dk.training_features_list)


def training_data(
    frame: DataFrame,
    dk: FreqaiDataKitchen,
    pipeline: Any,
    candles: PairCandles,
    settings: Settings,
    *,
    keep_raw: bool = False,
) -> dict[str, Any]:
    """FreqAI's data of a training, and the tapes that a policy is trained and evaluated on.

    :param frame: of the training period, one row a candle
    :param dk: gets the pipeline, and whatever FreqAI keeps of its labels
    :param pipeline: to be fitted
    :param keep_raw: whether ``raw_features`` keeps those of the training before they are scaled
    :return: FreqAI's dictionary, with ``train_tape``, and ``evaluation_tape``, which is None where nothing is held out,
        and ``judging_tape``, None where nothing judges the policy; folds are stretches of a tape with gaps around them
    """
    # A kitchen that was made by hand may know no pair.
    dk.pair = candles.pair
    filtered, labels = dk.filter_features(frame, dk.training_features_list, dk.label_list, training_filter=True)
    features = trained_features(filtered, drops_prices=settings.rl.drop_ohlc_from_features)
    folds: Folds | None = None
    if settings.fold_plan is None:
        data = dk.make_train_test_datasets(features, labels)
    else:
        folds = settings.fold_plan.cut(_dates_ms(frame.loc[features.index]), candles.timeframe_ms)
        data = _in_folds(dk, features, labels, folds)
    dk.fit_labels()
    # Which candles these are, before the pipeline renumbers anything.
    train_rows, test_rows = (frame.loc[data[f"{part}_features"].index] for part in ("train", "test"))
    raw = {"raw_features": filtered.loc[data["train_features"].index]} if keep_raw else {}
    dk.feature_pipeline = pipeline
    data["train_features"], data["train_labels"], data["train_weights"] = pipeline.fit_transform(
        data["train_features"], data["train_labels"], data["train_weights"]
    )
    train_tape = candles.tape(train_rows, data["train_features"])
    evaluation_tape: MarketTape | None = None
    judging_tape: MarketTape | None = None
    if len(test_rows):
        data["test_features"], data["test_labels"], data["test_weights"] = pipeline.transform(
            data["test_features"], data["test_labels"], data["test_weights"]
        )
        chooses = np.ones(len(test_rows), dtype=bool) if folds is None else folds.choose[folds.held_out]
        evaluation_tape = _tape_of(candles, test_rows, data["test_features"], chooses)
        if folds is not None:
            judging_tape = _tape_of(candles, test_rows, data["test_features"], folds.judge[folds.held_out])
    return {**data, **raw, "train_tape": train_tape, "evaluation_tape": evaluation_tape, "judging_tape": judging_tape}


def _in_folds(dk: FreqaiDataKitchen, features: DataFrame, labels: DataFrame, folds: Folds) -> dict[Any, Any]:
    """FreqAI's data of a training, cut into folds in the place of one stretch at the end."""
    factor = dk.freqai_config["feature_parameters"].get("weight_factor", 0)
    weights = dk.set_weights_higher_recent(len(features)) if factor > 0 else np.ones(len(features))
    weights = np.asarray(weights)
    return dk.build_data_dictionary(
        *(features[folds.train], features[folds.held_out]),
        *(labels[folds.train], labels[folds.held_out]),
        *(weights[folds.train], weights[folds.held_out]),
    )


def _tape_of(candles: PairCandles, rows: DataFrame, features: Any, wanted: npt.NDArray[np.bool_]) -> MarketTape | None:
    """The tape of some rows, None for none."""
    return candles.tape(rows[wanted], np.asarray(features)[wanted]) if wanted.any() else None


def _dates_ms(rows: DataFrame) -> npt.NDArray[np.int64]:
    return np.asarray(DatetimeIndex(rows["date"]).as_unit("ms").astype("int64"), dtype=np.int64)


class Prepared(NamedTuple):
    """What :func:`training_data` leaves in a kitchen, of which FreqAI saves a part beside the policy.

    :ivar data_dictionary: FreqAI's
    :ivar pipeline: fitted
    :ivar train_dates: of the rows trained on
    :ivar data: of the labels, among FreqAI's metadata
    """

    data_dictionary: dict[str, Any]
    pipeline: Any
    train_dates: Any
    data: dict[str, Any]

    @classmethod
    def in_kitchen(cls, dk: FreqaiDataKitchen) -> Prepared:
        """That of the training that a kitchen was prepared for last."""
        kept = {name: dk.data[name] for name in _KEPT_DATA}
        return cls(dk.data_dictionary, dk.feature_pipeline, dk.train_dates, kept)

    def hand_over(self, dk: FreqaiDataKitchen) -> None:
        """Put it into a kitchen."""
        dk.data_dictionary, dk.feature_pipeline, dk.train_dates = self[:3]
        dk.data |= self.data


def trained_features(features: DataFrame, *, drops_prices: bool) -> DataFrame:
    """The features the pipeline gets: raw prices left out where the config says so."""
    if not drops_prices:
        return features
    return features.drop(columns=[name for name in _RAW_PRICE_FEATURES if name in features.columns])
