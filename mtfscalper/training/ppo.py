"""PPO whose update is computed with fewer and larger operations; what it computes is stable-baselines3's.

From one rollout and one order of minibatches the parameters equal those of ``stable_baselines3.PPO.train`` up to the
rounding of float32. Its zips open with plain ``stable_baselines3.PPO.load``.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance
from torch import Tensor
from torch.nn import functional

from mtfscalper.policy.network import MaskedActorCriticPolicy

# What is logged of each minibatch, under stable-baselines3's names.
_METRICS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")


class _Rollout(NamedTuple):
    """A rollout as flat tensors on the policy's device; one row a step of one environment."""

    observations: Tensor
    actions: Tensor
    values: Tensor
    log_probs: Tensor
    advantages: Tensor
    returns: Tensor

    def rows(self, indices: Tensor) -> _Rollout:
        """Some of the rows."""
        return _Rollout(*(column[indices] for column in self))


class FusedPPO(PPO):
    """stable-baselines3's PPO for :class:`mtfscalper.policy.network.MaskedActorCriticPolicy`.

    A minibatch is gathered by index from tensors that hold the whole rollout, metrics stay tensors until the update
    is over, gradients are clipped and Adam steps by fused operations.
    """

    def train(self) -> None:
        """Update the policy with the rollout at hand: ``n_epochs`` passes over it in minibatches."""
        policy = cast(MaskedActorCriticPolicy, self.policy)
        policy.set_training_mode(True)
        self._update_learning_rate(policy.optimizer)
        progress = self._current_progress_remaining
        clip_range = float(self.clip_range(progress))  # type: ignore[operator]
        clip_range_vf = None if self.clip_range_vf is None else float(self.clip_range_vf(progress))  # type: ignore[operator]
        rollout = self._rollout()
        n_rows = len(rollout.actions)
        parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        metrics: list[Tensor] = []
        first_of_last_epoch = 0
        stopped = False
        for epoch in range(self.n_epochs):
            first_of_last_epoch = len(metrics)
            # stable-baselines3's own draw, so that both go through the same minibatches.
            order = torch.from_numpy(np.random.permutation(n_rows)).to(policy.device)
            for indices in torch.split(order, self.batch_size):
                loss, measured = self._minibatch(policy, rollout.rows(indices), clip_range, clip_range_vf)
                metrics.append(measured)
                if self.target_kl is not None and float(measured[3]) > 1.5 * self.target_kl:
                    stopped = True
                    if self.verbose >= 1:
                        print(f"Early stopping at step {epoch} due to reaching max kl: {float(measured[3]):.2f}")
                    break
                policy.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm, foreach=True)
                policy.optimizer.step()
            self._n_updates += 1
            if stopped:
                break
        self._log(torch.stack(metrics), first_of_last_epoch, clip_range, clip_range_vf)

    def _rollout(self) -> _Rollout:
        """The rollout buffer, flattened as stable-baselines3 flattens it."""
        buffer = self.rollout_buffer
        assert buffer.full

        def flat(values: np.ndarray) -> Tensor:
            return torch.from_numpy(buffer.swap_and_flatten(values)).to(self.device)

        columns = (buffer.values, buffer.log_probs, buffer.advantages, buffer.returns)
        actions = flat(buffer.actions).flatten().long()
        return _Rollout(flat(buffer.observations), actions, *(flat(values).flatten() for values in columns))

    def _minibatch(
        self, policy: MaskedActorCriticPolicy, batch: _Rollout, clip_range: float, clip_range_vf: float | None
    ) -> tuple[Tensor, Tensor]:
        """PPO's loss (https://arxiv.org/abs/1707.06347, equation 9).

        :return: the loss, and the metrics of :data:`_METRICS`, detached, shape (6,)
        """
        values, log_prob, entropy = policy.evaluate_actions(batch.observations, batch.actions)
        values, advantages = values.flatten(), batch.advantages
        if self.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        log_ratio = log_prob - batch.log_probs
        ratio = torch.exp(log_ratio)
        clipped = torch.clamp(ratio, 1 - clip_range, 1 + clip_range)
        policy_loss = -torch.min(advantages * ratio, advantages * clipped).mean()
        if clip_range_vf is not None:
            values = batch.values + torch.clamp(values - batch.values, -clip_range_vf, clip_range_vf)
        value_loss = functional.mse_loss(values, batch.returns)
        assert entropy is not None
        entropy_loss = -entropy.mean()
        loss = policy_loss + self.ent_coef * entropy_loss + self.vf_coef * value_loss
        with torch.no_grad():
            approx_kl = ((ratio - 1) - log_ratio).mean()
            clip_fraction = (torch.abs(ratio - 1) > clip_range).float().mean()
            measured = torch.stack([entropy_loss, policy_loss, value_loss, approx_kl, clip_fraction, loss])
        return loss, measured

    def _log(self, metrics: Tensor, first_of_last_epoch: int, clip_range: float, clip_range_vf: float | None) -> None:
        """Log what stable-baselines3 logs, read from the device once.

        :param metrics: one row a minibatch
        :param first_of_last_epoch: the first minibatch of the last epoch, of which alone stable-baselines3 averages
            the divergence
        """
        rows = metrics.cpu().numpy().astype(np.float64)
        for name, column in zip(_METRICS, rows.T, strict=True):
            if name == "approx_kl":
                value = column[first_of_last_epoch:].mean()
            else:
                value = column[-1] if name == "loss" else column.mean()
            self.logger.record(f"train/{name}", float(value))
        buffer = self.rollout_buffer
        explained = explained_variance(buffer.values.flatten(), buffer.returns.flatten())
        self.logger.record("train/explained_variance", explained)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", clip_range)
        if clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", clip_range_vf)
