"""Batched decisions are the policy's own."""

from typing import Any

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, env_settings, possible_actions, random_observations, random_policy, random_tape
from sb3_contrib import MaskablePPO
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from mtfscalper.envs.lookback_observation import expand_observations, make_env
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.inference import MAX_BATCH, LookbackDecider, PolicyDecider, decider_for

N_CANDLES = 400


def test_a_batch_decides_row_by_row_as_the_policy_does() -> None:
    lookback = 3
    features = random_tape(N_CANDLES).features
    observations = random_observations(MAX_BATCH + 500, N_CANDLES, lookback)
    policy = random_policy(lookback)
    decided = PolicyDecider(policy, features).decide(observations)
    policy.features_extractor.set_features(features)
    one_by_one = [int(policy.predict(row, deterministic=True)[0]) for row in observations]
    np.testing.assert_array_equal(decided.actions, one_by_one)
    assert len(set(one_by_one)) == 5
    assert decided.probabilities.shape == (MAX_BATCH + 500, 5)
    with torch.no_grad():
        singles = [
            policy.get_distribution(torch.from_numpy(row[None])).distribution.probs[0].numpy()
            for row in observations[MAX_BATCH - 50 : MAX_BATCH + 50]
        ]
    np.testing.assert_allclose(decided.probabilities[MAX_BATCH - 50 : MAX_BATCH + 50], singles, atol=1e-6)


def test_deciding_on_one_tape_leaves_the_policy_on_its_own() -> None:
    own, other = random_tape(N_CANDLES, seed=1).features, random_tape(N_CANDLES, seed=2).features
    policy = random_policy()
    policy.features_extractor.set_features(own)
    held = policy.features_extractor.features
    observations = random_observations(300, N_CANDLES, 1)
    on_own, on_other = (PolicyDecider(policy, tape).decide(observations) for tape in (own, other))
    assert policy.features_extractor.features is held
    assert not np.array_equal(on_own.actions, on_other.actions)
    np.testing.assert_array_equal(policy.predict(observations, deterministic=True)[0], on_own.actions)


def test_no_observations_make_no_decisions() -> None:
    features = random_tape(N_CANDLES).features
    empty = np.empty((0, 7), dtype=np.float32)
    decided = PolicyDecider(random_policy(), features).decide(empty)
    assert decided.actions.shape == (0,)
    assert decided.probabilities.shape == (0, 5)


def test_features_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="train again"):
        PolicyDecider(random_policy(), np.zeros((10, N_FEATURES + 2), dtype=np.float32))


def lookback_model(algorithm: Any, lookback: int) -> tuple[MarketTape, Any]:
    tape = random_tape(N_CANDLES)
    vec_env = DummyVecEnv([lambda: make_env(tape, env_settings("gated", lookback), compact=False)])
    return tape, algorithm("MlpPolicy", vec_env, policy_kwargs={"net_arch": [16]}, device="cpu", seed=1)


def test_maskable_ppo_is_asked_with_the_masks_of_its_training() -> None:
    tape, model = lookback_model(MaskablePPO, 2)
    # Without a mask it would do what cannot be done, nearly always.
    with torch.no_grad():
        model.policy.action_net.bias.copy_(torch.tensor([0.0, 1.0, 5.0, 2.0, 5.0]))
    observations = random_observations(500, N_CANDLES, 2)
    decided = decider_for(model, tape.features, 2).decide(observations)
    best_first = [4, 2, 3, 1, 0]
    expected = [next(a for a in best_first if mask[a]) for mask in possible_actions(observations)]
    np.testing.assert_array_equal(decided.actions, expected)
    assert set(expected) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("algorithm", [PPO, DQN])
def test_a_model_on_lookback_observations_decides_as_it_predicts_and_impossible_actions_are_neutral(
    algorithm: Any,
) -> None:
    tape, model = lookback_model(algorithm, 3)
    decider = decider_for(model, tape.features, 3)
    assert isinstance(decider, LookbackDecider)
    observations = random_observations(MAX_BATCH + 200, N_CANDLES, 3)
    decided = decider.decide(observations)
    predicted, _ = model.predict(expand_observations(observations, tape.features, 3), deterministic=True)
    possible = possible_actions(observations)[np.arange(len(predicted)), predicted]
    assert not possible.all()
    assert (predicted[possible] != 0).any()
    np.testing.assert_array_equal(decided.actions, np.where(possible, predicted, 0))
    np.testing.assert_allclose(decided.probabilities.sum(axis=1), 1.0, rtol=1e-5)


def test_a_model_of_this_package_is_decided_by_its_own_policy() -> None:
    class Model:
        policy = random_policy()

    assert isinstance(decider_for(Model(), random_tape(50).features, 1), PolicyDecider)
