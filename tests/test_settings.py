"""Settings: defaults, refusals in one clear sentence, and no option that is accepted and then ignored."""

import ast
import inspect
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import stable_baselines3
from freqtrade.optimize.backtesting import Backtesting
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from shipped import STRATEGIES

import mtfscalper
from mtfscalper.freqai_settings import FreqaiSettings
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.synthetic import DEFAULT_START, write_market
from mtfscalper.policy.algorithms import algorithm_class, unknown_arguments
from mtfscalper.settings import PPOSettings, RLSettings, Settings, SettingsError, reference_tables
from mtfscalper.settings_text import accepted_values
from mtfscalper.trading.reward import TERMS, RewardSettings

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mtfscalper.__file__).parent
NAN = float("nan")

# The design's table of config keys, but for decision_mode: "exact" needs a strategy that asks.
RL_DEFAULTS = {
    "train_cycles": 30,
    "n_envs": 8,
    "env_workers": None,
    "net_arch": (512, 512, 256),
    "net_arch_value": None,
    "activation": "relu",
    "network": None,
    "vec_env": "subproc",
    "cpu_count": 8,
    "interop_threads": 2,
    "executor": "inline",
    "workers": "auto",
    "threads_per_job": None,
    "ray_address": None,
    "device": "auto",
    "precision": "auto",
    "compile": "auto",
    "entry_mode": "auto",
    "decision_mode": "replay",
    "initial_exit_probability": 0.05,
    "max_trade_duration_candles": 96,
    "max_training_drawdown_pct": 0.5,
    "model_reward_parameters": RewardSettings(),
    "seed": 42,
    "ensemble": 1,
    "evaluation_folds": None,
    "evaluation_mode": "mean",
    "fallback": None,
    "trust_models": (),
    "kept_runs": 2,
    "live_training": "process",
}
FREQAI_DEFAULTS = {
    "model_type": "PPO",
    "policy_type": "MlpPolicy",
    "drop_ohlc_from_features": False,
    "randomize_starting_position": False,
    "progress_bar": True,
    "add_state_info": False,
}
PPO_TABLE = {
    "n_steps": 4096,
    "batch_size": 256,
    "learning_rate": 3e-4,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.01,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
    "target_kl": None,
}
# What the table sets otherwise than stable-baselines3 does.
NOT_SB3S_DEFAULT = {"n_steps", "batch_size", "ent_coef"}
TABLE_KEYS = [*RL_DEFAULTS, *PPO_TABLE]


def parse(rl: dict[str, Any] | None = None, **freqai: Any) -> Settings:
    return Settings.from_config({"freqai": {"rl_config": rl or {}, **freqai}}, unknown_arguments)


def refusal(rl: dict[str, Any] | None = None, **freqai: Any) -> str:
    with pytest.raises(SettingsError) as error:
        parse(rl, **freqai)
    return str(error.value)


def assert_one_complaint(message: str, key: str, received: Any) -> None:
    """One line that names key, value received, values accepted and remedy."""
    assert "\n" not in message
    # Text as in Python, what JSON has other words for in those.
    said = json.dumps(received) if received is None or isinstance(received, bool) else repr(received)
    assert message.startswith(f"{key} is {said}")
    _, accepted_and_remedy = message.split("accepted: ")
    accepted, remedy = accepted_and_remedy.split("remedy: ")
    assert accepted.strip(" ;")
    assert remedy.strip()


# ---------------------------------------------------------------------- defaults


def test_defaults_are_those_of_the_design() -> None:
    settings = parse()
    assert settings.rl.model_dump() == RL_DEFAULTS | FREQAI_DEFAULTS | {
        "model_reward_parameters": RewardSettings().model_dump()
    }
    ppo = settings.ppo.model_dump()
    assert {key: ppo[key] for key in PPO_TABLE} == PPO_TABLE
    assert settings.lookback == 1
    assert settings.test_size == 0.1
    assert not settings.continual_learning


def test_other_defaults_of_ppo_are_stable_baselines3s() -> None:
    theirs = inspect.signature(stable_baselines3.PPO.__init__).parameters
    ours = PPOSettings().model_dump()
    different = {key for key, value in ours.items() if theirs[key].default != value}
    assert different == NOT_SB3S_DEFAULT


def test_reward_is_equity_alone_by_default() -> None:
    reward = RewardSettings()
    weights = {term: getattr(reward, f"{term}_weight") for term in TERMS}
    assert weights == {term: float(term == "equity") for term in TERMS}
    assert (reward.rr, reward.profit_aim, reward.win_reward_factor) == (1.0, 0.025, 2.0)


