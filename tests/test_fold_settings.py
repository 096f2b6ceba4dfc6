"""Folds and the guard in the config: what can be, and what cannot."""

from __future__ import annotations

from typing import Any

import pytest

from mtfscalper.market.folds import FoldPlan
from mtfscalper.settings import Settings, SettingsError

SPLIT = "data_split_parameters"


def parse(rl: dict[str, Any], **freqai: Any) -> Settings:
    return Settings.from_config({"freqai": {**freqai, "rl_config": rl}})


def test_without_them_nothing_is_cut() -> None:
    settings = parse({})
    assert settings.fold_plan is None
    assert (settings.rl.fallback, settings.rl.evaluation_folds, settings.rl.evaluation_mode) == (None, None, "mean")


@pytest.mark.parametrize(
    ("rl", "plan"),
    [
        ({"evaluation_folds": 5}, FoldPlan(0.1, 5, False, 3 + 96)),
        ({"fallback": "classic"}, FoldPlan(0.1, None, True, 3 + 96)),
        ({"fallback": "classic", "evaluation_folds": 4, "max_trade_duration_candles": 10}, FoldPlan(0.1, 4, True, 13)),
    ],
)
def test_the_embargo_is_the_lookback_and_the_longest_duration(rl: dict[str, Any], plan: FoldPlan) -> None:
    settings = parse(rl, conv_width=3)
    assert settings.fold_plan == plan
    assert settings.candles_needed == plan.candles_needed(5)


@pytest.mark.parametrize(
    "folds", [{"evaluation_folds": 3}, {"fallback": "classic"}, {"fallback": "classic", "evaluation_folds": 4}]
)
@pytest.mark.parametrize(
    ("freqai", "key"),
    [
        ({SPLIT: {"test_size": 0}}, "test_size"),
        ({"continual_learning": True}, "continual_learning"),
        ({SPLIT: {"train_size": 0.5}}, "train_size"),
        ({"feature_parameters": {"reverse_train_test_order": True}}, "reverse_train_test_order"),
    ],
)
def test_what_folds_cannot_be_with_is_refused_in_one_message(
    folds: dict[str, Any], freqai: dict[str, Any], key: str
) -> None:
    with pytest.raises(SettingsError) as error:
        parse(folds, **freqai)
    message = str(error.value)
    assert message.count("\n") == 0
    assert key in message
    assert all(f"freqai.rl_config.{name} is {value!r}" in message for name, value in folds.items())
    assert "; accepted: " in message
    assert "; remedy: " in message
    # Each alone is accepted.
    parse({}, **freqai)


@pytest.mark.parametrize(
    ("rl", "accepted"),
    [
        ({}, "at least 2, for one"),
        ({"fallback": "classic"}, "at least 4, half of which judge"),
        ({"fallback": "classic", "evaluation_folds": 3}, "at least 4, half of which judge"),
    ],
)
def test_a_lower_end_needs_more_than_one_stretch(rl: dict[str, Any], accepted: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse(rl | {"evaluation_mode": "lower"})
    assert str(error.value).count("\n") == 0
    assert accepted in str(error.value)


@pytest.mark.parametrize("rl", [{"evaluation_folds": 2}, {"fallback": "classic", "evaluation_folds": 4}])
def test_a_lower_end_of_two_stretches_is_accepted(rl: dict[str, Any]) -> None:
    assert parse(rl | {"evaluation_mode": "lower"}).rl.evaluation_mode == "lower"
