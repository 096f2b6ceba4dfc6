"""The update of K members on a device is FusedPPO's of each, and nobody's business but its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from device_watch import NoHost
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from test_ppo import TAPE, as_buffer, model, with_a_rollout

from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor
from mtfscalper.training.device import UPDATE_METRICS, DeviceUpdate, MemberPPOSettings, estimate, random_orders
from mtfscalper.training.member_networks import MemberNetworks
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.storage import Rollout

N_EPOCHS = 10


# Of each member other settings; the first is stable-baselines3's default.
MEMBERS: list[dict[str, Any]] = [
    {},
    {"learning_rate": 1e-3, "ent_coef": 0.01},
    {"clip_range": 0.1, "gamma": 0.9, "max_grad_norm": 0.01},
    {"learning_rate": 1e-4, "vf_coef": 1.3, "gae_lambda": 0.5},
    {"ent_coef": 0.05, "clip_range": 0.3},
    {"gamma": 0.5, "gae_lambda": 1.0},
    {"learning_rate": 5e-4, "max_grad_norm": 5.0},
    {"vf_coef": 0.1, "clip_range": 0.05},
]


def member(index: int, algorithm: type[PPO] = FusedPPO, double: bool = False, **options: Any) -> PPO:
    """A model of its own parameters and settings, whose rollout is full."""
    made = model(algorithm, **(MEMBERS[index] | options))
    torch.manual_seed(index)
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    if double:
        made.policy.double()
        extractor = features_extractor(made)
        extractor.features = extractor.features.double()
    return with_a_rollout(made)


def parameters_of(made: PPO) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in made.policy.named_parameters()}


def networks_of(members: list[PPO]) -> MemberNetworks:
    policies = [made.policy for made in members]
    assert all(isinstance(policy, MaskedActorCriticPolicy) for policy in policies)
    # All members' rollouts are of one tape.
    networks = MemberNetworks(policies, features_extractor(members[0]).features)  # type: ignore[arg-type]
    networks.load()
    return networks


def rollout_of(members: list[PPO]) -> Rollout:
    """The members' rollouts side by side."""
    return Rollout(*(torch.cat(columns, 1) for columns in zip(*(made.rollout_buffer for made in members), strict=True)))


def settings_of(members: list[PPO]) -> MemberPPOSettings:
    dtype = members[0].policy.value_net.weight.dtype

    def column(name: str) -> torch.Tensor:
        values = [getattr(made, name) for made in members]
        return torch.tensor([value(0.7) if callable(value) else value for value in values], dtype=dtype)

    optional = {
        name: None if getattr(members[0], name) is None else column(name) for name in ("clip_range_vf", "target_kl")
    }
    names = set(MemberPPOSettings._fields) - {*optional, "normalize_advantage"}
    columns = {name: column(name) for name in names}
    return MemberPPOSettings(**columns, **optional, normalize_advantage=members[0].normalize_advantage)


def numpy_orders(members: list[PPO]) -> list[torch.Tensor]:
    """For each epoch the orders that stable-baselines3 draws after ``np.random.seed(index)``."""
    n_rows = members[0].n_steps * members[0].n_envs
    drawn = []
    for index in range(len(members)):
        np.random.seed(index)
        drawn.append([torch.from_numpy(np.random.permutation(n_rows)) for _ in range(members[0].n_epochs)])
    return list(map(torch.stack, zip(*drawn, strict=True)))


def update_together(members: list[PPO]) -> tuple[MemberNetworks, torch.Tensor]:
    """One update of all, in stable-baselines3's orders; the policies are written."""
    networks = networks_of(members)
    update = DeviceUpdate(networks, members[0].batch_size, members[0].n_epochs)
    metrics = update.run_in_order(rollout_of(members), settings_of(members), numpy_orders(members))
    networks.store()
    return networks, metrics


def update_alone(made: PPO, index: int) -> PPO:
    np.random.seed(index)
    made.train()
    return made


