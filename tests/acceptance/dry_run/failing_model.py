"""A FreqAI model whose trainings fail, but for the first one of each pair."""

from typing import Any

from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.freqai.model import MtfScalperFreqaiModel


class FailingModel(MtfScalperFreqaiModel):
    """Trains ETH once, and BTC as the package does."""

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        if dk.pair.startswith("ETH") and dk.pair in self.dd.model_dictionary:
            raise ValueError(f"the training of {dk.pair} fails for a test")
        return super().fit(data_dictionary, dk, **kwargs)
