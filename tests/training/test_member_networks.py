"""The networks of K members compute what each member's own networks compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from random_markets import N_FEATURES
from test_device import member, networks_of, parameters_of
from test_ppo import DECLINED, model

from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor
from mtfscalper.training.member_networks import MemberNetworks
from mtfscalper.training.paired_networks import PairedNetworks
from mtfscalper.training.ppo import FusedPPO

K = 3
N_CANDLES = 50


def with_own_tapes(precision: str = "fp32", **options: Any) -> tuple[list[Any], MemberNetworks]:
    """Members with a tape each, and their networks on all tapes end to end."""
    members, tapes = [member(index, precision=precision, **options) for index in range(K)], []
    for index, made in enumerate(members):
        tapes.append(np.random.default_rng(index).normal(size=(N_CANDLES, N_FEATURES)).astype(np.float32))
        features_extractor(made).set_features(tapes[-1])
    networks = MemberNetworks(
        [made.policy for made in members],  # type: ignore[misc]
        features_extractor(members[0]).as_tape(np.concatenate(tapes)),
    )
    networks.load()
    return members, networks


def observations(n: int, lookback: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """As each member sees them, and with rows that count along all tapes; shape (K, n, 7)."""
    own = torch.rand(K, n, 7)
    own[..., 0] = torch.randint(lookback - 1, N_CANDLES, (K, n)).float()
    along_all = own.clone()
    along_all[..., 0] += N_CANDLES * torch.arange(K).unsqueeze(1)
    return own, along_all


@pytest.mark.parametrize("lookback", [1, 3])
@pytest.mark.parametrize(("precision", "share"), [("fp32", 1e-5), ("bf16", 0.02)])
def test_forward_and_backward_are_those_of_paired_networks(precision: str, share: float, lookback: int) -> None:
    members, networks = with_own_tapes(precision, lookback=lookback)
    own, along_all = observations(37, lookback)
    gradients = torch.randn(K, 37, 5), torch.randn(K, 37)
    ours = networks.forward(along_all)
    networks.backward(*gradients)
    pairs = []
    for index, made in enumerate(members):
        paired = PairedNetworks(made.policy)
        paired.load()
        logits, values = paired.forward(own[index])
        paired.backward(gradients[0][index], gradients[1][index].unsqueeze(1))
        pairs += [(ours[0][index], logits), (ours[1][index], values.squeeze(1))]
        part = slice(2 * index, 2 * index + 2)
        for layer, (weight, bias) in enumerate(zip(paired._weight_gradients, paired._bias_gradients, strict=True)):
            gradient, n_in = networks._weight_gradients[layer][part], weight.shape[2]
            pairs += [(gradient[..., :n_in], weight), (gradient[..., n_in], bias.squeeze(1))]
        for head, n_answers in enumerate((5, 1)):
            gradient = networks._gradients.head[2 * index + head, :n_answers]
            weight, bias = paired._head_gradients[2 * head : 2 * head + 2]
            n_in = weight.shape[1]
            pairs += [(gradient[:, :n_in], weight), (gradient[:, n_in], bias)]
    assert len(pairs) == K * (2 + 4 + 4)
    for mine, other in pairs:
        assert other.norm() > 0
        assert (mine - other).norm() < share * other.norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_exact_forward_is_the_policys_in_float32_and_disturbs_no_backward(precision: str) -> None:
    members, networks = with_own_tapes(precision)
    _, along_all = observations(20)
    networks.forward(along_all)
    gradients = torch.randn(K, 20, 5), torch.randn(K, 20)
    networks.backward(*gradients)
    before = networks._working_gradient.clone()
    other_own, other_along_all = observations(20)
    logits, values = networks.forward(other_along_all, exact=True)
    for index, made in enumerate(members):
        with made.policy.in_full_precision(), torch.no_grad():
            expected = made.policy.logits_and_values(other_own[index])
        torch.testing.assert_close((logits[index], values[index].unsqueeze(1)), expected, rtol=1e-5, atol=1e-6)
    networks.backward(*gradients)
    assert torch.equal(networks._working_gradient, before)


def test_a_forward_in_inference_mode_leaves_memory_that_an_update_can_write() -> None:
    _, networks = with_own_tapes()
    _, along_all = observations(4)
    with torch.inference_mode():
        networks.forward(along_all)
    networks.forward(along_all)
    networks.backward(torch.ones(K, 4, 5), torch.ones(K, 4))


def step(networks: MemberNetworks, active: list[bool]) -> None:
    _, along_all = observations(16)
    networks.forward(along_all)
    networks.backward(torch.randn(K, 16, 5), torch.randn(K, 16))
    networks.step(torch.full((K,), 1e-3), torch.full((K,), 0.5), torch.tensor(active))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_no_parameter_fills_stays_zero(precision: str) -> None:
    """N_FEATURES and the account are ten numbers, so that a first layer's matrix has padding."""
    members, networks = with_own_tapes(precision)
    n_parameters = sum(parameter.numel() for parameter in members[0].policy.parameters())
    for _ in range(3):
        step(networks, [True] * K)
    filled = networks._flat != 0
    assert networks._flat.shape[1] > n_parameters
    assert filled.sum(1).tolist() == [n_parameters] * K