def test_the_tables_show_every_key_once_with_its_default() -> None:
    rows = [row.split(" | ") for table in reference_tables().values() for row in table.splitlines()[2:]]
    shown = {name.strip("| `").rpartition(".")[2]: json.loads(default) for name, default, *_ in rows}
    models = (RLSettings(), PPOSettings(), FreqaiSettings(), RewardSettings())
    assert len(rows) == len(shown) == sum(len(type(model).model_fields) for model in models)
    defaults = {key: value for model in models for key, value in model.model_dump(mode="json").items()}
    assert shown == defaults | {"model_reward_parameters": {}}


def test_the_module_prints_the_tables() -> None:
    command = [sys.executable, "-m", "mtfscalper.settings"]
    printed = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True, timeout=240).stdout
    assert all(f"{title}\n\n{table}\n" in printed for title, table in reference_tables().items())


def test_an_empty_config_gives_the_defaults() -> None:
    assert Settings.from_config({}) == parse()


def test_values_of_the_config_arrive() -> None:
    settings = parse(
        {
            "n_envs": 3,
            "net_arch": [64, 32],
            "net_arch_value": [16],
            "activation": "gelu",
            "network": "my_project.nets:Gru",
            "gamma": 1,
            "entry_mode": "agent",
            "model_reward_parameters": {"rr": 2},
        },
        conv_width=5,
        data_split_parameters={"test_size": 0},
        continual_learning=True,
    )
    assert settings.rl.n_envs == 3
    assert settings.rl.net_arch == (64, 32)
    assert settings.rl.net_arch_value == (16,)
    assert settings.rl.activation == "gelu"
    assert settings.rl.network == "my_project.nets:Gru"
    assert settings.ppo.gamma == 1.0
    assert settings.rl.entry_mode == "agent"
    assert settings.rl.model_reward_parameters == RewardSettings(rr=2.0)
    assert settings.lookback == 5
    assert settings.test_size == 0.0
    assert settings.continual_learning


def test_the_config_is_left_as_it_was() -> None:
    config = {"freqai": {"rl_config": {"net_arch": [8], "gamma": 0.9}, "model_training_parameters": {"n_epochs": 2}}}
    before = json.dumps(config)
    Settings.from_config(config)
    assert json.dumps(config) == before
    config["freqai"]["rl_config"] = {"vec_env": "threads"}
    before = json.dumps(config)
    with pytest.raises(SettingsError):
        Settings.from_config(config)
    assert json.dumps(config) == before


def test_settings_cannot_be_changed_after_parsing() -> None:
    settings = parse()
    for section, key in ((settings, "lookback"), (settings.rl, "n_envs"), (settings.ppo, "gamma")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, key, 1)


# ---------------------------------------------------------------------- refusals


WRONG_TYPES = {
    "train_cycles": ["30", 30.0, True, None],
    "n_envs": ["8", 8.0, True, None],
    "n_steps": ["4096", 4096.0, True, None],
    "batch_size": ["256", 256.5, True, None],
    "env_workers": ["2", 2.0, True],
    "net_arch": [512, "512", {"pi": [512]}, None],
    "net_arch_value": [512, "512", {"vf": [512]}],
    "activation": [1, True, ["relu"], None],
    "network": [1, True, ["my_nets:Gru"], {"class": "Gru"}],
    "learning_rate": ["3e-4", True, [3e-4], None],
    "n_epochs": ["10", 10.0, True, None],
    "gamma": ["0.99", True, NAN, None],
    "gae_lambda": ["0.95", True, NAN, None],
    "clip_range": ["0.2", True, NAN, None],
    "ent_coef": ["0.01", True, NAN, None],
    "vf_coef": ["0.5", True, math.inf, None],
    "max_grad_norm": ["0.5", True, NAN, None],
    "target_kl": ["0.1", True, NAN],
    "vec_env": [8, True, ["subproc"], None],
    "cpu_count": ["8", 8.0, True, None],
    "interop_threads": ["2", 2.0, True, None],
    "executor": ["threads", 1, True, None],
    "workers": ["4", 4.0, True, None],
    "threads_per_job": ["1", 1.0, True],
    "ray_address": ["10.0.0.1", 6379, "ray://10.0.0.1:10001", True],
    "device": [0, True, None],
    "precision": [32, True, None],
    "compile": ["yes", 1, None],
    "entry_mode": [1, True, None],
    "decision_mode": [1, True, None],
    "initial_exit_probability": ["0.05", True, NAN, None],
    "max_trade_duration_candles": ["96", 96.0, True, None],
    "max_training_drawdown_pct": ["0.5", True, NAN, None],
    "model_reward_parameters": [1, "rr", [1.0], None],
    "seed": ["42", 42.0, True, None],
    "ensemble": ["8", 8.0, True, None],
    "evaluation_folds": ["4", 4.0, True],
    "evaluation_mode": ["best", 1, None],
    "fallback": [True, "rules", 1],
    "trust_models": ["sha256:" + "0" * 64, 1, True, None],
    "kept_runs": ["2", 2.0, True, None],
    "live_training": ["fork", True, None],
}


