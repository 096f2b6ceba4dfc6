"""What stops a run at its start, and what it is warned of."""

import copy
import inspect
import logging
from typing import Any

import pytest
import torch
from freqtrade.enums import RunMode
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai import start_checks
from mtfscalper.freqai.start_checks import checked_settings, misspelt_keys
from mtfscalper.policy.algorithms import _OWNED_ARGUMENTS, algorithm_class
from mtfscalper.ppo_settings import PPOSettings
from mtfscalper.stock_keys import unread_keys

FREQAI: dict[str, Any] = {
    "train_period_days": 30,
    "backtest_period_days": 7,
    "feature_parameters": {
        "include_timeframes": ["5m"],
        "include_corr_pairlist": [],
        "indicator_periods_candles": [14],
    },
    "data_split_parameters": {"test_size": 0.1},
    "rl_config": {"device": "cpu"},
}


def checked(timeframe: str = "5m", **freqai: Any) -> Any:
    return checked_settings({"timeframe": timeframe, "freqai": {**copy.deepcopy(FREQAI), **freqai}})


def refusal(**freqai: Any) -> str:
    with pytest.raises(OperationalException) as caught:
        checked(**freqai)
    head, *complaints = str(caught.value).splitlines()
    assert head == "The config cannot be used:"
    [complaint] = complaints
    assert "; accepted: " in complaint
    assert "; remedy: " in complaint
    return complaint


@pytest.mark.parametrize("days", [0, -1, 0.0, "7", None, True, float("nan"), float("inf"), 1e300])
def test_periods_that_no_loop_would_end_are_refused(days: Any) -> None:
    written = {None: "null", True: "true"}.get(days, repr(days))
    assert refusal(backtest_period_days=days).startswith(
        f"freqai.backtest_period_days is {written}; accepted: number in"
    )


@pytest.mark.parametrize(("timeframe", "days"), [("5m", 0.00001), ("5m", 0.003), ("1h", 0.04)])
def test_periods_shorter_than_a_candle_are_refused(timeframe: str, days: float) -> None:
    assert f"freqai.backtest_period_days is {days}, shorter than a candle of {timeframe}" in refusal(
        timeframe=timeframe, backtest_period_days=days
    )


def test_periods_of_some_candles_are_accepted() -> None:
    assert checked(backtest_period_days=0.5).backtest_period_days == 0.5
    assert checked(backtest_period_days=5 / 1440).backtest_period_days == 5 / 1440


def test_a_lookback_longer_than_a_training_is_refused() -> None:
    # Four days are 1152 candles, of which three quarters are trained on: 864.
    few = {"train_period_days": 4, "data_split_parameters": {"test_size": 0.25}}
    assert checked(conv_width=862, **few).candles_needed == 1152
    message = refusal(conv_width=863, **few)
    assert message.startswith("freqai.conv_width is 863, with which a training needs 1154 candles")
    assert "1152 candles of 5m in freqai.train_period_days 4" in message


@pytest.mark.parametrize(
    ("device", "why"),
    [
        ("cuda", "torch finds no CUDA GPU on this machine"),
        ("cuda:1", "torch finds no CUDA GPU on this machine"),
        ("mps", "this machine has no Apple GPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused_and_not_replaced(
    monkeypatch: pytest.MonkeyPatch, device: str, why: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    message = refusal(rl_config={"device": device})
    assert message.startswith(f"freqai.rl_config.device is {device!r}, and {why}")
    assert checked(rl_config={"device": "auto"}).rl.device == "auto"


def test_a_gpu_beyond_the_last_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "torch finds 2 CUDA GPUs on this machine, numbered from 0" in refusal(rl_config={"device": "cuda:2"})


@pytest.mark.parametrize(("rl", "key"), [({"n_steps": 10**9}, "n_steps"), ({"net_arch": [10**7, 10**7]}, "net_arch")])
def test_a_training_larger_than_this_machine_is_refused(rl: dict[str, Any], key: str) -> None:
    assert refusal(rl_config={"device": "cpu", **rl}).startswith(f"freqai.rl_config.{key} is ")


def test_the_memory_that_counts_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_checks, "memory_bytes", lambda device: 1_000_000)
    assert "within the 0.0 GB that this machine has" in refusal()


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        (None, "conv_widht", "freqai.conv_width"),
        (None, "continual_lerning", "freqai.continual_learning"),
        (None, "save_backtest_model", "freqai.save_backtest_models"),
        ("feature_parameters", "shuffle_after_splitt", "freqai.feature_parameters.shuffle_after_split"),
        (
            "feature_parameters",
            "use_DBSCAN_to_remove_outlier",
            "freqai.feature_parameters.use_DBSCAN_to_remove_outliers",
        ),
    ],
)
def test_a_misspelt_key_gets_one_warning_with_the_key_like_it(
    caplog: pytest.LogCaptureFixture, section: str | None, key: str, meant: str
) -> None:
    freqai = copy.deepcopy(FREQAI)
    (freqai if section is None else freqai[section])[key] = 3
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        checked(**freqai)
    [record] = caplog.records
    where = f"freqai.{section}.{key}" if section else f"freqai.{key}"
    assert record.getMessage() == (
        f"{where} is 3, a key that FreqAI does not read; accepted: {meant}, which is like it; remedy: write it so, or "
        "remove it"
    )


