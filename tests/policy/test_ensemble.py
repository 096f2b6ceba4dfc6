"""An ensemble decides by the mean of its members' probabilities, however it is asked and wherever it comes from."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, env_settings, make_decisive, random_observations, random_tape
from stable_baselines3 import PPO
from torch import nn

from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy import closed_loop, inference
from mtfscalper.policy.ensemble import EnsemblePolicy, mean_probabilities
from mtfscalper.policy.inference import (
    FastTradeDecider,
    PolicyDecider,
    WholeTradeDecider,
    actors_in_zip,
    actors_of,
    decider_for,
    trade_decider_from_zip,
)
from mtfscalper.policy.joined_model import join_models, n_members_of_zip, split_model
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import Observation

TESTS = Path(__file__).parents[1]
LOOKBACK = 2
N = 300
TAPE = random_tape(N)
RELU = {"activation_fn": nn.ReLU}
OWN = RELU | {"network": UserNetwork.from_name("own_networks:Mean", TESTS)}


def member(seed: int, precision: str = "fp32", network: Any = None, activation_fn: type[nn.Module] = nn.ReLU) -> PPO:
    """A model that has learned a little, with large logits."""
    vec_env = build_vec_env("dummy", TAPE, env_settings(lookback=LOOKBACK), 1)
    gathered = {"n_features": N_FEATURES, "lookback": LOOKBACK} | ({} if network is None else {"network": network})
    kwargs = {
        "net_arch": [24, 16],
        "activation_fn": activation_fn,
        "features_extractor_class": LookbackExtractor,
        "features_extractor_kwargs": gathered,
        "precision": precision,
    }
    model = PPO(
        MaskedActorCriticPolicy, vec_env, n_steps=16, batch_size=8, seed=seed, policy_kwargs=kwargs, device="cpu"
    )
    model.policy.features_extractor.set_features(TAPE.features)
    model.learn(16)
    model.env = None
    make_decisive(model.policy, TAPE.features, LOOKBACK)
    model.policy.features_extractor.features = torch.empty(0, N_FEATURES)
    return model


@pytest.fixture(scope="module")
def models() -> list[PPO]:
    return [member(seed) for seed in (1, 5, 9)]


@pytest.fixture(scope="module")
def joined(models: list[PPO]) -> PPO:
    return join_models(models)


def observations(n: int = 900) -> np.ndarray:
    return random_observations(n, N, LOOKBACK)


def in_trade(n: int = 400) -> list[Observation]:
    return [seen for seen in map(Observation._make, observations(3 * n).tolist()) if seen.side != 0][:n]


def parameters(model: PPO) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


def assert_same_parameters(ours: PPO, theirs: PPO) -> None:
    left, right = parameters(ours), parameters(theirs)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


# ---------------------------------------------------------------------- the mean


def test_the_probabilities_are_the_mean_of_the_members_not_that_of_their_logits(models: list[PPO], joined: PPO) -> None:
    seen = observations()
    ours = decider_for(joined, TAPE.features, LOOKBACK).decide(seen)
    each = [decider_for(model, TAPE.features, LOOKBACK).decide(seen) for model in models]
    mean = np.mean([one.probabilities.astype(float) for one in each], axis=0)
    np.testing.assert_allclose(ours.probabilities, mean, rtol=0, atol=1e-7)
    assert len(set(ours.actions.tolist())) == 5
    # The control: they disagree, a mean of logits would be another, and no one of them decides.
    assert all((one.actions != ours.actions).mean() > 0.02 for one in each)
    logits = np.mean([np.log(one.probabilities.astype(float).clip(1e-38)) for one in each], axis=0)
    assert (logits.argmax(axis=1) != ours.actions).any()


def test_three_numbers_worked_by_hand() -> None:
    mean = mean_probabilities([torch.tensor([[0.6, 0.4]]), torch.tensor([[0.1, 0.9]]), torch.tensor([[0.2, 0.8]])])
    torch.testing.assert_close(mean, torch.tensor([[0.3, 0.7]]))


def test_impossible_actions_have_no_probability(joined: PPO) -> None:
    seen = observations()
    probabilities = decider_for(joined, TAPE.features, LOOKBACK).decide(seen).probabilities
    held = seen[:, 1] > 0
    assert (probabilities[held][:, [Action.LONG_ENTER, Action.SHORT_ENTER, Action.SHORT_EXIT]] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-6)


def test_an_ensemble_of_one_is_its_member_to_the_last_bit(models: list[PPO]) -> None:
    [model, *_] = models
    alone = EnsemblePolicy(
        model.observation_space, model.action_space, model.lr_schedule, n_members=1, **model.policy_kwargs
    )
    alone.members[0].load_state_dict(model.policy.state_dict())
    seen = observations()
    ours, theirs = (PolicyDecider(policy, TAPE.features).decide(seen) for policy in (alone, model.policy))
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(ours.probabilities, theirs.probabilities)
    questions = in_trade()
    quick, own = (FastTradeDecider(actors_of(policy), TAPE.features, LOOKBACK) for policy in (alone, model.policy))
    assert quick.decide(questions) == own.decide(questions)


def test_joining_one_model_gives_that_model(models: list[PPO]) -> None:
    assert join_models(models[:1]) is models[0]
    assert split_model(models[0]) == [models[0]]


def test_values_are_the_mean_of_the_members(models: list[PPO], joined: PPO) -> None:
    seen = torch.from_numpy(observations(50))
    with torch.no_grad():
        values = []
        for model in (*models, joined):
            extractor = model.policy.features_extractor
            with extractor.on_tape(extractor.as_tape(TAPE.features)):
                values.append(model.policy.predict_values(seen))
    torch.testing.assert_close(values[-1], torch.stack(values[:-1]).mean(dim=0))


# ---------------------------------------------------------------------- one decision, however asked


@pytest.fixture(params=["relu", "tanh", "own network", "bf16"])
def any_joined(request: pytest.FixtureRequest) -> PPO:
    changes: dict[str, Any] = {
        "relu": {},
        "tanh": {"activation_fn": nn.Tanh},
        "own network": {"network": OWN["network"]},
        "bf16": {"precision": "bf16"},
    }[request.param]
    return join_models([member(seed, **changes) for seed in (1, 2)])


def test_stable_baselines3_opens_the_zip_and_predicts_what_is_decided_here(any_joined: PPO, tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    any_joined.save(path)
    assert n_members_of_zip(path.read_bytes()) == 2
    loaded = PPO.load(path, device="cpu")
    assert type(loaded) is PPO
    assert_same_parameters(loaded, any_joined)
    loaded.policy.features_extractor.set_features(TAPE.features)
    seen = observations(300)
    decided = decider_for(any_joined, TAPE.features, LOOKBACK).decide(seen).actions
    actions, _ = loaded.predict(seen, deterministic=True)
    np.testing.assert_array_equal(actions, decided)
    singly = np.array([int(loaded.predict(row, deterministic=True)[0]) for row in seen])
    np.testing.assert_array_equal(singly, decided)
    # In a trade: from memory and from the file, quickly or by whole forwards, many at a time or one by one.
    questions = in_trade(200)
    whole = WholeTradeDecider(decider_for(loaded, TAPE.features, LOOKBACK))
    known = [whole.decide([one])[0] for one in questions]
    for decider in (
        decider_for(any_joined, TAPE.features, LOOKBACK).trade_decider(),
        trade_decider_from_zip(path, "PPO", TAPE.features, LOOKBACK),
    ):
        for decisions in (decider.decide(questions), [decider.decide([one])[0] for one in questions]):
            assert [one.action for one in decisions] == [one.action for one in known]
            np.testing.assert_allclose(
                [one.exit_probability for one in decisions], [one.exit_probability for one in known], atol=2e-5
            )
    assert len({one.action for one in known}) == 3


def test_relu_layers_are_asked_quickly_and_others_are_not(models: list[PPO], joined: PPO, tmp_path: Path) -> None:
    for name, model, quick in (
        ("relu", joined, True),
        ("own", join_models([member(seed, network=OWN["network"]) for seed in (1, 2)]), False),
    ):
        model.save(tmp_path / name)
        path = tmp_path / f"{name}.zip"
        # Read off the zip, without making the model.
        assert len(actors_in_zip(path)) == (len(split_model(model)) if quick else 0)
        for decider in (
            decider_for(model, TAPE.features, LOOKBACK).trade_decider(),
            trade_decider_from_zip(path, "PPO", TAPE.features, LOOKBACK),
        ):
            assert isinstance(decider, FastTradeDecider) == quick


def test_where_the_members_balance_each_other_the_whole_ensembles_sums_decide(
    models: list[PPO], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One member wants to leave as much as the other wants to hold; a bias moves by single steps of float32."""
    disagreed = 0
    for seen in in_trade(20):
        pair = [copy.deepcopy(model) for model in models[:2]]
        leave = Action.LONG_EXIT if seen.side > 0 else Action.SHORT_EXIT
        row = np.array([seen], dtype=np.float32)
        first, other = (PolicyDecider(model.policy, TAPE.features).decide(row).probabilities[0] for model in pair)
        bias = pair[1].policy.action_net.bias.data
        bias[leave] += float(np.log(first[0] / first[leave]) - np.log(other[leave] / other[0]))
        for _ in range(8):
            bias[leave] = torch.nextafter(bias[leave], torch.tensor(np.inf))
            policy = join_models(pair).policy
            decider = FastTradeDecider(actors_of(policy), TAPE.features, LOOKBACK)
            [whole] = WholeTradeDecider(PolicyDecider(policy, TAPE.features)).decide([seen])
            assert [one.action for one in decider.decide([seen])] == [whole.action]
            with monkeypatch.context() as patch:
                # The control: without a second look some answers are others.
                patch.setattr(inference, "NEAR_TIE", 0.0)
                [quick] = decider.decide([seen])
            disagreed += quick.action != whole.action
    assert disagreed > 5