def test_wrong_types_are_tried_for_every_key_of_the_table() -> None:
    assert set(WRONG_TYPES) == set(TABLE_KEYS)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG_TYPES.items() for value in values])
def test_a_wrong_type_is_refused_by_name(key: str, value: Any) -> None:
    assert_one_complaint(refusal({key: value}), f"freqai.rl_config.{key}", value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train_cycles", 0),
        ("n_envs", 0),
        ("n_envs", -1),
        ("n_envs", 1025),
        ("n_envs", "many"),
        ("env_workers", 0),
        ("n_steps", 0),
        ("batch_size", 1),
        ("net_arch", []),
        ("net_arch_value", []),
        ("activation", "ReLU"),
        ("network", "my_nets"),
        ("network", "my_nets.Gru"),
        ("network", "my_nets:"),
        ("network", "my_nets:Gru:Cell"),
        ("network", " my_nets:Gru"),
        ("network", "my_nets:Gru\n"),
        ("network", ""),
        ("learning_rate", 0.0),
        ("learning_rate", 1e300),
        ("ent_coef", 1e300),
        ("vf_coef", 1e300),
        ("n_epochs", 0),
        ("gamma", 1.01),
        ("gae_lambda", -0.1),
        ("clip_range", 0),
        ("clip_range_vf", 0),
        ("ent_coef", -0.01),
        ("vf_coef", -0.5),
        ("max_grad_norm", 0),
        ("target_kl", 0),
        ("verbose", 3),
        ("verbose", True),
        ("stats_window_size", 0),
        ("vec_env", "subprocess"),
        ("cpu_count", 0),
        ("interop_threads", 0),
        ("executor", "dask"),
        ("workers", 0),
        ("workers", "many"),
        ("threads_per_job", 0),
        ("ray_address", "10.0.0.1"),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("device", "cuda:0 "),
        ("precision", "fp16"),
        ("entry_mode", "signals"),
        ("decision_mode", "live"),
        ("initial_exit_probability", 0),
        ("initial_exit_probability", 1.0),
        ("max_trade_duration_candles", 0),
        ("max_training_drawdown_pct", 0.0),
        ("max_training_drawdown_pct", 1.1),
        ("seed", -1),
        ("seed", 2**31),
        ("ensemble", 0),
        ("ensemble", 65),
        ("evaluation_folds", 1),
        ("evaluation_folds", 101),
        ("model_type", "SAC"),
        ("policy_type", "CnnPolicy"),
        ("progress_bar", 1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key: str, value: Any) -> None:
    assert_one_complaint(refusal({key: value}), f"freqai.rl_config.{key}", value)


@pytest.mark.parametrize("layers", [["512"], [512, "512"], [512, 0], [512, 512.5], [True], [[512]], [-1]])
@pytest.mark.parametrize("key", ["net_arch", "net_arch_value"])
def test_a_wrong_layer_is_refused_by_its_place(key: str, layers: list[Any]) -> None:
    place = next(index for index, layer in enumerate(layers) if type(layer) is not int or layer < 1)
    assert_one_complaint(refusal({key: layers}), f"freqai.rl_config.{key}[{place}]", layers[place])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("n_env", "n_envs"), ("netarch", "net_arch"), ("lerning_rate", "learning_rate"), ("entrymode", "entry_mode")],
)
def test_an_unknown_key_is_refused_with_the_key_that_was_meant(key: str, meant: str) -> None:
    message = refusal({key: 1})
    assert_one_complaint(message, f"freqai.rl_config.{key}", 1)
    assert f"did you mean {meant!r}?" in message


@pytest.mark.parametrize("identifier", ["", ".", "./", " "])
def test_a_folder_that_other_models_lie_in_is_no_identifier(identifier: str) -> None:
    with pytest.raises(SettingsError, match=r"freqai\.identifier is '.*'; accepted: a name, .*; remedy: set one$"):
        Settings.from_config({"freqai": {"identifier": identifier}})
    Settings.from_config({"freqai": {"identifier": f"{identifier}model"}})