def assert_same_parameters(ours: PPO, theirs: PPO, rtol: float = 1e-5, atol: float = 2e-3) -> None:
    """Compare parameters that an update has moved by hundredths.

    Processors add up in orders of their own. Where a ratio lies on the edge of its clip range the last bit of a sum
    decides which way a gradient goes, and Adam makes a step of it: in float32 a few may be two steps apart.
    That in float64 they are the same to the last digits is a test of its own.
    """
    other = dict(theirs.policy.named_parameters())
    for name, value in ours.policy.named_parameters():
        torch.testing.assert_close(value, other[name], rtol=rtol, atol=atol)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "values clipped": {"clip_range_vf": 0.1},
    # With the third member's clip range a ratio would lie on its edge, where float32 decides which way a gradient goes.
    "advantages as they are": {"normalize_advantage": False, "clip_range": 0.2},
    "last minibatch smaller": {"batch_size": 100},
    "lookback": {"lookback": 3},
    "Adam's options": {"optimizer_kwargs": {"betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}},
}


@pytest.mark.parametrize(
    ("n_members", "options"),
    [(1, {}), (8, {}), *((3, options) for options in OPTIONS.values())],
    ids=["1 plain", "8 plain", *(f"3 {name}" for name in OPTIONS)],
)
def test_ten_epochs_of_k_members_give_each_the_parameters_and_metrics_it_has_alone(
    n_members: int, options: dict[str, Any]
) -> None:
    together = [member(index, **options) for index in range(n_members)]
    before = [parameters_of(made) for made in together]
    _, metrics = update_together(together)
    for index, made in enumerate(together):
        alone = update_alone(member(index, **options), index)
        assert_same_parameters(made, alone)
        assert all(not torch.equal(before[index][name], value) for name, value in parameters_of(made).items())
        logged = alone.logger.name_to_value
        for name, value in zip(UPDATE_METRICS[:-1], metrics[index].tolist(), strict=False):
            assert value == pytest.approx(logged[f"train/{name}"], rel=1e-3, abs=1e-5), name
        assert metrics[index, -1] == N_EPOCHS


@pytest.mark.parametrize("n_members", [1, 3])
def test_in_float64_they_are_those_of_stable_baselines3_itself(n_members: int) -> None:
    together = [member(index, double=True) for index in range(n_members)]
    buffers = [as_buffer(made) for made in together]
    update_together(together)
    for index, made in enumerate(together):
        alone = member(index, PPO, double=True)
        alone.rollout_buffer = buffers[index]
        assert_same_parameters(made, update_alone(alone, index), rtol=1e-10, atol=1e-10)


def test_in_bf16_they_round_as_paired_networks_do() -> None:
    together = [member(index, precision="bf16") for index in range(3)]
    before = [parameters_of(made) for made in together]
    update_together(together)
    for index, made in enumerate(together):
        alone = parameters_of(update_alone(member(index, precision="bf16"), index))
        for name, value in parameters_of(made).items():
            moved, apart = (value - before[index][name]).norm(), (value - alone[name]).norm()
            assert apart < 0.2 * moved, name


def test_a_member_ends_its_update_where_stable_baselines3_ends_it() -> None:
    options = [{"target_kl": 1e-3, "learning_rate": 1e-2}, {"target_kl": np.inf}, {"target_kl": 3e-3}]
    together = [member(index, **own) for index, own in enumerate(options)]
    _, metrics = update_together(together)
    epochs = []
    for index, own in enumerate(options):
        alone = update_alone(member(index, **own), index)
        epochs.append(alone._n_updates)
        assert_same_parameters(together[index], alone)
        logged = alone.logger.name_to_value
        for name, value in zip(UPDATE_METRICS[:-1], metrics[index].tolist(), strict=False):
            assert value == pytest.approx(logged[f"train/{name}"], rel=1e-3, abs=1e-5), name
    assert metrics[:, -1].tolist() == epochs
    assert epochs[0] < epochs[2] <= epochs[1] == N_EPOCHS


def generators(n_members: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(index) for index in range(n_members)]


def two_updates(
    members: list[PPO], own: list[torch.Generator], learning: list[bool] | None = None, rewards: float | None = None
) -> None:
    """
    :param rewards: of the last member, instead of its own
    """
    networks, settings = networks_of(members), settings_of(members)
    update = DeviceUpdate(networks, members[0].batch_size, members[0].n_epochs)
    rollout = rollout_of(members)
    n_envs = members[0].n_envs
    if rewards is not None:
        rollout.rewards[:, -n_envs:] = rewards
    active = None if learning is None else torch.tensor(learning)
    for _ in range(2):
        estimate(rollout, torch.zeros(n_envs * len(members)), torch.zeros(n_envs * len(members)), settings)
        update.run(rollout, settings, own, active)
    networks.store()


def test_a_member_of_many_is_the_training_it_would_have_been_alone() -> None:
    together = [member(index) for index in range(3)]
    two_updates(together, generators(3))
    for index, made in enumerate(together):
        alone = [member(index)]
        two_updates(alone, generators(3)[index : index + 1])
        assert_same_parameters(made, alone[0])


@pytest.mark.parametrize("trouble", ["inactive", "NaN"])
def test_a_member_in_trouble_disturbs_nobody(trouble: str) -> None:
    sound, troubled = ([member(index) for index in range(3)] for _ in range(2))
    before = parameters_of(troubled[2])
    two_updates(sound, generators(3))
    if trouble == "NaN":
        two_updates(troubled, generators(3), rewards=float("nan"))
        assert all(value.isnan().any() for value in parameters_of(troubled[2]).values())
    else:
        two_updates(troubled, generators(3), learning=[True, True, False])
        assert all(torch.equal(before[name], value) for name, value in parameters_of(troubled[2]).items())
        assert {float(state["step"]) for state in troubled[2].policy.optimizer.state.values()} == {0.0}
    for index in range(2):
        for name, value in parameters_of(sound[index]).items():
            assert torch.equal(value, parameters_of(troubled[index])[name])


def test_a_divergence_that_is_no_number_ends_no_update_as_with_stable_baselines3() -> None:
    made = member(0, target_kl=1e-3)
    made.rollout_buffer.advantages[:] = torch.nan
    _, metrics = update_together([made])
    assert metrics[0, UPDATE_METRICS.index("approx_kl")].isnan()
    assert metrics[0, -1] == N_EPOCHS
    alone = member(0, target_kl=1e-3)
    alone.rollout_buffer.advantages[:] = torch.nan
    assert update_alone(alone, 0)._n_updates == N_EPOCHS


def test_a_member_that_does_not_learn_has_no_metrics() -> None:
    members = [member(index) for index in range(2)]
    update = DeviceUpdate(networks_of(members), 64, 1)
    metrics = update.run(rollout_of(members), settings_of(members), generators(2), torch.tensor([True, False]))
    assert metrics[0].isfinite().all()
    assert metrics[1, :6].isnan().all()
    assert metrics[:, -1].tolist() == [1, 0]


def test_advantages_are_of_each_members_own_gamma_and_lambda() -> None:
    members = [member(index) for index in (2, 3, 5)]
    rollout, settings = rollout_of(members), settings_of(members)
    n_envs = members[0].n_envs
    last_values, last_dones = torch.randn(3 * n_envs), (torch.rand(3 * n_envs) < 0.5).float()
    estimate(rollout, last_values, last_dones, settings)
    for index, made in enumerate(members):
        own: Any = made.rollout_buffer
        part = slice(index * n_envs, (index + 1) * n_envs)
        own.estimate(last_values[part], last_dones[part], made.gamma, made.gae_lambda)
        torch.testing.assert_close(rollout.advantages[:, part], own.advantages, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(rollout.returns[:, part], own.returns, rtol=1e-5, atol=1e-6)


def test_orders_are_drawn_by_each_members_generator_alone() -> None:
    together = torch.stack(list(random_orders(generators(3), 50, 2)))
    assert together.shape == (2, 3, 50)
    assert not torch.equal(together[0, 0], together[1, 0])
    for index in range(3):
        alone = torch.stack(list(random_orders(generators(3)[index : index + 1], 50, 2)))
        assert torch.equal(together[:, index], alone[:, 0])
        assert together[0, index].sort().values.tolist() == list(range(50))


@pytest.mark.parametrize("algorithm", [FusedPPO, PPO])
def test_a_stored_member_is_saved_and_goes_on_as_the_model_it_would_have_been(
    algorithm: type[PPO], tmp_path: Path
) -> None:
    together = [member(index) for index in range(2)]
    update_together(together)
    for index, made in enumerate(together):
        made.save(tmp_path / "model.zip")
        loaded = algorithm.load(tmp_path / "model.zip", env=made.env, device="cpu")
        features_extractor(loaded).set_features(TAPE.features)
        loaded.set_logger(Logger(None, []))
        alone = update_alone(member(index), index)
        loaded._current_progress_remaining = 0.7
        loaded.rollout_buffer = alone.rollout_buffer if algorithm is FusedPPO else as_buffer(alone)
        update_alone(loaded, 7)
        assert {float(state["step"]) for state in loaded.policy.optimizer.state.values()} == {160.0}
        assert_same_parameters(loaded, update_alone(alone, 7), rtol=1e-4, atol=5e-3)


def test_members_go_on_from_what_their_optimizers_had() -> None:
    together = [update_alone(member(index), 9) for index in range(2)]
    update_together(together)
    for index, made in enumerate(together):
        assert_same_parameters(made, update_alone(update_alone(member(index), 9), index), rtol=1e-4, atol=5e-3)


def test_a_minibatch_waits_for_nothing() -> None:
    members = [member(index, target_kl=1e-3, clip_range_vf=0.1) for index in range(3)]
    update = DeviceUpdate(networks_of(members), 64, 1)
    rollout, settings, own = rollout_of(members), settings_of(members), generators(3)
    update.run(rollout, settings, own)
    assert update._pass is not None
    [minibatches] = update._pass._parts
    minibatches._counter.zero_()
    with NoHost() as watch:
        minibatches._next()
    assert watch.counts["_fused_adam"] == 3
    assert sum(watch.counts.values()) < 90
    assert minibatches._counter.item() == 1


def test_every_update_takes_the_settings_it_is_given() -> None:
    members = [member(index) for index in range(2)]
    networks = networks_of(members)
    update = DeviceUpdate(networks, 64, 1)
    rollout, settings = rollout_of(members), settings_of(members)
    update.run(rollout, settings, generators(2))
    networks.store()
    before = [parameters_of(made) for made in members]
    update.run(rollout, settings._replace(learning_rate=torch.tensor([0.0, 1e-3])), generators(2))
    networks.store()
    for index, made in enumerate(members):
        for name, value in parameters_of(made).items():
            assert torch.equal(before[index][name], value) == (index == 0)


def test_settings_of_another_form_or_a_rollout_of_another_size_begin_anew() -> None:
    members = [member(index) for index in range(2)]
    update = DeviceUpdate(networks_of(members), 64, 1)
    rollout, settings = rollout_of(members), settings_of(members)
    update.run(rollout, settings, generators(2))
    first = update._pass
    update.run(rollout, settings._replace(learning_rate=settings.learning_rate / 2), generators(2))
    assert update._pass is first
    update.run(rollout, settings._replace(clip_range_vf=torch.full((2,), 0.1)), generators(2))
    assert update._pass is not first
    shorter = Rollout(*(column[:64] for column in rollout))
    assert update.run(shorter, settings, generators(2)).isfinite().all()
