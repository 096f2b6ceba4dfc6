"""Single decisions about open trades: those of the whole policy, from memory and from a zip."""

from pathlib import Path

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, env_settings, random_observations, random_policy, random_tape
from stable_baselines3 import PPO
from torch import nn

from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy import trade_query
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.policy.network import CandleWindowExtractor, MaskedActorCriticPolicy
from mtfscalper.policy.trade_query import Actor, DeciderQuery, PolicyQuery
from mtfscalper.trading.actions import Action

N = 300


def features_of(seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, N_FEATURES)).astype(np.float32)


def in_trade(window: int, n: int = 600) -> list[tuple[int, list[float]]]:
    """Rows and states of open trades."""
    observations = random_observations(3 * n, N, window)
    return [(int(row), state) for row, *state in observations.tolist() if state[0] != 0][:n]


@pytest.mark.parametrize("window", [1, 4])
@pytest.mark.parametrize("net_arch", [(64,), (48, 32, 16)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_query_decides_as_the_whole_policy(window: int, net_arch: tuple[int, ...], precision: str) -> None:
    policy, features = random_policy(window, net_arch=net_arch, precision=precision), features_of()
    fast = PolicyQuery(Actor.of_policy(policy), features, window)
    whole = DeciderQuery(PolicyDecider(policy, features))
    actions = set()
    rows, states = zip(*in_trade(window), strict=True)
    for ours, theirs in zip(fast.decide(rows, states), whole.decide(rows, states), strict=True):
        assert ours.action == theirs.action
        assert ours.exit_probability == pytest.approx(theirs.exit_probability, abs=2e-5)
        actions.add(ours.action)
    assert actions == {Action.NEUTRAL, Action.LONG_EXIT, Action.SHORT_EXIT}


def test_near_ties_are_decided_by_the_policys_own_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, features = random_policy(net_arch=(64, 64)), features_of()
    monkeypatch.setattr(trade_query, "NEAR_TIE", np.inf)
    exact = PolicyQuery(Actor.of_policy(policy), features, 1)
    extractor = policy.features_extractor
    assert isinstance(extractor, CandleWindowExtractor)
    for row, state in in_trade(1, 200):
        observation = torch.tensor([[row, *state]], dtype=torch.float32)
        with torch.inference_mode(), extractor.on_tape(extractor.as_tape(features)):
            logits = policy.action_net(policy.mlp_extractor(extractor(observation))[0])[0]
        leave = Action.LONG_EXIT if state[0] > 0 else Action.SHORT_EXIT
        advantage = float(logits[leave] - logits[Action.NEUTRAL])
        # To the last bit: the same sums in the same order.
        account = np.array(state, dtype=np.float32)
        assert exact._advantage_in_full(row, account, leave) == advantage
        [decision] = exact.decide([row], [state])
        assert (decision.action != Action.NEUTRAL) == (advantage > 0)


def test_an_exact_tie_is_held_as_the_policy_holds_it() -> None:
    policy, features = random_policy(), features_of()
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.zero_()
    fast = PolicyQuery(Actor.of_policy(policy), features, 1)
    state = [1.0, 0.3, 0.5, 0.1, 0.0, 0.0]
    assert fast.decide([7], [state]) == [(Action.NEUTRAL, 0.5)]
    assert DeciderQuery(PolicyDecider(policy, features)).decide([7], [state]) == [(Action.NEUTRAL, 0.5)]


def test_the_actor_of_a_zip_is_that_of_the_policy(tmp_path: Path) -> None:
    tape = random_tape(60)
    vec_env = build_vec_env("dummy", tape, env_settings(), 1)
    model = PPO(
        MaskedActorCriticPolicy,
        vec_env,
        n_steps=8,
        batch_size=8,
        policy_kwargs={
            "net_arch": [8, 6],
            "activation_fn": nn.ReLU,
            "features_extractor_class": CandleWindowExtractor,
            "features_extractor_kwargs": {"n_features": N_FEATURES, "window": 1},
        },
        device="cpu",
    )
    model.save(tmp_path / "model.zip")
    ours, theirs = Actor.of_policy(model.policy), Actor.of_zip(tmp_path / "model.zip")
    assert [layer.weight.shape for layer in theirs.hidden] == [(8, N_FEATURES + 6), (6, 8)]
    for one, other in zip((*ours.hidden, ours.logits), (*theirs.hidden, theirs.logits), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)


def test_other_policies_and_other_features_are_refused(tmp_path: Path) -> None:
    policy = random_policy(2)
    with pytest.raises(ValueError, match=r"3 features in windows of 2 candles are 6 inputs .* accepted: the 14 inputs"):
        PolicyQuery(Actor.of_policy(policy), features_of()[:, :3], 2)
    policy.activation_fn = nn.Tanh
    with pytest.raises(ValueError, match=r"hidden layers with .*Tanh.*; accepted: ReLU"):
        Actor.of_policy(policy)
    vec_env = build_vec_env("dummy", random_tape(60), env_settings(), 1, compact=False)
    PPO("MlpPolicy", vec_env, n_steps=8, batch_size=8, device="cpu").save(tmp_path / "other.zip")
    with pytest.raises(ValueError, match=r"holds a policy of stable_baselines3.*; accepted: PPO's policy of"):
        Actor.of_zip(tmp_path / "other.zip")
