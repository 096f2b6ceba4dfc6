"""PPO whose rollout and update take fewer and larger operations; what they compute is stable-baselines3's.

From one rollout and one order of minibatches the parameters equal those of ``stable_baselines3.PPO.train`` up to the
rounding of float32. Its zips open with plain ``stable_baselines3.PPO.load``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtfscalper.policy.network import MaskedActorCriticPolicy, impossible_actions, masked_logits
from mtfscalper.training.paired_networks import PairedNetworks
from mtfscalper.training.rollout import collect_rollout

# What is logged of each minibatch, under stable-baselines3's names.
_METRICS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")
_KL = _METRICS.index("approx_kl")


class LossSettings(NamedTuple):
    """What PPO's loss depends on, besides the samples; see stable-baselines3's PPO."""

    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


class Samples(NamedTuple):
    """Steps of a rollout as flat tensors on the policy's device; one row a step of one environment.

    :ivar impossible: the actions that the rules would not have accepted, shape (n, 5)
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


class Terms(NamedTuple):
    """Of each sample what the metrics are made of, each of shape (n,)."""

    negative_entropy: Tensor
    log_ratio: Tensor
    surrogate: Tensor
    misses: Tensor


def loss_gradients(
    logits: Tensor, values: Tensor, samples: Samples, settings: LossSettings
) -> tuple[Tensor, Tensor, Terms]:
    """The gradient of PPO's loss (https://arxiv.org/abs/1707.06347, equation 9) with respect to what the networks say.

    :param logits: of the masked policy, shape (n, 5)
    :param values: shape (n, 1)
    :return: gradients of both, and what :func:`minibatch_metrics` needs
    """
    share = 1 / len(logits)
    advantages = samples.advantages
    if settings.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_probabilities = torch.log_softmax(logits, dim=1)
    probabilities = log_probabilities.exp()
    negative_entropy = (probabilities * log_probabilities).sum(dim=1, keepdim=True)
    chosen = samples.actions.unsqueeze(1)
    log_ratio = log_probabilities.gather(1, chosen).squeeze(1) - samples.log_probs
    ratio = log_ratio.exp()
    # L_clip = mean(min(A r, A clip(r))); where the clipped one is the smaller, r has no influence.
    unclipped = advantages * ratio
    surrogate = torch.minimum(unclipped, advantages * ratio.clamp(1 - settings.clip_range, 1 + settings.clip_range))
    # d(-L_clip) / d log p(a), as r = exp(log p(a) - log p_old(a))
    pull = torch.where(unclipped <= surrogate, unclipped, 0.0) * -share
    # d log p(a) / d logit_j = [j = a] - p_j, and d(-H) / d logit_j = p_j (log p_j + H)
    excess = (log_probabilities - negative_entropy) * (settings.ent_coef * share) - pull.unsqueeze(1)
    logits_gradient = probabilities * excess
    logits_gradient.scatter_add_(1, chosen, pull.unsqueeze(1))
    predicted = values.squeeze(1)
    if settings.clip_range_vf is None:
        misses = predicted - samples.returns
        values_gradient = misses
    else:
        moved = predicted - samples.values
        misses = samples.values + moved.clamp(-settings.clip_range_vf, settings.clip_range_vf) - samples.returns
        values_gradient = torch.where(moved.abs() <= settings.clip_range_vf, misses, 0.0)
    values_gradient = values_gradient.unsqueeze(1) * (2 * settings.vf_coef * share)
    return logits_gradient, values_gradient, Terms(negative_entropy.squeeze(1), log_ratio, surrogate, misses)


def minibatch_metrics(terms: Sequence[Terms], settings: LossSettings) -> Tensor:
    """The metrics of :data:`_METRICS`, for many minibatches at once.

    :param terms: of minibatches of one size
    :return: one row a minibatch
    """
    negative_entropy, log_ratio, surrogate, misses = (torch.stack(column) for column in zip(*terms, strict=True))
    moved = log_ratio.exp() - 1
    entropy_loss, policy_loss = negative_entropy.mean(dim=1), -surrogate.mean(dim=1)
    value_loss = misses.square().mean(dim=1)
    loss = policy_loss + settings.ent_coef * entropy_loss + settings.vf_coef * value_loss
    approx_kl = (moved - log_ratio).mean(dim=1)
    clip_fraction = (moved.abs() > settings.clip_range).float().mean(dim=1)
    return torch.stack([entropy_loss, policy_loss, value_loss, approx_kl, clip_fraction, loss], dim=1)


