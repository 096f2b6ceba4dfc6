"""The bot's FreqAI model, and the one by which a backtest decides with what the bot has saved."""

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from pandas import DataFrame
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.freqai.model import MtfScalperFreqaiModel
from mtfscalper.freqai.preparation import Preparation
from mtfscalper.policy.network import MaskedActorCriticPolicy
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import Observation

# Of the last hours of training, the share of candles at which the bot's policy enters each side, and leaves a trade.
ENTERS, LEAVES = 0.5, 0.25
LAST_CANDLES = 150


class LivelyModel(MtfScalperFreqaiModel):
    """Trains as the package does, then makes the policy trade: after so short a training it hardly would."""

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        model = super().fit(data_dictionary, dk, **kwargs)
        make_lively(model.policy, data_dictionary["train_tape"].features)
        return model


def make_lively(policy: MaskedActorCriticPolicy, features: np.ndarray) -> None:
    """Give a policy large logits, by which it enters and leaves at a share of the last candles.

    :param features: scaled, shape (n_candles, n_features), seen one candle at a time
    """
    rows = np.arange(len(features) - LAST_CANDLES, len(features))
    # What hardly changes from candle to candle would make it do the same for hours.
    slow = np.diff(features, axis=0).std(axis=0) < 0.7 * features.std(axis=0)
    extractor = policy.features_extractor
    with torch.no_grad(), extractor.on_tape(extractor.as_tape(features)):
        policy.mlp_extractor.policy_net[0].weight[:, : len(slow)][:, slow] *= 0.03
        policy.action_net.weight.mul_(3.0 / policy.action_net.weight.norm(dim=1, keepdim=True))
        for action, side, share in (
            (Action.LONG_ENTER, 0, ENTERS),
            (Action.SHORT_ENTER, 0, ENTERS),
            (Action.LONG_EXIT, 1, LEAVES),
            (Action.SHORT_EXIT, -1, LEAVES),
        ):
            # A trade without profit or loss so far, entries permitted.
            seen = Observation(0, side, 0, 0, 0, 1, 1)
            observations = torch.tensor([seen._replace(row=row) for row in rows], dtype=torch.float32)
            logits = policy.action_net(policy.mlp_extractor(extractor(observations))[0])
            lead = logits[:, action] - logits[:, Action.NEUTRAL]
            policy.action_net.bias[action] -= lead.quantile(1 - share)


class BotsModel(MtfScalperFreqaiModel):
    """Hands out the policy and the pipeline of a bot, whose model folder the config names as ``bots_model``."""

    def fit(self, data_dictionary: dict[str, Any], dk: FreqaiDataKitchen, **kwargs: Any) -> BaseAlgorithm:
        [path] = Path(self.config["bots_model"]).glob("cb_*_model.zip")
        return PPO.load(path, device="cpu")

    def _train(self, unfiltered_df: DataFrame, pair: str, dk: FreqaiDataKitchen) -> BaseAlgorithm:
        model = super()._train(unfiltered_df, pair, dk)
        [path] = Path(self.config["bots_model"]).glob("cb_*_feature_pipeline.pkl")
        dk.feature_pipeline = cloudpickle.loads(path.read_bytes())
        self._preparations[model] = Preparation(dk.feature_pipeline, list(dk.training_features_list))
        return model
