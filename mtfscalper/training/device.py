"""PPO's update of K members at once, wholly on one device.

Each member has its rollout, its order of minibatches and its settings, and its update is that of
:class:`mtfscalper.training.ppo.FusedPPO`. Nothing waits for the device: metrics stay there as well, for whoever reads
them. On a CUDA device a minibatch is one launch of a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mtfscalper.policy.network import masked_logits
from mtfscalper.training.graphs import GraphedFunction
from mtfscalper.training.member_networks import MemberNetworks
from mtfscalper.training.ppo import (
    KL_MARGIN,
    METRICS,
    LossSettings,
    Terms,
    approx_kl,
    loss_gradients,
    minibatch_metrics,
)
from mtfscalper.training.storage import Rollout, Samples, packed_observations

# What an update measures of each member.
UPDATE_METRICS = (*METRICS, "explained_variance", "n_epochs")
_KL, _LOSS = METRICS.index("approx_kl"), METRICS.index("loss")


def minibatch_gradients(
    packed: Tensor, logits: Tensor, values: Tensor, settings: LossSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`mtfscalper.training.ppo.loss_gradients` of packed samples: all that lies between forward and backward.

    :param packed: of :meth:`mtfscalper.training.storage.Samples.packed`, shape (n_packed, K, n)
    :param logits: before any mask, shape (K, n, 5)
    :param values: shape (K, n)
    :return: gradients of both, and the terms of the metrics, shape (4, K, n)
    """
    samples = Samples.from_packed(packed)
    logits = masked_logits(logits, samples.impossible)
    logits_gradient, values_gradient, terms = loss_gradients(logits, values, samples, settings)
    return logits_gradient, values_gradient, torch.stack(terms)


# The signature of minibatch_gradients.
MinibatchGradients = Callable[[Tensor, Tensor, Tensor, LossSettings], tuple[Tensor, Tensor, Tensor]]


class MemberPPOSettings(NamedTuple):
    """Settings of each member, on the networks' device and in their precision; shape (K,). See stable-baselines3's PPO.

    :ivar clip_range_vf: None if no member has one; of a member without, infinity
    :ivar target_kl: None if no member has one; of a member without, infinity
    :ivar normalize_advantage: the same for all members
    """

    learning_rate: Tensor
    clip_range: Tensor
    clip_range_vf: Tensor | None
    ent_coef: Tensor
    vf_coef: Tensor
    max_grad_norm: Tensor
    gamma: Tensor
    gae_lambda: Tensor
    target_kl: Tensor | None
    normalize_advantage: bool

    def loss(self) -> LossSettings:
        """What the members' losses depend on, as views."""
        return LossSettings(
            clip_range=self.clip_range.unsqueeze(1),
            clip_range_vf=None if self.clip_range_vf is None else self.clip_range_vf.unsqueeze(1),
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.ent_coef.unsqueeze(1),
            vf_coef=self.vf_coef.unsqueeze(1),
        )

    def copied(self) -> MemberPPOSettings:
        """The same in memory of its own."""
        cloned: dict[str, Any] = {name: setting.clone() for name, setting in self._tensors()}
        return self._replace(**cloned)

    def copy_(self, other: MemberPPOSettings) -> None:
        """Take over the values of settings that have the same ones set to None."""
        for (_, own), (_, setting) in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(setting)

    def form(self) -> tuple[object, ...]:
        """What decides which operations an update has."""
        return self.clip_range_vf is None, self.target_kl is None, self.normalize_advantage

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [(name, setting) for name, setting in self._asdict().items() if isinstance(setting, Tensor)]


def estimate(rollout: Rollout, last_values: Tensor, last_dones: Tensor, settings: MemberPPOSettings) -> None:
    """Work out each member's advantages and returns with its own gamma and lambda.

    :param rollout: of shape (n_steps, K * n_envs), environment ``e`` being one of member ``e // n_envs``
    :param last_values: see :func:`mtfscalper.training.storage.generalised_advantage`
    """
    n_envs = len(last_values) // len(settings.gamma)
    gamma, gae_lambda = (
        setting.unsqueeze(1).expand(-1, n_envs).flatten().to(last_values.dtype)
        for setting in (settings.gamma, settings.gae_lambda)
    )
    rollout.estimate(last_values, last_dones, gamma, gae_lambda)


def random_orders(generators: Sequence[torch.Generator], n_rows: int, n_epochs: int) -> Iterator[Tensor]:
    """For each epoch an order of each member's rows, drawn from its own generator; shape (K, n_rows)."""
    for _ in range(n_epochs):
        yield torch.stack([torch.randperm(n_rows, generator=own, device=own.device) for own in generators])