def test_known_keys_and_a_strategys_own_give_no_warning() -> None:
    freqai = {
        **FREQAI,
        "enabled": True,
        "keras": False,
        "model_save_type": "stable_baselines3",
        "extra_returns_per_train": {},
        "my_signal_threshold": 3,
    }
    freqai["feature_parameters"] = {
        **FREQAI["feature_parameters"],
        "inlier_metric_window": 5,
        "noise_standard_deviation": 0.1,
        "reverse_train_test_order": False,
        "outlier_protection_percentage": 30,
        "svm_params": {"nu": 0.1},
        "my_list": [],
    }
    assert list(misspelt_keys(freqai)) == []


def warnings_of(caplog: pytest.LogCaptureFixture, **freqai: Any) -> list[str]:
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        checked(**freqai)
    return [record.getMessage() for record in caplog.records]


def test_all_keys_of_other_models_get_one_warning_with_what_is_nearest(caplog: pytest.LogCaptureFixture) -> None:
    rl = {"device": "cpu", "thread_count": 2, "continual_learning": False}
    training = {"verbose": 1, "tensorboard_log": "here", "n_estimators": 100}
    assert warnings_of(caplog, rl_config=rl, model_training_parameters=training, rl_config_optuna={"n_trials": 5}) == [
        "The config has keys of other models, which nothing here reads: freqai.rl_config_optuna (nearest: nothing), "
        "freqai.rl_config.thread_count (nearest: freqai.rl_config.cpu_count), "
        "freqai.rl_config.continual_learning (nearest: freqai.continual_learning), "
        "freqai.model_training_parameters.tensorboard_log (nearest: freqai.activate_tensorboard; logs lie in the "
        "identifier's folder), freqai.model_training_parameters.n_estimators (nearest: nothing). Remedy: write what is "
        "nearest where you mean it, and remove the rest."
    ]


def test_freqtrades_documented_section_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    rl = {
        "train_cycles": 25,
        "add_state_info": True,
        "max_trade_duration_candles": 300,
        "max_training_drawdown_pct": 0.02,
        "cpu_count": 8,
        "model_type": "PPO",
        "policy_type": "MlpPolicy",
        "model_reward_parameters": {"rr": 1, "profit_aim": 0.025},
    }
    assert warnings_of(caplog, rl_config=rl, model_training_parameters={"learning_rate": 0.00025, "verbose": 1}) == []


def test_a_recurrent_policy_is_refused_in_exact_mode_alone(caplog: pytest.LogCaptureFixture) -> None:
    rl = {"device": "cpu", "model_type": "RecurrentPPO", "policy_type": "MlpLstmPolicy"}
    assert warnings_of(caplog, rl_config=rl) == []
    with pytest.raises(OperationalException, match="remedy: set decision_mode to 'replay', or") as refused:
        warnings_of(caplog, rl_config=rl | {"decision_mode": "exact"})
    assert "decision_mode is 'exact' and model_type 'RecurrentPPO'" in str(refused.value)


POLICIES = {
    "PPO": {"MlpPolicy"},
    "A2C": {"MlpPolicy"},
    "DQN": {"MlpPolicy"},
    "TRPO": {"MlpPolicy"},
    "ARS": {"MlpPolicy", "LinearPolicy"},
    "RecurrentPPO": {"MlpLstmPolicy"},
    "MaskablePPO": {"MlpPolicy"},
    "QRDQN": {"MlpPolicy"},
}


