"""Decisions of a trained policy: for every candle at once when flat, one by one inside a trade."""

from __future__ import annotations

import inspect
import io
import json
import math
import zipfile
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from mtfscalper.envs.lookback_observation import expand_observations
from mtfscalper.market.lookback import lookbacks_ending_at
from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.policy.ensemble import EnsemblePolicy, mean_probabilities, member_states, members_of
from mtfscalper.policy.network import (
    HiddenLayer,
    LookbackExtractor,
    MaskedActorCriticPolicy,
    has_relu_layers,
    impossible_actions,
    masked_logits,
    through_layers,
)
from mtfscalper.policy.recurrent import RecurrentPolicyError, is_recurrent
from mtfscalper.trading.actions import N_ACTIONS, Action, valid_actions
from mtfscalper.trading.arrays import NUMPY
from mtfscalper.trading.observation import N_ACCOUNT, Observation

# Observations that go through the network at once: matrix products of fewer rows are slower, of more no faster.
MAX_BATCH = 1024

# Two ways to sum a layer differ by the rounding of float32, some 1e-6 of a logit. Where the probabilities of leaving
# and of holding are nearer to each other than this, the sums are taken in the policy's own order.
NEAR_TIE = 5e-4

# Of so many candles at once the features' part of the first layer is worked out, and kept.
BLOCK_ROWS = 256

_HIDDEN = "mlp_extractor.policy_net"

# What can be done in a trade beside holding it.
_EXITS = (Action.LONG_EXIT, Action.SHORT_EXIT)

_relu: Callable[..., Any] = partial(np.maximum, np.float32(0.0))


class Decisions(NamedTuple):
    """Deterministic actions and what the policy gave each.

    :ivar actions: members of :class:`Action`, int64, shape (n,)
    :ivar probabilities: float32, shape (n, 5); one-hot for algorithms without a distribution
    """

    actions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


class TradeDecision(NamedTuple):
    """What the policy makes of an open trade.

    :ivar action: Neutral, or the exit of the side that is held
    :ivar exit_probability: between 0 and 1
    """

    action: int
    exit_probability: float


class TradeDecider(Protocol):
    """Whatever can be asked about open trades on the candles of one period."""

    def decide(self, observations: Sequence[Observation]) -> list[TradeDecision]:
        """Decide on open trades, each for itself.

        :param observations: of each trade, in Python's numbers; not of flat accounts
        """
        ...


class Decider(Protocol):
    """Whatever can decide on compact observations of one tape."""

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """
        :param observations: compact, shape (n, 1 + n_account)
        """
        ...

    def trade_decider(self) -> TradeDecider:
        """The same decisions about open trades, one by one."""
        ...


# ---------------------------------------------------------------------- flat decisions, in batches


class PolicyDecider:
    """A PPO policy of this package, or an ensemble of such, which gathers what it looks back on."""

    def __init__(
        self,
        policy: MaskedActorCriticPolicy | EnsemblePolicy,
        features: npt.NDArray[np.float32],
        max_batch: int = MAX_BATCH,
    ) -> None:
        """
        :param features: scaled features of the tape to decide on, shape (n_candles, n_features)
        :param max_batch: rows of a forward
        """
        self._policy = policy
        self._max_batch = max_batch
        self._extractor = policy.features_extractor
        self._features = features
        self._tape = self._extractor.as_tape(features)

    def trade_decider(self) -> TradeDecider:
        """See :class:`Decider`."""
        actors = actors_of(self._policy)
        if not actors:
            return WholeTradeDecider(self)
        return FastTradeDecider(actors, self._features, self._extractor.lookback)

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """See :class:`Decider`."""
        parts = []
        self._policy.set_training_mode(False)
        with torch.inference_mode(), self._policy.in_full_precision(), self._extractor.on_tape(self._tape):
            for start in range(0, len(observations), self._max_batch):
                batch = torch.from_numpy(observations[start : start + self._max_batch]).to(self._policy.device)
                distribution: Any = self._policy.get_distribution(batch).distribution
                parts.append(distribution.probs.cpu().numpy())
        probabilities = np.concatenate(parts) if parts else np.empty((0, N_ACTIONS), dtype=np.float32)
        return Decisions(probabilities.argmax(axis=1), probabilities)