class DeviceUpdate:
    """The updates of K members from rollouts of one shape.

    Parameters are those of the networks given: whoever wants them in the policies calls ``networks.store``.
    """

    def __init__(
        self,
        networks: MemberNetworks,
        batch_size: int,
        n_epochs: int,
        gradients: MinibatchGradients = minibatch_gradients,
    ) -> None:
        """
        :param batch_size: steps of each member in a minibatch
        :param gradients: :func:`minibatch_gradients`, or the same compiled: on a GPU far fewer kernels
        """
        self._networks = networks
        self._batch_size = batch_size
        self._n_epochs = n_epochs
        self._gradients = gradients
        self._pass: _Pass | None = None

    def run(
        self,
        rollout: Rollout,
        settings: MemberPPOSettings,
        generators: Sequence[torch.Generator],
        learning: Tensor | None = None,
    ) -> Tensor:
        """Update the networks: ``n_epochs`` passes over a rollout in minibatches, in an order of each member's own.

        :param rollout: of shape (n_steps, K * n_envs), environment ``e`` being one of member ``e // n_envs``
        :param generators: of each member, on the networks' device
        :param learning: which members learn, bool, shape (K,), None for all; of the others nothing changes
        :return: :data:`UPDATE_METRICS` of each member, shape (K, 8), on the device; NaN where nothing was learned
        """
        n_rows = rollout.rewards.numel() // len(generators)
        return self.run_in_order(rollout, settings, random_orders(generators, n_rows, self._n_epochs), learning)

    @torch.no_grad()
    def run_in_order(
        self,
        rollout: Rollout,
        settings: MemberPPOSettings,
        orders: Iterable[Tensor],
        learning: Tensor | None = None,
    ) -> Tensor:
        """:meth:`run`, in orders that are given.

        :param orders: of each epoch, of each member's rows, int64, shape (K, n_rows)
        """
        n_members = len(settings.learning_rate)
        packed = rollout.samples().packed()
        packed = packed.view(len(packed), n_members, -1)
        if self._pass is None or not self._pass.fits(settings, packed.shape):
            self._pass = _Pass(self._networks, settings, packed.shape, self._batch_size, self._gradients)
        self._pass.begin(settings, learning)
        metrics = _UpdateMetrics(settings.learning_rate)
        for order in orders:
            metrics.add(*self._pass.run(packed, order))
        return metrics.result(rollout)