def test_an_unknown_key_like_no_other_is_to_be_removed() -> None:
    message = refusal({"zzz": 1})
    assert_one_complaint(message, "freqai.rl_config.zzz", 1)
    assert "did you mean" not in message
    assert message.endswith("remedy: remove it")


@pytest.mark.parametrize("vec_env", ["subproc", "dummy", "auto"])
def test_more_environments_than_a_loop_can_step_are_refused(vec_env: str) -> None:
    message = refusal({"vec_env": vec_env, "n_envs": 2048})
    assert_one_complaint(message, "freqai.rl_config.n_envs", 2048)
    assert f"at most 1024 with vec_env '{vec_env}'" in message


@pytest.mark.parametrize("vec_env", ["batched", "torch"])
def test_a_batch_may_have_thousands_of_environments(vec_env: str) -> None:
    assert parse({"vec_env": vec_env, "n_envs": 65_536}).rl.n_envs == 65_536


@pytest.mark.parametrize(
    ("rl", "key", "remedy"),
    [
        ({"executor": "population"}, "executor", "vec_env 'torch'"),
        ({"executor": "processes", "vec_env": "torch"}, "executor", "executor 'population'"),
        ({"workers": 4}, "workers", "set executor to 'processes'"),
        ({"workers": 4, "executor": "population", "vec_env": "torch"}, "workers", "set executor to 'processes'"),
    ],
)
def test_an_executor_that_other_settings_contradict_is_refused(rl: dict[str, Any], key: str, remedy: str) -> None:
    message = refusal(rl)
    assert_one_complaint(message, f"freqai.rl_config.{key}", rl[key])
    assert remedy in message


@pytest.mark.parametrize(
    ("rl", "key", "remedy"),
    [
        ({"n_envs": "auto", "vec_env": "torch"}, "n_envs", "set one, or vec_env to 'auto'"),
        ({"n_envs": "auto", "model_type": "A2C"}, "n_envs", "set one"),
        ({"env_workers": 2, "vec_env": "batched"}, "env_workers", "set vec_env to 'subproc'"),
        ({"env_workers": 9}, "env_workers", "accepted: at most n_envs = 8"),
    ],
)
def test_environments_that_other_settings_contradict_are_refused(rl: dict[str, Any], key: str, remedy: str) -> None:
    message = refusal(rl)
    assert_one_complaint(message, f"freqai.rl_config.{key}", rl[key])
    assert remedy in message


def test_a_number_of_environments_that_is_chosen_keeps_the_rollouts_of_eight() -> None:
    settings = parse({"n_envs": "auto", "n_steps": 512})
    assert (settings.rl.n_envs, settings.rl.environments) == ("auto", 8)
    decided = settings.with_environments(64)
    assert (decided.rl.n_envs, decided.rl.environments, decided.ppo.n_steps) == (64, 64, 64)
    assert "n_envs x n_steps = 8 x 16 = 128" in refusal({"n_envs": "auto", "n_steps": 16})


@pytest.mark.parametrize(
    ("rl", "threads"), [({}, 8), ({"threads_per_job": 2}, 2), ({"executor": "processes", "workers": 4}, 8)]
)
def test_threads_per_job_stand_in_the_place_of_cpu_count(rl: dict[str, Any], threads: int) -> None:
    assert parse(rl).rl.torch_threads == threads


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1", "mps"])
def test_a_device_may_be_named_by_its_number(device: str) -> None:
    assert parse({"device": device}).rl.device == device


@pytest.mark.parametrize(
    ("section", "key", "value", "accepted"),
    [
        (
            "freqai.rl_config",
            "n_envs",
            0,
            "integer from 1 to 65536 or 'auto' (parallel environments; more than 1024 with `batched` and `torch` "
            "alone); remedy: set it so, or",
        ),
        ("freqai.rl_config", "seed", -1, "integer from 0 to 2147483647 ("),
        ("freqai.rl_config", "max_training_drawdown_pct", 0, "number in (0, 1] (share of the peak"),
        ("freqai.rl_config", "gamma", 2, "number in [0, 1] ("),
        ("freqai.rl_config", "ent_coef", -1, "number in [0, 100000] ("),
        ("freqai.rl_config", "clip_range_vf", 0, "number > 0 or null (how far an update may move a value); remedy"),
        ("freqai.rl_config", "net_arch_value", [], "non-empty list of integers >= 1 or null (hidden layers"),
        ("freqai.rl_config", "compile", 1, "true, false or 'auto' ("),
        ("freqai.rl_config", "device", "gpu", "'auto', 'cpu', 'cuda', 'mps' or 'cuda:N' ("),
        ("freqai.rl_config", "network", "Gru", "'module:name' or null ("),
        ("freqai.rl_config", "progress_bar", 1, "true or false ("),
        ("freqai.rl_config", "model_reward_parameters", 1, "object with rr, profit_aim, win_reward_factor, equity_"),
        (
            "freqai",
            "conv_width",
            0,
            "integer >= 1 (candles an observation looks back); remedy: set it so, or remove it",
        ),
        ("freqai", "continual_learning", "yes", "true or false ("),
    ],
)
def test_a_refusal_says_what_is_accepted_in_the_annotations_words(
    section: str, key: str, value: Any, accepted: str
) -> None:
    message = refusal({key: value}) if section == "freqai.rl_config" else refusal(**{key: value})
    assert message.startswith(f"{section}.{key} is {value!r}; accepted: {accepted}")


