"""n_envs 'auto' is decided once for an identifier, and a policy that goes on from another keeps that one's number."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.freqai.environments_note import EnvironmentsNote
from mtfscalper.settings import Settings
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob

AUTO = tiny_settings(n_envs="auto", n_steps=128)


def choosing(n_envs: int, asked: list[int] | None = None) -> Callable[[], Settings]:
    def choose() -> Settings:
        if asked is not None:
            asked.append(n_envs)
        return AUTO.with_environments(n_envs)

    return choose


def test_what_was_chosen_first_stays_whatever_is_measured_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, asked = tmp_path / "runs" / "n_envs.json", list[int]()
    first = EnvironmentsNote(path)
    assert first.decided(AUTO, None, choosing(32, asked)).rl.n_envs == 32
    assert first.decided(AUTO, None, choosing(64, asked)).ppo.n_steps == 32
    # Another run, perhaps on another machine.
    with caplog.at_level(logging.INFO):
        later = EnvironmentsNote(path).decided(AUTO, None, choosing(64, asked))
    assert (later.rl.n_envs, later.ppo.n_steps) == (32, 32)
    assert asked == [32]
    assert f"n_envs 'auto' takes 32, as chosen before, from {path}" in caplog.text


def test_a_number_is_chosen_anew_for_another_network(tmp_path: Path) -> None:
    path = tmp_path / "n_envs.json"
    EnvironmentsNote(path).decided(AUTO, None, choosing(32))
    other = tiny_settings(n_envs="auto", n_steps=128, net_arch=[16])
    assert EnvironmentsNote(path).decided(other, None, choosing(64)).rl.n_envs == 64
    assert EnvironmentsNote(path).decided(AUTO, None, choosing(64)).rl.n_envs == 32


@pytest.mark.parametrize("content", ["{", "[]", "other number"])
def test_a_note_that_cannot_hold_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "n_envs.json"
    EnvironmentsNote(path).decided(AUTO, None, choosing(32))
    # Seven do not divide a rollout.
    path.write_text(path.read_text().replace("32", "7") if content == "other number" else content)
    assert EnvironmentsNote(path).decided(AUTO, None, choosing(64)).rl.n_envs == 64
    assert list(json.loads(path.read_text()).values()) == [64]


def test_a_model_to_go_on_from_keeps_its_number(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "n_envs.json"
    EnvironmentsNote(path).decided(AUTO, None, choosing(32))
    begun = tiny_settings(n_envs=16, n_steps=64)
    model, _ = TrainingJob(begun, random_tape(), None, env_settings_of(begun)).run()
    with caplog.at_level(logging.INFO):
        decided = EnvironmentsNote(path).decided(AUTO, model_zip(model), choosing(64))
    assert (decided.rl.n_envs, decided.ppo.n_steps) == (16, 64)
    assert "takes 16, as the model to go on from has" in caplog.text


def test_a_number_that_is_set_is_left_alone(tmp_path: Path) -> None:
    settings = tiny_settings()
    assert EnvironmentsNote(tmp_path / "n").decided(settings, None, choosing(64)) is settings
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_a_run_keeps_its_number(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    note = EnvironmentsNote(tmp_path / "file" / "n_envs.json")
    assert note.decided(AUTO, None, choosing(32)).rl.n_envs == 32
    assert note.decided(AUTO, None, choosing(64)).rl.n_envs == 32