class _Pass:
    """Passes over rollouts of one shape, with settings of one form; everything that a minibatch touches stays here."""

    def __init__(
        self,
        networks: MemberNetworks,
        settings: MemberPPOSettings,
        shape: torch.Size,
        batch_size: int,
        gradients: MinibatchGradients,
    ) -> None:
        """
        :param shape: of the packed samples, (n_packed, K, n_rows)
        """
        _, n_members, n_rows = shape
        device = settings.learning_rate.device
        self._settings = settings.copied()
        self._active = torch.ones(n_members, dtype=torch.bool, device=device)
        self._shuffled = torch.empty(shape, dtype=torch.float32, device=device)
        n_full = n_rows // batch_size * batch_size
        # The last minibatch may be smaller than the others.
        parts = torch.split(self._shuffled, [n_full, n_rows - n_full], dim=2)
        self._parts = [
            _Minibatches(networks, self._settings, part, size, self._active, gradients)
            for part, size in zip(parts, (batch_size, n_rows - n_full), strict=True)
            if part.numel()
        ]

    def fits(self, settings: MemberPPOSettings, shape: torch.Size) -> bool:
        """Whether this is for such settings and rows."""
        return self._settings.form() == settings.form() and self._shuffled.shape == shape

    def begin(self, settings: MemberPPOSettings, learning: Tensor | None) -> None:
        """Take over an update's settings, and the members that learn."""
        self._settings.copy_(settings)
        if learning is None:
            self._active.fill_(True)
        else:
            self._active.copy_(learning)

    def run(self, packed: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """
        :param packed: samples, shape (n_packed, K, n_rows)
        :param order: shape (K, n_rows)
        :return: metrics of each minibatch and member, shape (n_minibatches, K, 6), and which of them count, bool, shape
            (n_minibatches, K)
        """
        torch.gather(packed, 2, order.expand(packed.shape), out=self._shuffled)
        metrics, measured = zip(*(part.run() for part in self._parts), strict=True)
        return torch.cat(metrics), torch.cat(measured)


class _Minibatches:
    """Minibatches of one size, gone through by a counter on the device: one graph serves them all."""

    def __init__(
        self,
        networks: MemberNetworks,
        settings: MemberPPOSettings,
        packed: Tensor,
        size: int,
        active: Tensor,
        gradients: MinibatchGradients,
    ) -> None:
        """
        :param packed: samples, shape (n_packed, K, n_minibatches * size)
        :param active: members that learn, bool, shape (K,); written where a policy has moved too far
        """
        n_members, self._n_minibatches = packed.shape[1], packed.shape[2] // size
        self._networks = networks
        self._settings, self._loss_settings = settings, settings.loss()
        self._packed = torch.unflatten(packed, 2, (self._n_minibatches, size))
        self._active, self._gradients = active, gradients
        self._counter = torch.zeros(1, dtype=torch.long, device=packed.device)
        self._measured = active.new_empty(self._n_minibatches, n_members)
        n_terms = len(Terms._fields)
        self._terms = settings.learning_rate.new_empty(self._n_minibatches, n_terms, n_members, size)
        self._step = GraphedFunction(self._next, packed.device)

    def run(self) -> tuple[Tensor, Tensor]:
        """One pass; see :meth:`_Pass.run`."""
        self._counter.zero_()
        self._measured.copy_(self._active)
        for _ in range(self._n_minibatches):
            self._step()
        # Worked out once a pass, for all minibatches together.
        return minibatch_metrics(Terms(*self._terms.unbind(1)), self._loss_settings), self._measured

    def _next(self) -> None:
        """Learn from the minibatch at the counter, and count on."""
        packed = self._packed.index_select(2, self._counter).squeeze(2)
        answers = self._networks.forward(packed_observations(packed))
        *gradients, terms = self._gradients(packed, *answers, self._loss_settings)
        self._terms.index_copy_(0, self._counter, terms.unsqueeze(0))
        if self._settings.target_kl is not None:
            self._measured.index_copy_(0, self._counter, self._active.unsqueeze(0))
            kl = approx_kl(Terms(*terms).log_ratio).squeeze(1)
            self._active.logical_and_(~(kl > KL_MARGIN * self._settings.target_kl))
        self._networks.backward(*gradients)
        self._networks.step(self._settings.learning_rate, self._settings.max_grad_norm, self._active)
        self._counter.add_(1)


class _UpdateMetrics:
    """What stable-baselines3 logs of an update, for each member, summed up on the device."""

    def __init__(self, like: Tensor) -> None:
        """
        :param like: a tensor of shape (K,) on the device, in the precision of the metrics
        """
        self._sums = like.new_zeros(len(like), len(METRICS))
        self._latest = torch.full_like(self._sums, torch.nan)
        self._n_minibatches = torch.zeros_like(like)
        self._n_epochs = torch.zeros_like(like)

    def add(self, metrics: Tensor, measured: Tensor) -> None:
        """Add those of one pass.

        :param metrics: of each minibatch, shape (n_minibatches, K, 6)
        :param measured: minibatches that a member went through, its first ones, bool, shape (n_minibatches, K)
        """
        counts = measured.sum(0)
        sums = torch.where(measured.unsqueeze(2), metrics, 0.0).sum(0)
        self._sums += sums
        self._n_minibatches += counts
        self._n_epochs += counts > 0
        last = (counts - 1).clamp(min=0)[None, :, None].expand(1, -1, len(METRICS))
        latest = metrics.gather(0, last).squeeze(0)
        latest[:, _KL] = sums[:, _KL] / counts
        self._latest = torch.where((counts > 0).unsqueeze(1), latest, self._latest)

    def result(self, rollout: Rollout) -> Tensor:
        """:data:`UPDATE_METRICS`, shape (K, 8).

        :param rollout: that was learned from
        """
        result = self._sums / self._n_minibatches.unsqueeze(1)
        # Of the divergence stable-baselines3 averages the last epoch alone, of the loss it logs the last minibatch's.
        for column in (_KL, _LOSS):
            result[:, column] = self._latest[:, column]
        n_steps, n_members = len(rollout.returns), len(result)
        values, returns = (
            column.view(n_steps, n_members, -1).transpose(0, 1).flatten(1)
            for column in (rollout.values, rollout.returns)
        )
        unexplained, total = (returns - values).var(1, correction=0), returns.var(1, correction=0)
        explained_variance = torch.where(total > 0, 1 - unexplained / total, torch.nan)
        return torch.cat([result, torch.stack([explained_variance, self._n_epochs], 1)], 1)