def test_another_policy_of_ppo_is_refused_with_the_key_for_a_network_of_ones_own() -> None:
    message = refusal({"policy_type": "CnnPolicy"})
    assert_one_complaint(message, "freqai.rl_config.policy_type", "CnnPolicy")
    assert "freqai.rl_config.network" in message


def test_a_network_of_ones_own_is_refused_for_another_algorithm() -> None:
    message = refusal({"model_type": "A2C", "network": "my_nets:Gru"})
    assert_one_complaint(message, "freqai.rl_config.network", "my_nets:Gru")
    assert "A2C" in message
    assert parse({"model_type": "A2C", "net_arch_value": [8], "activation": "tanh"}).rl.net_arch_value == (8,)


def test_exact_decisions_need_the_models_of_a_backtest() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_config({"freqai": {"save_backtest_models": False, "rl_config": {"decision_mode": "exact"}}})
    message = str(caught.value)
    assert_one_complaint(message, "freqai.save_backtest_models", False)
    assert "'replay'" in message
    given = {"save_backtest_models": True, "rl_config": {"decision_mode": "exact"}}
    assert Settings.from_config({"freqai": given}).rl.decision_mode == "exact"
    replayed = {"save_backtest_models": False, "rl_config": {"decision_mode": "replay"}}
    assert Settings.from_config({"freqai": replayed}).rl.decision_mode == "replay"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rr", NAN),
        ("rr", True),
        ("rr", 1e300),
        ("profit_aim", 0),
        ("profit_aim", 1e-300),
        ("win_reward_factor", math.inf),
        ("win_reward_factor", 1e300),
        ("equity_weight", 1e300),
        ("idle_weight", -1e300),
        ("equity_weight", NAN),
        ("idle_weight", "1"),
        ("timing_candles", True),
        ("timing_candles", 1),
        ("timing_candles", 48.0),
    ],
)
def test_a_wrong_reward_value_is_refused_by_name(key: str, value: Any) -> None:
    message = refusal({"model_reward_parameters": {key: value}})
    assert_one_complaint(message, f"freqai.rl_config.model_reward_parameters.{key}", value)


def test_an_unknown_reward_key_is_refused_with_the_key_that_was_meant() -> None:
    message = refusal({"model_reward_parameters": {"equity_wieght": 1.0}})
    assert_one_complaint(message, "freqai.rl_config.model_reward_parameters.equity_wieght", 1.0)
    assert "did you mean 'equity_weight'?" in message
    # The reward's own keys, not those of the section around it.
    assert "n_envs" not in message


def test_a_batch_larger_than_a_rollout_is_refused_with_both_sizes() -> None:
    sizes = {"n_envs": 2, "n_steps": 64}
    assert parse({**sizes, "batch_size": 128}).ppo.batch_size == 128
    message = refusal({**sizes, "batch_size": 129})
    assert_one_complaint(message, "freqai.rl_config.batch_size", 129)
    assert "2 x 64 = 128" in message


def test_a_ppo_argument_with_two_values_is_refused_with_both() -> None:
    message = refusal({"gamma": 0.9}, model_training_parameters={"gamma": 0.8})
    assert_one_complaint(message, "freqai.rl_config.gamma", 0.9)
    assert "freqai.model_training_parameters.gamma is 0.8" in message


def test_a_ppo_argument_may_stand_in_either_section_or_equal_in_both() -> None:
    for rl, training in (({"gamma": 0.9}, {}), ({}, {"gamma": 0.9}), ({"gamma": 0.9}, {"gamma": 0.9})):
        assert parse(rl, model_training_parameters=training).ppo.gamma == 0.9


