"""The network sees exactly its lookback, and never does what the rules would refuse."""

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, possible_actions, random_observations, random_policy, random_tape

from mtfscalper.envs.lookback_observation import expand_observations
from mtfscalper.envs.trading_env import observation_space
from mtfscalper.policy.network import LookbackExtractor

N_CANDLES = 300


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return random_tape(N_CANDLES).features


@pytest.mark.parametrize("lookback", [1, 2, 7])
def test_the_extractor_gathers_the_candles_up_to_the_tick_oldest_first(features: np.ndarray, lookback: int) -> None:
    extractor = LookbackExtractor(observation_space(), N_FEATURES, lookback)
    extractor.set_features(features)
    observations = random_observations(200, N_CANDLES, lookback)
    gathered = extractor(torch.from_numpy(observations)).numpy()
    for row, observation in zip(gathered, observations, strict=True):
        tick = int(observation[0])
        expected = [value for candle in range(tick - lookback + 1, tick + 1) for value in features[candle]]
        np.testing.assert_array_equal(row, np.array([*expected, *observation[1:]], dtype=np.float32))


def test_the_extractor_and_the_lookback_observations_of_other_algorithms_agree(features: np.ndarray) -> None:
    extractor = LookbackExtractor(observation_space(), N_FEATURES, 5)
    extractor.set_features(features)
    observations = random_observations(100, N_CANDLES, 5)
    expected = expand_observations(observations, features, 5)
    np.testing.assert_array_equal(extractor(torch.from_numpy(observations)).numpy(), expected)


def test_a_policy_without_a_tape_says_what_is_missing() -> None:
    with pytest.raises(RuntimeError, match=r"has none; remedy: call policy\.features_extractor\.set_features"):
        random_policy().predict(random_observations(1, N_CANDLES, 1), deterministic=True)


@pytest.mark.parametrize("shape", [(10, N_FEATURES + 1), (10, N_FEATURES - 1), (N_FEATURES,)])
def test_a_tape_with_other_features_is_refused_with_both_numbers(shape: tuple[int, ...]) -> None:
    extractor = LookbackExtractor(observation_space(), N_FEATURES, 1)
    with pytest.raises(ValueError, match=rf"{shape[-1]}.*accepted: \(n_candles, {N_FEATURES}\)"):
        extractor.set_features(np.zeros(shape, dtype=np.float32))


def test_a_policy_does_not_see_its_tape_change_afterwards(features: np.ndarray) -> None:
    tape, policy = features.copy(), random_policy()
    policy.features_extractor.set_features(tape)
    tape[:] = 0.0
    np.testing.assert_array_equal(policy.features_extractor.features.numpy(), features)


def test_a_tape_put_under_the_policy_for_a_while_gives_way_to_its_own_again(features: np.ndarray) -> None:
    extractor = random_policy().features_extractor
    extractor.set_features(features)
    own = extractor.features
    with extractor.on_tape(torch.zeros(5, N_FEATURES)):
        assert len(extractor.features) == 5
    assert extractor.features is own
    with pytest.raises(ZeroDivisionError), extractor.on_tape(torch.zeros(5, N_FEATURES)):
        raise ZeroDivisionError
    assert extractor.features is own


def test_the_tape_is_not_part_of_what_a_policy_saves(features: np.ndarray) -> None:
    policy = random_policy()
    policy.features_extractor.set_features(features)
    assert not [name for name in policy.state_dict() if "features" in name]


@pytest.mark.parametrize("deterministic", [False, True])
def test_no_action_is_sampled_that_cannot_be_done(features: np.ndarray, deterministic: bool) -> None:
    observations = random_observations(4000, N_CANDLES, 1)
    possible = possible_actions(observations)
    policy = random_policy()
    policy.features_extractor.set_features(features)
    actions, _ = policy.predict(observations, deterministic=deterministic)
    assert possible[np.arange(len(actions)), actions].all()
    # All five occur, so that none is avoided for another reason.
    assert set(actions.tolist()) == {0, 1, 2, 3, 4}
    with torch.no_grad():
        taken = policy(torch.from_numpy(observations), deterministic=deterministic)[0].numpy()
    assert possible[np.arange(len(taken)), taken].all()


