"""Single decisions about open trades: those of the whole policy, from memory and from a zip."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, env_settings, random_observations, random_policy, random_tape
from stable_baselines3 import PPO
from torch import nn

from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy import inference
from mtfscalper.policy.inference import (
    FastTradeDecider,
    PolicyDecider,
    WholeTradeDecider,
    actors_in_zip,
    actors_of,
    decider_for,
    trade_decider_from_zip,
)
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.trading.actions import Action
from mtfscalper.trading.observation import Observation

TESTS = Path(__file__).parents[1]

N = 300


def features_of(seed: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(N, N_FEATURES)).astype(np.float32)


def in_trade(lookback: int, n: int = 600) -> list[Observation]:
    """Observations of open trades."""
    observations = map(Observation._make, random_observations(3 * n, N, lookback).tolist())
    return [seen for seen in observations if seen.side != 0][:n]


def exit_of(seen: Observation) -> Action:
    return Action.LONG_EXIT if seen.side > 0 else Action.SHORT_EXIT


def advantage_of(policy: MaskedActorCriticPolicy, seen: Observation, features: np.ndarray) -> float:
    """The logit of leaving less the one of holding, by the policy's own forward."""
    observation, extractor = torch.tensor([seen], dtype=torch.float32), policy.features_extractor
    with torch.inference_mode(), extractor.on_tape(extractor.as_tape(features)):
        logits = policy.logits_and_values(observation)[0][0]
    return float(logits[exit_of(seen)] - logits[Action.NEUTRAL])


