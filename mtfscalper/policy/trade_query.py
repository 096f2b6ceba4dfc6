"""One decision at a time inside a trade: small enough to be asked for by freqtrade's callbacks."""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtfscalper.market.lookback import windows_ending_at
from mtfscalper.policy.network import MaskedActorCriticPolicy
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import N_ACCOUNT

if TYPE_CHECKING:
    from mtfscalper.policy.inference import Decider

# The two ways of summing a layer differ by the rounding of float32, some 1e-6 of a logit. Where the two logits lie
# nearer to each other than this, the sums are taken as the policy takes them.
NEAR_TIE = 1e-3

# Rows whose features go through the first layer together.
BLOCK_ROWS = 256

_HIDDEN = "mlp_extractor.policy_net"


class TradeDecision(NamedTuple):
    """What the policy makes of an open trade.

    :ivar action: Neutral, or the exit of the side that is held
    :ivar exit_probability: between 0 and 1
    """

    action: int
    exit_probability: float


class Layer(NamedTuple):
    """A linear layer: weights of shape (n_out, n_in), biases of shape (n_out,), float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


class Actor(NamedTuple):
    """The policy's way from observation to logits: hidden layers with ReLU, then one logit for each action."""

    hidden: tuple[Layer, ...]
    logits: Layer

    @classmethod
    def of_policy(cls, policy: MaskedActorCriticPolicy) -> Actor:
        """The actor of a policy in memory, good until the policy is trained on.

        :raises ValueError: if its hidden layers have another activation than ReLU
        """
        _check_activation("this policy", policy.activation_fn.__name__)
        return cls.of_state(policy.state_dict())

    @classmethod
    def of_zip(cls, path: Path) -> Actor:
        """The actor of a model that stable-baselines3 saved, without making the model.

        :raises ValueError: if the zip holds no policy of this package, or one with another activation than ReLU
        """
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            saved_class = data["policy_class"]["__module__"]
            if saved_class != MaskedActorCriticPolicy.__module__:
                raise ValueError(
                    f"{path} holds a policy of {saved_class}; accepted: PPO's policy of {cls.__module__}; remedy: set "
                    "freqai.rl_config.model_type to 'PPO' and train again"
                )
            # As stable-baselines3 writes a class: <class 'torch.nn.modules.activation.ReLU'>.
            activation = data["policy_kwargs"].get("activation_fn", "Tanh").rstrip("'>").rpartition(".")[2]
            _check_activation(str(path), activation)
            state = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
        # Copied: the file's tensors lie in one piece of memory with the critic's.
        return deepcopy(cls.of_state(state))

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Actor:
        """The actor among a policy's parameters."""
        # Layers and activations are numbered in turn.
        numbers = sorted(int(name.split(".")[2]) for name in state if name.startswith(_HIDDEN) and "weight" in name)
        hidden = tuple(_layer(state, f"{_HIDDEN}.{number}") for number in numbers)
        return cls(hidden, _layer(state, "action_net"))


def _check_activation(where: str, activation: str) -> None:
    if activation != torch.nn.ReLU.__name__:
        raise ValueError(
            f"{where} has hidden layers with {activation}; accepted: ReLU, with which this package trains; remedy: "
            "train again"
        )


def _layer(state: Mapping[str, Tensor], name: str) -> Layer:
    weight, bias = (state[f"{name}.{part}"].detach().cpu().numpy() for part in ("weight", "bias"))
    return Layer(weight, bias)


class TradeQuery(Protocol):
    """Whatever can be asked about open trades on the candles of one window."""

    def decide(self, rows: Sequence[int], states: Sequence[Sequence[float]]) -> list[TradeDecision]:
        """Decide on open trades, each for itself.

        :param rows: of each trade, the position of the last closed candle
        :param states: of each trade, what the policy sees, in the order of
            :data:`mtfscalper.trading.observation.ACCOUNT_FIELDS`; not of flat accounts
        """
        ...