def test_a_whole_run_through_the_rules_is_the_same_asked_quickly_or_not(joined: PPO) -> None:
    settings, decider = env_settings("agent", LOOKBACK), decider_for(joined, TAPE.features, LOOKBACK)
    quick = closed_loop.run(decider, TAPE, settings, 1, N - 1)

    class Slow:
        decide = decider.decide

        def trade_decider(self) -> WholeTradeDecider:
            return WholeTradeDecider(decider)

    slow = closed_loop.run(Slow(), TAPE, settings, 1, N - 1)
    assert quick.trades == slow.trades
    np.testing.assert_array_equal(quick.actions, slow.actions)
    assert len(quick.trades) > 5


# ---------------------------------------------------------------------- joined, taken apart


def test_a_joined_model_taken_apart_gives_its_members_with_all_they_learn_on_with(
    models: list[PPO], joined: PPO, tmp_path: Path
) -> None:
    joined.save(tmp_path / "model")
    parts = split_model(PPO.load(tmp_path / "model", device="cpu"))
    assert [part.seed for part in parts] == [1, 5, 9]
    for part, model in zip(parts, models, strict=True):
        assert isinstance(part.policy, MaskedActorCriticPolicy)
        assert_same_parameters(part, model)
        ours, theirs = (one.policy.optimizer.state_dict() for one in (part, model))
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys() != set()
        for number, state in theirs["state"].items():
            assert all(torch.equal(ours["state"][number][name], value) for name, value in state.items())


