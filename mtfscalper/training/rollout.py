"""Collecting a rollout: one forward and one step of all environments at a time."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from mtfscalper.machine import one_torch_thread
from mtfscalper.policy.network import impossible_actions, masked_logits
from mtfscalper.training.paired_networks import PairedNetworks
from mtfscalper.training.storage import Rollout

# As few rows are the work of one thread. By number and not by backend: the same environments learn the same in each.
_ROWS_OF_ONE_THREAD = 16


def collect_rollout(
    model: OnPolicyAlgorithm, networks: PairedNetworks, env: VecEnv, callback: BaseCallback, rollout_buffer: Rollout
) -> bool:
    """Fill a rollout, as stable-baselines3's ``collect_rollouts`` does.

    Python runs for an environment only where an episode ended.

    :param networks: those of the model's policy
    :return: False if a callback ended it
    """
    model.policy.set_training_mode(False)
    callback.on_rollout_start()
    networks.load()
    new_obs: Any = model._last_obs
    dones: Any = model._last_episode_starts
    alone = model.device.type == "cpu" and env.num_envs <= _ROWS_OF_ONE_THREAD
    with one_torch_thread() if alone else nullcontext():
        for n_steps in range(len(rollout_buffer.rewards)):
            observations = rollout_buffer.observations[n_steps].copy_(torch.from_numpy(new_obs))
            rollout_buffer.episode_starts[n_steps].copy_(torch.from_numpy(dones))
            sampled, values, log_probs = _sample(networks, observations)
            actions = sampled.cpu().numpy()
            new_obs, rewards, dones, infos = env.step(actions)
            model.num_timesteps += env.num_envs
            callback.update_locals(locals())
            if not callback.on_step():
                return False
            ended = np.flatnonzero(dones)
            if len(ended):
                model._update_info_buffer([infos[index] for index in ended], dones[ended])
                _bootstrap(model, rewards, ended, infos)
            rollout_buffer.actions[n_steps].copy_(sampled)
            rollout_buffer.rewards[n_steps].copy_(torch.from_numpy(rewards))
            rollout_buffer.values[n_steps].copy_(values)
            rollout_buffer.log_probs[n_steps].copy_(log_probs)
            model._last_obs, model._last_episode_starts = new_obs, dones
    _, last_values = networks.forward(torch.from_numpy(new_obs).to(model.device))
    last_dones = torch.from_numpy(dones).to(model.device, torch.float32)
    rollout_buffer.estimate(last_values.squeeze(1), last_dones, model.gamma, model.gae_lambda)
    callback.update_locals(locals())
    callback.on_rollout_end()
    return True


@torch.inference_mode()
def _sample(networks: PairedNetworks, observations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Actions drawn from the masked policy, values of the states, log-probabilities of the actions; shape (n_envs,)."""
    logits, values = networks.forward(observations)
    log_probabilities = torch.log_softmax(masked_logits(logits, impossible_actions(observations)), dim=1)
    # torch.distributions.Categorical's own draw, so that both take the same actions from the same seed.
    actions = torch.multinomial(log_probabilities.exp(), 1, replacement=True)
    log_probs = log_probabilities.gather(1, actions)
    return actions.squeeze(1), values.squeeze(1), log_probs.squeeze(1)


@torch.inference_mode()
def _bootstrap(
    model: OnPolicyAlgorithm, rewards: npt.NDArray[np.float32], ended: npt.NDArray[np.intp], infos: list[dict[str, Any]]
) -> None:
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
