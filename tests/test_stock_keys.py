"""Keys of public configs: told of once, or refused with what stands in their place."""

import inspect
from typing import Any

import pytest
from stable_baselines3 import PPO

from mtfscalper import stock_keys
from mtfscalper.freqai_settings import FreqaiSettings
from mtfscalper.settings import PPOSettings, RLSettings, Settings, SettingsError
from mtfscalper.stock_keys import REWARD_SECTION, unread_keys
from mtfscalper.trading.reward import RewardSettings


def refusal(**freqai: Any) -> str:
    with pytest.raises(SettingsError) as error:
        Settings.from_config({"freqai": freqai})
    return str(error.value)


def reward_refusal(key: str, value: Any) -> str:
    message = refusal(rl_config={"model_reward_parameters": {key: value}})
    assert message.startswith(f"{REWARD_SECTION}.{key} is {value!r}, an unknown key; accepted: drawdown_weight, ")
    assert "\n" not in message
    return message.split("remedy: ")[1]


STOCK: dict[str, Any] = {
    "train_cycles": 25,
    "thread_count": 2,
    "continual_learning": False,
    "multiprocessing": True,
    "frame_stacking": 2,
    "check_envs": True,
    "leverage": 10.0,
    "liquidation_buffer": 0.025,
    "n_eval_envs": 1,
}


def test_keys_that_nothing_reads_leave_the_settings_as_they_are() -> None:
    assert Settings.from_config({"freqai": {"rl_config": STOCK}}) == Settings.from_config(
        {"freqai": {"rl_config": {"train_cycles": 25}}}
    )
    unread = unread_keys({"rl_config": STOCK})["rl_config"]
    assert set(unread) == set(STOCK) - {"train_cycles"}
    assert unread["thread_count"] == "freqai.rl_config.cpu_count"
    assert unread["continual_learning"] == "freqai.continual_learning"
    assert unread["multiprocessing"] == "freqai.rl_config.vec_env"


