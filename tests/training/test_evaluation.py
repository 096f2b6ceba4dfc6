"""The policy that comes back is the best by evaluation, and nothing is evaluated twice."""

import math
from dataclasses import replace
from typing import Any

import pytest
from stable_baselines3.common.base_class import BaseAlgorithm
from tiny_training import ROLLOUT, env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.policy import closed_loop
from mtfscalper.training.evaluation import Evaluation, evaluate
from mtfscalper.training.job import TrainingJob


class ScriptedEvaluation:
    """Stands in for ``evaluate``: gives known values, and remembers the parameters it was asked about."""

    def __init__(self, *log_returns: float) -> None:
        self.log_returns = list(log_returns)
        self.seen: list[dict[str, Any]] = []
        self.timesteps: list[int] = []

    def __call__(self, model: BaseAlgorithm, *_: Any) -> Evaluation:
        self.seen.append(parameters(model))
        self.timesteps.append(model.num_timesteps)
        log_return = self.log_returns[len(self.seen) - 1]
        return Evaluation(model.num_timesteps, log_return, 1, 1.0, 0.0)


@pytest.mark.parametrize(
    ("log_returns", "best"),
    [
        ((-0.4, 0.5, 0.2, 0.3), 1),
        ((0.9, 0.5, 0.2, 0.3), 0),
        ((-0.4, -0.3, -0.2, -0.1), 3),
        # Of equals the later one, which has seen more.
        ((0.0, 0.7, 0.7, 0.1), 2),
    ],
)
def test_the_parameters_of_the_best_evaluation_come_back(
    monkeypatch: pytest.MonkeyPatch, log_returns: tuple[float, ...], best: int
) -> None:
    script = ScriptedEvaluation(*log_returns)
    monkeypatch.setattr("mtfscalper.training.evaluation.evaluate", script)
    settings = tiny_settings()
    model, report = TrainingJob(settings, random_tape(), random_tape(80, seed=2), env_settings_of(settings)).run()
    assert [same(parameters(model), seen) for seen in script.seen] == [index == best for index in range(4)]
    assert report.best_evaluation == report.evaluations[best]


def test_every_update_is_evaluated_once_and_the_untrained_policy_never(monkeypatch: pytest.MonkeyPatch) -> None:
    script = ScriptedEvaluation(*[0.0] * 10)
    monkeypatch.setattr("mtfscalper.training.evaluation.evaluate", script)
    settings = tiny_settings()
    _, report = TrainingJob(settings, random_tape(), random_tape(80, seed=2), env_settings_of(settings)).run()
    assert script.timesteps == [ROLLOUT, 2 * ROLLOUT, 3 * ROLLOUT, 4 * ROLLOUT]
    assert [result["timesteps"] for result in report.evaluations] == script.timesteps
    assert len([phase for phase in report.phases if phase[0] == "update"]) == 4
    for earlier, later in zip(script.seen, script.seen[1:], strict=False):
        assert not same(earlier, later)


def test_an_evaluation_plays_each_segment_once_and_adds_up_what_the_environment_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = random_tape(800, seed=3)
    held_out = whole.rows(0, 600)
    # A gap after candle 300: an hour is missing.
    dates = held_out.dates_ms.copy()
    dates[300:] += 3_600_000
    held_out = type(held_out)(**{**vars(held_out), "dates_ms": dates, "segments": ((0, 300), (300, 600))})
    settings = tiny_settings(entry_mode="agent", train_cycles=3, learning_rate=0.01, initial_exit_probability=0.3)
    env_settings = env_settings_of(settings)
    model, _ = TrainingJob(settings, random_tape(), None, env_settings).run()

    played = []
    real = closed_loop.run

    def counted(decider: Any, tape: Any, *arguments: Any, **keywords: Any) -> Any:
        played.append(len(tape))
        return real(decider, tape, *arguments, **keywords)

    monkeypatch.setattr(closed_loop, "run", counted)
    result = evaluate(model, held_out, env_settings)
    assert played == [300, 300]

    env = TradingEnv(held_out, replace(env_settings, record_trades=True))
    model.policy.features_extractor.set_features(held_out.features)
    log_return, profits = 0.0, []
    for _ in range(2):
        observation, _ = env.reset()
        over = False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, _, terminated, over, info = env.step(action)
            assert not terminated
        profits += [trade.profit_ratio for trade in info["trades"]]
        log_return += math.log(info["final_equity"])
    assert len(profits) > 8
    assert result.trades == len(profits)
    assert result.log_return == pytest.approx(log_return, abs=1e-12)
    assert result.win_ratio == pytest.approx(sum(profit > 0 for profit in profits) / len(profits))
    assert result.timesteps == model.num_timesteps


@pytest.mark.parametrize("held_out", [None, 2])
def test_without_enough_held_out_candles_the_last_policy_comes_back(
    held_out: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tiny_settings()
    tape = None if held_out is None else random_tape(held_out, seed=2)
    with caplog.at_level("INFO"):
        model, report = TrainingJob(settings, random_tape(), tape, env_settings_of(settings)).run()
    assert "No evaluation" in caplog.text
    assert report.evaluations == []
    assert report.best_evaluation is None
    assert model.num_timesteps == 4 * ROLLOUT