class LookbackDecider:
    """Any other SB3 policy, over observations that hold their lookback. Impossible actions count as Neutral."""

    def __init__(
        self, model: BaseAlgorithm, features: npt.NDArray[np.float32], lookback: int, max_batch: int = MAX_BATCH
    ) -> None:
        """
        :param features: scaled features of the tape to decide on, shape (n_candles, n_features)
        :param lookback: candles an observation looks back
        :param max_batch: rows of a forward
        """
        self._model = model
        self._max_batch = max_batch
        self._features = features
        self._lookback = lookback
        # MaskablePPO never learned about the actions that were masked in its training.
        self._takes_masks = "action_masks" in inspect.signature(model.predict).parameters

    def trade_decider(self) -> TradeDecider:
        """See :class:`Decider`."""
        return WholeTradeDecider(self)

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """See :class:`Decider`."""
        if not len(observations):
            return Decisions(np.empty(0, dtype=np.int64), np.empty((0, N_ACTIONS), dtype=np.float32))
        seen = Observation.from_columns(observations)
        valid = valid_actions(seen.side, seen.long_permitted > 0, seen.short_permitted > 0, NUMPY)
        possible = np.stack(valid, axis=1)
        parts = []
        for start in range(0, len(observations), self._max_batch):
            rows = slice(start, start + self._max_batch)
            batch = expand_observations(observations[rows], self._features, self._lookback)
            masks: dict[str, Any] = {"action_masks": possible[rows]} if self._takes_masks else {}
            actions, _ = self._model.predict(batch, deterministic=True, **masks)
            parts.append(self._weigh(batch, np.asarray(actions, dtype=np.int64)))
        probabilities = np.concatenate(parts)
        chosen = probabilities.argmax(axis=1)
        accepted = possible[np.arange(len(chosen)), chosen]
        return Decisions(np.where(accepted, chosen, Action.NEUTRAL), probabilities)

    def _weigh(self, batch: npt.NDArray[np.float32], actions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        policy = self._model.policy
        if (
            isinstance(policy, ActorCriticPolicy)
            and type(policy).get_distribution is ActorCriticPolicy.get_distribution
        ):
            with torch.inference_mode():
                observations, _ = policy.obs_to_tensor(batch)
                distribution: Any = policy.get_distribution(observations).distribution
                return distribution.probs.cpu().numpy()  # type: ignore[no-any-return]
        return np.eye(N_ACTIONS, dtype=np.float32)[actions]


def decider_for(
    model: BaseAlgorithm, features: npt.NDArray[np.float32], lookback: int, max_batch: int = MAX_BATCH
) -> Decider:
    """The decider of a model over a tape's features.

    :param lookback: candles an observation looks back
    :param max_batch: rows of a forward
    :raises mtfscalper.policy.recurrent.RecurrentPolicyError: for a recurrent policy, see
        :func:`mtfscalper.policy.closed_loop.loop_decider`
    """
    if is_recurrent(model):
        raise RecurrentPolicyError
    if isinstance(model.policy, MaskedActorCriticPolicy | EnsemblePolicy):
        return PolicyDecider(model.policy, features, max_batch)
    return LookbackDecider(model, features, lookback, max_batch)


# ---------------------------------------------------------------------- one trade's decision


class Layer(NamedTuple):
    """A linear layer: weights of shape (n_out, n_in), biases of shape (n_out,), float32."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


class Actor(NamedTuple):
    """The policy's way from observation to logits: hidden layers with ReLU, then one logit for each action."""

    hidden: tuple[Layer, ...]
    logits: Layer

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> Actor:
        """The actor among a policy's parameters."""
        # Layers and activations are numbered in turn.
        numbers = sorted(int(name.split(".")[2]) for name in state if name.startswith(_HIDDEN) and "weight" in name)
        hidden = tuple(_layer(state, f"{_HIDDEN}.{number}") for number in numbers)
        return cls(hidden, _layer(state, "action_net"))


def actors_of(policy: MaskedActorCriticPolicy | EnsemblePolicy) -> tuple[Actor, ...]:
    """The actors of a policy's members, good until they are trained on; none if they have other layers."""
    members = members_of(policy)
    return (
        tuple(Actor.from_state(member.state_dict()) for member in members) if all(map(has_relu_layers, members)) else ()
    )


def actors_in_zip(path: Path) -> tuple[Actor, ...]:
    """The actors of a model that stable-baselines3 saved, without making the model; none if it has other layers."""
    with zipfile.ZipFile(path) as archive:
        if not _zip_has_relu_layers(json.loads(archive.read("data"))):
            return ()
        state = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
    # Copied: the file's tensors lie in one piece of memory with the critic's.
    return tuple(deepcopy(Actor.from_state(member)) for member in member_states(state))


def _zip_has_relu_layers(data: Mapping[str, Any]) -> bool:
    """:func:`mtfscalper.policy.network.has_relu_layers` of what stable-baselines3 wrote about a policy."""
    policy, arguments = data["policy_class"], data["policy_kwargs"]
    # A class is written as its repr. A user's network cannot be written as JSON, and makes a string of its arguments.
    return (
        policy["__module__"] in (MaskedActorCriticPolicy.__module__, EnsemblePolicy.__module__)
        and arguments.get("activation_fn") == repr(nn.ReLU)
        and arguments.get("features_extractor_class") == repr(LookbackExtractor)
        and isinstance(arguments.get("features_extractor_kwargs"), dict)
    )


def _layer(state: Mapping[str, Tensor], name: str) -> Layer:
    weight, bias = (state[f"{name}.{part}"].detach().cpu().numpy() for part in ("weight", "bias"))
    return Layer(weight, bias)


class WholeTradeDecider:
    """Asks any decider, by a whole forward."""

    def __init__(self, decider: Decider) -> None:
        self._decider = decider

    def decide(self, observations: Sequence[Observation]) -> list[TradeDecision]:
        """See :class:`TradeDecider`."""
        decided = self._decider.decide(np.array(observations, dtype=np.float32))
        exits = (_EXITS[seen.side < 0] for seen in observations)
        probabilities = (float(row[leave]) for row, leave in zip(decided.probabilities, exits, strict=True))
        return list(map(TradeDecision, decided.actions.tolist(), probabilities))


class FastTradeDecider:
    """Asks a policy of this package, or an ensemble of such, about open trades on the candles of one period."""

    def __init__(self, actors: Sequence[Actor], features: npt.NDArray[np.float32], lookback: int) -> None:
        """
        :param actors: of the policy's members
        :param features: scaled features, shape (n_candles, n_features)
        :param lookback: candles an observation looks back
        :raises ValueError: if an actor was trained with other features or another lookback
        """
        self._features, self._lookback = features, lookback
        self._actors = [_QuickActor(actor, features, lookback) for actor in actors]

    def decide(self, observations: Sequence[Observation]) -> list[TradeDecision]:
        """See :class:`TradeDecider`."""
        rows = [int(seen.row) for seen in observations]
        accounts = np.array([seen.account for seen in observations], dtype=np.float32)
        advantages = [
            through_layers((rows, accounts), actor.hidden, actor.advantages).tolist() for actor in self._actors
        ]
        decisions = []
        for seen, *of_each in zip(observations, *advantages, strict=True):
            column = int(seen.side < 0)
            # Of two actions, the softmax is a logistic function: this hyperbolic tangent is what the probability of
            # the one is ahead of the other's, and cannot overflow.
            lead = sum(math.tanh(advantage[column] / 2) for advantage in of_each) / len(of_each)
            if abs(lead) < NEAR_TIE:
                lead = self._lead_in_full(seen)
            action = int(_EXITS[column] if lead > 0 else Action.NEUTRAL)
            decisions.append(TradeDecision(action, 0.5 + lead / 2))
        return decisions

    def _lead_in_full(self, seen: Observation) -> float:
        """The probability of leaving less the one of holding, by the very operations of the policy's own forward."""
        observation = torch.tensor([seen], dtype=torch.float32)
        lookback = torch.from_numpy(lookbacks_ending_at(self._features, np.array([int(seen.row)]), self._lookback))
        inputs = torch.cat([lookback, observation[:, 1:]], dim=1)
        impossible = impossible_actions(observation)
        with torch.inference_mode():
            logits = [masked_logits(actor.logits_in_full(inputs), impossible) for actor in self._actors]
            [probabilities] = mean_probabilities([torch.distributions.Categorical(logits=one).probs for one in logits])
        return float(probabilities[_EXITS[seen.side < 0]]) - float(probabilities[Action.NEUTRAL])


class _QuickActor:
    """One actor on the candles of one period.

    The features' part of the first layer is worked out for many candles at once, when the first of them is asked
    for; a question adds the account's part and goes through the layers that follow.

    :ivar hidden: layers that read rows of the features and the accounts' states, shape (n, n_account)
    :ivar advantages: from what the last of them gives to the logits of :data:`_EXITS` less the one of holding, (n, 2)
    """

    def __init__(self, actor: Actor, features: npt.NDArray[np.float32], lookback: int) -> None:
        """See :class:`FastTradeDecider`."""
        first, *hidden = actor.hidden
        self._features, self._lookback = features, lookback
        self._torch_hidden: list[HiddenLayer] = [(_torch_linear(layer), torch.relu) for layer in actor.hidden]
        self._torch_logits = _torch_linear(actor.logits)
        n_seen = lookback * features.shape[1]
        if n_seen + N_ACCOUNT != first.weight.shape[1]:
            raise ValueError(
                f"{features.shape[1]} features of each of {lookback} candles are {n_seen} inputs beside the account's "
                f"{N_ACCOUNT}; accepted: the {first.weight.shape[1]} inputs that this policy was trained with; remedy: "
                "train again"
            )
        self._seen_weight = np.ascontiguousarray(first.weight[:, :n_seen].T)
        self._seen_bias = first.bias
        self._seen_blocks: dict[int, npt.NDArray[np.float32]] = {}
        self._account_weight = np.ascontiguousarray(first.weight[:, n_seen:])
        weight, bias = actor.logits
        self.hidden: list[HiddenLayer] = [(self._first_layer, _relu), *((_linear(layer), _relu) for layer in hidden)]
        exits = list(_EXITS)
        self.advantages = _linear(Layer(weight[exits] - weight[Action.NEUTRAL], bias[exits] - bias[Action.NEUTRAL]))

    def logits_in_full(self, inputs: Tensor) -> Tensor:
        """Logits summed as the policy's own forward sums them.

        :param inputs: lookbacks and accounts' states, shape (n, n_inputs)
        :return: shape (n, 5)
        """
        return through_layers(inputs, self._torch_hidden, self._torch_logits)

    def _first_layer(self, inputs: tuple[Sequence[int], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """The first linear layer.

        :param inputs: rows of the features, and the accounts' states, shape (n, n_account)
        :return: shape (n, n_hidden)
        """
        rows, accounts = inputs
        for block in {row // BLOCK_ROWS for row in rows} - self._seen_blocks.keys():
            first = block * BLOCK_ROWS
            members = np.arange(first, min(first + BLOCK_ROWS, len(self._features)))
            seen = lookbacks_ending_at(self._features, members, self._lookback)
            self._seen_blocks[block] = seen @ self._seen_weight + self._seen_bias
        seen = np.stack([self._seen_blocks[row // BLOCK_ROWS][row % BLOCK_ROWS] for row in rows])
        latent: npt.NDArray[np.float32] = accounts @ self._account_weight.T
        latent += seen
        return latent


def _linear(layer: Layer) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    # The transpose is laid out in memory: multiplying few rows by it takes three quarters of the time of a view.
    weight = np.ascontiguousarray(layer.weight.T)
    bias = layer.bias

    def linear(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        product = values @ weight
        product += bias
        return product

    return linear


def _torch_linear(layer: Layer) -> Callable[[Tensor], Tensor]:
    weight, bias = map(torch.from_numpy, layer)
    return partial(nn.functional.linear, weight=weight, bias=bias)


def trade_decider_from_zip(
    path: Path, model_type: str, features: npt.NDArray[np.float32], lookback: int
) -> TradeDecider:
    """Whatever decides about open trades as a saved model does: quickly where its layers allow, else by whole forwards.

    :param path: a model that stable-baselines3 saved
    :param model_type: its algorithm's name, as ``rl_config.model_type``
    :param features: scaled features, shape (n_candles, n_features)
    :param lookback: candles an observation looks back
    :raises mtfscalper.policy.recurrent.RecurrentPolicyError: for a recurrent policy
    """
    actors = actors_in_zip(path) if model_type == "PPO" else ()
    if actors:
        return FastTradeDecider(actors, features, lookback)
    model = algorithm_class(model_type).load(path, device="cpu")
    return decider_for(model, features, lookback).trade_decider()
