"""The update of FusedPPO is that of stable-baselines3's PPO: parameters, metrics, early stopping, saved models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES, env_settings, random_tape
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger

from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy, features_extractor
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.training import paired_networks
from mtfscalper.training.paired_networks import PairedNetworks
from mtfscalper.training.ppo import FusedPPO

TESTS = Path(__file__).parents[1]

TAPE = random_tape(600)

PLAIN: dict[str, Any] = {}
OPTIONS: list[dict[str, Any]] = [
    PLAIN,
    {"clip_range_vf": 0.1},
    {"normalize_advantage": False},
    {"target_kl": 1e-3, "learning_rate": 1e-3},
    {"ent_coef": 0.0, "vf_coef": 1.3, "max_grad_norm": 0.01},
    {"learning_rate": lambda left: 3e-4 * left, "clip_range": lambda left: 0.3 * left},
    # The last minibatch of an epoch is a smaller one.
    {"batch_size": 100},
    {"lookback": 3},
    {"optimizer_kwargs": {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}},
]


def model(
    algorithm: type[PPO],
    precision: str = "fp32",
    lookback: int = 1,
    net_arch: tuple[int, ...] = (64, 48),
    optimizer_kwargs: dict[str, Any] | None = None,
    **options: Any,
) -> PPO:
    torch.manual_seed(0)
    vec_env = build_vec_env("batched", TAPE, env_settings(lookback=lookback), 4)
    kwargs = {
        "net_arch": list(net_arch),
        "activation_fn": torch.nn.ReLU,
        "features_extractor_class": LookbackExtractor,
        "features_extractor_kwargs": {"n_features": N_FEATURES, "lookback": lookback},
        "precision": precision,
    }
    if optimizer_kwargs is not None:
        kwargs["optimizer_kwargs"] = optimizer_kwargs
    arguments = {"n_steps": 128, "batch_size": 64, "n_epochs": 10, "seed": 3, "device": "cpu"} | options
    made = algorithm(MaskedActorCriticPolicy, vec_env, policy_kwargs=kwargs, **arguments)
    features_extractor(made).set_features(TAPE.features)
    made.set_logger(Logger(None, []))
    return made


def with_a_rollout(made: PPO) -> PPO:
    """A model whose rollout buffer is full."""
    _, callback = made._setup_learn(1000, CallbackList([]))
    made.collect_rollouts(made.env, callback, made.rollout_buffer, made.n_steps)
    made._current_progress_remaining = 0.7
    return made


def as_buffer(made: PPO) -> RolloutBuffer:
    """A fused model's rollout as stable-baselines3 keeps it."""
    n_steps, n_envs, _ = made.rollout_buffer.observations.shape
    buffer = RolloutBuffer(n_steps, made.observation_space, made.action_space, "cpu", n_envs=n_envs)
    for name, column in made.rollout_buffer._asdict().items():
        kept = getattr(buffer, name)
        kept[:] = column.numpy().reshape(kept.shape)
    buffer.pos, buffer.full = n_steps, True
    return buffer


