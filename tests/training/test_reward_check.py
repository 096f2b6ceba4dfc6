"""A reward that disagrees with profit is warned about before training."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.reward_check import check_reward, reward_profit_correlation

TAPE = random_tape(2000)


def settings_with(**reward: Any) -> EnvSettings:
    return replace(env_settings_of(tiny_settings(entry_mode="agent")), reward=RewardSettings(**reward))


@pytest.mark.parametrize("weight", [1.0, 100.0])
def test_profit_as_the_only_reward_agrees_with_itself(weight: float) -> None:
    assert reward_profit_correlation(TAPE, settings_with(equity_weight=weight), seed=1) == 1.0


def test_a_little_shaping_leaves_the_ranks_nearly_as_they_are() -> None:
    settings = settings_with(equity_weight=100.0, duration_weight=0.001)
    assert 0.95 < reward_profit_correlation(TAPE, settings, seed=1) < 1.0


def test_a_reward_for_losing_ranks_the_other_way_round() -> None:
    assert reward_profit_correlation(TAPE, settings_with(equity_weight=-1.0), seed=1) == pytest.approx(-1.0)


def test_a_disagreeing_reward_is_warned_about_at_training_start(caplog: pytest.LogCaptureFixture) -> None:
    # Pays for holding, whatever it costs.
    settings = settings_with(equity_weight=0.0, duration_weight=-1.0)
    with caplog.at_level(logging.INFO):
        _, report = TrainingJob(tiny_settings(entry_mode="agent"), TAPE, None, settings).run()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "duration_weight -1" in warnings[0]
    assert "Raise equity_weight" in warnings[0]
    assert report.reward_profit_correlation < 0.5


def test_an_agreeing_reward_is_reported_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "mtfscalper"):
        assert check_reward(TAPE, settings_with(), seed=1) == 1.0
    assert "rank alike (1.00; equity_weight 1)" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_the_same_seed_gives_the_same_correlation() -> None:
    settings = settings_with(drawdown_weight=0.5)
    assert reward_profit_correlation(TAPE, settings, seed=3) == reward_profit_correlation(TAPE, settings, seed=3)
