"""What a training needs at least, against what a machine has."""

from typing import Any

import pytest

from mtfscalper.settings import Settings, SettingsError
from mtfscalper.training.memory import check_memory, memory_needed

GB = 1_000_000_000


def settings(conv_width: int = 1, **rl: Any) -> Settings:
    return Settings.from_config({"freqai": {"conv_width": conv_width, "rl_config": rl}})


def needed(keys: Settings, n_features: int = 1) -> dict[str, int]:
    return {need.key: need.n_bytes for need in memory_needed(keys, n_features)}


def test_the_figures_are_those_worked_out_by_hand() -> None:
    """Two layers of 10 and 20, a lookback of 3 candles of 4 features, 6 numbers of the account, 5 actions."""
    by_key = needed(settings(3, net_arch=[10, 20], n_envs=2, n_steps=100, batch_size=50), n_features=4)
    # 6 x 10 + 10, 10 x 20 + 20, 20 x 5 + 5, for two networks; itself, gradient, two moments, the best.
    weights = 2 * (70 + 220 + 105) * 5
    # Outputs and gradients of 50 samples in both networks.
    outputs = 50 * 2 * (10 + 20) * 2
    n_account = 6
    assert by_key["freqai.rl_config.net_arch"] == 4 * (weights + outputs)
    assert by_key["freqai.conv_width"] == 4 * (2 * 12 * 10 * 5 + 50 * 12)
    # Twice: row and account, six float32 and an action of eight bytes.
    assert by_key["freqai.rl_config.n_steps"] == 2 * 200 * (4 * (1 + n_account) + 6 * 4 + 8)
    assert by_key["freqai.rl_config.ensemble"] == 0


def test_members_that_wait_for_the_last_one_are_counted() -> None:
    by_key = needed(settings(3, net_arch=[10, 20], ensemble=5), n_features=4)
    # As above, and 12 numbers of the lookback into the 10 of the first layer; itself and two moments.
    assert by_key["freqai.rl_config.ensemble"] == 4 * 4 * 3 * 2 * (70 + 220 + 105 + 12 * 10)


def test_the_shipped_settings_need_less_than_a_gigabyte() -> None:
    assert sum(needed(settings(30), n_features=60).values()) < GB


@pytest.mark.parametrize(
    ("keys", "key", "received", "remedy"),
    [
        ({"n_steps": 1_000_000_000}, "freqai.rl_config.n_steps", "1000000000", "lower n_steps, n_envs"),
        ({"net_arch": [10_000_000]}, "freqai.rl_config.net_arch", "[10000000]", "lower net_arch, net_arch_value or"),
        ({"net_arch": [5_000_000], "ensemble": 64}, "freqai.rl_config.ensemble", "64", "lower ensemble, net_arch"),
        ({"conv_width": 100_000_000}, "freqai.conv_width", "100000000", "lower conv_width, net_arch or the number"),
    ],
)
def test_a_training_that_cannot_fit_is_refused_with_the_setting_that_needs_most(
    keys: dict[str, Any], key: str, received: str, remedy: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        check_memory(settings(**keys), 32 * GB)
    message = str(caught.value)
    assert message.startswith(f"{key} is {received}, with which ")
    assert "accepted: a training within the 32.0 GB that this machine has; remedy: " in message
    assert remedy in message


def test_many_features_count() -> None:
    keys = settings(1000)
    check_memory(keys, 4 * GB)
    with pytest.raises(SettingsError, match=r"conv_width is 1000, with which reading it, for 1000 or more features"):
        check_memory(keys, 4 * GB, n_features=1000)


def test_another_algorithms_rollout_counts_whole_lookbacks() -> None:
    keys = Settings.from_config(
        {
            "freqai": {
                "conv_width": 100,
                "rl_config": {"model_type": "A2C", "n_envs": 4},
                "model_training_parameters": {"n_steps": 10},
            }
        }
    )
    by_key = needed(keys, n_features=5)
    assert by_key["freqai.model_training_parameters.n_steps"] == 10 * 4 * (500 + 6) * 4
