"""What stands between a strategy's frame and a policy's features."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame

from mtfscalper.settings import Settings

_RAW_PRICE_FEATURES = ("%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close")


class Preparation(NamedTuple):
    """A pipeline and the features it was fitted on: made in a policy's training, and changed with the policy."""

    pipeline: Any
    features: list[str]

    def scaled(
        self, dk: FreqaiDataKitchen, rows: DataFrame, settings: Settings
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """
        :param rows: of a strategy's frame, shape (n, ...)
        :return: scaled features, shape (n, n_features), and the rows whose features are all there, shape (n,)
        """
        filtered, _ = dk.filter_features(rows, self.features, training_filter=False)
        usable = np.asarray(dk.do_predict, dtype=bool)
        scaled, _, _ = self.pipeline.transform(trained_features(filtered, settings), outlier_check=True)
        return np.asarray(scaled, dtype=np.float32), usable


def trained_features(features: DataFrame, settings: Settings) -> DataFrame:
    """The features the pipeline gets: raw prices left out where the config says so."""
    if not settings.rl.drop_ohlc_from_features:
        return features
    return features.drop(columns=[name for name in _RAW_PRICE_FEATURES if name in features.columns])