@pytest.mark.parametrize(("key", "meant"), [("train_cycels", "train_cycles"), ("cpu_counts", "cpu_count")])
def test_a_misspelt_key_stays_an_error(key: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refusal(rl_config={key: 5})


def test_no_key_that_is_read_stands_among_those_that_are_not() -> None:
    read = {*RLSettings.model_fields, *PPOSettings.model_fields}
    assert not read & {*stock_keys._NEAREST, *stock_keys._OTHER_ARGUMENTS}
    assert not set(RewardSettings.model_fields) & {*stock_keys._NEAREST}


def test_what_is_named_as_nearest_is_there() -> None:
    known = {f"freqai.rl_config.{key}" for key in (*RLSettings.model_fields, *PPOSettings.model_fields)}
    known |= {f"freqai.{key}" for key in FreqaiSettings.model_fields}
    known |= {"freqai.data_split_parameters.test_size"}
    freqais_own = {"freqai.live_retrain_hours", "freqai.expiration_hours", "freqai.purge_old_models"}
    for key, nearest in stock_keys._NEAREST.items():
        place = nearest.split()[0].rstrip(",;")
        assert not place.startswith("freqai.") or place in known | freqais_own, key


@pytest.mark.parametrize(
    ("key", "value"),
    [("device", "cpu"), ("seed", 7), ("net_arch", [16, 8]), ("activation", "tanh"), ("policy_type", "MlpPolicy")],
)
@pytest.mark.parametrize("model_type", ["PPO", "A2C"])
def test_a_setting_among_the_arguments_of_an_algorithm_is_understood(model_type: str, key: str, value: Any) -> None:
    settings = Settings.from_config(
        {"freqai": {"rl_config": {"model_type": model_type}, "model_training_parameters": {key: value}}}
    )
    assert getattr(settings.rl, key) == (tuple(value) if isinstance(value, list) else value)
    assert settings.other_algorithm_kwargs == {}
    # In two places with two values it is neither.
    other = {"device": "auto", "seed": 8, "net_arch": [4], "activation": "elu", "policy_type": "Mlp"}[key]
    message = refusal(
        rl_config={"model_type": model_type, key: other}, model_training_parameters={key: value}
    ).splitlines()[0]
    assert message.startswith(f"freqai.rl_config.{key} is {other!r} and freqai.model_training_parameters.{key} is ")


def test_a_wrong_setting_among_the_arguments_is_named_where_it_stands() -> None:
    assert refusal(model_training_parameters={"seed": -1}).startswith("freqai.model_training_parameters.seed is -1")


def test_verbose_is_an_argument_of_ppo_and_a_path_for_tensorboard_is_told_of() -> None:
    config = {"freqai": {"model_training_parameters": {"verbose": 1, "tensorboard_log": "./tensorboard"}}}
    assert Settings.from_config(config).ppo.verbose == 1
    nearest = unread_keys(config["freqai"])["model_training_parameters"]
    assert set(nearest) == {"tensorboard_log"}
    assert nearest["tensorboard_log"].startswith("freqai.activate_tensorboard")


def test_arguments_of_another_algorithm_are_read_with_it_and_told_of_with_ppo() -> None:
    arguments = {"buffer_size": 1000, "tau": 0.5}
    assert set(unread_keys({"model_training_parameters": arguments})["model_training_parameters"]) == set(arguments)
    section = {"rl_config": {"model_type": "DQN"}, "model_training_parameters": arguments}
    assert unread_keys(section)["model_training_parameters"] == {}
    assert Settings.from_config({"freqai": section}).other_algorithm_kwargs == arguments


def test_no_argument_of_ppo_is_taken_for_a_key_that_nothing_reads() -> None:
    handed_on = set(inspect.signature(PPO.__init__).parameters) & set(PPOSettings.model_fields)
    assert unread_keys({"model_training_parameters": dict.fromkeys(handed_on, 1)})["model_training_parameters"] == {}


@pytest.mark.parametrize(
    ("key", "value", "weight"),
    [
        ("idle_penalty", -1, "'idle_weight': 1 for idle_penalty -1"),
        ("neutral_penalty", -0.5, "'idle_weight': 0.5 for neutral_penalty -0.5"),
        ("invalid_action_penalty", -2, "'invalid_weight': 2 for invalid_action_penalty -2"),
        ("hold_penalty_factor", 1, "'duration_weight': 1 for hold_penalty_factor 1"),
    ],
)
def test_a_penalty_is_refused_with_the_weight_that_is_as_much_and_the_sign_is_explained(
    key: str, value: Any, weight: str
) -> None:
    remedy = reward_refusal(key, value)
    assert remedy.startswith("the reward here is a sum of terms, each with its weight, in docs/reference/reward.md: ")
    assert "so that a weight above 0 punishes, whatever sign the penalty had" in remedy
    assert remedy.endswith(f"write {weight}")
    name, _, number = weight.partition(": ")
    accepted = {name.strip("'"): float(number.split()[0])}
    Settings.from_config({"freqai": {"rl_config": {"model_reward_parameters": accepted}}})


@pytest.mark.parametrize(
    ("key", "value", "counterpart"),
    [
        ("idle_penalty_ratio", 0.0, "'idle_weight'"),
        ("dd_penalty", 0.02, "'drawdown_weight'"),
        ("max_drawdown_penalty_factor", 1.5, "'drawdown_weight'"),
        ("time_penalty", 0.0001, "'duration_weight'"),
        ("efficiency_weight", 1.0, "'timing_weight'"),
        ("base_factor", 100.0, "'profit_quality_weight'"),
        ("tier_multipliers", {"small_win": 8}, "'profit_quality_weight'"),
        ("max_dd_penalty", 0.5, "'drawdown_weight'"),
        ("exitBonus", 0.5, "'profit_quality_weight'"),
        ("liquidation_penalty", -1000.0, "`terms`"),
        # A word within another is another.
        ("sentiment_bonus", 0.5, "`terms`"),
        ("volatility_window", 20, "`terms`"),
        ("reward_threshold", 0.5, "`terms`"),
        ("add_bonus", 0.5, "`terms`"),
        ("max_trade_duration_candles", 96, "freqai.rl_config.max_trade_duration_candles: move it there"),
    ],
)
def test_another_public_name_of_a_reward_is_refused_with_its_counterpart(
    key: str, value: Any, counterpart: str
) -> None:
    assert counterpart in reward_refusal(key, value)


def test_every_counterpart_is_a_key_of_the_reward() -> None:
    assert {counterpart.key for counterpart in stock_keys._COUNTERPARTS} <= set(RewardSettings.model_fields)


@pytest.mark.parametrize(
    ("key", "meant"), [("equity_wieght", "equity_weight"), ("win_reward_facto", "win_reward_factor")]
)
def test_a_misspelt_name_of_the_reward_here_is_not_taken_for_another_rewards(key: str, meant: str) -> None:
    assert reward_refusal(key, 1.0) == f"did you mean {meant!r}?"
