"""vec_env 'auto' measures, chooses the fastest, remembers, and leaves learning as it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.training import vec_env_choice
from mtfscalper.training.fit import network_arguments
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.vec_env_choice import CANDIDATES, Measured, cache_path, fastest_environments, measure

RATES = {"batched": 900.0, "dummy": 1200.0, "subproc": 300.0}
# Of each number of environments, how many times as fast "batched" is; the others gain nothing.
GAINS = {8: 1.0, 16: 2.0, 32: 3.9, 64: 4.2}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the clock by known rates; lists which backends were timed."""
    asked: list[str] = []

    def known_rate(name: str, _tape: Any, _settings: Any, n_envs: int, *_: Any, **__: Any) -> Measured | None:
        asked.append(name)
        gain = GAINS.get(n_envs, 1.0) if name == "batched" else 1.0
        return Measured(name, n_envs, gain * RATES[name], 0.1) if name in RATES else None

    monkeypatch.setattr(vec_env_choice, "measure", known_rate)
    return asked


def choose(**rl: Any) -> str:
    return chosen(**rl).vec_env


def chosen(**rl: Any) -> Measured:
    settings = tiny_settings(**{"vec_env": "auto", **rl})
    return fastest_environments(settings, random_tape(), env_settings_of(settings), network_arguments(settings, 4))


def test_the_fastest_is_chosen_and_every_figure_is_logged(
    measured: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert choose() == "dummy"
    assert tuple(measured) == CANDIDATES
    assert "takes 'dummy' (measured now)" in caplog.text
    assert "1,200 steps/s" in caplog.text
    assert "300 steps/s" in caplog.text


def test_a_second_choice_reads_the_first_measurement(measured: list[str], caplog: pytest.LogCaptureFixture) -> None:
    choose()
    with caplog.at_level(logging.INFO):
        assert choose() == "dummy"
    assert len(measured) == len(CANDIDATES)
    assert "measured before" in caplog.text


def test_a_number_is_chosen_with_its_backend_and_the_fewest_that_are_as_fast_train(
    measured: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        found = chosen(n_envs="auto", n_steps=1024)
    # 32 of them step nearly as much as 64.
    assert (found.vec_env, found.n_envs) == ("batched", 32)
    assert "n_envs 'auto' takes 32, with vec_env 'batched' (measured now)" in caplog.text
    # 8,192 steps a rollout: 64 environments take 128 each, more would take fewer.
    assert measured.count("batched") == measured.count("dummy") == 4
    assert "batched  x 64       3,780 steps/s" in caplog.text
    assert chosen(n_envs="auto", n_steps=1024) == found
    assert measured.count("batched") == 4


def test_a_number_is_chosen_for_the_backend_that_is_set(measured: list[str]) -> None:
    assert chosen(n_envs="auto", n_steps=1024, vec_env="dummy").n_envs == 8
    assert set(measured) == {"dummy"}


def test_a_short_rollout_leaves_the_default_number(measured: list[str]) -> None:
    assert chosen(n_envs="auto", n_steps=100).n_envs == 8


def test_as_many_processes_are_tried_as_processors_can_serve(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vec_env_choice, "usable_processors", lambda: 2)
    chosen(n_envs="auto", n_steps=1024)
    assert measured.count("subproc") == 1
    measured.clear()
    # Two processes hold any number of environments.
    chosen(n_envs="auto", n_steps=1024, env_workers=2)
    assert measured.count("subproc") == 4


def test_with_more_processes_than_are_worth_it_the_default_number_is_tried_all_the_same(
    measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vec_env_choice, "usable_processors", lambda: 2)
    assert chosen(n_envs="auto", n_steps=1024, vec_env="subproc", env_workers=12).n_envs == 8
    assert measured == ["subproc"]


def test_where_the_backend_that_is_set_cannot_start_the_default_number_trains_and_nothing_is_remembered(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(RATES, "subproc")
    assert chosen(n_envs="auto", n_steps=1024, vec_env="subproc")[:2] == ("subproc", 8)
    assert "vec_env 'subproc' cannot start here" in caplog.text
    assert not cache_path().exists()


def test_a_training_runs_with_the_number_chosen_and_the_same_rollouts(measured: list[str]) -> None:
    auto = tiny_settings(vec_env="auto", n_envs="auto", n_steps=512, batch_size=512, n_epochs=1)
    fixed = tiny_settings(vec_env="batched", n_envs=32, n_steps=128, batch_size=512, n_epochs=1)
    tape = random_tape(1000)
    model, report = TrainingJob(auto, tape, None, env_settings_of(auto)).run()
    expected, _ = TrainingJob(fixed, tape, None, env_settings_of(fixed)).run()
    assert (report.vec_env, report.n_envs, report.rollout_timesteps) == ("BatchedTradingEnv", 32, 4096)
    assert same(parameters(model), parameters(expected))


@pytest.mark.parametrize("change", [{"n_envs": 4}, {"net_arch": [16]}, {"lookback": 3}, {"entry_mode": "agent"}])
def test_other_settings_are_measured_anew(measured: list[str], change: dict[str, Any]) -> None:
    choose()
    choose(**change)
    assert len(measured) == 2 * len(CANDIDATES)


def test_a_damaged_cache_is_measured_anew(measured: list[str]) -> None:
    choose()
    cache_path().write_text("{")
    assert choose() == "dummy"
    assert len(measured) == 2 * len(CANDIDATES)
    assert len(json.loads(cache_path().read_text())) == 1


def test_a_backend_that_cannot_start_is_not_chosen(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RATES, "dummy")
    assert choose() == "batched"


@pytest.mark.parametrize("name", ["batched", "dummy"])
def test_a_measurement_counts_real_steps(name: str) -> None:
    settings = tiny_settings()
    steps: list[int] = []

    def act(observations: Any) -> Any:
        steps.append(len(observations))
        return [0] * len(observations)

    figure = measure(name, random_tape(), env_settings_of(settings), 2, act, seconds=0.05)
    assert figure is not None
    assert figure.vec_env == name
    assert figure.steps_per_second > 0
    # Five rounds, each of which stepped every environment at least once.
    assert len(steps) >= 5
    assert set(steps) == {2}


def test_a_subproc_that_falls_back_is_no_measurement_of_subproc(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no processes here")

    monkeypatch.setattr("mtfscalper.envs.build._subproc", refuse)
    settings = tiny_settings()
    assert measure("subproc", random_tape(), env_settings_of(settings), 2, vec_env_choice._random, seconds=0.05) is None


def test_auto_learns_what_the_chosen_backend_learns(measured: list[str]) -> None:
    auto, named = tiny_settings(vec_env="auto"), tiny_settings(vec_env="dummy")
    tape = random_tape()
    model, report = TrainingJob(auto, tape, None, env_settings_of(auto)).run()
    expected, _ = TrainingJob(named, tape, None, env_settings_of(named)).run()
    assert report.vec_env == "DummyVecEnv"
    assert same(parameters(model), parameters(expected))


def test_auto_really_measures_and_trains(caplog: pytest.LogCaptureFixture) -> None:
    settings = tiny_settings(vec_env="auto")
    with caplog.at_level(logging.INFO):
        _, report = TrainingJob(settings, random_tape(), None, env_settings_of(settings)).run()
    assert "vec_env 'auto' takes" in caplog.text
    assert all(f"{name} " in caplog.text for name in CANDIDATES)
    assert report.vec_env in ("BatchedTradingEnv", "DummyVecEnv", "SubprocVecEnv")
