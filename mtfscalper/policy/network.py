"""The policy network: the lookback gathered from the tape, hidden layers, heads, impossible actions masked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.trading.actions import Action, valid_actions
from mtfscalper.trading.observation import N_ACCOUNT, Observation
from mtfscalper.trading.torch_arrays import TorchNamespace

_Y = TypeVar("_Y")

# The linear part of a hidden layer, and the activation after it, on the arrays of whoever computes them.
HiddenLayer = tuple[Callable[[Any], Any], Callable[[Any], Any]]

# The names of ``rl_config.activation``.
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}

_TORCH = TorchNamespace()


def through_layers(inputs: Any, hidden: Iterable[HiddenLayer], head: Callable[[Any], _Y]) -> _Y:
    """The order of a network's layers, whoever computes them and in whatever arrays.

    :param inputs: one row an observation
    :param head: the linear layer after them
    """
    latent = inputs
    for linear, activation in hidden:
        # In two steps, so that only two layers' values are in memory at a time.
        latent = linear(latent)
        latent = activation(latent)
    return head(latent)


def hidden_layers(network: nn.Sequential) -> list[tuple[Any, Any]]:
    """The hidden layers of ``mlp_extractor.policy_net`` or ``value_net``, each with its activation."""
    modules: list[Any] = list(network)
    return list(zip(modules[::2], modules[1::2], strict=True))


class LookbackExtractor(BaseFeaturesExtractor):
    """Gathers the lookback of features that a compact observation stands for, from the tape.

    The tape's features are a buffer that is not saved: they belong to the market, not to the policy.

    :ivar network: made by a user's class, which what was gathered goes through, or None
    """

    features: Tensor

    def __init__(
        self, observation_space: spaces.Box, n_features: int, lookback: int, network: UserNetwork | None = None
    ) -> None:
        """
        :param n_features: features of one candle
        :param lookback: candles an observation looks back
        """
        made: Any = None if network is None else network.make(lookback, n_features)
        n_gathered = n_features * lookback + N_ACCOUNT
        super().__init__(observation_space, features_dim=n_gathered if made is None else made.features_dim)
        self.n_features = n_features
        self.lookback = lookback
        self.n_gathered = n_gathered
        self.network: nn.Module | None = made
        self.register_buffer("features", torch.empty(0, n_features), persistent=False)
        self._kept: Tensor | None = None

    def set_features(self, features: npt.NDArray[np.float32]) -> None:
        """Put a tape under the policy, see :meth:`as_tape`."""
        self.features = self.as_tape(features)

    def as_tape(self, features: npt.NDArray[np.float32]) -> Tensor:
        """Features as this extractor reads them.

        :param features: shape (n_candles, n_features)
        :return: a copy on the policy's device, of shape (lookback - 1 + n_candles, n_features): before the first candle
            stands the first candle, as in :func:`mtfscalper.market.lookback.lookbacks_ending_at`
        :raises ValueError: if the number of features is not the network's
        """
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ValueError(
                f"the features have shape {features.shape}; accepted: (n_candles, {self.n_features}), as this policy "
                "was trained with; remedy: train again"
            )
        # A copy: a tape may be read-only, and the policy must not see it change.
        tape = torch.tensor(features, device=self.features.device)
        return torch.cat([tape[:1].expand(self.lookback - 1, -1), tape])

    @contextmanager
    def on_tape(self, features: Tensor) -> Iterator[None]:
        """Read from another tape for a while, and write every forward's input over the one before.

        :param features: of :meth:`as_tape`
        """
        own = self.features
        self.features, self._kept = features, features.new_empty(0, self.n_gathered)
        try:
            yield
        finally:
            self.features, self._kept = own, None

    def forward(self, observations: Tensor) -> Tensor:
        """
        :param observations: compact, shape (n, 1 + n_account)
        :return: shape (n, features_dim)
        """
        return self.refine(self.gathered(observations))

    def gathered(self, observations: Tensor) -> Tensor:
        """What compact observations stand for, before the user's network.

        :param observations: compact, shape (n, 1 + n_account)
        :return: shape (n, n_gathered), good until the next call
        """
        if not len(self.features):
            raise RuntimeError(
                "this policy gathers its features from a tape and has none; remedy: call "
                "policy.features_extractor.set_features(features) with the tape's scaled features first"
            )
        return self.gather(self.features, observations, self._room(len(observations)))

    def refine(self, gathered: Tensor) -> Tensor:
        """The network's features of what was gathered.

        :param gathered: of :meth:`gathered`
        :return: shape (n, features_dim)
        """
        if self.network is None:
            return gathered
        candles = gathered[:, :-N_ACCOUNT].reshape(-1, self.lookback, self.n_features)
        answer: Tensor = self.network(candles, gathered[:, -N_ACCOUNT:])
        return answer

    def _room(self, n_rows: int) -> Tensor:
        """Where to write the input of a forward."""
        if self._kept is None:
            return self.features.new_empty(n_rows, self.n_gathered)
        if len(self._kept) < n_rows:
            # New memory for each forward comes from the system page by page: for a long lookback a third of the time.
            self._kept = self._kept.new_empty(n_rows, self.n_gathered)
        return self._kept[:n_rows]

    def gather(self, features: Tensor, observations: Tensor, out: Tensor) -> Tensor:
        """The rows of the network's input that compact observations stand for.

        :param features: of :meth:`as_tape`
        :param observations: compact, shape (n, 1 + n_account)
        :param out: where to write, shape (n, lookback * n_features + n_account)
        :return: ``out``
        """
        n_seen = self.lookback * self.n_features
        # Every lookback lies in one piece in the tape's memory: a view that overlaps itself has one for each row.
        lookbacks = features.as_strided((len(features) - self.lookback + 1, n_seen), (self.n_features, 1))
        torch.index_select(lookbacks, 0, observations[:, 0].long(), out=out[:, :n_seen])
        out[:, n_seen:] = observations[:, 1:]
        return out


class MaskedActorCriticPolicy(ActorCriticPolicy):
    """SB3's actor-critic policy, with minus infinity on the logits of actions the rules would not accept."""

    features_extractor: LookbackExtractor

    def __init__(self, *args: Any, precision: str = "fp32", **kwargs: Any) -> None:
        """
        :param precision: ``fp32``, or ``bf16`` for autocast in the hidden layers; logits and losses stay float32
        """
        self.precision = precision
        super().__init__(*args, **kwargs)

    def forward(self, obs: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """
        :return: actions, values and log-probabilities of the actions, each of shape (n, ...)
        """
        logits, values = self.logits_and_values(obs)
        distribution = self._masked(logits, obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """
        :return: values, log-probabilities of ``actions``, entropy
        """
        logits, values = self.logits_and_values(obs)
        distribution = self._masked(logits, obs)
        return values, distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Any) -> Distribution:
        """The distribution over the actions that can be done."""
        return self.distribution_of(self.features_extractor.gathered(obs), obs)

    def predict_values(self, obs: Any) -> Tensor:
        """Estimated values, shape (n, 1)."""
        return self.values_of(self.features_extractor.gathered(obs))

    def distribution_of(self, gathered: Tensor, obs: Tensor) -> Distribution:
        """The distribution over the actions that can be done, by what was gathered from whatever tape.

        :param gathered: of :meth:`LookbackExtractor.gathered`
        :param obs: the compact observations of it
        """
        return self._masked(self._actor(self.features_extractor.refine(gathered)), obs)

    def values_of(self, gathered: Tensor) -> Tensor:
        """Estimated values, shape (n, 1).

        :param gathered: of :meth:`LookbackExtractor.gathered`
        """
        return self._critic(self.features_extractor.refine(gathered))

    def logits_and_values(self, obs: Any) -> tuple[Tensor, Tensor]:
        """
        :return: logits before any mask, shape (n, 5), and values, shape (n, 1)
        """
        features = self.features_extractor(obs)
        return self._actor(features), self._critic(features)

    @contextmanager
    def in_full_precision(self) -> Iterator[None]:
        """Decide in float32 for a while: training may round, but a decision is the same on every machine."""
        precision, self.precision = self.precision, "fp32"
        try:
            yield
        finally:
            self.precision = precision

    def _actor(self, features: Tensor) -> Tensor:
        return self._through(self.mlp_extractor.policy_net, self.action_net, features)

    def _critic(self, features: Tensor) -> Tensor:
        return self._through(self.mlp_extractor.value_net, self.value_net, features)

    def _through(self, network: nn.Sequential, head: nn.Module, features: Tensor) -> Tensor:
        def in_full(latent: Tensor) -> Tensor:
            with torch.autocast(self.device.type, enabled=False):
                return head(latent.to(self.value_net.weight.dtype))  # type: ignore[no-any-return]

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return through_layers(features, hidden_layers(network), in_full)

    def _masked(self, logits: Tensor, obs: Tensor) -> Distribution:
        return self.action_dist.proba_distribution(masked_logits(logits, impossible_actions(obs)))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"precision": self.precision}


