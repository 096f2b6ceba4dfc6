"""PPO whose rollout and update take fewer and larger operations; what they compute is stable-baselines3's.

From one rollout and one order of minibatches the parameters equal those of ``stable_baselines3.PPO.train`` up to the
rounding of float32. Its zips open with plain ``stable_baselines3.PPO.load``.
"""

from __future__ import annotations

from collections.abc import Callable
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
METRICS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")
_KL = METRICS.index("approx_kl")
# An update ends where the policy has moved by so many times ``target_kl``: stable-baselines3's own margin.
KL_MARGIN = 1.5
# A setting: of one training a number, of K members' trainings a tensor of shape (K, 1).
Setting = float | Tensor


class LossSettings(NamedTuple):
    """What PPO's loss depends on, besides the samples; see stable-baselines3's PPO.

    :ivar clip_range: how far the ratio of new to old probability may move from 1 and still be rewarded
    :ivar clip_range_vf: how far a value may move from the old one, in units of discounted reward; None: anywhere
    :ivar normalize_advantage: whether a minibatch's advantages are given mean 0 and standard deviation 1
    :ivar ent_coef: weight of the entropy, in nats, against the policy's loss
    :ivar vf_coef: weight of the values' squared error against the policy's loss
    """

    clip_range: Setting
    clip_range_vf: Setting | None
    normalize_advantage: bool
    ent_coef: Setting
    vf_coef: Setting


class Terms(NamedTuple):
    """Of each sample what the metrics are made of, each of shape (..., n).

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

    Leading axes are trainings of their own, each with a minibatch and a loss of its own.

    :param logits: of the masked policy, shape (..., n, 5)
    :param values: shape (..., n), as the columns of ``samples``
    :return: gradients of both, and what :func:`minibatch_metrics` needs
    """
    n_samples = values.shape[-1]
    inverse_batch = 1 / n_samples
    advantages = samples.advantages
    if settings.normalize_advantage and n_samples > 1:
        advantages = (advantages - advantages.mean(-1, keepdim=True)) / (advantages.std(-1, keepdim=True) + 1e-8)
    log_probabilities = torch.log_softmax(logits, dim=-1)
    probabilities = log_probabilities.exp()
    negative_entropy = (probabilities * log_probabilities).sum(dim=-1, keepdim=True)
    chosen = samples.actions.unsqueeze(-1)
    log_ratio = log_probabilities.gather(-1, chosen).squeeze(-1) - samples.log_probs
    ratio = log_ratio.exp()
    # L_clip = mean(min(A r, A clip(r))); where the clipped one is the smaller, r has no influence.
    unclipped = advantages * ratio
    surrogate = torch.minimum(unclipped, advantages * _clamp(ratio, 1 - settings.clip_range, 1 + settings.clip_range))
    # d(-L_clip) / d log p(a), as r = exp(log p(a) - log p_old(a))
    log_prob_gradient = (unclipped.masked_fill(unclipped > surrogate, 0.0) * -inverse_batch).unsqueeze(-1)
    # d(-H) / d logit_j = p_j (log p_j + H), and d log p(a) / d logit_j = [j = a] - p_j
    entropy_gradient = (log_probabilities - negative_entropy) * _per_action(settings.ent_coef * inverse_batch)
    logit_gradient = probabilities * (entropy_gradient - log_prob_gradient)
    logit_gradient.scatter_add_(-1, chosen, log_prob_gradient)
    if settings.clip_range_vf is None:
        value_error = values - samples.returns
        value_gradient = value_error
    else:
        value_change = values - samples.values
        clipped = _clamp(value_change, -settings.clip_range_vf, settings.clip_range_vf)
        value_error = samples.values + clipped - samples.returns
        value_gradient = value_error.masked_fill(value_change.abs() > settings.clip_range_vf, 0.0)
    value_gradient = value_gradient * (2 * settings.vf_coef * inverse_batch)
    return logit_gradient, value_gradient, Terms(negative_entropy.squeeze(-1), log_ratio, surrogate, value_error)


def approx_kl(log_ratio: Tensor) -> Tensor:
    """How far a policy has moved: the divergence KL(old || new) in nats, http://joschka.net/blog/kl-approx.html.

    :param log_ratio: of :class:`Terms`, shape (..., n)
    :return: shape (..., 1)
    """
    return (log_ratio.exp() - 1 - log_ratio).mean(dim=-1, keepdim=True)


def minibatch_metrics(terms: Terms, settings: LossSettings) -> Tensor:
    """The metrics of :data:`METRICS`, for many minibatches at once.

    :param terms: of minibatches of one size; where settings differ by member, members are the last axis but one
    :return: shape (..., 6): for the samples' axis the metrics
    """
    entropy_loss = terms.negative_entropy.mean(dim=-1, keepdim=True)
    policy_loss = -terms.surrogate.mean(dim=-1, keepdim=True)
    value_loss = terms.value_error.square().mean(dim=-1, keepdim=True)
    loss = policy_loss + settings.ent_coef * entropy_loss + settings.vf_coef * value_loss
    ratio_change = terms.log_ratio.exp() - 1
    clip_fraction = (ratio_change.abs() > settings.clip_range).float().mean(dim=-1, keepdim=True)
    metrics = [entropy_loss, policy_loss, value_loss, approx_kl(terms.log_ratio), clip_fraction, loss]
    return torch.cat(metrics, dim=-1)


def _clamp(values: Tensor, low: Setting, high: Setting) -> Tensor:
    # torch.clamp takes two numbers or two tensors, and its types say so one by one.
    return values.clamp(low, high)  # type: ignore[arg-type]


def _per_action(setting: Setting) -> Setting:
    """A setting as it meets an array with an axis of actions behind the samples'."""
    return setting.unsqueeze(-1) if isinstance(setting, Tensor) else setting


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
            logit_gradient, value_gradient, own = self.loss_gradients(logits, values.squeeze(1), samples, settings)
            terms.append(own)
            if self.target_kl is not None:
                kl_exceeded = float(approx_kl(own.log_ratio)) > KL_MARGIN * self.target_kl
                if kl_exceeded:
                    break
            networks.backward(logit_gradient, value_gradient.unsqueeze(1))
            networks.step(learning_rate, self.max_grad_norm)
        n_full = n_rows // self.batch_size
        # The last minibatch may be smaller than the others.
        parts = [Terms(*map(torch.stack, zip(*part, strict=True))) for part in (terms[:n_full], terms[n_full:]) if part]
        return torch.cat([minibatch_metrics(part, settings) for part in parts]), kl_exceeded

    def release_memory(self) -> None:
        """Let go of what only training needs: gradients, activations, compiled code; the rollout is emptied.

        Compiled code cannot be sent to another process, which a trained model is.
        """
        if self._networks is not None:
            self._networks.release()
            self._networks = None
        self.__dict__.pop("loss_gradients", None)
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
        for name, column in zip(METRICS, rows.T, strict=True):
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
