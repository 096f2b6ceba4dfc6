"""Where trainings run retrains nothing; with how many threads does."""

from __future__ import annotations

from typing import Any

import pytest
from builders import make_settings
from tiny_training import tiny_settings

from mtfscalper.freqai.fingerprint import run_fingerprint
from mtfscalper.freqai.strategy_rules import UserParts

FREQAI = {"feature_parameters": {}, "data_split_parameters": {}}


def fingerprint(**rl: Any) -> dict[str, str]:
    rules = make_settings("gated").rules
    return run_fingerprint("", tiny_settings(**rl), UserParts((), None), rules, FREQAI, UserParts)


@pytest.mark.parametrize(
    "rl",
    [
        {"executor": "processes"},
        {"executor": "processes", "workers": 3},
        {"executor": "ray"},
        {"live_training": "thread"},
        {"executor": "ray", "ray_address": "10.0.0.1:6379"},
    ],
)
def test_where_trainings_run_is_no_part_of_what_a_policy_is_known_by(rl: dict[str, Any]) -> None:
    assert fingerprint(**rl) == fingerprint()
    assert fingerprint(threads_per_job=1, **rl) == fingerprint(threads_per_job=1)


def test_another_executor_of_the_same_device_is_none_either() -> None:
    assert fingerprint(vec_env="torch", executor="population") == fingerprint(vec_env="torch")


def test_threads_are_as_they_are_written() -> None:
    assert fingerprint(threads_per_job=1) != fingerprint()
    assert fingerprint(threads_per_job=2) != fingerprint(threads_per_job=1)


def test_what_freqai_only_shows_is_none() -> None:
    def of(**parameters: Any) -> dict[str, str]:
        freqai = {**FREQAI, "feature_parameters": parameters}
        return run_fingerprint(
            "", tiny_settings(), UserParts((), None), make_settings("gated").rules, freqai, UserParts
        )

    assert of(plot_feature_importances=3) == of()
    assert of(indicator_periods_candles=[3]) != of()