def updated(made: PPO) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Parameters and metrics after an update from one rollout, in one order of minibatches."""
    with_a_rollout(made)
    assert made.rollout_buffer.rewards.any()
    np.random.seed(5)
    made.train()
    parameters = {name: value.detach().clone() for name, value in made.policy.named_parameters()}
    return parameters, dict(made.logger.name_to_value)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
def test_ten_epochs_give_the_parameters_and_metrics_of_stable_baselines3(options: dict[str, Any]) -> None:
    theirs, their_metrics = updated(model(PPO, **options))
    ours, our_metrics = updated(model(FusedPPO, **options))
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=2e-6)
    assert set(our_metrics) == set(their_metrics)
    for name, value in their_metrics.items():
        assert our_metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_a_second_rollout_and_update_are_those_of_stable_baselines3_too() -> None:
    """Moments and steps are carried on."""
    after, steps = {}, {}
    for algorithm in (PPO, FusedPPO):
        made = model(algorithm)
        updated(made)
        after[algorithm], _ = updated(made)
        steps[algorithm] = {float(state["step"]) for state in made.policy.optimizer.state.values()}
    assert steps[PPO] == steps[FusedPPO] == {160.0}
    for name, value in after[PPO].items():
        torch.testing.assert_close(after[FusedPPO][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", [FusedPPO, PPO])
def test_a_saved_model_goes_on_from_where_it_was(algorithm: type[PPO], tmp_path: Path) -> None:
    made = model(FusedPPO)
    updated(made)
    made.save(tmp_path / "model.zip")
    loaded = algorithm.load(tmp_path / "model.zip", env=made.env, device="cpu")
    assert type(loaded) is algorithm
    features_extractor(loaded).set_features(TAPE.features)
    loaded.set_logger(Logger(None, []))
    with_a_rollout(made)
    loaded.rollout_buffer = made.rollout_buffer if algorithm is FusedPPO else as_buffer(made)
    loaded._current_progress_remaining = made._current_progress_remaining
    for one in (made, loaded):
        np.random.seed(6)
        one.train()
    # Without moments the first steps would be far larger.
    for name, value in loaded.policy.named_parameters():
        torch.testing.assert_close(value, dict(made.policy.named_parameters())[name], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_forward_and_backward_are_those_of_the_policy_and_autograd(precision: str, share: float) -> None:
    """In bf16 the policy computes by autocast."""
    made = with_a_rollout(model(FusedPPO, precision))
    assert isinstance(made, FusedPPO)
    policy, observations = made.policy, made.rollout_buffer.samples().observations
    assert isinstance(policy, MaskedActorCriticPolicy)
    gradients = torch.randn(len(observations), 5), torch.randn(len(observations), 1)
    paired = made._paired_networks()
    paired.load()
    ours = paired.forward(observations)
    paired.backward(*gradients)
    theirs = policy.logits_and_values(observations)
    torch.autograd.backward(theirs, gradients)
    own = zip(*paired._weight_gradients, strict=True), zip(*paired._bias_gradients, strict=True)
    nets = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    pairs = list(zip(ours, theirs, strict=True))
    for net, weights, biases in zip(nets, *own, strict=True):
        layers = [module for module in net if isinstance(module, torch.nn.Linear)]
        for layer, weight, bias in zip(layers, weights, biases, strict=True):
            pairs += [(weight, layer.weight.grad), (bias[0], layer.bias.grad)]
    heads = [*policy.action_net.parameters(), *policy.value_net.parameters()]
    pairs += [(value, head.grad) for value, head in zip(paired._head_gradients, heads, strict=True)]
    assert len(pairs) == 2 + 8 + 4
    for mine, other in pairs:
        assert (mine - other).norm() < share * other.norm()


def test_the_missions_network_is_updated_as_by_stable_baselines3_in_float64() -> None:
    """In float32 so many updates drift apart by rounding: stable-baselines3's own, with one thread and with two."""
    after = {}
    for algorithm in (FusedPPO, PPO):
        made = model(algorithm, net_arch=(512, 512, 256), n_steps=128, batch_size=256)
        made.policy.double()
        extractor = features_extractor(made)
        extractor.features = extractor.features.double()
        with_a_rollout(made)
        # One rollout for both: stable-baselines3's advantages would be summed in float64, of values in float32.
        if algorithm is FusedPPO:
            rollout = as_buffer(made)
        else:
            made.rollout_buffer = rollout
        np.random.seed(5)
        made.train()
        after[algorithm] = {name: value.detach().clone() for name, value in made.policy.named_parameters()}
    for name, value in after[PPO].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(after[FusedPPO][name], value, rtol=1e-5, atol=1e-9)


def test_the_optimizer_keeps_the_moments_that_stable_baselines3_keeps() -> None:
    """So that a training that goes on, here or with plain PPO, goes on from the same place."""
    made = {}
    for algorithm in (PPO, FusedPPO):
        made[algorithm] = model(algorithm)
        updated(made[algorithm])
    theirs, ours = made[PPO], made[FusedPPO]
    for parameter, name in zip(ours.policy.parameters(), dict(theirs.policy.named_parameters()), strict=True):
        own = ours.policy.optimizer.state[parameter]
        other = theirs.policy.optimizer.state[dict(theirs.policy.named_parameters())[name]]
        assert float(own["step"]) == float(other["step"]) == 80
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(own[moment], other[moment], rtol=1e-3, atol=1e-6)
            assert own[moment].any()


