"""From settings and a tape to a trained policy."""

import json
import os
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import own_networks
import pytest
import torch
from random_markets import random_observations
from stable_baselines3 import PPO
from tiny_training import ROLLOUT, env_settings_of, parameters, random_tape, same, tiny_settings

import mtfscalper
from mtfscalper.envs.build import build_vec_env
from mtfscalper.policy import closed_loop
from mtfscalper.policy.closed_loop import flat_decisions
from mtfscalper.policy.inference import decider_for
from mtfscalper.policy.network import features_extractor
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.settings import PPOSettings, Settings, SettingsError
from mtfscalper.trading.observation import Observation
from mtfscalper.training.fit import build_model, model_zip, network_arguments
from mtfscalper.training.job import TrainingJob, TrainingStoppedError, stop_on
from mtfscalper.training.report import TrainingReport
from mtfscalper.user_code import UserCodeError, forget_user_code

TESTS = Path(own_networks.__file__).parent


def own_network(settings: Settings, user_data: Path = TESTS) -> UserNetwork | None:
    """What ``network`` names, in this folder for a user directory."""
    forget_user_code()
    return None if settings.rl.network is None else UserNetwork.from_name(settings.rl.network, user_data)


def trained(
    settings: Settings,
    initial_model: Any = None,
    tensorboard_dir: Path | None = None,
    on_evaluation: Any = None,
    user_data: Path = TESTS,
) -> tuple[Any, TrainingReport]:
    job = TrainingJob(
        settings,
        random_tape(),
        random_tape(80, seed=2),
        env_settings_of(settings),
        initial_model=None if initial_model is None else model_zip(initial_model),
        tensorboard_dir=tensorboard_dir,
        network=own_network(settings, user_data),
    )
    return job.run(on_evaluation)


def untrained(settings: Settings, n_features: int = 4) -> Any:
    """The model as training starts with it."""
    tape = random_tape(n_features=n_features)
    vec_env = build_vec_env("dummy", tape, env_settings_of(settings), settings.rl.n_envs)
    return build_model(
        settings, tape, vec_env, network_arguments(settings, n_features, own_network(settings)), None, None
    )


def left(folder: Path) -> list[str]:
    """What a training left there, without the one cache that torch keeps."""
    return [path.name for path in folder.iterdir() if not path.name.startswith("torchinductor")]


def test_a_training_leaves_nothing_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    model, _ = trained(tiny_settings())
    trained(tiny_settings(), initial_model=model)
    assert left(tmp_path) == []


def test_what_stable_baselines3_prints_is_still_printed(capsys: pytest.CaptureFixture[str]) -> None:
    trained(tiny_settings(verbose=1))
    assert "n_updates" in capsys.readouterr().out


# ---------------------------------------------------------------- timesteps and report


def test_timesteps_are_rounded_up_to_whole_rollouts_and_both_numbers_are_told() -> None:
    model, report = trained(tiny_settings())
    # One cycle of 200 candles; a rollout is 2 x 32.
    assert report.timesteps_asked == 200
    assert report.timesteps == model.num_timesteps == 4 * ROLLOUT
    assert report.timesteps_planned == report.timesteps
    assert "trained 256 timesteps (200 asked, in whole rollouts)" in report.summary()


def test_the_report_times_every_rollout_and_every_update_in_turn() -> None:
    before = time.time()
    _, report = trained(tiny_settings())
    after = time.time()
    assert [name for name, _, _ in report.phases] == ["rollout", "update"] * 4
    times = [moment for _, start, stop in report.phases for moment in (start, stop)]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert report.seconds_of("rollout") > 0
    assert report.seconds_of("update") > 0
    assert report.seconds_of("rollout") + report.seconds_of("update") <= report.seconds


def test_the_report_says_what_was_run() -> None:
    settings = tiny_settings(n_envs=3)
    _, report = trained(settings)
    assert (report.vec_env, report.n_envs, report.worker_pids) == ("DummyVecEnv", 3, [])
    assert (report.train_candles, report.evaluation_candles) == (200, 80)
    assert report.model_type == "PPO"
    assert report.torch_threads == torch.get_num_threads()
    assert list(report.reward_terms) == ["equity"]
    assert report.reward_terms["equity"] != 0


