"""Decisions of a recurrent policy, one after the other: each depends on what the policy remembers of those before.

As in training the memory moves on once per decision of the environment, not once per candle: a flat account is asked
where an entry is permitted and can be paid for, and not at all where the signals enter; a trade is asked about at every
open after that of its entry. An episode, and with it the memory, begins anew after a gap in the candles.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from mtfscalper.envs.episodes import EnvSettings, permitted_entries
from mtfscalper.envs.lookback_observation import expand_observations
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Account
from mtfscalper.trading.actions import N_ACTIONS, Action, ActionTable, valid_actions
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import Observation, observe
from mtfscalper.trading.rules import can_afford_entry, may_run_out

# The algorithm whose policies remember, as ``rl_config.model_type``.
RECURRENT_PPO = "RecurrentPPO"

# The hidden and the cell state of the actor's LSTM, each of shape (n_layers, 1, n_hidden).
Memory = tuple[Tensor, Tensor]


class RecurrentPolicyError(ValueError):
    """A recurrent policy is asked about candles by themselves, as if it remembered nothing."""

    def __init__(self) -> None:
        super().__init__(
            "a recurrent policy decides by what it remembers of the candles before and cannot be asked about one by "
            "itself (docs/recurrent.md)"
        )


class RecurrentDecision(NamedTuple):
    """What a recurrent policy answers.

    :ivar action: a member of :class:`Action`; an impossible one counts as Neutral
    :ivar probabilities: float32, shape (5,)
    :ivar memory: what it remembers from now on
    """

    action: int
    probabilities: npt.NDArray[np.float32]
    memory: Memory

    def exit_probability(self, side: float) -> float:
        """Of leaving a trade.

        :param side: +1 long, -1 short
        """
        return float(self.probabilities[Action.SHORT_EXIT if side < 0 else Action.LONG_EXIT])


def is_recurrent(model: BaseAlgorithm) -> bool:
    """Whether a model's policy remembers."""
    return isinstance(model.policy, RecurrentActorCriticPolicy)


class RecurrentDecider:
    """A recurrent policy over observations that hold their lookback. It keeps no memory itself: that is handed in."""

    def __init__(self, model: BaseAlgorithm, features: npt.NDArray[np.float32], lookback: int) -> None:
        """
        :param features: scaled features of the tape to decide on, shape (n_candles, n_features)
        :param lookback: candles an observation looks back
        """
        policy = model.policy
        assert isinstance(policy, RecurrentActorCriticPolicy)
        self._policy = policy
        self._features = features
        self._lookback = lookback

    def decide(self, seen: Observation, memory: Memory | None) -> RecurrentDecision:
        """One decision.

        :param seen: in Python's numbers
        :param memory: after the decision before; None at the start of an episode
        """
        policy = self._policy
        policy.set_training_mode(False)
        expanded = expand_observations(np.array([seen], dtype=np.float32), self._features, self._lookback)
        with torch.inference_mode():
            if memory is None:
                nothing = torch.zeros(policy.lstm_hidden_state_shape, device=policy.device)
                memory = nothing, nothing
            distribution, after = policy.get_distribution(
                torch.from_numpy(expanded).to(policy.device), memory, torch.zeros(1, device=policy.device)
            )
            weighed: Any = distribution.distribution
            probabilities = weighed.probs[0].cpu().numpy()
        action = int(probabilities.argmax())
        possible = valid_actions(seen.side, seen.long_permitted > 0, seen.short_permitted > 0, SCALAR)
        hidden, cell = after
        return RecurrentDecision(action if possible[action] else int(Action.NEUTRAL), probabilities, (hidden, cell))


class Recollection:
    """A recurrent policy that is asked along one tape, and what it remembers there."""

    def __init__(
        self,
        decider: RecurrentDecider,
        tape: MarketTape,
        settings: EnvSettings,
        memory: Memory | None = None,
        first_row: int = 0,
    ) -> None:
        """
        :param decider: over the tape's features
        :param memory: what it remembers as ``first_row`` is decided on, see :meth:`memory_at`
        """
        self._memory = memory
        self._decider, self._settings = decider, settings
        self._carried_out = ActionTable.from_entry_mode(settings.entry_mode).carried_out
        long_permitted, short_permitted = permitted_entries(tape, settings)
        self._offsets = ActionTable.permission_offset(long_permitted, short_permitted).tolist()
        self._permitted = list(zip(long_permitted.tolist(), short_permitted.tolist(), strict=True))
        self._segment_stops = [stop for _, stop in tape.segments]
        self._segment = self._segment_of(first_row)

    def flat(self, row: int, account: Account) -> tuple[int, npt.NDArray[np.float32]]:
        """What is done flat after a row whose lookback is whole, later than those before; it is remembered.

        :param account: that is flat
        :return: the action that is carried out, an automatic entry included, and the probabilities of all, shape (5,),
            which are 0 where the environment asks no policy
        """
        chosen, probabilities = int(Action.NEUTRAL), np.zeros(N_ACTIONS, dtype=np.float32)
        if self._is_asked_flat(row, account):
            chosen, probabilities, _ = self._ask(self._observation(row, account, 0.0))
        return int(self._carried_out[self._offsets[row] + chosen]), probabilities

    def in_trade(self, row: int, account: Account, profit: float) -> RecurrentDecision:
        """What is decided about an open trade after a row as in :meth:`flat`; it is remembered.

        :param account: that has seen the open after the row
        :param profit: ratio, at that open
        """
        return self._ask(self._observation(row, account, profit))

    def answer(self, seen: Observation) -> RecurrentDecision:
        """What would be decided now; nothing of it is remembered."""
        return self._decider.decide(seen, self.memory_at(int(seen.row)))

    def memory_at(self, row: int) -> Memory | None:
        """What is remembered as a row is decided on; None where nothing has been decided since the last gap."""
        return self._memory if self._segment_of(row) == self._segment else None

    def _ask(self, seen: Observation) -> RecurrentDecision:
        decision = self.answer(seen)
        self._memory, self._segment = decision.memory, self._segment_of(int(seen.row))
        return decision

    def _observation(self, row: int, account: Account, profit: float) -> Observation:
        settings = self._settings
        return observe(SCALAR, settings.rules, settings.view, row, account, profit, *self._permitted[row])

    def _is_asked_flat(self, row: int, account: Account) -> bool:
        """Whether an environment asks about a flat account: where something can be decided."""
        if self._settings.entry_mode == "classic" or not any(self._permitted[row]):
            return False
        rules = self._settings.rules
        return not may_run_out(rules) or bool(can_afford_entry(SCALAR, rules, account))

    def _segment_of(self, row: int) -> int:
        return bisect_right(self._segment_stops, row)