def test_a_wrong_training_parameter_is_named_where_it_stands() -> None:
    message = refusal(model_training_parameters={"gamma": 2})
    assert_one_complaint(message, "freqai.model_training_parameters.gamma", 2)
    message = refusal(model_training_parameters={"gama": 0.9})
    assert_one_complaint(message, "freqai.model_training_parameters.gama", 0.9)
    assert "did you mean 'gamma'?" in message


@pytest.mark.parametrize("value", [0, -1, True, "1", 1.0, None])
def test_a_lookback_below_one_candle_is_refused(value: Any) -> None:
    assert_one_complaint(refusal(conv_width=value), "freqai.conv_width", value)


@pytest.mark.parametrize("value", [1.0, 1, -0.1, NAN, True, "0.1", None])
def test_a_held_out_share_outside_zero_to_one_is_refused(value: Any) -> None:
    message = refusal(data_split_parameters={"test_size": value})
    assert_one_complaint(message, "freqai.data_split_parameters.test_size", value)


@pytest.mark.parametrize(
    ("key", "meant"), [("test_sise", "test_size"), ("testsize", "test_size"), ("shufle", "shuffle")]
)
def test_a_key_that_the_split_of_candles_would_fail_at_is_refused_with_the_key_that_was_meant(
    key: str, meant: str
) -> None:
    message = refusal(data_split_parameters={key: 0.2})
    assert_one_complaint(message, f"freqai.data_split_parameters.{key}", 0.2)
    assert f"did you mean {meant!r}?" in message
    assert parse(data_split_parameters={"test_size": 0.2, "random_state": 1, "shuffle": False}).test_size == 0.2


@pytest.mark.parametrize(
    ("key", "value"),
    [("train_period_days", 0), ("train_period_days", 1.5), ("train_period_days", 10**9), ("backtest_period_days", 0)],
)
def test_periods_of_no_or_endless_days_are_refused(key: str, value: float) -> None:
    assert_one_complaint(refusal(**{key: value}), f"freqai.{key}", value)


def test_the_shortest_training_holds_an_episode_beside_what_is_held_out() -> None:
    for lookback, test_size, needed in ((1, 0, 3), (1, 0.1, 4), (8, 0.5, 20), (862, 0.25, 1152), (28, 0.9, 300)):
        settings = parse(conv_width=lookback, data_split_parameters={"test_size": test_size})
        assert settings.candles_needed == needed


def test_a_share_to_train_on_leaves_the_rest_held_out() -> None:
    assert parse(data_split_parameters={"train_size": 0.75}).test_size == 0.25
    assert parse(data_split_parameters={"train_size": 0.5, "test_size": 0.25}).test_size == 0.25


@pytest.mark.parametrize(
    ("split", "key"),
    [
        ({"train_size": 0.9, "test_size": 0.2}, "train_size"),
        ({"train_size": "0.5"}, "train_size"),
        ({"train_size": 0}, "train_size"),
        ({"stratify": True}, "stratify"),
    ],
)
def test_a_split_that_scikit_learn_would_fail_at_is_refused(split: dict[str, Any], key: str) -> None:
    assert_one_complaint(refusal(data_split_parameters=split), f"freqai.data_split_parameters.{key}", split[key])


def test_candles_shuffled_before_the_split_are_refused() -> None:
    message = refusal(data_split_parameters={"shuffle": True})
    assert_one_complaint(message, "freqai.data_split_parameters.shuffle", True)


def test_shuffled_candles_are_refused() -> None:
    message = refusal(feature_parameters={"shuffle_after_split": True})
    assert_one_complaint(message, "freqai.feature_parameters.shuffle_after_split", True)
    assert parse(feature_parameters={"shuffle_after_split": False}) == parse()


def test_several_mistakes_are_all_named_at_once() -> None:
    message = refusal(
        {
            "n_env": 4,
            "seed": "x",
            "vec_env": "threads",
            "gamma": 7,
            "clip_range": 0.1,
            "model_reward_parameters": {"rr": NAN, "idle": 1},
        },
        model_training_parameters={"clip_range": 0.3},
        conv_width=0,
        data_split_parameters={"test_size": 1.0},
        feature_parameters={"shuffle_after_split": True},
    )
    named = {line.split(" is ")[0] for line in message.splitlines()}
    assert named == {
        "freqai.rl_config.n_env",
        "freqai.rl_config.seed",
        "freqai.rl_config.vec_env",
        "freqai.rl_config.gamma",
        "freqai.rl_config.clip_range",
        "freqai.rl_config.model_reward_parameters.rr",
        "freqai.rl_config.model_reward_parameters.idle",
        "freqai.conv_width",
        "freqai.data_split_parameters.test_size",
        "freqai.feature_parameters.shuffle_after_split",
    }
    assert len(message.splitlines()) == len(named)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=4,
)
_KEYS = st.sampled_from([*RLSettings.model_fields, *PPOSettings.model_fields]) | st.text(max_size=8)


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.dictionaries(_KEYS, _JSON, max_size=4), st.dictionaries(_KEYS, _JSON, max_size=2))
def test_any_json_is_either_accepted_or_refused_in_lines_that_say_what_is_accepted(
    rl: dict[str, Any], training: dict[str, Any]
) -> None:
    complaints = ""
    try:
        parse(rl, model_training_parameters=training)
    except SettingsError as error:
        complaints = str(error)
    assert not complaints or ("accepted: " in complaints and "remedy: " in complaints)


