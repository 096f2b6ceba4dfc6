"""A rollout in memory, on the policy's device, and what PPO learns from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mtfscalper.policy.network import impossible_actions
from mtfscalper.trading.actions import N_ACTIONS


def generalised_advantage(
    rewards: Tensor,
    values: Tensor,
    episode_starts: Tensor,
    last_values: Tensor,
    last_dones: Tensor,
    gamma: float | Tensor,
    gae_lambda: float | Tensor,
) -> Tensor:
    """Advantage estimation (Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16).

    Its products and sums are stable-baselines3's, in the same order: equal to the last bit.

    :param rewards: shape (n_steps, n_envs), as ``values`` and ``episode_starts``
    :param episode_starts: 1 where the step is the first of an episode, else 0
    :param last_values: values of what was observed after the last step, shape (n_envs,)
    :param last_dones: 1 where the last step ended an episode, else 0, shape (n_envs,)
    :param gamma: discount per step, in [0, 1]; one for all, or one for each environment, shape (n_envs,)
    :param gae_lambda: weight of longer sums of rewards against the values' own estimates, in [0, 1]; one for all or
        for each environment
    :return: shape (n_steps, n_envs)
    """
    next_values = torch.cat([values[1:], last_values[None]])
    goes_on = 1.0 - torch.cat([episode_starts[1:], last_dones[None]])
    # delta_t = r_t + gamma * V(s_{t+1}) - V(s_t)
    deltas = rewards + gamma * next_values * goes_on - values
    decays = gamma * gae_lambda * goes_on
    advantages = torch.empty_like(rewards)
    # A_t = delta_t + gamma * lambda * A_{t+1}
    after = torch.zeros_like(last_values)
    for step in reversed(range(len(rewards))):
        after = torch.add(deltas[step], decays[step] * after, out=advantages[step])
    return advantages


# Columns of samples with more than one number a row.
_WIDE = ("observations", "impossible")


class Samples(NamedTuple):
    """Steps of a rollout as flat tensors on the policy's device; one row a step of one environment.

    Of K members every shape has K before it.

    :ivar observations: compact, float32, shape (n, 1 + n_account)
    :ivar impossible: actions that the rules would not have accepted, bool, shape (n, 5)
    :ivar actions: what was done, int64, shape (n,)
    :ivar values: of the states, before this update, in units of discounted reward, float32, shape (n,)
    :ivar log_probs: of the actions, before this update, float32, shape (n,)
    :ivar advantages: of the actions, in units of discounted reward, float32, shape (n,)
    :ivar returns: what the values should have been, float32, shape (n,)
    """

    observations: Tensor
    impossible: Tensor
    actions: Tensor
    values: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, rows: Tensor | slice) -> Samples:
        """Some of the rows."""
        return Samples(*(column[rows] for column in self))

    def minibatches(self, size: int) -> Iterator[Samples]:
        """Parts of so many rows; the last one may be smaller."""
        return map(Samples, *(torch.split(column, size) for column in self))

    def packed(self) -> Tensor:
        """All columns in one tensor of float32, so that choosing rows is one operation; see :meth:`from_packed`.

        :return: shape (n_packed, ..., n)
        """
        columns = [
            column.movedim(-1, 0) if name in _WIDE else column.unsqueeze(0) for name, column in self._asdict().items()
        ]
        return torch.cat([column.float() for column in columns])

    @classmethod
    def from_packed(cls, packed: Tensor) -> Samples:
        """
        :param packed: of :meth:`packed`, or some of its rows
        """
        impossible, single = torch.split(packed[-_N_OTHERS:], [N_ACTIONS, _N_OTHERS - N_ACTIONS])
        actions, *others = single.unbind()
        return cls(packed_observations(packed), impossible.movedim(0, -1) > 0, actions.long(), *others)


# Numbers of a packed row behind its observation.
_N_OTHERS = N_ACTIONS + len(Samples._fields) - len(_WIDE)


def packed_observations(packed: Tensor) -> Tensor:
    """The observations of :meth:`Samples.packed`, a view."""
    return packed[:-_N_OTHERS].movedim(0, -1)


class Rollout(NamedTuple):
    """What environments went through, step by step, on the policy's device; shape (n_steps, n_envs) and float32.

    It holds the place of stable-baselines3's ``RolloutBuffer``, and is written over by every rollout.

    :ivar observations: compact, shape (n_steps, n_envs, 1 + n_account)
    :ivar actions: int64
    :ivar rewards: where an episode was cut off, with the discounted value of what it would have gone on to
    :ivar episode_starts: 1 where the step is the first of an episode, else 0
    :ivar values: of the observations, as estimated then
    :ivar log_probs: of the actions, as the policy was then
    :ivar advantages: see :func:`generalised_advantage`
    :ivar returns: advantages and values together
    """

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    episode_starts: Tensor
    values: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor

    @classmethod
    def empty(cls, n_steps: int, n_envs: int, n_inputs: int, device: torch.device) -> Rollout:
        """Room for a rollout.

        :param n_inputs: numbers of a compact observation
        """
        columns = {name: torch.empty(n_steps, n_envs, device=device) for name in cls._fields}
        columns["observations"] = torch.empty(n_steps, n_envs, n_inputs, device=device)
        columns["actions"] = columns["actions"].long()
        return cls(**columns)

    def estimate(
        self, last_values: Tensor, last_dones: Tensor, gamma: float | Tensor, gae_lambda: float | Tensor
    ) -> None:
        """Work out advantages and returns, see :func:`generalised_advantage`."""
        self.advantages.copy_(
            generalised_advantage(
                self.rewards, self.values, self.episode_starts, last_values, last_dones, gamma, gae_lambda
            )
        )
        torch.add(self.advantages, self.values, out=self.returns)

    def samples(self) -> Samples:
        """Every step, those of the first environment first, as stable-baselines3 flattens them."""
        flat = {name: column.transpose(0, 1).flatten(0, 1) for name, column in self._asdict().items()}
        impossible = impossible_actions(flat["observations"])
        return Samples(impossible=impossible, **{name: flat[name] for name in Samples._fields if name in flat})
