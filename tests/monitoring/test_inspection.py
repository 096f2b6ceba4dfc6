"""What a training left on disk is read as it is, and what it did not leave is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from builders import make_settings, make_tape, random_candles
from stable_baselines3 import PPO

from mtfscalper import artefacts
from mtfscalper.market.tape import MarketTape
from mtfscalper.monitoring import inspection
from mtfscalper.monitoring.inspection import (
    ArtefactError,
    changed_settings,
    decided,
    observations,
    phase_usage,
    read_report,
    saved_policy,
    trained_periods,
    untrained_policy,
    watched_training,
)
from mtfscalper.monitoring.sampler import FORKSERVER, ROOT, WORKER, ProcessReading, Recording, Sample
from mtfscalper.policy.inference import PolicyDecider
from mtfscalper.settings import Settings
from mtfscalper.trading.observation import N_ACCOUNT
from mtfscalper.training.ensemble import join, member_jobs
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport


def small_config(**rl: Any) -> dict[str, Any]:
    """A config of seconds: two environments, rollouts of 64 steps, small layers."""
    small = {
        "train_cycles": 1,
        "n_envs": 2,
        "n_steps": 32,
        "batch_size": 32,
        "n_epochs": 2,
        "net_arch": [16, 8],
        "vec_env": "dummy",
        "device": "cpu",
        "progress_bar": False,
        "entry_mode": "classic",
    }
    return {"freqai": {"rl_config": small | rl}}


def small_tape(n_candles: int) -> MarketTape:
    """A random walk with random signals and features."""
    random = np.random.default_rng(n_candles)
    signals = random.random((2, n_candles)) < 0.2
    return make_tape(random_candles(3, n_candles), *signals, random.uniform(-1, 1, (n_candles, 4)))


@pytest.fixture(scope="module")
def settings() -> Settings:
    return Settings.from_config(small_config())


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, settings: Settings) -> Path:
    """A folder as FreqAI leaves it, from a training of seconds."""
    folder = tmp_path_factory.mktemp("models")
    leave_training(folder, settings)
    (folder / "run_params.json").write_text(json.dumps(small_config()))
    return folder


def leave_training(folder: Path, settings: Settings) -> None:
    period = folder / "sub-train-BTC_1727740800"
    period.mkdir()
    tape = small_tape(700)
    job = TrainingJob(settings, tape, small_tape(120), make_settings("classic"))
    model, report = join(job, [member.run() for member in member_jobs(job)])
    model.save(period / "cb_btc_1727740800_model.zip")
    pd.DataFrame(tape.features.astype(np.float64)).to_pickle(period / "cb_btc_1727740800_trained_df.pkl")
    artefacts.write_json(period / artefacts.REPORT_NAME, report.as_json())


def test_a_saved_model_is_read_by_plain_ppo(models: Path, settings: Settings) -> None:
    (period,) = trained_periods(models, Recording(1), settings)
    saved = period.saved
    assert (saved.n_steps, saved.n_envs, saved.batch_size, saved.n_epochs) == (32, 2, 32, 2)
    assert saved.policy_layers == saved.value_layers == (16, 8)
    # 700 steps asked: 11 rollouts of 64, two epochs each.
    assert period.report.timesteps == 704
    assert saved.epochs_run == 22
    assert saved.tensors_moved == saved.tensors > 0
    assert 0 < saved.relative_change < 1
    assert saved.finite
    assert period.decided.rows == period.decided.equal == 700
    assert period.decided.rows_per_second > 0
    assert period.name == "BTC/USDT:USDT 1727740800"
    # Nothing was watched.
    assert period.watched.worker_counts == ()
    assert not period.watched.in_watched_process


def test_each_member_of_an_ensemble_is_a_training_of_its_own(tmp_path: Path) -> None:
    ensemble = Settings.from_config(small_config(ensemble=2, learning_rate=1e-300))
    leave_training(tmp_path, ensemble)
    seen = Recording(1, {}, (), ())
    periods = trained_periods(tmp_path, seen, ensemble)
    assert [period.report.timesteps for period in periods] == [704, 704]
    assert [period.saved.epochs_run for period in periods] == [22, 22]
    assert [period.decided.equal for period in periods] == [700, 700]
    assert [len(period.report.evaluations) for period in periods] == [1, 1]
    # Each is compared with the untrained network of its own seed, from which it has not moved.
    assert [period.saved.tensors_moved for period in periods] == [0, 0]
    assert periods[0].saved.policy_layers == (16, 8)


def load(models: Path) -> PPO:
    return PPO.load(next(models.glob("*/*_model.zip")), device="cpu")


def test_the_untrained_twin_is_where_training_began(settings: Settings) -> None:
    untouched = Settings.from_config(small_config(learning_rate=1e-300))
    model, _ = TrainingJob(untouched, small_tape(700), None, make_settings("classic")).run()
    saved = saved_policy(model, untrained_policy(model, settings))
    assert saved.tensors_moved == 0
    assert saved.relative_change == 0.0


def test_parameters_that_are_not_finite_are_seen(models: Path, settings: Settings) -> None:
    model = load(models)
    with torch.no_grad():
        model.policy.action_net.bias[0] = float("nan")
    assert not saved_policy(model, untrained_policy(model, settings)).finite


def test_a_batch_that_decides_otherwise_is_seen(
    models: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PolicyDecider.decide

    def shifted(self: PolicyDecider, rows: np.ndarray) -> object:
        result = real(self, rows)
        return result._replace(actions=np.where(np.arange(len(rows)) < 5, 2, result.actions))

    monkeypatch.setattr(PolicyDecider, "decide", shifted)
    model = load(models)
    found = decided(model, untrained_policy(model, settings), small_tape(700).features, settings)
    assert found.rows == 700
    assert 695 <= found.equal < 700
    assert found.equal + found.ties < found.rows


def test_observations_hold_every_side_and_only_what_an_account_can_hold() -> None:
    rows = observations(np.arange(9), seed=1)
    assert rows.shape == (9, 1 + N_ACCOUNT)
    assert rows[:, 0].tolist() == list(range(9))
    assert rows[:3, 1].tolist() == [0.0, 1.0, -1.0]
    flat = rows[rows[:, 1] == 0]
    assert not flat[:, 2:5].any()
    assert (rows[:, 3] >= rows[:, 2]).all()


def test_settings_that_freqtrade_changed_are_named(models: Path, settings: Settings, tmp_path: Path) -> None:
    assert changed_settings(models, settings) == ()
    (tmp_path / "run_params.json").write_text(json.dumps(small_config(entry_mode="agent", n_steps=64)))
    assert changed_settings(tmp_path, settings) == (
        "entry_mode was 'agent', not 'classic'",
        "n_steps was 64, not 32",
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"phases": 1}', '{"phases": [], "nonsense": 1}'])
def test_an_unreadable_report_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / artefacts.REPORT_NAME).write_text(content)
    with pytest.raises(ArtefactError, match="training_report"):
        read_report(tmp_path)


@pytest.mark.parametrize("missing", ["*_model.zip", "*_trained_df.pkl", "run_params.json"])
def test_a_missing_file_is_named(models: Path, settings: Settings, tmp_path: Path, missing: str) -> None:
    for path in models.rglob("*"):
        if path.is_file() and not path.match(missing):
            target = tmp_path / path.relative_to(models)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes())
    with pytest.raises(ArtefactError, match=missing.lstrip("*")):
        (trained_periods(tmp_path, Recording(1), settings), changed_settings(tmp_path, settings))


def test_a_damaged_model_is_named(models: Path, settings: Settings, tmp_path: Path) -> None:
    for path in models.rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(models)
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(path.read_bytes()[:500] if path.suffix == ".zip" else path.read_bytes())
    with pytest.raises(ArtefactError, match="sub-train-BTC"):
        trained_periods(tmp_path, Recording(1), settings)


# ---------------------------------------------------------------------- seen from outside

ROLES = {1: ROOT, 2: FORKSERVER, 3: WORKER, 4: WORKER}
REPORT = TrainingReport(
    pair="BTC/USDT:USDT",
    model_type="PPO",
    timesteps_asked=1,
    process_id=1,
    worker_pids=[3, 4],
    phases=[("rollout", 10.0, 12.0), ("update", 12.0, 16.0), ("evaluation", 16.0, 16.5)],
)


def recording(workers_at: dict[float, tuple[int, ...]], left: tuple[int, ...] = ()) -> Recording:
    """A root that uses one processor, and workers that use a tenth of one each."""
    samples = []
    for time, workers in workers_at.items():
        readings = [ProcessReading(1, time, 10, None, 3, {})]
        readings += [ProcessReading(pid, (time - 9.0) / 10, 10, None, 1, {}) for pid in workers]
        samples.append(Sample(time, tuple(readings), 2 * time))
    return Recording(1, ROLES, tuple(samples), left)


def test_workers_seen_throughout_and_gone_afterwards() -> None:
    seen = recording({9.0: (), **dict.fromkeys((10.0, 11.0, 12.0, 14.0, 16.0), (3, 4)), 17.0: (3,), 18.0: ()})
    watched = watched_training(REPORT, seen, None)
    assert watched.in_watched_process
    assert watched.worker_counts == (2,)
    assert watched.worker_pids == (3, 4)
    assert watched.workers_left == ()
    assert watched.samples == 5
    usage = watched.rollout
    assert (usage.count, usage.seconds, usage.samples) == (1, 2.0, 3)
    assert usage.training_process_cpu_seconds == pytest.approx(2.0)
    assert usage.workers_cpu_seconds == pytest.approx(0.4)
    assert usage.tree_cpu_seconds == pytest.approx(2.4)
    assert usage.machine_busy_seconds == pytest.approx(4.0)
    assert phase_usage(REPORT, seen, "update").seconds == 4.0


def test_a_worker_that_dies_or_stays_is_seen() -> None:
    seen = recording({10.0: (3, 4), 14.0: (4,), 16.0: (4,), 18.0: (4,)})
    watched = watched_training(REPORT, seen, None)
    assert watched.worker_counts == (1, 2)
    assert watched.workers_left == (4,)
    # Alive still when the next training begins, though not at the end.
    seen = recording({10.0: (3, 4), 14.0: (3, 4), 18.0: (3,), 25.0: ()})
    assert watched_training(REPORT, seen, 17.0).workers_left == (3,)
    assert watched_training(REPORT, seen, 20.0).workers_left == ()


def test_workers_left_are_found_when_freqtrade_ended_with_the_training() -> None:
    seen = recording({10.0: (3, 4), 14.0: (3, 4)}, left=(3,))
    assert watched_training(REPORT, seen, None).workers_left == (3,)


def test_a_report_of_another_process_is_seen() -> None:
    seen = recording({10.0: (3, 4)})
    assert not watched_training(replace(REPORT, process_id=99), seen, None).in_watched_process


def test_rows_are_enough_for_the_comparison() -> None:
    assert inspection.ROWS_COMPARED >= 500
