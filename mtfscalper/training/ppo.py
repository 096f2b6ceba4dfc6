"""PPO whose rollout and update take fewer and larger operations; what they compute is stable-baselines3's.

From one rollout and one order of minibatches the parameters equal those of ``stable_baselines3.PPO.train`` up to the
rounding of float32. Its zips open with plain ``stable_baselines3.PPO.load``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import explained_variance
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtfscalper.policy.network import MaskedActorCriticPolicy, masked_logits
from mtfscalper.training.paired_networks import PairedNetworks
from mtfscalper.training.rollout import collect_rollout
from mtfscalper.training.storage import Rollout, Samples

# What is logged of each minibatch, under stable-baselines3's names.
_METRICS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")
_KL = _METRICS.index("approx_kl")


class LossSettings(NamedTuple):
    """What PPO's loss depends on, besides the samples; see stable-baselines3's PPO.

    :ivar clip_range: how far the ratio of new to old probability may move from 1 and still be rewarded
    :ivar clip_range_vf: how far a value may move from the old one, in units of discounted reward; None: anywhere
    :ivar normalize_advantage: whether a minibatch's advantages are given mean 0 and standard deviation 1
    :ivar ent_coef: weight of the entropy, in nats, against the policy's loss
    :ivar vf_coef: weight of the values' squared error against the policy's loss
    """

    clip_range: float
    clip_range_vf: float | None
    normalize_advantage: bool
    ent_coef: float
    vf_coef: float


class Terms(NamedTuple):
    """Of each sample what the metrics are made of, each of shape (n,).

    :ivar log_ratio: logarithm of the new over the old probability of the action
    :ivar surrogate: advantage times ratio, clipped
    :ivar value_error: estimated value less the return, clipped
    """

    negative_entropy: Tensor
    log_ratio: Tensor
    surrogate: Tensor
    value_error: Tensor


def loss_gradients(
    logits: Tensor, values: Tensor, samples: Samples, settings: LossSettings
) -> tuple[Tensor, Tensor, Terms]:
    """The gradient of PPO's loss (https://arxiv.org/abs/1707.06347, equation 9) with respect to what the networks say.

    :param logits: of the masked policy, shape (n, 5)
    :param values: shape (n, 1)
    :return: gradients of both, and what :func:`minibatch_metrics` needs
    """
    inverse_batch = 1 / len(logits)
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
    log_prob_gradient = (torch.where(unclipped <= surrogate, unclipped, 0.0) * -inverse_batch).unsqueeze(1)
    # d(-H) / d logit_j = p_j (log p_j + H), and d log p(a) / d logit_j = [j = a] - p_j
    entropy_gradient = (log_probabilities - negative_entropy) * (settings.ent_coef * inverse_batch)
    logit_gradient = probabilities * (entropy_gradient - log_prob_gradient)
    logit_gradient.scatter_add_(1, chosen, log_prob_gradient)
    predicted = values.squeeze(1)
    if settings.clip_range_vf is None:
        value_error = predicted - samples.returns
        value_gradient = value_error
    else:
        value_change = predicted - samples.values
        clipped = value_change.clamp(-settings.clip_range_vf, settings.clip_range_vf)
        value_error = samples.values + clipped - samples.returns
        value_gradient = torch.where(value_change.abs() <= settings.clip_range_vf, value_error, 0.0)
    value_gradient = value_gradient.unsqueeze(1) * (2 * settings.vf_coef * inverse_batch)
    return logit_gradient, value_gradient, Terms(negative_entropy.squeeze(1), log_ratio, surrogate, value_error)


def minibatch_metrics(terms: Sequence[Terms], settings: LossSettings) -> Tensor:
    """The metrics of :data:`_METRICS`, for many minibatches at once.

    :param terms: of minibatches of one size
    :return: one row a minibatch
    """
    negative_entropy, log_ratio, surrogate, value_error = (torch.stack(column) for column in zip(*terms, strict=True))
    ratio_change = log_ratio.exp() - 1
    entropy_loss, policy_loss = negative_entropy.mean(dim=1), -surrogate.mean(dim=1)
    value_loss = value_error.square().mean(dim=1)
    loss = policy_loss + settings.ent_coef * entropy_loss + settings.vf_coef * value_loss
    approx_kl = (ratio_change - log_ratio).mean(dim=1)
    clip_fraction = (ratio_change.abs() > settings.clip_range).float().mean(dim=1)
    return torch.stack([entropy_loss, policy_loss, value_loss, approx_kl, clip_fraction, loss], dim=1)


class FusedPPO(PPO):
    """stable-baselines3's PPO, computed faster for a policy that :class:`PairedNetworks` fits.

    For such a policy a rollout keeps compact observations on the policy's device, whatever the lookback
    (:class:`mtfscalper.training.storage.Rollout`). An update shuffles the rollout once an epoch, computes both networks
    as one, works out its metrics once an epoch, and reads them from the device when it is over. For any other policy
    rollout, storage and update are stable-baselines3's own.

    :ivar loss_gradients: :func:`loss_gradients`, or the same compiled
    """

    _networks: PairedNetworks | None = None
    loss_gradients: Callable[..., tuple[Tensor, Tensor, Terms]] = staticmethod(loss_gradients)

    @property
    def fused(self) -> bool:
        """Whether :class:`PairedNetworks` computes this model's training."""
        return isinstance(self.rollout_buffer, Rollout)

    def _setup_model(self) -> None:
        buffer_class = self.rollout_buffer_class or RolloutBuffer
        # Which storage it takes says the policy, which is made last.
        self.rollout_buffer_class = _no_buffer  # type: ignore[assignment]
        super()._setup_model()
        self.rollout_buffer_class = buffer_class
        self._make_storage()

    def _make_storage(self) -> None:
        storage: Any
        if PairedNetworks.fits(self.policy) and self.rollout_buffer_class is RolloutBuffer:
            [n_inputs] = self.observation_space.shape or (0,)
            storage = Rollout.empty(self.n_steps, self.n_envs, n_inputs, self.device)
        else:
            assert self.rollout_buffer_class is not None
            storage = self.rollout_buffer_class(
                self.n_steps,
                self.observation_space,
                self.action_space,
                device=self.device,
                gamma=self.gamma,
                gae_lambda=self.gae_lambda,
                n_envs=self.n_envs,
                **self.rollout_buffer_kwargs,
            )
        self.rollout_buffer = storage

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer | Rollout, n_rollout_steps: int
    ) -> bool:
        """See stable-baselines3's method of this name."""
        if isinstance(rollout_buffer, Rollout):
            return collect_rollout(self, self._paired_networks(), env, callback, rollout_buffer)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Update the policy with the rollout at hand: ``n_epochs`` passes over it in minibatches."""
        rollout: Any = self.rollout_buffer
        if not isinstance(rollout, Rollout):
            super().train()
            return
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
        samples = rollout.samples()
        metrics: list[Tensor] = []
        for epoch in range(self.n_epochs):
            measured, kl_exceeded = self._pass_over(samples, learning_rate, settings)
            metrics.append(measured)
            self._n_updates += 1
            if kl_exceeded:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {float(measured[-1, _KL]):.2f}")
                break
        networks.count_steps()
        self._log(metrics, rollout, settings)

    def _pass_over(self, rollout: Samples, learning_rate: float, settings: LossSettings) -> tuple[Tensor, bool]:
        """One pass over a rollout in minibatches.

        :return: metrics, one row a minibatch, and whether the policy has moved further than ``target_kl`` lets it
        """
        networks = self._paired_networks()
        n_rows = len(rollout.actions)
        # stable-baselines3's own draw, so that both go through the same minibatches.
        order = torch.from_numpy(np.random.permutation(n_rows)).to(self.device)
        terms: list[Terms] = []
        kl_exceeded = False
        for samples in rollout.rows(order).minibatches(self.batch_size):
            logits, values = networks.forward(samples.observations)
            logits = masked_logits(logits, samples.impossible)
            logit_gradient, value_gradient, own_terms = self.loss_gradients(logits, values, samples, settings)
            terms.append(own_terms)
            if self.target_kl is not None:
                kl_exceeded = float(minibatch_metrics([own_terms], settings)[0, _KL]) > 1.5 * self.target_kl
                if kl_exceeded:
                    break
            networks.backward(logit_gradient, value_gradient)
            networks.step(learning_rate, self.max_grad_norm)
        n_full = n_rows // self.batch_size
        # The last minibatch may be smaller than the others.
        parts = [part for part in (terms[:n_full], terms[n_full:]) if part]
        return torch.cat([minibatch_metrics(part, settings) for part in parts]), kl_exceeded

    def release_memory(self) -> None:
        """Let go of what only training needs: gradients and activations; the rollout is emptied."""
        self._networks = None
        self._make_storage()

    def _paired_networks(self) -> PairedNetworks:
        policy = cast(MaskedActorCriticPolicy, self.policy)
        if self._networks is None or self._networks.policy is not policy:
            self._networks = PairedNetworks(policy)
        return self._networks

    def _log(self, metrics: list[Tensor], rollout: Rollout, settings: LossSettings) -> None:
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
        values, returns = (column.flatten().cpu().numpy() for column in (rollout.values, rollout.returns))
        self.logger.record("train/explained_variance", explained_variance(values, returns))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", settings.clip_range)
        if settings.clip_range_vf is not None:
            self.logger.record("train/clip_range_vf", settings.clip_range_vf)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_networks", "loss_gradients"]


def _no_buffer(*_: Any, **__: Any) -> None:
    """In the place of stable-baselines3's buffer while a model is made."""