def test_a_member_that_is_not_active_stays_with_its_moments_and_steps() -> None:
    members, networks = with_own_tapes()
    step(networks, [True] * K)
    networks.store()
    before = [parameters_of(made) for made in members]
    moments = {name: moment.clone() for name, moment in networks._adam.moments.items()}
    step(networks, [True, False, True])
    networks.store()
    for index, made in enumerate(members):
        stays = index == 1
        assert all(torch.equal(before[index][name], value) == stays for name, value in parameters_of(made).items())
        steps = {float(state["step"]) for state in made.policy.optimizer.state.values()}
        assert steps == {1.0 if stays else 2.0}
        for name, moment in networks._adam.moments.items():
            assert torch.equal(moments[name][index], moment[index]) == stays


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_best_parameters_are_kept_and_restored_member_by_member(precision: str) -> None:
    _, networks = with_own_tapes(precision)
    _, along_all = observations(8)
    first = [answer.clone() for answer in networks.forward(along_all)]
    networks.keep_best(torch.tensor([True, True, True]))
    step(networks, [True] * K)
    second = [answer.clone() for answer in networks.forward(along_all)]
    networks.keep_best(torch.tensor([False, True, False]))
    step(networks, [True] * K)
    last = [answer.clone() for answer in networks.forward(along_all)]
    networks.restore_best(torch.tensor([True, True, False]))
    restored = networks.forward(along_all)
    for index, expected in enumerate((first, second, last)):
        for answer, other in zip(restored, expected, strict=True):
            assert torch.equal(answer[index], other[index])
            assert not torch.equal(first[0][index], second[0][index])


def test_what_is_loaded_is_stored_as_it_was() -> None:
    made = member(1)
    np.random.seed(0)
    made.train()
    before = parameters_of(made)
    kept = {
        name: {key: value.clone() for key, value in made.policy.optimizer.state[parameter].items()}
        for name, parameter in made.policy.named_parameters()
    }
    networks_of([made]).store()
    assert all(torch.equal(before[name], value) for name, value in parameters_of(made).items())
    for name, parameter in made.policy.named_parameters():
        state = made.policy.optimizer.state[parameter]
        assert state.keys() == kept[name].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for key, value in kept[name].items():
            assert torch.equal(state[key], value)
            assert state[key].is_contiguous()


def test_policies_of_another_kind_or_of_two_shapes_are_refused() -> None:
    declined = model(FusedPPO)
    other = FusedPPO(
        MaskedActorCriticPolicy, declined.env, policy_kwargs=declined.policy_kwargs | DECLINED["tanh"], device="cpu"
    )
    for policies in ([other.policy], [declined.policy, model(FusedPPO, net_arch=(8,)).policy]):
        with pytest.raises(AssertionError):
            MemberNetworks(policies, features_extractor(declined).features)  # type: ignore[arg-type]