def test_the_weights_alone_would_do_what_cannot_be_done(features: np.ndarray) -> None:
    """Without the mask the test before this one would prove nothing."""
    observations = random_observations(4000, N_CANDLES, 1)
    policy = random_policy()
    policy.features_extractor.set_features(features)
    with torch.no_grad():
        latent, _ = policy.mlp_extractor(policy.features_extractor(torch.from_numpy(observations)))
        unmasked = policy.action_net(latent).argmax(dim=1).numpy()
    assert not possible_actions(observations)[np.arange(len(unmasked)), unmasked].all()


@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_impossible_actions_have_no_probability_and_entropy_stays_finite(features: np.ndarray, scale: float) -> None:
    observations = torch.from_numpy(random_observations(4000, N_CANDLES, 1))
    possible = torch.from_numpy(possible_actions(observations.numpy()))
    policy = random_policy()
    policy.features_extractor.set_features(features)
    with torch.no_grad():
        policy.action_net.weight.mul_(scale)
    distribution = policy.get_distribution(observations).distribution
    assert (distribution.probs[~possible] == 0.0).all()
    np.testing.assert_allclose(distribution.probs.sum(dim=1).detach().numpy(), 1.0, rtol=1e-5)
    actions = distribution.sample()
    values, log_probabilities, entropy = policy.evaluate_actions(observations, actions)
    assert entropy is not None
    assert values.shape == (4000, 1)
    assert torch.isfinite(entropy).all()
    assert torch.isfinite(log_probabilities).all()
    # Nothing can be chosen where Neutral alone can be done.
    assert (entropy[possible.sum(dim=1) == 1] == 0.0).all()
    (log_probabilities.sum() + entropy.sum() + values.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_forward_and_evaluate_actions_tell_the_same_of_the_same_actions(features: np.ndarray) -> None:
    observations = torch.from_numpy(random_observations(500, N_CANDLES, 1))
    policy = random_policy()
    policy.features_extractor.set_features(features)
    with torch.no_grad():
        actions, values, log_probabilities = policy(observations)
        again_values, again, _ = policy.evaluate_actions(observations, actions)
        torch.testing.assert_close(policy.predict_values(observations), values)
    torch.testing.assert_close(again_values, values)
    torch.testing.assert_close(again, log_probabilities)


def test_bf16_computes_the_hidden_layers_in_bfloat16_and_leaves_logits_and_losses_in_float32(
    features: np.ndarray,
) -> None:
    observations = torch.from_numpy(random_observations(2000, N_CANDLES, 3))
    exact, short = random_policy(3), random_policy(3, precision="bf16")
    short.load_state_dict(exact.state_dict())
    seen = []
    short.mlp_extractor.policy_net[-1].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    for policy in (exact, short):
        policy.features_extractor.set_features(features)
    distributions = [policy.get_distribution(observations).distribution for policy in (exact, short)]
    assert seen == [torch.bfloat16]
    assert distributions[1].logits.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in short.parameters())
    values, log_probabilities, entropy = short.evaluate_actions(observations, distributions[0].probs.argmax(dim=1))
    assert {values.dtype, log_probabilities.dtype, entropy.dtype} == {torch.float32}
    probabilities = [distribution.probs.detach().numpy() for distribution in distributions]
    assert not np.array_equal(*probabilities)
    assert np.mean(np.abs(probabilities[0] - probabilities[1])) < 0.01
    agreement = probabilities[0].argmax(axis=1) == probabilities[1].argmax(axis=1)
    assert agreement.mean() > 0.97


def test_the_precision_survives_saving_and_loading(tmp_path) -> None:
    policy = random_policy(precision="bf16")
    policy.save(tmp_path / "policy.pt")
    loaded = type(policy).load(tmp_path / "policy.pt", device="cpu")
    assert loaded.precision == "bf16"
