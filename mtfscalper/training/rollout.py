"""Collecting a rollout: one forward and one step of all environments at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtfscalper.policy.network import impossible_actions, masked_logits
from mtfscalper.training.paired_networks import PairedNetworks


def collect_rollout(
    model: OnPolicyAlgorithm,
    networks: PairedNetworks,
    env: VecEnv,
    callback: BaseCallback,
    rollout_buffer: RolloutBuffer,
    n_rollout_steps: int,
) -> bool:
    """Fill a rollout buffer, as stable-baselines3's ``collect_rollouts`` does.

    Python runs for an environment only where an episode ended.

    :param networks: those of the model's policy
    :return: False if a callback ended it
    """
    model.policy.set_training_mode(False)
    rollout_buffer.reset()
    callback.on_rollout_start()
    networks.load()
    seen: Any = model._last_obs
    new_obs: Any
    dones: Any = model._last_episode_starts
    for n_steps in range(n_rollout_steps):
        actions, values, log_probs = _sample(networks, torch.from_numpy(seen).to(model.device))
        starts = dones
        new_obs, rewards, dones, infos = env.step(actions)
        model.num_timesteps += env.num_envs
        callback.update_locals(locals())
        if not callback.on_step():
            return False
        ended = np.flatnonzero(dones)
        if len(ended):
            model._update_info_buffer([infos[index] for index in ended], dones[ended])
            _bootstrap(model, rewards, ended, infos)
        rollout_buffer.observations[n_steps] = seen
        rollout_buffer.actions[n_steps] = actions[:, None]
        rollout_buffer.rewards[n_steps] = rewards
        rollout_buffer.episode_starts[n_steps] = starts
        rollout_buffer.values[n_steps] = values
        rollout_buffer.log_probs[n_steps] = log_probs
        seen = new_obs
        model._last_obs, model._last_episode_starts = new_obs, dones
    rollout_buffer.pos, rollout_buffer.full = n_rollout_steps, True
    _, last_values = networks.forward(torch.from_numpy(seen).to(model.device))
    rollout_buffer.compute_returns_and_advantage(last_values=last_values, dones=dones)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


@torch.inference_mode()
def _sample(networks: PairedNetworks, observations: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Actions drawn from the masked policy, values of the states, log-probabilities of the actions; shape (n_envs,)."""
    logits, values = networks.forward(observations)
    log_probabilities = torch.log_softmax(masked_logits(logits, impossible_actions(observations)), dim=1)
    # torch.distributions.Categorical's own draw, so that both take the same actions from the same seed.
    actions = torch.multinomial(log_probabilities.exp(), 1, replacement=True)
    log_probs = log_probabilities.gather(1, actions)
    return tuple(column.squeeze(1).cpu().numpy() for column in (actions, values, log_probs))  # type: ignore[return-value]


@torch.inference_mode()
def _bootstrap(model: OnPolicyAlgorithm, rewards: np.ndarray, ended: np.ndarray, infos: list[dict[str, Any]]) -> None:
    """Add the value of what an episode would have gone on to, where it was cut off rather than over."""
    cut = [
        index
        for index in ended.tolist()
        if infos[index].get("TimeLimit.truncated", False) and infos[index].get("terminal_observation") is not None
    ]
    if cut:
        terminal, _ = model.policy.obs_to_tensor(np.stack([infos[index]["terminal_observation"] for index in cut]))
        values = model.policy.predict_values(terminal).squeeze(1).cpu().numpy()
        rewards[cut] += model.gamma * values
