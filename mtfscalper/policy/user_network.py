"""A features extractor of the user's own, ``rl_config.network``: ``"module:Class"``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtfscalper.trading.observation import N_ACCOUNT
from mtfscalper.user_code import UserCode, UserCodeError, load_user_code

NETWORK_KEY = "freqai.rl_config.network"
_ACCEPTED = (
    "a torch.nn.Module made by Class(lookback, n_features, n_account), with an integer features_dim, whose "
    "forward(candles, account) takes shapes (n, lookback, n_features) and (n, n_account) and gives (n, features_dim)"
)


@dataclass(frozen=True)
class UserNetwork:
    """A class that stands between the gathered lookback and the hidden layers of ``net_arch``.

    It is made with ``Class(lookback, n_features, n_account)`` and is a :class:`torch.nn.Module`, stable-baselines3's
    ``BaseFeaturesExtractor`` among them. Its ``features_dim`` is the number of features it makes, and its ``forward``
    takes, both float32 on the policy's device:

    - ``candles``, shape (n, lookback, n_features): the scaled features, oldest candle first;
    - ``account``, shape (n, n_account): :class:`mtfscalper.trading.observation.Observation` without its row;

    and gives float32 features of shape (n, features_dim). The policy and the value network share it::

        class Gru(torch.nn.Module):
            def __init__(self, lookback: int, n_features: int, n_account: int) -> None:
                super().__init__()
                self.features_dim = 64 + n_account
                self.gru = torch.nn.GRU(n_features, 64, batch_first=True)

            def forward(self, candles: Tensor, account: Tensor) -> Tensor:
                return torch.cat([self.gru(candles)[1][0], account], dim=1)

    The class is saved with the model, its code and that of the user's other files that it needs included.

    :raises mtfscalper.user_code.UserCodeError: if it is no such class

    """

    code: UserCode

    def __post_init__(self) -> None:
        kind = self.code.value
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise UserCodeError(_refusal(self.code.name, f"it is {kind!r}, not a class of torch.nn.Module"))

    @classmethod
    def from_name(cls, name: str, user_data: Path) -> UserNetwork:
        """
        :param name: ``module:Class``
        :param user_data: freqtrade's ``user_data_dir``
        :raises mtfscalper.user_code.UserCodeError: if there is no such class
        """
        return cls(load_user_code(name, user_data, NETWORK_KEY))

    def make(self, lookback: int, n_features: int) -> nn.Module:
        """A network, tried on three observations.

        :param lookback: candles of an observation
        :param n_features: features of a candle
        :raises mtfscalper.user_code.UserCodeError: if it cannot be made, or its answer has another shape, is not of
            float32 or not finite
        """
        try:
            made: nn.Module = self.code.value(lookback, n_features, N_ACCOUNT)
            features_dim = getattr(made, "features_dim", None)
            answer = _tried(made, lookback, n_features) if isinstance(features_dim, int) else None
        except Exception as error:
            raise UserCodeError(
                _refusal(
                    self.code.name,
                    f"with lookback {lookback}, {n_features} features and {N_ACCOUNT} numbers of the account it fails "
                    f"with {type(error).__name__}: {error}",
                )
            ) from error
        if answer is None:
            raise UserCodeError(_refusal(self.code.name, f"its features_dim is {features_dim!r}"))
        if not isinstance(answer, Tensor) or answer.shape != (3, features_dim) or answer.dtype != torch.float32:
            seen = f"{answer.dtype} {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise UserCodeError(
                _refusal(self.code.name, f"of 3 observations it makes {seen}, not torch.float32 {(3, features_dim)}")
            )
        if not bool(torch.isfinite(answer).all()):
            raise UserCodeError(
                _refusal(self.code.name, "of ordinary observations it makes numbers that are not finite")
            )
        return made


def _tried(network: nn.Module, lookback: int, n_features: int) -> Any:
    """What a network makes of three observations; it trains on as if never asked."""
    random = torch.Generator().manual_seed(0)
    candles = torch.rand(3, lookback, n_features, generator=random) * 2 - 1
    account = torch.rand(3, N_ACCOUNT, generator=random)
    network.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        answer = network(candles, account)
    network.train()
    return answer


def _refusal(name: str, seen: str) -> str:
    return f"{NETWORK_KEY} is {name!r}: {seen}; accepted: {_ACCEPTED}; remedy: correct the class, or remove the key"
