"""Decisions of a trained policy: for every candle at once when flat, one by one inside a trade."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from mtfscalper.envs.lookback_observation import expand_observations
from mtfscalper.policy.network import CandleWindowExtractor, MaskedActorCriticPolicy
from mtfscalper.policy.trade_query import Actor, DeciderQuery, PolicyQuery, TradeQuery
from mtfscalper.trading.actions import N_ACTIONS, Action, valid_actions
from mtfscalper.trading.arrays import NUMPY
from mtfscalper.trading.observation import ACCOUNT_FIELDS

# Rows of a forward: fewer make its products slower, more gain nothing.
MAX_BATCH = 1024


class Decisions(NamedTuple):
    """Deterministic actions and what the policy gave each.

    :ivar actions: members of :class:`Action`, int64, shape (n,)
    :ivar probabilities: float32, shape (n, 5); one-hot for algorithms without a distribution
    """

    actions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


class Decider(Protocol):
    """Whatever can decide on compact observations of one tape."""

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """
        :param observations: compact, shape (n, 1 + n_account)
        """
        ...

    def trade_query(self) -> TradeQuery:
        """The same decisions about open trades, one by one."""
        ...


class PolicyDecider:
    """The PPO policy of this package, which gathers its own windows."""

    def __init__(
        self, policy: MaskedActorCriticPolicy, features: npt.NDArray[np.float32], max_batch: int = MAX_BATCH
    ) -> None:
        """
        :param features: scaled features of the tape to decide on, shape (n_candles, n_features)
        :param max_batch: rows of a forward
        """
        self._policy = policy
        self._max_batch = max_batch
        extractor = policy.features_extractor
        assert isinstance(extractor, CandleWindowExtractor)
        self._extractor = extractor
        self._features = self._extractor.as_tape(features)
        self._query = partial(PolicyQuery, features=features, window=extractor.window)

    def trade_query(self) -> TradeQuery:
        """See :class:`Decider`."""
        return self._query(Actor.of_policy(self._policy))

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """See :class:`Decider`."""
        parts = []
        self._policy.set_training_mode(False)
        with torch.inference_mode(), self._policy.in_full_precision(), self._extractor.on_tape(self._features):
            for start in range(0, len(observations), self._max_batch):
                batch = torch.from_numpy(observations[start : start + self._max_batch]).to(self._policy.device)
                distribution: Any = self._policy.get_distribution(batch).distribution
                parts.append(distribution.probs.cpu().numpy())
        probabilities = np.concatenate(parts) if parts else np.empty((0, N_ACTIONS), dtype=np.float32)
        return Decisions(probabilities.argmax(axis=1), probabilities)


class WindowDecider:
    """Any other SB3 algorithm, over ordinary window observations. Impossible actions count as Neutral."""

    def __init__(
        self, model: BaseAlgorithm, features: npt.NDArray[np.float32], window: int, max_batch: int = MAX_BATCH
    ) -> None:
        """
        :param features: scaled features of the tape to decide on, shape (n_candles, n_features)
        :param window: candles in a window
        :param max_batch: rows of a forward
        """
        self._model = model
        self._max_batch = max_batch
        self._features = features
        self._window = window
        # MaskablePPO never learned about the actions that were masked in its training.
        self._takes_masks = "action_masks" in inspect.signature(model.predict).parameters

    def trade_query(self) -> TradeQuery:
        """See :class:`Decider`."""
        return DeciderQuery(self)

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        """See :class:`Decider`."""
        if not len(observations):
            return Decisions(np.empty(0, dtype=np.int64), np.empty((0, N_ACTIONS), dtype=np.float32))
        columns = {name: 1 + index for index, name in enumerate(ACCOUNT_FIELDS)}
        valid = valid_actions(
            observations[:, columns["side"]],
            observations[:, columns["long_permitted"]] > 0,
            observations[:, columns["short_permitted"]] > 0,
            NUMPY,
        )
        possible = np.stack(valid, axis=1)
        parts = []
        for start in range(0, len(observations), self._max_batch):
            rows = slice(start, start + self._max_batch)
            batch = expand_observations(observations[rows], self._features, self._window)
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
    model: BaseAlgorithm, features: npt.NDArray[np.float32], window: int, max_batch: int = MAX_BATCH
) -> Decider:
    """The decider of a model over a tape's features.

    :param max_batch: rows of a forward
    """
    if isinstance(model.policy, MaskedActorCriticPolicy):
        return PolicyDecider(model.policy, features, max_batch)
    return WindowDecider(model, features, window, max_batch)