def test_parts_learn_on_as_their_models_would(models: list[PPO], joined: PPO) -> None:
    for part, model in zip(split_model(joined), copy.deepcopy(models), strict=True):
        for one in (part, model):
            one.set_env(build_vec_env("dummy", TAPE, env_settings(lookback=LOOKBACK), 1))
            one.policy.features_extractor.set_features(TAPE.features)
            one.set_random_seed(3)
            before = parameters(one)
            one.learn(16)
            assert any(not torch.equal(before[name], value) for name, value in parameters(one).items())
        assert_same_parameters(part, model)


def test_a_joined_model_shares_nothing_with_its_members(models: list[PPO]) -> None:
    own = [copy.deepcopy(model) for model in models]
    joined = join_models(own)
    before = parameters(joined)
    with torch.no_grad():
        for model in own:
            for value in model.policy.parameters():
                value.zero_()
    assert all(torch.equal(before[name], value) for name, value in parameters(joined).items())


def test_random_numbers_go_on_as_if_nothing_was_joined_with_a_seed(models: list[PPO]) -> None:
    draws = []
    for _ in range(2):
        join_models(models)
        draws.append((np.random.random(), torch.rand(1).item()))
    assert draws[0] != draws[1]


def test_a_policy_alone_can_be_saved_and_loaded(joined: PPO, tmp_path: Path) -> None:
    joined.policy.save(tmp_path / "policy.pth")
    loaded = EnsemblePolicy.load(tmp_path / "policy.pth", device="cpu")
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in joined.policy.state_dict().items())


def test_an_ensemble_answers_all_that_ppo_asks_of_a_policy(joined: PPO) -> None:
    policy, seen = joined.policy, torch.from_numpy(observations(40))
    extractor = policy.features_extractor
    with torch.no_grad(), extractor.on_tape(extractor.as_tape(TAPE.features)):
        torch.manual_seed(0)
        actions, values, log_probs = policy(seen)
        again_values, again, entropy = policy.evaluate_actions(seen, actions)
        probabilities = policy.get_distribution(seen).distribution.probs
    torch.testing.assert_close(values, again_values)
    torch.testing.assert_close(log_probs, again)
    torch.testing.assert_close(log_probs.exp(), probabilities.gather(1, actions[:, None])[:, 0])
    by_hand = -(probabilities * probabilities.clamp_min(1e-30).log()).sum(dim=1)
    torch.testing.assert_close(entropy, by_hand, rtol=1e-4, atol=1e-5)