class FusedPPO(PPO):
    """stable-baselines3's PPO for :class:`mtfscalper.policy.network.MaskedActorCriticPolicy`.

    A rollout keeps compact observations, whatever the window. An update shuffles the rollout once an epoch, computes
    both networks as one (:class:`PairedNetworks`), works out its metrics once an epoch, and reads them from the device
    when it is over.

    :ivar loss_gradients: :func:`loss_gradients`, or the same compiled
    """

    _networks: PairedNetworks | None = None
    loss_gradients: Callable[..., tuple[Tensor, Tensor, Terms]] = staticmethod(loss_gradients)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """See stable-baselines3's method of this name."""
        return collect_rollout(self, self._paired_networks(), env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Update the policy with the rollout at hand: ``n_epochs`` passes over it in minibatches."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        learning_rate = self.policy.optimizer.param_groups[0]["lr"]
        progress = self._current_progress_remaining
        settings = LossSettings(
            clip_range=float(self.clip_range(progress)),  # type: ignore[operator]
            clip_range_vf=None if self.clip_range_vf is None else float(self.clip_range_vf(progress)),  # type: ignore[operator]
            normalize_advantage=self.normalize_advantage,
            ent_coef=self.ent_coef,
            vf_coef=self.vf_coef,
        )
        networks = self._paired_networks()
        networks.load()
        rollout = self._samples()
        metrics: list[Tensor] = []
        for epoch in range(self.n_epochs):
            measured, too_far = self._pass_over(rollout, learning_rate, settings)
            metrics.append(measured)
            self._n_updates += 1
            if too_far:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {float(measured[-1, _KL]):.2f}")
                break
        networks.count_steps()
        self._log(metrics, settings)

    def _pass_over(self, rollout: Samples, learning_rate: float, settings: LossSettings) -> tuple[Tensor, bool]:
        """One pass over a rollout in minibatches.

        :return: metrics, one row a minibatch, and whether the policy has moved further than ``target_kl`` lets it
        """
        networks = self._paired_networks()
        n_rows = len(rollout.actions)
        # stable-baselines3's own draw, so that both go through the same minibatches.
        order = torch.from_numpy(np.random.permutation(n_rows)).to(self.device)
        terms: list[Terms] = []
        too_far = False
        for samples in rollout.rows(order).minibatches(self.batch_size):
            logits, values = networks.forward(samples.observations)
            logits = masked_logits(logits, samples.impossible)
            logits_gradient, values_gradient, own_terms = self.loss_gradients(logits, values, samples, settings)
            terms.append(own_terms)
            if self.target_kl is not None:
                too_far = float(minibatch_metrics([own_terms], settings)[0, _KL]) > 1.5 * self.target_kl
                if too_far:
                    break
            networks.backward(logits_gradient, values_gradient)
            networks.step(learning_rate, self.max_grad_norm)
        n_full = n_rows // self.batch_size
        # The last minibatch may be smaller than the others.
        parts = [part for part in (terms[:n_full], terms[n_full:]) if part]
        return torch.cat([minibatch_metrics(part, settings) for part in parts]), too_far

    def release_memory(self) -> None:
        """Let go of what only training needs: gradients, activations, the rollout."""
        self._networks = None
        self.rollout_buffer.reset()

    def _paired_networks(self) -> PairedNetworks:
        policy = cast(MaskedActorCriticPolicy, self.policy)
        if self._networks is None or self._networks.policy is not policy:
            self._networks = PairedNetworks(policy)
        return self._networks

    def _samples(self) -> Samples:
        """The rollout buffer, flattened as stable-baselines3 flattens it."""
        buffer = self.rollout_buffer
        assert buffer.full

        def flat(values: np.ndarray) -> Tensor:
            return torch.from_numpy(buffer.swap_and_flatten(values)).to(self.device)

        columns = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        actions = flat(buffer.actions).flatten().long()
        observations = flat(buffer.observations)
        return Samples(
            observations, impossible_actions(observations), actions, *(flat(values).flatten() for values in columns)
        )

    def _log(self, metrics: list[Tensor], settings: LossSettings) -> None:
        """Log what stable-baselines3 logs, read from the device once.

        :param metrics: of each epoch, one row a minibatch
        """
        rows = torch.cat(metrics).cpu().numpy().astype(np.float64)
        for name, column in zip(_METRICS, rows.T, strict=True):
            if name == "approx_kl":
                # Of this stable-baselines3 averages the last epoch alone.
                value = column[-len(metrics[-1]) :].mean()
            else:
                value = column[-1] if name == "loss" else column.mean()
            self.logger.record(f"train/{name}", float(value))
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", settings.clip_range)
        if settings.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", settings.clip_range_vf)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_networks", "loss_gradients"]