# ---------------------------------------------------------------------- other algorithms


@pytest.mark.parametrize(
    ("model_type", "key", "value", "meant"),
    [("A2C", "n_step", 5, "n_steps"), ("DQN", "bufer_size", 100, "buffer_size")],
)
def test_an_argument_another_algorithm_does_not_take_is_refused(
    model_type: str, key: str, value: int, meant: str
) -> None:
    message = refusal({"model_type": model_type}, model_training_parameters={key: value})
    assert_one_complaint(message, f"freqai.model_training_parameters.{key}", value)
    assert f"which {model_type} does not take" in message
    assert f"did you mean {meant!r}?" in message


def test_ppos_arguments_of_another_algorithm_are_not_taken_for_misspellings() -> None:
    message = refusal({"model_type": "DQN"}, model_training_parameters={"n_epochs": 5})
    assert "remedy: remove it, for it is PPO's, or set freqai.rl_config.model_type to 'PPO'" in message


def test_a_rewards_key_beside_its_section_is_sent_there() -> None:
    assert "remedy: it stands in freqai.rl_config.model_reward_parameters: move it there" in refusal({"rr": 2})


@pytest.mark.parametrize("model_type", ["PPO", "DQN"])
def test_arguments_that_shape_the_network_are_refused_with_the_place_where_it_is_shaped(model_type: str) -> None:
    given = {"net_arch": [64, 64]}
    message = refusal({"model_type": model_type}, model_training_parameters={"policy_kwargs": given})
    assert_one_complaint(message, "freqai.model_training_parameters.policy_kwargs", given)
    assert "remedy: the network stands in freqai.rl_config: its net_arch, net_arch_value, activation" in message


def test_another_algorithm_gets_its_own_arguments() -> None:
    settings = parse({"model_type": "DQN"}, model_training_parameters={"buffer_size": 100, "tau": 0.5})
    assert settings.other_algorithm_kwargs == {"buffer_size": 100, "tau": 0.5}
    assert parse(model_training_parameters={"gamma": 0.5}).other_algorithm_kwargs == {}


def test_ppo_keys_another_algorithm_does_not_read_are_listed_for_a_warning() -> None:
    config = {"freqai": {"rl_config": {"model_type": "A2C", "gamma": 0.5, "batch_size": 8, "n_envs": 2}}}
    assert Settings.from_config(config).ignored_ppo_keys(config) == ["batch_size", "gamma"]
    config["freqai"]["rl_config"]["model_type"] = "PPO"
    assert Settings.from_config(config).ignored_ppo_keys(config) == []


@pytest.mark.parametrize("model_type", ["A2C", "MaskablePPO"])
def test_an_ensemble_of_another_algorithm_is_refused(model_type: str) -> None:
    message = refusal({"model_type": model_type, "ensemble": 8})
    assert_one_complaint(message, "freqai.rl_config.ensemble", 8)
    assert f"accepted: 1 with {model_type}" in message
    assert parse({"model_type": model_type, "ensemble": 1}).rl.ensemble == 1
    assert parse({"ensemble": 8}).rl.ensemble == 8


@pytest.mark.parametrize("model_type", ["PPO", "A2C", "DQN", "TRPO", "ARS", "RecurrentPPO", "MaskablePPO", "QRDQN"])
def test_every_algorithm_accepted_is_there(model_type: str) -> None:
    policy_type = "MlpLstmPolicy" if model_type == "RecurrentPPO" else "MlpPolicy"
    assert parse({"model_type": model_type, "policy_type": policy_type}).rl.model_type == model_type
    assert algorithm_class(model_type).__name__ == model_type


def test_every_algorithm_there_is_accepted_or_cannot_act_on_five_actions() -> None:
    accepted = set(RLSettings.model_fields["model_type"].annotation.__args__)
    continuous_only = {"SAC", "TD3", "DDPG", "TQC", "CrossQ"}
    import sb3_contrib
    from stable_baselines3.common.base_class import BaseAlgorithm

    there = {
        name
        for library in (stable_baselines3, sb3_contrib)
        for name, value in vars(library).items()
        if inspect.isclass(value) and issubclass(value, BaseAlgorithm)
    }
    assert there == accepted | continuous_only