class DeciderQuery:
    """Asks any decider, by a whole forward."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    def decide(self, rows: Sequence[int], states: Sequence[Sequence[float]]) -> list[TradeDecision]:
        """See :class:`TradeQuery`."""
        decided = self._decider.decide(np.column_stack([rows, states]).astype(np.float32))
        sides = (Action.LONG_EXIT if state[0] > 0 else Action.SHORT_EXIT for state in states)
        probabilities = (float(row[leave]) for row, leave in zip(decided.probabilities, sides, strict=True))
        return list(map(TradeDecision, decided.actions.tolist(), probabilities))


class PolicyQuery:
    """Asks the policy of this package about open trades on the candles of one window.

    The features' share of the first layer is worked out for many candles at once, when the first of them is asked
    for; a query adds the trade's share and goes through the layers that follow.
    """

    def __init__(self, actor: Actor, features: npt.NDArray[np.float32], window: int) -> None:
        """
        :param features: scaled features, shape (n_candles, n_features)
        :param window: candles in an observation
        :raises ValueError: if the actor was trained with other features or another window
        """
        first, *hidden = actor.hidden
        self._actor = actor
        self._features, self._window = features, window
        n_seen = window * features.shape[1]
        if n_seen + N_ACCOUNT != first.weight.shape[1]:
            raise ValueError(
                f"{features.shape[1]} features in windows of {window} candles are {n_seen} inputs beside the trade's "
                f"{N_ACCOUNT}; accepted: the {first.weight.shape[1]} inputs that this policy was trained with; remedy: "
                "train again"
            )
        self._seen_weight = np.ascontiguousarray(first.weight[:, :n_seen].T)
        self._seen_bias = first.bias
        self._seen_blocks: dict[int, npt.NDArray[np.float32]] = {}
        self._account_weight = np.ascontiguousarray(first.weight[:, n_seen:])
        # In a trade two actions can be done: by what leaving is ahead of holding, long, then short.
        exits = [Action.LONG_EXIT, Action.SHORT_EXIT]
        weight, bias = actor.logits
        hidden.append(Layer(weight[exits] - weight[Action.NEUTRAL], bias[exits] - bias[Action.NEUTRAL]))
        # Transposed in memory: a product of few rows takes three quarters of the time.
        self._following = [(np.ascontiguousarray(layer.weight.T), layer.bias) for layer in hidden]

    def decide(self, rows: Sequence[int], states: Sequence[Sequence[float]]) -> list[TradeDecision]:
        """See :class:`TradeQuery`."""
        accounts = np.array(states, dtype=np.float32)
        latent = self._seen_share(rows) + accounts @ self._account_weight.T
        for weight, bias in self._following:
            latent = np.maximum(latent, 0.0) @ weight + bias
        decisions = []
        for row, account, (long, short) in zip(rows, accounts, latent.tolist(), strict=True):
            is_long = account[0] > 0
            advantage = long if is_long else short
            leave = Action.LONG_EXIT if is_long else Action.SHORT_EXIT
            if abs(advantage) < NEAR_TIE:
                advantage = self._advantage_in_full(row, account, leave)
            # Of two actions, the softmax is a logistic function; half its hyperbolic tangent cannot overflow.
            probability = 0.5 + 0.5 * math.tanh(advantage / 2)
            decisions.append(TradeDecision(int(leave if advantage > 0 else Action.NEUTRAL), probability))
        return decisions

    def _seen_share(self, rows: Sequence[int]) -> npt.NDArray[np.float32]:
        """What the features of rows give to the first layer, shape (n, n_hidden)."""
        for block in {row // BLOCK_ROWS for row in rows} - self._seen_blocks.keys():
            first = block * BLOCK_ROWS
            members = np.arange(first, min(first + BLOCK_ROWS, len(self._features)))
            seen = windows_ending_at(self._features, members, self._window)
            self._seen_blocks[block] = seen @ self._seen_weight + self._seen_bias
        return np.stack([self._seen_blocks[row // BLOCK_ROWS][row % BLOCK_ROWS] for row in rows])

    def _advantage_in_full(self, row: int, account: npt.NDArray[np.float32], leave: Action) -> float:
        """The logit of leaving less the one of holding, summed as the policy's own forward sums it."""
        seen = windows_ending_at(self._features, np.array([row]), self._window)[0]
        latent = torch.from_numpy(np.concatenate([seen, account]))[None]
        with torch.inference_mode():
            for layer in self._actor.hidden:
                latent = torch.relu(torch.nn.functional.linear(latent, *map(torch.from_numpy, layer)))
            logits = torch.nn.functional.linear(latent, *map(torch.from_numpy, self._actor.logits))[0]
            return float(logits[leave] - logits[Action.NEUTRAL])
