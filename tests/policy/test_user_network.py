"""A user's network is tried before it trains, and what is wrong with it is said."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.user_code import UserCodeError

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["Mean", "Gru"])
def test_a_network_is_made_for_its_lookback_and_features(name: str) -> None:
    made = UserNetwork.from_name(f"own_networks:{name}", TESTS).make(7, 3)
    assert type(made).__name__ == name
    assert made.training
    assert made(torch.zeros(2, 7, 3), torch.zeros(2, 6)).shape == (2, made.features_dim)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("own_networks:a_function", "it is <function a_function at .*>, not a class of torch.nn.Module"),
        ("own_networks:WIDTH", "own_networks.py defines no function or class WIDTH"),
        ("own_networks:Missing", "own_networks.py defines no function or class Missing"),
        ("nowhere_at_all:Mean", r"importing nowhere_at_all fails \(ModuleNotFoundError"),
    ],
)
def test_what_is_no_network_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(
        UserCodeError, match=rf"^freqai\.rl_config\.network (is|names) '{name}'.*{said}.*; accepted: .*; remedy: "
    ):
        UserNetwork.from_name(name, TESTS)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("WrongShape", r"of 3 observations it makes torch.float32 \(3, 6\), not torch.float32 \(3, 11\)"),
        ("NotFinite", "of ordinary observations it makes numbers that are not finite"),
        ("WithoutFeaturesDim", "its features_dim is None"),
        ("Failing", "with lookback 2, 4 features and 6 numbers of the account it fails with TypeError"),
    ],
)
def test_a_network_that_does_not_keep_its_contract_is_refused(name: str, said: str) -> None:
    network = UserNetwork.from_name(f"own_networks:{name}", TESTS)
    with pytest.raises(
        UserCodeError, match=rf"network is 'own_networks:{name}': {said}.*; accepted: a torch.nn.Module"
    ):
        network.make(2, 4)


def test_trying_a_network_draws_no_random_numbers_of_the_trainings() -> None:
    network = UserNetwork.from_name("own_networks:Gru", TESTS)
    torch.manual_seed(1)
    network.code.value(2, 4, 6)
    expected = torch.rand(3)
    torch.manual_seed(1)
    state = random.getstate()
    network.make(2, 4)
    assert torch.equal(torch.rand(3), expected)
    assert random.getstate() == state