def has_relu_layers(policy: ActorCriticPolicy) -> bool:
    """Whether a policy is the one of this package, with ReLU after each hidden layer and no network of the user's."""
    return (
        type(policy) is MaskedActorCriticPolicy
        and type(policy.features_extractor) is LookbackExtractor
        and policy.features_extractor.network is None
        and policy.activation_fn is nn.ReLU
        and len(policy.mlp_extractor.policy_net) > 0
    )


def impossible_actions(obs: Tensor) -> Tensor:
    """Which actions the rules would not accept.

    :param obs: compact observations, shape (n, 1 + n_account)
    :return: bool, shape (n, 5)
    """
    seen = Observation.from_columns(obs)
    valid = valid_actions(seen.side, seen.long_permitted > 0, seen.short_permitted > 0, _TORCH)
    return ~torch.stack(valid, dim=1)


def masked_logits(logits: Tensor, impossible: Tensor) -> Tensor:
    """Logits with some actions out of reach.

    :param logits: shape (n, 5)
    :param impossible: of :func:`impossible_actions`
    """
    # A finite stand-in for minus infinity: its probability is exactly 0 in float32, and entropy has no 0 * inf.
    return logits.masked_fill(impossible, torch.finfo(torch.float32).min)


def features_extractor(model: BaseAlgorithm) -> LookbackExtractor:
    """The extractor of a PPO model of this package."""
    extractor = model.policy.features_extractor
    assert isinstance(extractor, LookbackExtractor)
    return extractor


def prefer_holding(model: BaseAlgorithm, exit_probability: float) -> None:
    """Set an untrained policy's chance of leaving a trade at a candle.

    Inside a trade two actions can be done, so that the bias of one logit against the other sets it.

    :param exit_probability: between 0 and 1
    """
    logits = model.policy.action_net
    assert isinstance(logits, nn.Linear)
    with torch.no_grad():
        logits.bias[[Action.LONG_EXIT, Action.SHORT_EXIT]] = math.log(exit_probability / (1 - exit_probability))