@pytest.mark.parametrize("model_type", POLICIES)
def test_a_policy_that_an_algorithm_cannot_be_made_with_is_refused(model_type: str) -> None:
    names = {name for model in POLICIES for name in algorithm_class(model).policy_aliases}
    assert names > POLICIES[model_type]
    for name in names:
        rl = {"device": "cpu", "model_type": model_type, "policy_type": name, "net_arch": [8]}
        if name in POLICIES[model_type]:
            # It has been made, for a trial.
            assert checked(rl_config=rl).rl.policy_type == name
        else:
            message = refusal(rl_config=rl)
            assert message.startswith(f"freqai.rl_config.policy_type is {name!r}; accepted: '")
            assert f"with {model_type}" in message


@pytest.mark.parametrize(
    ("model_type", "arguments", "named"),
    [
        ("A2C", {"n_steps": "5"}, "n_steps is '5'; accepted: integer >= 1"),
        ("A2C", {"n_steps": 0}, "n_steps is 0; accepted: integer >= 1"),
        ("A2C", {"use_rms_prop": 3}, "use_rms_prop is 3; accepted: bool with A2C"),
        ("DQN", {"gamma": 2}, "gamma is 2; accepted: number in [0, 1]"),
        ("DQN", {"buffer_size": 0}, "buffer_size is 0; accepted: integer >= 1 with DQN"),
        ("DQN", {"train_freq": [4, "step"]}, "train_freq is [4, 'step']; accepted: "),
        ("TRPO", {"learning_rate": "lin_3e-4"}, "learning_rate is 'lin_3e-4'; accepted: number in (0, 1]"),
        ("ARS", {"n_delta": -1}, "n_delta is -1; accepted: integer >= 1 with ARS"),
        # Only together, and as stable-baselines3 says it.
        ("A2C", {"use_sde": True}, " is {'use_sde': True} with model_type 'A2C', policy_type 'MlpPolicy' and n_envs 8"),
    ],
)
def test_arguments_that_would_fail_in_the_first_training_are_refused(
    model_type: str, arguments: dict[str, Any], named: str
) -> None:
    message = refusal(rl_config={"device": "cpu", "model_type": model_type}, model_training_parameters=arguments)
    separator = "" if named.startswith(" ") else "."
    assert message.startswith(f"freqai.model_training_parameters{separator}{named}")


@pytest.mark.parametrize("model_type", POLICIES)
def test_an_algorithms_own_defaults_are_accepted(model_type: str) -> None:
    parameters = inspect.signature(algorithm_class(model_type)).parameters
    simple = {
        key: parameter.default
        for key, parameter in parameters.items()
        if isinstance(parameter.default, int | float | None) and key not in ("policy_kwargs", "tensorboard_log")
    }
    accepted = {key: value for key, value in simple.items() if key not in ("seed", "_init_setup_model")}
    if model_type == "PPO":
        accepted = {key: value for key, value in accepted.items() if key in PPOSettings.model_fields}
    [name, *_] = POLICIES[model_type]
    rl = {"device": "cpu", "model_type": model_type, "policy_type": name, "net_arch": [8]}
    settings = checked(rl_config=rl, model_training_parameters=accepted)
    assert model_type == "PPO" or settings.other_algorithm_kwargs == accepted


@pytest.mark.parametrize(
    ("key", "value"), [("precision", "bf16"), ("compile", True), ("initial_exit_probability", 0.2)]
)
def test_what_only_ppo_can_do_is_refused_for_other_algorithms(key: str, value: Any) -> None:
    message = refusal(rl_config={"device": "cpu", "model_type": "A2C", key: value})
    assert message.startswith(f"freqai.rl_config.{key} is {value!r}; accepted: ")
    assert "with A2C" in message


@pytest.mark.parametrize("model_type", POLICIES)
def test_no_argument_of_an_algorithm_is_taken_for_a_key_that_nothing_reads(model_type: str) -> None:
    arguments = dict.fromkeys(set(inspect.signature(algorithm_class(model_type)).parameters) - _OWNED_ARGUMENTS, 1)
    freqai = {"rl_config": {"model_type": model_type}, "model_training_parameters": arguments}
    unread = unread_keys(freqai)["model_training_parameters"]
    # PPO's arguments that are no setting of this package.
    assert set(unread) == ({"use_sde", "sde_sample_freq"} if model_type == "PPO" else set())