# ---------------------------------------------------------------------- nothing is accepted and ignored


def modules() -> Iterator[ast.Module]:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "settings.py":
            yield ast.parse(path.read_text(encoding="utf-8"))


def attributes_read_from(*owners: str) -> set[str]:
    """Names read as ``owner.name`` or ``something.owner.name`` outside settings.py."""
    return {
        node.attr
        for module in modules()
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and (getattr(node.value, "id", None) in owners or getattr(node.value, "attr", None) in owners)
    }


def test_every_setting_of_the_rl_config_is_read_somewhere() -> None:
    unread = set(RLSettings.model_fields) - attributes_read_from("rl")
    assert unread == set()


def test_every_ppo_setting_is_an_argument_of_ppo_and_handed_to_it() -> None:
    assert set(PPOSettings.model_fields) <= set(inspect.signature(stable_baselines3.PPO.__init__).parameters)
    handed_over_whole = [
        keyword
        for module in modules()
        for call in ast.walk(module)
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg is None and ast.unparse(keyword.value) == "settings.ppo.model_dump()"
    ]
    assert len(handed_over_whole) == 1


def test_every_reward_setting_is_read_by_the_reward_or_the_environment() -> None:
    # Weights are read by the names of their terms.
    read = attributes_read_from("settings", "reward") | {f"{name}_weight" for name in TERMS}
    assert set(RewardSettings.model_fields) <= read


@pytest.mark.parametrize("model", [RLSettings, PPOSettings, FreqaiSettings, RewardSettings])
def test_every_setting_says_what_it_accepts_once(model: type[BaseModel]) -> None:
    for key, field in model.model_fields.items():
        assert accepted_values(model, key) not in (field.description or ""), key
        # No pattern shows through.
        assert not re.search(r"[\\^$?+*]", accepted_values(model, key)), key
        # Both stand in one row of a table.
        assert field.description
        assert "|" not in field.description


# ---------------------------------------------------------------------- through the command


@pytest.fixture(scope="module")
def backtesting_refusal(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """``freqtrade backtesting`` of the main config with an overlay that holds mistakes."""
    scratch = tmp_path_factory.mktemp("command")
    write_market(scratch / "data", stop=DEFAULT_START + timedelta(days=1))
    (scratch / "user").mkdir()
    wrong = {"freqai": {"rl_config": {"n_env": 4, "net_arch": ["512"]}}}
    (scratch / "wrong.json").write_text(json.dumps(wrong))
    with ReplayExchange(scratch / "data") as exchange:
        (scratch / "offline.json").write_text(json.dumps(offline_config(exchange.url)))
        command = [sys.executable, "-m", "freqtrade", "backtesting", "--cache", "none", "--timerange", "20240815-"]
        command += ["--userdir", str(scratch / "user"), "--datadir", str(scratch / "data")]
        command += ["--strategy", "MtfScalper_RL_Hybrid", "--strategy-path", str(STRATEGIES)]
        command += ["--freqaimodel", "MtfScalperRLModel"]
        command += ["--freqaimodel-path", str(ROOT / "user_data" / "freqaimodels")]
        for config in (ROOT / "configs" / "config_rl_hybrid.json", scratch / "offline.json", scratch / "wrong.json"):
            command += ["--config", str(config)]
        return subprocess.run(
            command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, check=False
        )


def test_the_command_fails_on_a_wrong_setting_and_says_which(
    backtesting_refusal: subprocess.CompletedProcess[str],
) -> None:
    # The log is wrapped to the width of a terminal.
    output = " ".join(backtesting_refusal.stdout.split())
    assert backtesting_refusal.returncode == 2, backtesting_refusal.stdout
    assert "freqai.rl_config.net_arch[0] is '512'; accepted: non-empty list of integers >= 1" in output
    assert "freqai.rl_config.n_env is 4, an unknown key" in output
    assert "did you mean 'n_envs'?" in output
    assert "Traceback" not in output


def test_the_command_stops_before_any_data_is_loaded(backtesting_refusal: subprocess.CompletedProcess[str]) -> None:
    # What freqtrade says when it loads candles.
    assert "Loading data" in inspect.getsource(Backtesting.load_bt_data)
    output = " ".join(backtesting_refusal.stdout.split())
    assert "Starting freqtrade in Backtesting mode" in output
    assert "Loading data" not in output
