"""Networks that a user might name in rl_config.network, right ones and wrong ones."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

WIDTH = 5


class Mean(nn.Module):
    """A layer over the mean candle, beside the account."""

    def __init__(self, lookback: int, n_features: int, n_account: int) -> None:
        super().__init__()
        self.features_dim = WIDTH + n_account
        self.layer = nn.Linear(n_features, WIDTH)

    def forward(self, candles: Tensor, account: Tensor) -> Tensor:
        return torch.cat([torch.tanh(self.layer(candles.mean(dim=1))), account], dim=1)


class Gru(BaseFeaturesExtractor):
    """As one would write it for stable-baselines3."""

    def __init__(self, lookback: int, n_features: int, n_account: int) -> None:
        super().__init__(spaces.Box(-1, 1, (lookback, n_features)), features_dim=WIDTH + n_account)
        self.gru = nn.GRU(n_features, WIDTH, batch_first=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, candles: Tensor, account: Tensor) -> Tensor:
        return torch.cat([self.dropout(self.gru(candles)[1][0]), account], dim=1)


class WrongShape(Mean):
    def forward(self, candles: Tensor, account: Tensor) -> Tensor:
        return account


class NotFinite(Mean):
    def forward(self, candles: Tensor, account: Tensor) -> Tensor:
        return super().forward(candles, account) / 0


class WithoutFeaturesDim(Mean):
    def __init__(self, lookback: int, n_features: int, n_account: int) -> None:
        super().__init__(lookback, n_features, n_account)
        del self.features_dim


class Failing(Mean):
    def __init__(self) -> None:
        super().__init__(1, 1, 1)


def a_function() -> None:
    """Not a class."""
