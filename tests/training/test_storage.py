"""A rollout's storage: advantages as the paper and stable-baselines3 have them, nothing kept twice."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from test_ppo import DECLINED, model, with_a_rollout

from mtfscalper.training import ppo
from mtfscalper.training.member_adam import MOMENTS
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.storage import Rollout, Samples, generalised_advantage


def test_the_advantage_of_three_steps_is_the_one_worked_by_hand() -> None:
    # gamma 0.5, lambda 0.5; the third step is the first of another episode; after it stands a value of 8.
    rewards, values, starts = (
        torch.tensor(column)[:, None] for column in ([1.0, 2.0, 3.0], [4.0, 2.0, 6.0], [1, 0, 1])
    )
    advantages = generalised_advantage(rewards, values, starts, torch.tensor([8.0]), torch.tensor([0.0]), 0.5, 0.5)
    # delta_3 = 3 + 0.5 * 8 - 6 = 1; delta_2 = 2 - 2 = 0, an episode ends; delta_1 = 1 + 0.5 * 2 - 4 = -2
    assert advantages.squeeze(1).tolist() == [-2.0 + 0.25 * 0.0, 0.0, 1.0]
    # Had the episode gone on: delta_2 = 2 + 0.5 * 6 - 2 = 3, A_2 = 3 + 0.25 * 1, A_1 = -2 + 0.25 * 3.25
    starts[2] = 0
    advantages = generalised_advantage(rewards, values, starts, torch.tensor([8.0]), torch.tensor([0.0]), 0.5, 0.5)
    assert advantages.squeeze(1).tolist() == [-1.1875, 3.25, 1.0]


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (1.0, 1.0), (0.9, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("n_envs", [1, 7])
def test_advantages_and_returns_are_those_of_stable_baselines3_to_the_last_bit(
    gamma: float, gae_lambda: float, n_envs: int
) -> None:
    random, n_steps = np.random.default_rng(n_envs), 300
    space = spaces.Box(-1, 1, (7,))
    theirs = RolloutBuffer(n_steps, space, spaces.Discrete(5), "cpu", gae_lambda, gamma, n_envs)
    ours = Rollout.empty(n_steps, n_envs, 7, torch.device("cpu"))
    for name, column in {
        "rewards": random.normal(0, 1, (n_steps, n_envs)),
        "values": random.normal(0, 3, (n_steps, n_envs)),
        "episode_starts": random.random((n_steps, n_envs)) < 0.1,
    }.items():
        getattr(theirs, name)[:] = column
        getattr(ours, name)[:] = torch.from_numpy(column)
    last_values = torch.from_numpy(random.normal(0, 3, n_envs).astype(np.float32))
    dones = random.random(n_envs) < 0.5
    theirs.compute_returns_and_advantage(last_values, dones)
    ours.estimate(last_values, torch.from_numpy(dones).float(), gamma, gae_lambda)
    np.testing.assert_array_equal(ours.advantages.numpy(), theirs.advantages)
    np.testing.assert_array_equal(ours.returns.numpy(), theirs.returns)
    assert ours.advantages.any()


def test_samples_are_flattened_as_stable_baselines3_flattens_them() -> None:
    n_steps, n_envs = 5, 3
    rollout = Rollout.empty(n_steps, n_envs, 7, torch.device("cpu"))
    for column in rollout:
        column.zero_()
    rollout.actions[:] = torch.arange(n_steps * n_envs).view(n_steps, n_envs)
    rollout.observations[:, :, 0] = rollout.actions
    flat = RolloutBuffer.swap_and_flatten(rollout.actions.numpy())
    samples = rollout.samples()
    assert samples.actions.tolist() == flat.flatten().tolist()
    assert samples.observations[:, 0].tolist() == flat.flatten().tolist()


def test_a_fused_model_makes_no_numpy_buffer_and_another_makes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Counted(RolloutBuffer):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            made.append(self)
            super().__init__(*arguments, **keywords)

    monkeypatch.setattr(ppo, "RolloutBuffer", Counted)
    monkeypatch.setattr("stable_baselines3.common.on_policy_algorithm.RolloutBuffer", Counted)
    fused = model(FusedPPO)
    fused.learn(512)
    assert isinstance(fused, FusedPPO)
    fused.release_memory()
    assert made == []
    kwargs = fused.policy_kwargs | DECLINED["tanh"]
    declined = FusedPPO(type(fused.policy), fused.env, n_steps=16, policy_kwargs=kwargs, device="cpu")
    assert made == [declined.rollout_buffer]


def test_a_trained_model_is_sent_with_each_of_its_numbers_once() -> None:
    fused = model(FusedPPO)
    fused.learn(512)
    before = {name: value.clone() for name, value in fused.policy.state_dict().items()}
    assert isinstance(fused, FusedPPO)
    fused.release_memory()
    fused.env = None
    parameters = list(fused.policy.parameters())
    numbers = sum(parameter.nbytes for parameter in parameters)
    held = [*parameters, *(fused.policy.optimizer.state[one][name] for one in parameters for name in MOMENTS)]
    assert sum(one.untyped_storage().nbytes() for one in held) == 3 * numbers
    sent = pickle.loads(cloudpickle.dumps(fused.policy))
    assert all(torch.equal(value, before[name]) for name, value in sent.state_dict().items())


def test_a_rollout_lies_on_the_policys_device_in_the_shapes_it_says() -> None:
    rollout = Rollout.empty(6, 4, 7, torch.device("meta"))
    assert {column.device.type for column in rollout} == {"meta"}
    assert rollout.observations.shape == (6, 4, 7)
    assert {tuple(column.shape) for column in rollout[1:]} == {(6, 4)}
    assert rollout.actions.dtype == torch.int64


def test_samples_are_packed_and_unpacked_without_a_change() -> None:
    made = with_a_rollout(model(FusedPPO))
    samples: Any = made.rollout_buffer.samples()
    packed = samples.packed()
    assert packed.shape == (7 + 5 + 5, len(samples.actions))
    for name, column in Samples.from_packed(packed)._asdict().items():
        assert torch.equal(column, getattr(samples, name))
        assert column.dtype == getattr(samples, name).dtype
    assert samples.impossible.any()