def test_training_leaves_no_model_on_disk_and_tensorboard_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trained(tiny_settings())
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]
    trained(tiny_settings(), tensorboard_dir=tmp_path / "board")
    left = {path.name.split(".")[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"events"}


# ---------------------------------------------------------------- settings reach the algorithm

# Field, a value other than the default, and where SB3's PPO keeps it.
REACHES: dict[str, tuple[Any, Any]] = {
    "n_steps": (48, lambda model: model.n_steps),
    "batch_size": (16, lambda model: model.batch_size),
    "n_epochs": (3, lambda model: model.n_epochs),
    "learning_rate": (0.007, lambda model: model.lr_schedule(1.0)),
    "gamma": (0.9, lambda model: model.gamma),
    "gae_lambda": (0.8, lambda model: model.gae_lambda),
    "clip_range": (0.3, lambda model: model.clip_range(1.0)),
    "clip_range_vf": (0.4, lambda model: model.clip_range_vf(1.0)),
    "normalize_advantage": (False, lambda model: model.normalize_advantage),
    "ent_coef": (0.05, lambda model: model.ent_coef),
    "vf_coef": (0.7, lambda model: model.vf_coef),
    "max_grad_norm": (0.9, lambda model: model.max_grad_norm),
    "target_kl": (0.02, lambda model: model.target_kl),
    "stats_window_size": (7, lambda model: model._stats_window_size),
    "verbose": (1, lambda model: model.verbose),
}


def test_every_ppo_setting_is_looked_at_below() -> None:
    assert set(REACHES) == set(PPOSettings.model_fields)


@pytest.mark.parametrize("section", ["rl_config", "model_training_parameters"])
@pytest.mark.parametrize("name", REACHES)
def test_a_ppo_setting_reaches_the_algorithm(name: str, section: str) -> None:
    value, kept = REACHES[name]
    assert value != PPOSettings.model_fields[name].default
    settings = tiny_settings(**{name: value})
    if section == "model_training_parameters":
        # The tiny settings name a few keys in rl_config already, and one place is all a key may have.
        tiny = {"n_steps": 48, "batch_size": 16, "n_epochs": 3}
        rl = {"vec_env": "dummy", "device": "cpu", "n_envs": 2, "net_arch": [8]}
        freqai = {"rl_config": rl, "model_training_parameters": tiny | {name: value}}
        settings = Settings.from_config({"freqai": freqai})
    assert kept(untrained(settings)) == value


def test_net_arch_shapes_the_policy_network_and_the_value_network() -> None:
    extractor = untrained(tiny_settings(net_arch=[12, 7, 5])).policy.mlp_extractor
    for network in (extractor.policy_net, extractor.value_net):
        layers = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        assert [layer.out_features for layer in layers] == [12, 7, 5]
        # Four features and the account's six numbers.
        assert layers[0].in_features == 10


def test_the_lookback_precision_device_and_seed_reach_the_policy() -> None:
    model = untrained(tiny_settings(lookback=3, precision="bf16", seed=77))
    assert features_extractor(model).features_dim == 3 * 4 + 6
    assert model.policy.precision == "bf16"
    assert model.device.type == "cpu"
    assert model.seed == 77


@pytest.mark.parametrize("wanted", [0.05, 0.4])
def test_an_untrained_policy_leaves_a_trade_with_about_the_probability_set(wanted: float) -> None:
    model = untrained(tiny_settings(initial_exit_probability=wanted))
    for side in (1.0, -1.0):
        observations = torch.tensor([[tick, side, 0.2, 0.3, 0.1, 0, 0] for tick in range(100)])
        with torch.no_grad():
            probabilities = model.policy.get_distribution(observations).distribution.probs
        leave = probabilities[:, 2 if side > 0 else 4]
        assert leave.mean().item() == pytest.approx(wanted, rel=0.15)


# ---------------------------------------------------------------- seeds


def test_the_same_seed_trains_the_same_parameters_and_another_seed_others() -> None:
    first, second, other = (parameters(trained(tiny_settings(seed=seed))[0]) for seed in (5, 5, 6))
    assert same(first, second)
    assert not same(first, other)


# ---------------------------------------------------------------- continual learning


def test_continual_learning_goes_on_from_the_model_and_leaves_the_model_itself_alone() -> None:
    initial, _ = trained(tiny_settings(seed=1))
    before = parameters(initial)
    features = features_extractor(initial).features
    settings = tiny_settings(seed=2, learning_rate=1e-9, continual_learning=True)
    going_on, report = trained(settings, initial_model=initial)
    assert going_on is not initial
    assert same(parameters(initial), before)
    assert features_extractor(initial).features is features
    assert report.timesteps == 4 * ROLLOUT
    # A learning rate this small leaves the result where it started.
    after, afresh = parameters(going_on), parameters(trained(settings)[0])
    assert max((after[name] - before[name]).abs().max().item() for name in before) < 1e-5
    assert max((afresh[name] - before[name]).abs().max().item() for name in before) > 1e-2


def test_continual_learning_goes_on_with_the_settings_of_now() -> None:
    initial, _ = trained(tiny_settings())
    changed = {name: value for name, (value, _) in REACHES.items()}
    settings = tiny_settings(n_envs=3, continual_learning=True, **changed)
    going_on, report = trained(settings, initial_model=initial)
    assert report.n_envs == 3
    assert {name: REACHES[name][1](going_on) for name in changed} == changed


@pytest.mark.parametrize("algorithm", ["PPO", "A2C"])
def test_continual_learning_goes_on_with_the_seed_set_now(algorithm: str) -> None:
    """Environments, and the draws of actions: a zip has the seed of its own training."""
    rl = {"vec_env": "dummy", "device": "cpu", "n_envs": 2, "net_arch": [8], "model_type": algorithm}

    def going_on(initial_seed: int, seed: int) -> tuple[Any, Any, float]:
        settings = [Settings.from_config({"freqai": {"rl_config": rl | {"seed": one}}}) for one in (initial_seed, seed)]
        compact, tape = algorithm == "PPO", random_tape()
        initial = None
        for one in settings:
            vec_env = build_vec_env("dummy", tape, env_settings_of(one), 2, compact=compact)
            model = build_model(one, tape, vec_env, network_arguments(one, 4), initial, None)
            initial = model_zip(model)
        starts = model.env.reset()
        return starts.tolist(), model.seed, torch.rand(1).item()

    of_5, of_6 = going_on(1, 5), going_on(1, 6)
    assert of_5 == going_on(2, 5)
    for one, other in zip(of_5, of_6, strict=True):
        assert one != other


def test_continual_learning_goes_on_in_the_precision_set_now() -> None:
    initial, _ = trained(tiny_settings(precision="bf16"))
    before = parameters(initial)
    settings = tiny_settings(continual_learning=True, precision="fp32")
    going_on, report = trained(settings, initial_model=initial)
    assert going_on.policy.precision == going_on.policy_kwargs["precision"] == report.precision == "fp32"
    assert same(parameters(initial), before)
    assert not same(parameters(going_on), parameters(trained(settings)[0]))


@pytest.mark.parametrize("changed", [{"net_arch": [9]}, {"lookback": 2}, {}], ids=str)
def test_continual_learning_starts_anew_where_the_network_is_another(
    changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    initial = untrained(tiny_settings(**changed), n_features=4 if changed else 6)
    settings = tiny_settings(continual_learning=True)
    model, _ = trained(settings, initial_model=initial)
    assert "the model to go on from has another network (" in caplog.text
    assert "training starts anew" in caplog.text
    assert same(parameters(model), parameters(trained(settings)[0]))


# ---------------------------------------------------------------- networks of other kinds

# What is set, and whether PairedNetworks computes it.
NETWORKS: dict[str, tuple[dict[str, Any], bool]] = {
    "default": ({}, True),
    "tanh": ({"activation": "tanh"}, False),
    "silu": ({"activation": "silu"}, False),
    "the same value network": ({"net_arch_value": [8]}, True),
    "another value network": ({"net_arch_value": [16, 4]}, False),
    "own": ({"network": "own_networks:Mean"}, False),
    "own, as for stable-baselines3": ({"network": "own_networks:Gru", "net_arch_value": [4]}, False),
}

DECIDE = """
import sys
import numpy as np
from stable_baselines3 import PPO
from mtfscalper.policy.inference import WholeTradeDecider, decider_for, trade_decider_from_zip
from mtfscalper.trading.observation import Observation
path, features, observations = sys.argv[1], np.load(sys.argv[2]), np.load(sys.argv[3])
assert "own_networks" not in sys.modules
decided = decider_for(PPO.load(path, device="cpu"), features, 3).decide(observations)
in_trade = observations[observations[:, 1] != 0]
query = trade_decider_from_zip(path, "PPO", features, 3)
answers = query.decide(list(map(Observation._make, in_trade.tolist())))
np.savez(sys.argv[4], actions=decided.actions, probabilities=decided.probabilities, answers=answers)
"""


@pytest.mark.parametrize(
    ("changed", "fused"),
    [
        pytest.param(*network, id=name, marks=[] if name in {"default", "own"} else pytest.mark.acceptance)
        for name, network in NETWORKS.items()
    ],
)
def test_a_network_trains_and_is_saved_and_decides_the_same_in_a_process_that_knows_only_its_zip(
    changed: dict[str, Any], fused: bool, tmp_path: Path
) -> None:
    settings = tiny_settings(lookback=3, train_cycles=3, learning_rate=0.01, initial_exit_probability=0.5, **changed)
    model, report = trained(settings)
    assert report.fused == fused
    assert report.as_json()["fused"] == fused
    assert len(report.evaluations) == report.timesteps // ROLLOUT
    assert not same(parameters(model), parameters(untrained(settings)))
    with torch.no_grad():
        # After so short a training it would do little.
        model.policy.action_net.bias.zero_()
        model.policy.action_net.weight.mul_(100)

    features, observations = random_tape(300, seed=9).features, random_observations(600, 300, 3)
    here = decider_for(model, features, 3)
    flat, in_trade = here.decide(observations), observations[observations[:, 1] != 0]
    answers = here.trade_decider().decide(list(map(Observation._make, in_trade.tolist())))
    assert len(set(flat.actions.tolist())) > 2
    assert len({answer.action for answer in answers}) > 1

    model.save(tmp_path / "model.zip")
    np.save(tmp_path / "features.npy", features)
    np.save(tmp_path / "observations.npy", observations)
    files = [str(tmp_path / name) for name in ("model.zip", "features.npy", "observations.npy", "decided.npz")]
    # The package is on the path, own_networks is not.
    environment = os.environ | {"PYTHONPATH": str(Path(mtfscalper.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", DECIDE, *files], check=True, cwd=tmp_path, env=environment)
    with np.load(tmp_path / "decided.npz") as there:
        np.testing.assert_array_equal(there["actions"], flat.actions)
        np.testing.assert_allclose(there["probabilities"], flat.probabilities, atol=1e-6)
        np.testing.assert_array_equal(there["answers"][:, 0], [answer.action for answer in answers])
        np.testing.assert_allclose(there["answers"][:, 1], [answer.exit_probability for answer in answers], atol=2e-5)


def test_a_users_network_sees_the_lookback_oldest_first_and_the_account() -> None:
    model = untrained(tiny_settings(lookback=3, network="own_networks:Mean"))
    extractor = features_extractor(model)
    seen: list[Any] = []
    assert extractor.network is not None
    extractor.network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    observations = torch.from_numpy(random_observations(50, 200, 3))
    assert extractor(observations).shape == (50, extractor.features_dim) == (50, 5 + 6)
    candles, account = seen
    features = random_tape().features
    for row, of_row in zip(observations[:, 0].int().tolist(), candles.numpy(), strict=True):
        np.testing.assert_array_equal(of_row, features[row - 2 : row + 1])
    assert torch.equal(account, observations[:, 1:])


def test_a_users_network_that_cannot_be_used_ends_the_training_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mtfscalper.training.job.build_vec_env", lambda *_, **__: pytest.fail("too late"))
    with pytest.raises(UserCodeError, match=r"rl_config\.network is 'own_networks:WrongShape'"):
        trained(tiny_settings(network="own_networks:WrongShape"))


@pytest.mark.parametrize("changed", [{"activation": "tanh"}, {"network": "own_networks:Mean"}, {"net_arch_value": [9]}])
def test_continual_learning_goes_on_with_a_network_of_another_kind_and_starts_anew_where_it_changed(
    changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny_settings(seed=2, learning_rate=1e-9, **changed)
    initial, _ = trained(tiny_settings(seed=1, **changed))
    going_on, report = trained(settings, initial_model=initial)
    assert not report.fused
    before, after = parameters(initial), parameters(going_on)
    assert max((after[name] - before[name]).abs().max().item() for name in before) < 1e-5
    assert "starts anew" not in caplog.text
    anew, report = trained(tiny_settings(), initial_model=initial)
    assert "starts anew" in caplog.text
    assert report.fused
    assert same(parameters(anew), parameters(trained(tiny_settings())[0]))


def test_continual_learning_starts_anew_where_the_users_code_was_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = Path(own_networks.__file__).read_text()
    (tmp_path / "changing_networks.py").write_text(code)
    settings = tiny_settings(network="changing_networks:Mean")
    initial, _ = trained(settings, user_data=tmp_path)
    trained(settings, initial_model=initial, user_data=tmp_path)
    assert "starts anew" not in caplog.text
    (tmp_path / "changing_networks.py").write_text(code + "# a line more\n")
    trained(settings, initial_model=initial, user_data=tmp_path)
    assert "starts anew" in caplog.text


def test_compiling_is_said_not_to_happen_where_stable_baselines3_trains(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        _, report = trained(tiny_settings(activation="tanh", compile=True))
    assert not report.compiled
    assert "trains by stable-baselines3's own update" in caplog.text
    assert "nothing is compiled" in caplog.text


@pytest.mark.parametrize(
    ("algorithm", "named"), [("DQN", "net_arch_value"), ("A2C", "network"), ("ARS", "net_arch_value")]
)
def test_a_setting_that_an_algorithm_cannot_use_is_refused(algorithm: str, named: str) -> None:
    value: Any = [8] if named == "net_arch_value" else "own_networks:Mean"
    with pytest.raises(SettingsError, match=rf"rl_config\.{named} is .*; accepted: null with {algorithm}"):
        Settings.from_config({"freqai": {"rl_config": {"model_type": algorithm, named: value}}})


def test_another_algorithm_takes_its_activation_and_a_value_network_of_its_own() -> None:
    rl = {"model_type": "A2C", "net_arch": [8], "net_arch_value": [5, 4], "activation": "elu", "vec_env": "dummy"}
    rl |= {"n_envs": 2, "device": "cpu", "progress_bar": False, "train_cycles": 1}
    model, report = trained(Settings.from_config({"freqai": {"rl_config": rl}}))
    assert not report.fused
    extractor = model.policy.mlp_extractor
    assert [module.out_features for module in extractor.value_net if hasattr(module, "out_features")] == [5, 4]
    assert isinstance(extractor.policy_net[1], torch.nn.ELU)


# ---------------------------------------------------------------- saved models

OPEN = """
import json, sys
from stable_baselines3 import PPO
model = PPO.load(sys.argv[1], device="cpu")
print(json.dumps({
    "net_arch": model.policy_kwargs["net_arch"], "n_steps": model.n_steps, "batch_size": model.batch_size,
    "gamma": model.gamma, "policy": type(model.policy).__name__, "type": type(model).__name__,
    "bias": model.policy.action_net.bias.tolist(),
}))
"""


def test_plain_stable_baselines3_opens_a_saved_model_in_a_new_process(tmp_path: Path) -> None:
    settings = tiny_settings(net_arch=[12, 7], gamma=0.9)
    tape = random_tape(3000, n_features=20)
    model, _ = TrainingJob(settings, tape, None, env_settings_of(settings)).run()
    model.save(tmp_path / "model.zip")
    command = [sys.executable, "-c", OPEN, str(tmp_path / "model.zip")]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert json.loads(output.splitlines()[-1]) == {
        "net_arch": [12, 7],
        "n_steps": 32,
        "batch_size": 32,
        "gamma": 0.9,
        "policy": "MaskedActorCriticPolicy",
        "type": "PPO",
        "bias": model.policy.action_net.bias.tolist(),
    }
    # The features alone would take 240 kB.
    assert tape.features.nbytes == 240_000
    assert (tmp_path / "model.zip").stat().st_size < 60_000
    with zipfile.ZipFile(tmp_path / "model.zip") as archive, archive.open("policy.pth") as file:
        names = set(torch.load(file, weights_only=True))
    assert names == {name for name, _ in model.policy.named_parameters()}


def test_a_loaded_model_decides_as_the_saved_one(tmp_path: Path) -> None:
    model, _ = trained(tiny_settings(train_cycles=3, learning_rate=0.01))
    model.save(tmp_path / "model.zip")
    loaded = PPO.load(tmp_path / "model.zip", device="cpu")
    tape, settings = random_tape(300, seed=9), env_settings_of(tiny_settings())
    left, right = (
        flat_decisions(decider_for(m, tape.features, 1), tape, settings, np.arange(300)) for m in (model, loaded)
    )
    np.testing.assert_array_equal(left.actions, right.actions)
    np.testing.assert_array_equal(left.probabilities, right.probabilities)
    assert len(set(left.actions.tolist())) > 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_on_a_gpu_decides_and_goes_on() -> None:
    settings, tape = tiny_settings(device="cuda"), random_tape()
    model, _ = TrainingJob(settings, tape, random_tape(seed=2), env_settings_of(settings)).run()
    assert {value.device.type for value in model.policy.parameters()} == {"cuda"}
    result = closed_loop.run(decider_for(model, tape.features, 1), tape, env_settings_of(settings), 0, len(tape) - 1)
    assert set(np.unique(result.actions)) > {0}
    job = TrainingJob(settings, tape, None, env_settings_of(settings), initial_model=model_zip(model))
    continued, _ = job.run()
    assert not same(parameters(continued), parameters(model))


def test_a_trained_model_holds_neither_environments_nor_candles() -> None:
    model, _ = trained(tiny_settings())
    assert model.get_env() is None
    assert len(features_extractor(model).features) == 0


# ---------------------------------------------------------------- other algorithms


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        ("A2C", {"n_steps": 8}),
        ("ARS linear", {"n_delta": 2}),
        ("DQN", {"learning_starts": 20, "buffer_size": 500}),
        ("QRDQN", {"learning_starts": 20, "buffer_size": 500}),
        ("MaskablePPO", {"n_steps": 32, "batch_size": 32, "n_epochs": 1}),
        ("TRPO", {"n_steps": 32, "batch_size": 32}),
        ("RecurrentPPO", {"n_steps": 32, "batch_size": 32, "n_epochs": 1}),
        ("ARS", {"n_delta": 2}),
    ],
)
def test_another_algorithm_trains_on_lookback_of_three_candles_and_decides(
    algorithm: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    algorithm, _, linear = algorithm.partition(" ")
    policy_type = "LinearPolicy" if linear else {"RecurrentPPO": "MlpLstmPolicy"}.get(algorithm, "MlpPolicy")
    rl = {"model_type": algorithm, "policy_type": policy_type, "net_arch": [8], "n_envs": 2, "vec_env": "dummy"}
    freqai = {
        "conv_width": 3,
        "model_training_parameters": arguments,
        "rl_config": rl | {"device": "cpu", "progress_bar": False, "train_cycles": 1, "entry_mode": "gated"},
    }
    settings = Settings.from_config({"freqai": freqai})
    env_settings = env_settings_of(settings)
    model, report = trained(settings)
    assert type(model).__name__ == algorithm
    # No more than PPO does.
    assert left(tmp_path) == []
    # Three candles of four features, and the account's six numbers.
    assert model.observation_space.shape == (18,)
    assert report.timesteps >= 200
    # Not after every few steps, where those are a rollout.
    assert 1 <= len(report.evaluations) <= 4
    assert report.best_evaluation is not None
    tape = random_tape(300, seed=4)
    result = closed_loop.run(closed_loop.loop_decider(model, tape.features, 3), tape, env_settings, 2, 299)
    permitted = tape.long_signal[2:299] | tape.short_signal[2:299]
    assert not result.flat.actions[~permitted].any()
    assert set(result.actions.tolist()) <= {0, 1, 2, 3, 4}
    # A policy that remembers is asked flat where something can be entered, and nowhere else.
    asked = result.flat.probabilities.any(axis=1)
    assert asked.all() or algorithm == "RecurrentPPO"
    assert asked.any()
    np.testing.assert_allclose(result.flat.probabilities[asked].sum(axis=1), 1.0, rtol=1e-5)


# ---------------------------------------------------------------- stopping


def test_a_bot_that_stops_stops_the_training_at_its_next_step() -> None:
    event = threading.Event()
    event.set()
    # Of a million cycles there would be no end.
    with pytest.raises(TrainingStoppedError, match="not saved"):
        trained(tiny_settings(train_cycles=1_000_000), on_evaluation=stop_on(event))


def test_an_event_that_is_not_set_does_not_stop_the_training() -> None:
    _, report = trained(tiny_settings(), on_evaluation=stop_on(threading.Event()))
    assert report.timesteps == 4 * ROLLOUT
