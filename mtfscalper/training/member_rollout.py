"""A rollout of all members of a population, collected without leaving the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mtfscalper.envs.trading_env import observation_space
from mtfscalper.policy.network import impossible_actions, masked_logits
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.training.device import MemberPPOSettings, estimate
from mtfscalper.training.graphs import GraphedFunction
from mtfscalper.training.member_envs import MemberEnvs
from mtfscalper.training.member_networks import MemberNetworks
from mtfscalper.training.storage import Rollout


def draw_actions(log_probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Actions of a distribution, from numbers drawn before.

    :param log_probabilities: shape (..., n_actions)
    :param uniforms: in [0, 1), shape (...)
    :return: int64, shape (...)
    """
    cumulative = log_probabilities.exp().cumsum(-1)
    # Times the sum, which rounding keeps a little off 1: beyond it no action would be left.
    drawn = (uniforms * cumulative[..., -1]).unsqueeze(-1)
    return (cumulative <= drawn).sum(-1)


class MemberRollout:
    """Collects rollouts of K members with n environments each.

    What is random is drawn before a rollout, by each member's own generator: the draws of a member do not depend on
    how many others there are.

    :ivar buffer: what was collected, of shape (n_steps, K * n), member by member
    """

    def __init__(
        self,
        networks: MemberNetworks,
        envs: MemberEnvs,
        generators: Sequence[torch.Generator],
        *,
        n_steps: int,
        n_envs: int,
        device: torch.device,
    ) -> None:
        """
        :param generators: of each member, on the device
        :param n_steps: steps of each environment in a rollout
        :param n_envs: environments of each member
        """
        self._networks, self._envs, self._generators = networks, envs, generators
        self._n_members, self._n_envs = len(generators), n_envs
        [n_inputs] = observation_space().shape
        n = self._n_members * n_envs
        self.buffer = Rollout.empty(n_steps, n, n_inputs, device)
        # Of each step that cut an episode off: what it would have gone on to.
        self._terminal = torch.zeros(n_steps, n, n_inputs, dtype=torch.float32, device=device)
        self._cut_off = torch.zeros(n_steps, n, dtype=torch.bool, device=device)
        self._uniforms = torch.empty(n_steps, self._n_members, n_envs, device=device)
        self._draws = torch.empty(n_steps, n, dtype=torch.float64, device=device)
        # Where the rollout is: a number on the device, so that one recorded step serves all.
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._observations = torch.empty(n, n_inputs, dtype=torch.float32, device=device)
        self._episode_starts = torch.ones(n, device=device)
        self._step = GraphedFunction(self._one_step, device)

    def reset(self) -> None:
        """Start an episode in every environment, at its own random candle."""
        draws = self._each(lambda generator: self._random(generator, self._n_envs, dtype=torch.float64))
        self._observations.copy_(self._envs.reset(draws.flatten()))
        self._episode_starts.fill_(1.0)

    def collect(self, settings: MemberPPOSettings, after_step: Callable[[], None]) -> None:
        """Fill the buffer, advantages and returns included.

        :param after_step: is called after every step, and may raise
        """
        n_steps = len(self.buffer.rewards)
        for member, generator in enumerate(self._generators):
            own = slice(member * self._n_envs, (member + 1) * self._n_envs)
            self._uniforms[:, member] = self._random(generator, n_steps, self._n_envs)
            self._draws[:, own] = self._random(generator, n_steps, self._n_envs, dtype=torch.float64)
        self._at.zero_()
        for _ in range(n_steps):
            self._step()
            after_step()
        self._bootstrap(settings.gamma)
        _, last_values = self._networks.forward(self._by_member(self._observations))
        estimate(self.buffer, last_values.flatten(), self._episode_starts, settings)

    def action_counts(self) -> list[list[int]]:
        """How often each member took each action in the rollout collected, K times five numbers."""
        actions = self.buffer.actions.view(-1, self._n_members, self._n_envs)
        counts = torch.stack([(actions == action).sum(dim=(0, 2)) for action in range(N_ACTIONS)], dim=1)
        taken: list[list[int]] = counts.tolist()
        return taken

    @torch.no_grad()
    def _one_step(self) -> None:
        buffer, at, observations = self.buffer, self._at, self._observations
        logits, values = self._networks.forward(self._by_member(observations))
        impossible = self._by_member(impossible_actions(observations))
        log_probabilities = torch.log_softmax(masked_logits(logits, impossible), dim=-1)
        actions = draw_actions(log_probabilities, self._uniforms.index_select(0, at)[0])
        log_probs = log_probabilities.gather(-1, actions.unsqueeze(-1))
        seen = {
            "observations": observations,
            "episode_starts": self._episode_starts,
            "actions": actions.flatten(),
            "values": values.flatten(),
            "log_probs": log_probs.flatten(),
        }
        step = self._envs.step(actions.flatten(), self._draws.index_select(0, at)[0])
        seen["rewards"] = step.rewards
        for name, column in seen.items():
            kept: Tensor = getattr(buffer, name)
            kept.index_copy_(0, at, column.to(kept.dtype).unsqueeze(0))
        self._terminal.index_copy_(0, at, step.terminal.unsqueeze(0))
        self._cut_off.index_copy_(0, at, step.cut_off.unsqueeze(0))
        observations.copy_(step.observations)
        self._episode_starts.copy_(step.ended)
        at.add_(1)

    @torch.no_grad()
    def _bootstrap(self, gamma: Tensor) -> None:
        """Add the value of what an episode would have gone on to, where it was cut off rather than over.

        Of so few steps that it is worth asking the device which, once a rollout.

        :param gamma: of each member
        """
        by_member = self._cut_off.view(-1, self._n_members, self._n_envs).transpose(0, 1).flatten(1)
        most = int(by_member.sum(1).max())
        if not most:
            return
        # Steps of each member, those that were cut off first.
        order = by_member.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        terminal = self._terminal.view(-1, self._n_members, self._n_envs, self._terminal.shape[-1])
        terminal = terminal.transpose(0, 1).flatten(1, 2)
        values = torch.zeros(by_member.shape, device=by_member.device)
        for start in range(0, most, self._n_envs):
            some = order[:, start : start + self._n_envs]
            _, worth = self._networks.forward(terminal.gather(1, some.unsqueeze(-1).expand(-1, -1, terminal.shape[-1])))
            values.scatter_(1, some, worth.to(values.dtype))
        worth = gamma.unsqueeze(1) * values * by_member
        self.buffer.rewards.add_(worth.view(self._n_members, -1, self._n_envs).transpose(0, 1).flatten(1))

    def _by_member(self, rows: Tensor) -> Tensor:
        """Of rows of all environments, those of each member: shape (K, n, ...)."""
        return torch.unflatten(rows, 0, (self._n_members, self._n_envs))

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.stack([draw(generator) for generator in self._generators])

    @staticmethod
    def _random(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype, device=generator.device)