def test_more_folds_than_a_period_has_candles_for_are_refused_before_any_are_loaded() -> None:
    rl = {"device": "cpu", "evaluation_folds": 40}
    message = refusal(rl_config=rl)
    assert message.startswith("freqai.rl_config.evaluation_folds is 40, with which a training needs 8796 candles")
    assert "an embargo of 97, conv_width + max_trade_duration_candles" in message
    assert "the 8640 candles of 5m in freqai.train_period_days 30" in message
    assert checked(rl_config=rl, train_period_days=60).rl.evaluation_folds == 40


def test_a_guard_on_a_short_period_is_refused_with_the_candles_that_it_needs() -> None:
    message = refusal(rl_config={"device": "cpu", "fallback": "classic"}, train_period_days=3)
    # Two halves of a tenth: each an episode of 3 candles, and 97 between them.
    assert message.startswith("freqai.rl_config.fallback is 'classic', with which a training needs 2002 candles")
    assert "the 864 candles of 5m in freqai.train_period_days 3" in message
    assert checked(rl_config={"device": "cpu", "fallback": "classic"}).rl.fallback == "classic"


@pytest.mark.parametrize(
    ("freqai", "said"),
    [
        ({"train_cycles": 5}, "freqai.train_cycles is 5, and nobody reads it there; accepted: freqai.rl_config.train"),
        ({"n_steps": 64}, "freqai.n_steps is 64, and nobody reads it there; accepted: freqai.rl_config.n_steps"),
        ({"test_size": 0.3}, "freqai.test_size is 0.3, and nobody reads it there; accepted: freqai.data_split_param"),
        ({"weight_factor": 1}, "freqai.weight_factor is 1, and nobody reads it there; accepted: freqai.feature_par"),
        ({"model_reward_parameters": {"rr": 3}}, "; accepted: freqai.rl_config.model_reward_parameters; remedy"),
    ],
)
def test_a_setting_in_another_section_is_refused_with_the_one_that_it_stands_in(freqai: Any, said: str) -> None:
    assert said in refusal(**freqai)


def test_a_section_of_freqai_beside_it_is_refused() -> None:
    config = {"timeframe": "5m", "rl_config": {"train_cycles": 9}, "seed": 3, "freqai": copy.deepcopy(FREQAI)}
    with pytest.raises(
        OperationalException, match=r"rl_config is .*nobody reads it there; accepted: freqai.rl_config;"
    ):
        checked_settings(config)
    features = {**FREQAI["feature_parameters"], "conv_width": 5, "my_own": 3}
    assert "freqai.feature_parameters.conv_width is 5" in refusal(feature_parameters=features)


def in_mode(runmode: RunMode, **rl: Any) -> Any:
    freqai = {**copy.deepcopy(FREQAI), "rl_config": {"device": "cpu", **rl}}
    return checked_settings({"timeframe": "5m", "freqai": freqai, "runmode": runmode})


@pytest.mark.parametrize(
    ("rl", "said"),
    [
        ({"executor": "ray"}, "executor is 'ray', which only backtests use: a bot trains on its own machine"),
        (
            {"executor": "population", "vec_env": "torch", "activation": "tanh"},
            "executor is 'population', which only backtests use",
        ),
        ({"threads_per_job": 3}, "threads_per_job is 3, and this machine has 2 processors; accepted: 1 to 2 here"),
    ],
)
def test_a_bot_is_told_of_what_is_a_backtests_which_is_refused_where_it_cannot_be(
    rl: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mtfscalper.executors.ray_cluster.find_spec", lambda _: None)
    for module in ("threads", "choice"):
        monkeypatch.setattr(f"mtfscalper.executors.{module}.usable_processors", lambda: 2)
    in_mode(RunMode.DRY_RUN, **rl)
    [line] = caplog.messages
    assert said in line
    key = next(iter(rl))
    with pytest.raises(OperationalException, match=f"freqai.rl_config.{key} is .*; accepted: .*; remedy: "):
        in_mode(RunMode.BACKTEST, **rl)
    in_mode(RunMode.BACKTEST, threads_per_job=2)
    assert len(caplog.messages) == 1


def test_the_nodes_of_another_cluster_may_have_more_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtfscalper.executors.ray_cluster.find_spec", lambda _: object())
    monkeypatch.setattr("mtfscalper.executors.threads.usable_processors", lambda: 2)
    in_mode(RunMode.BACKTEST, executor="ray", ray_address="auto", threads_per_job=8)
    with pytest.raises(OperationalException, match="threads_per_job is 8, and this machine has 2 processors"):
        in_mode(RunMode.BACKTEST, executor="ray", threads_per_job=8)