@pytest.mark.parametrize("lookback", [1, 4])
@pytest.mark.parametrize("net_arch", [(64,), (48, 32, 16)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_trade_decider_decides_as_the_whole_policy(lookback: int, net_arch: tuple[int, ...], precision: str) -> None:
    policy, features = random_policy(lookback, net_arch=net_arch, precision=precision), features_of()
    fast = FastTradeDecider(actors_of(policy), features, lookback)
    whole = WholeTradeDecider(PolicyDecider(policy, features))
    actions = set()
    asked = in_trade(lookback)
    for ours, theirs in zip(fast.decide(asked), whole.decide(asked), strict=True):
        assert ours.action == theirs.action
        assert ours.exit_probability == pytest.approx(theirs.exit_probability, abs=2e-5)
        actions.add(ours.action)
    assert actions == {Action.NEUTRAL, Action.LONG_EXIT, Action.SHORT_EXIT}


def test_near_ties_are_decided_by_the_policys_own_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, features = random_policy(net_arch=(64, 64)), features_of()
    monkeypatch.setattr(inference, "NEAR_TIE", np.inf)
    exact, whole = FastTradeDecider(actors_of(policy), features, 1), PolicyDecider(policy, features)
    for seen in in_trade(1, 200):
        probabilities = whole.decide(np.array([seen], dtype=np.float32)).probabilities[0].astype(float)
        lead = probabilities[exit_of(seen)] - probabilities[Action.NEUTRAL]
        [decision] = exact.decide([seen])
        # To the last bit: the same sums in the same order.
        assert decision == (exit_of(seen) if lead > 0 else Action.NEUTRAL, 0.5 + lead / 2)


def test_where_the_quick_sums_and_the_policys_own_disagree_the_policy_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving is put so near to holding that the rounding of the quick sums turns some answers over."""
    features, asked = features_of(), in_trade(1, 20)
    disagreed = 0
    for seen in asked:
        policy = random_policy(net_arch=(64, 64))
        leave, bias = exit_of(seen), policy.action_net.bias.data
        bias[leave] -= advantage_of(policy, seen, features)
        for _ in range(8):
            bias[leave] = torch.nextafter(bias[leave], torch.tensor(np.inf))
            decider = FastTradeDecider(actors_of(policy), features, 1)
            [decision] = decider.decide([seen])
            [whole] = WholeTradeDecider(PolicyDecider(policy, features)).decide([seen])
            assert decision.action == whole.action
            with monkeypatch.context() as patch:
                # The control: without a second look some answers are others.
                patch.setattr(inference, "NEAR_TIE", 0.0)
                [quick] = decider.decide([seen])
            disagreed += quick.action != decision.action
    assert disagreed > 5


def test_an_exact_tie_is_held_as_the_policy_holds_it() -> None:
    policy, features = random_policy(), features_of()
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.zero_()
    fast = FastTradeDecider(actors_of(policy), features, 1)
    seen = Observation(7, 1.0, 0.3, 0.5, 0.1, 0.0, 0.0)
    assert fast.decide([seen]) == [(Action.NEUTRAL, 0.5)]
    assert WholeTradeDecider(PolicyDecider(policy, features)).decide([seen]) == [(Action.NEUTRAL, 0.5)]


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
            "features_extractor_class": LookbackExtractor,
            "features_extractor_kwargs": {"n_features": N_FEATURES, "lookback": 1},
        },
        device="cpu",
    )
    model.save(tmp_path / "model.zip")
    [ours], [theirs] = actors_of(model.policy), actors_in_zip(tmp_path / "model.zip")
    assert [layer.weight.shape for layer in theirs.hidden] == [(8, N_FEATURES + 6), (6, 8)]
    for one, other in zip((*ours.hidden, ours.logits), (*theirs.hidden, theirs.logits), strict=True):
        np.testing.assert_array_equal(one.weight, other.weight)
        np.testing.assert_array_equal(one.bias, other.bias)


def test_other_features_are_refused() -> None:
    actors = actors_of(random_policy(2))
    with pytest.raises(ValueError, match=r"3 features of each of 2 candles are 6 inputs .* accepted: the 14 inputs"):
        FastTradeDecider(actors, features_of()[:, :3], 2)


def saved(path: Path, policy: Any, **policy_kwargs: Any) -> PPO:
    """An untrained model of a lookback of two candles, saved."""
    compact = policy is MaskedActorCriticPolicy
    vec_env = build_vec_env("dummy", random_tape(60), env_settings(lookback=2), 1, compact=compact)
    model = PPO(policy, vec_env, n_steps=8, batch_size=8, device="cpu", policy_kwargs=policy_kwargs)
    with torch.no_grad():
        model.policy.action_net.weight.mul_(300)
        # stable-baselines3's own policy would rather enter, which it cannot in a trade.
        model.policy.action_net.bias[[Action.LONG_ENTER, Action.SHORT_ENTER]] -= 100
    model.save(path)
    return model


OWN = {"features_extractor_class": LookbackExtractor, "net_arch": [8]}
LOOKBACK = {"n_features": N_FEATURES, "lookback": 2}


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "quick"),
    [
        (MaskedActorCriticPolicy, OWN | {"features_extractor_kwargs": LOOKBACK, "activation_fn": nn.ReLU}, True),
        (MaskedActorCriticPolicy, OWN | {"features_extractor_kwargs": LOOKBACK, "activation_fn": nn.Tanh}, False),
        # stable-baselines3's default is Tanh.
        (MaskedActorCriticPolicy, OWN | {"features_extractor_kwargs": LOOKBACK}, False),
        (
            MaskedActorCriticPolicy,
            OWN
            | {"features_extractor_kwargs": LOOKBACK | {"network": UserNetwork.from_name("own_networks:Mean", TESTS)}}
            | {"activation_fn": nn.ReLU},
            False,
        ),
        ("MlpPolicy", {"net_arch": [8], "activation_fn": nn.ReLU}, False),
    ],
    ids=["relu", "tanh", "default", "own network", "stable-baselines3's"],
)
def test_a_policy_of_other_layers_is_asked_by_whole_forwards(
    tmp_path: Path, policy: Any, policy_kwargs: dict[str, Any], quick: bool
) -> None:
    path, features = tmp_path / "model.zip", features_of()
    model = saved(path, policy, **policy_kwargs)
    decider = decider_for(model, features, 2)
    whole = WholeTradeDecider(decider)
    deciders = [decider.trade_decider(), trade_decider_from_zip(path, "PPO", features, 2)]
    asked = in_trade(2)
    for one in deciders:
        assert isinstance(one, FastTradeDecider) == quick
        decided = one.decide(asked)
        for ours, theirs in zip(decided, whole.decide(asked), strict=True):
            assert ours.action == theirs.action
            assert ours.exit_probability == pytest.approx(theirs.exit_probability, abs=2e-5)
        assert len({one.action for one in decided}) > 1