DECLINED: dict[str, dict[str, Any]] = {
    "tanh": {"activation_fn": torch.nn.Tanh},
    "another value network": {"net_arch": {"pi": [8], "vf": [9, 7]}},
    "a user's network": {
        "features_extractor_kwargs": {
            "n_features": N_FEATURES,
            "lookback": 1,
            "network": UserNetwork.from_name("own_networks:Gru", TESTS),
        }
    },
    "no hidden layers": {"net_arch": []},
    "AdamW": {"optimizer_class": torch.optim.AdamW},
    "amsgrad": {"optimizer_kwargs": {"amsgrad": True}},
}


def learned(algorithm: type[PPO], changed: dict[str, Any]) -> PPO:
    """A model after two rollouts and updates."""
    first = model(algorithm)
    torch.manual_seed(0)
    arguments = {"n_steps": 128, "batch_size": 64, "n_epochs": 2, "seed": 3, "device": "cpu"}
    policy_kwargs = first.policy_kwargs | changed
    made = algorithm(MaskedActorCriticPolicy, first.env, policy_kwargs=policy_kwargs, **arguments)
    features_extractor(made).set_features(TAPE.features)
    made.set_logger(Logger(None, []))
    return made.learn(1000)


@pytest.mark.parametrize("changed", DECLINED.values(), ids=DECLINED)
def test_a_policy_that_cannot_be_paired_trains_as_stable_baselines3_trains_it(changed: dict[str, Any]) -> None:
    ours, theirs = learned(FusedPPO, changed), learned(PPO, changed)
    assert isinstance(ours, FusedPPO)
    assert not PairedNetworks.fits(ours.policy)
    assert not ours.fused
    assert isinstance(ours.rollout_buffer, RolloutBuffer)
    assert ours._n_updates == theirs._n_updates == 4
    for own, other in zip(ours.policy.parameters(), theirs.policy.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("net_arch", [[8, 7], {"pi": [8, 7], "vf": [8, 7]}], ids=str)
def test_hidden_layers_alike_are_paired_however_they_were_named(net_arch: Any) -> None:
    made = learned(FusedPPO, {"net_arch": net_arch})
    assert PairedNetworks.fits(made.policy)
    assert made.fused


def test_a_policy_of_another_class_is_not_paired() -> None:
    class Other(MaskedActorCriticPolicy):
        """It may compute anything."""

    made = model(FusedPPO)
    assert not FusedPPO(Other, made.env, policy_kwargs=made.policy_kwargs, device="cpu").fused


def test_the_update_changes_every_parameter_and_other_orders_give_others() -> None:
    before = {name: value.detach().clone() for name, value in model(FusedPPO).policy.named_parameters()}
    made = with_a_rollout(model(FusedPPO))
    np.random.seed(5)
    made.train()
    after = dict(made.policy.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)
    other = with_a_rollout(model(FusedPPO))
    np.random.seed(6)
    other.train()
    assert any(not torch.equal(value, after[name]) for name, value in other.policy.named_parameters())


def test_a_divergence_beyond_the_target_ends_the_update_where_stable_baselines3_ends_it() -> None:
    made = {algorithm: model(algorithm, target_kl=1e-3, learning_rate=1e-2) for algorithm in (PPO, FusedPPO)}
    for one in made.values():
        updated(one)
    assert made[FusedPPO]._n_updates == made[PPO]._n_updates < 10


def test_bf16_updates_near_float32_and_keeps_its_parameters_in_float32() -> None:
    exact, _ = updated(model(FusedPPO))
    short, _ = updated(model(FusedPPO, precision="bf16"))
    start = dict(model(FusedPPO).policy.named_parameters())
    for name, value in exact.items():
        assert short[name].dtype == torch.float32
        moved, apart = (value - start[name]).norm(), (short[name] - value).norm()
        assert apart < 0.5 * moved


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_many_pieces_is_a_step_in_one(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mission's network takes several; those of these tests fit into one."""
    after, pieces = [], []
    for size in (2**19, 1000):
        monkeypatch.setattr(paired_networks, "_PIECE", size)
        made = model(FusedPPO, precision)
        after.append(updated(made)[0])
        assert made._networks is not None
        pieces.append(len(made._networks._pieces))
    assert pieces[0] == 2
    assert pieces[1] > 5
    for name, value in after[0].items():
        # The norm by which a gradient is clipped is a sum in another order.
        torch.testing.assert_close(after[1][name], value, rtol=1e-5, atol=2e-6 if precision == "fp32" else 1e-3)
