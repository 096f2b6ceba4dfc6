"""TensorBoard's files, read back as TensorBoard reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tiny_training import ROLLOUT, env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.training.curves import action_counts
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.watching import TrainingState

# The three ways in which rollouts are collected, and stable-baselines3's own network.
WAYS: dict[str, dict[str, Any]] = {
    "dummy": {"vec_env": "dummy"},
    "batched": {"vec_env": "batched"},
    "torch": {"vec_env": "torch"},
    "own update": {"vec_env": "batched", "activation": "tanh"},
}


class Trained:
    """A training of four rollouts and what it wrote."""

    def __init__(self, folder: Path, **rl: Any) -> None:
        settings = tiny_settings(train_cycles=1, **rl)
        job = TrainingJob(settings, random_tape(200), random_tape(150, 2), env_settings_of(settings))
        self.states: list[TrainingState] = []
        self.seen: list[Evaluation | None] = []
        self.job = replace(job, tensorboard_dir=folder, period="2024-10-01")
        self.model, self.report = self.job.run(self.seen.append, self.states.append)
        [self.run] = folder.iterdir()
        self.events = EventAccumulator(str(self.run)).Reload()

    def points(self, tag: str) -> dict[int, float]:
        return {event.step: event.value for event in self.events.Scalars(tag)}

    @property
    def tags(self) -> list[str]:
        return list(self.events.Tags()["scalars"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trained]:
    known: dict[str, Trained] = {}

    def get(way: str) -> Trained:
        if way not in known:
            known[way] = Trained(tmp_path_factory.mktemp("board"), **WAYS[way])
        return known[way]

    return get


STEPS = [ROLLOUT * rollout for rollout in (1, 2, 3, 4)]


@pytest.mark.parametrize("way", WAYS)
def test_every_evaluation_stands_at_its_own_timestep_the_last_one_too(
    trained: Callable[[str], Trained], way: str
) -> None:
    training = trained(way)
    assert [evaluation["timesteps"] for evaluation in training.report.evaluations] == STEPS
    for name in ("log_return", "trades", "win_ratio"):
        wanted = {int(one["timesteps"]): one[name] for one in training.report.evaluations}
        assert training.points(f"eval/{name}") == pytest.approx(wanted)
    assert list(training.points("train/entropy_loss")) == STEPS
    best = training.report.best_evaluation
    assert best is not None
    assert training.points("best/log_return")[STEPS[-1]] == pytest.approx(best["log_return"])


@pytest.mark.parametrize("way", WAYS)
def test_shares_are_of_all_there_is(trained: Callable[[str], Trained], way: str) -> None:
    training = trained(way)
    for folder, n_parts in (("actions/", 5), ("time/", 3), ("exits/", 7)):
        tags = [tag for tag in training.tags if tag.startswith(folder) and tag != "time/fps"]
        assert len(tags) == n_parts, tags
        parts = [training.points(tag) for tag in tags]
        for step in parts[0]:
            assert sum(part[step] for part in parts) == pytest.approx(1.0, abs=1e-5)
        # An evaluation without trades has no exits to tell of.
        assert set(parts[0]) <= set(STEPS)
    assert list(training.points("actions/neutral")) == STEPS
    assert list(training.points("time/update_share")) == STEPS


@pytest.mark.parametrize("way", WAYS)
def test_rewards_are_those_of_each_rollout(trained: Callable[[str], Trained], way: str) -> None:
    training = trained(way)
    by_rollout = training.points("reward/equity")
    assert list(by_rollout) == STEPS
    # Means of rollouts of one size: they add up to the whole training's sum, as a running mean would not.
    total = training.report.reward_terms["equity"]
    assert total != 0
    assert sum(by_rollout.values()) * ROLLOUT == pytest.approx(total, rel=1e-4)
    assert training.points("rollout/reward") == pytest.approx(by_rollout)


def test_trades_are_as_long_as_they_were_held_and_end_as_they_ended(trained: Callable[[str], Trained]) -> None:
    alone = trained("batched")
    [*_, last] = [evaluation for evaluation in alone.seen if evaluation is not None]
    assert last.trades
    assert sum(last.exits) == last.trades
    assert alone.points("eval/trade_candles")[STEPS[-1]] == pytest.approx(last.held_candles)
    [*_, last] = [evaluation for evaluation in trained("torch").seen if evaluation is not None]
    assert last.trades
    assert sum(last.exits) == last.trades
    assert last.held_candles > 0


@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_named_by_its_period_and_tells_its_settings(trained: Callable[[str], Trained], way: str) -> None:
    training = trained(way)
    assert training.run.name == "2024-10-01_1"
    content = training.events.summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    told = metadata.parse_session_start_info_plugin_data(content).hparams
    assert told["seed"].number_value == 42
    assert told["learning_rate"].number_value == pytest.approx(0.0003)
    assert told["pair"].string_value == "BTC/USDT:USDT"
    assert told["equity_weight"].number_value == training.job.env.reward.equity_weight


@pytest.mark.parametrize("way", WAYS)
def test_a_watch_is_told_of_beginning_updates_and_end(trained: Callable[[str], Trained], way: str) -> None:
    states = trained(way).states
    assert (states[0].timesteps, states[0].timesteps_planned) == (0, STEPS[-1])
    updates = [state for state in states if state.updated]
    assert [state.timesteps for state in updates] == STEPS
    assert all(state.entropy is not None and 0 < state.entropy < np.log(5) for state in updates)
    evaluations = [state.evaluation.log_return for state in updates if state.evaluation is not None]
    assert evaluations == [one["log_return"] for one in trained(way).report.evaluations]
    assert {state.name for state in states} == {"BTC/USDT:USDT 2024-10-01"}


@pytest.mark.parametrize("way", ["batched", "torch"])
def test_whoever_looks_on_changes_nothing_of_what_is_learned(trained: Callable[[str], Trained], way: str) -> None:
    watched = trained(way)
    alone, _ = replace(watched.job, tensorboard_dir=None).run()
    assert same(parameters(watched.model), parameters(alone))


def test_what_is_printed_has_evaluations_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tiny_settings(verbose=1)
    job = TrainingJob(settings, random_tape(200), random_tape(150, 2), env_settings_of(settings))
    replace(job, tensorboard_dir=tmp_path).run()
    assert capsys.readouterr().out.count("log_return") == len(STEPS) * 2


def test_an_algorithm_that_updates_every_few_steps_writes_as_often_as_it_is_evaluated(tmp_path: Path) -> None:
    training = Trained(tmp_path, vec_env="batched", model_type="A2C")
    evaluations = [int(one["timesteps"]) for one in training.report.evaluations]
    assert list(training.points("eval/log_return")) == evaluations
    assert len(training.points("train/entropy_loss")) <= len(evaluations) + 1


def test_actions_are_counted_by_their_numbers() -> None:
    assert action_counts(np.array([[0, 4], [4, 1]])).tolist() == [1, 1, 0, 0, 2]


def test_what_a_training_plans_is_whole_rollouts() -> None:
    assert TrainingReport("P", "PPO", 200, rollout_timesteps=64).timesteps_planned == 256
    assert TrainingReport("P", "DQN", 200).timesteps_planned == 200
