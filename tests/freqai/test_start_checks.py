"""What stops a run at its start, and what it is warned of."""

import copy
import logging
from typing import Any

import pytest
import torch
from freqtrade.exceptions import OperationalException

from mtfscalper.freqai import start_checks
from mtfscalper.freqai.start_checks import checked_settings, misspelt_keys

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
    assert refusal(backtest_period_days=days).startswith(
        f"freqai.backtest_period_days is {days!r}; accepted: number in"
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
