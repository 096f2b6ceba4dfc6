"""Rounds of the smallest training in every way it can be trained; how long they take is not judged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import make_rules
from tiny_training import tiny_settings

from mtfscalper.monitoring import gpu
from mtfscalper.monitoring.choices import Choice
from mtfscalper.monitoring.facts import LeftBehind
from mtfscalper.monitoring.timed_run import signal_share
from mtfscalper.monitoring.timing import TrialError
from mtfscalper.monitoring.trial import Task, TrialProcess, Trials

YOURS = Choice("dummy", 1, 1, "fp32", "cpu")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    features = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    return Task(tiny_settings(n_steps=4096), features, make_rules(), tmp_path, 0.15)


@pytest.mark.parametrize("vec_env", ["dummy", "batched", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_way_makes_its_rounds(task: Task, vec_env: str, precision: str) -> None:
    interop = torch.get_num_interop_threads()
    found = Trials(task).round(YOURS._replace(vec_env=vec_env, precision=precision, interop_threads=interop))
    assert found.rollout > 0
    assert found.update > 0
    assert found.training(10) == found.rollout + 10 * found.update


def test_signals_are_as_many_as_the_run_had(task: Task) -> None:
    left = LeftBehind({}, (), 2, predicted_rows=4000, frame_rows=34, frame_equal=34, questions=2300, answered=2300)
    assert signal_share(left) == 0.02
    assert signal_share(replace(left, frame_rows=0)) == 0.01
    tape = task.tape()
    assert 0.05 < np.mean(tape.long_signal | tape.short_signal) < 0.25


def test_rounds_are_short_and_of_the_same_shape(task: Task) -> None:
    settings = task.rounds_settings(YOURS)
    assert (settings.rl.n_envs, settings.ppo.n_steps, settings.ppo.n_epochs) == (2, 512, 2)
    assert settings.ppo.batch_size == task.settings.ppo.batch_size
    assert settings.rl.vec_env == "dummy"


def test_a_process_answers_and_says_what_cannot_run(task: Task) -> None:
    with TrialProcess(task) as process:
        assert process.round(YOURS).rollout > 0
        with pytest.raises(TrialError, match="torch finds"):
            process.round(YOURS._replace(device="cuda:9"))
        # It goes on.
        assert process.limits(YOURS).flops > 0
        process._process.kill()
        with pytest.raises(TrialError, match="ended"):
            process.round(YOURS)


def test_gpu_memory_is_the_most_beyond_the_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([100, 100, 300, 200])
    monkeypatch.setattr(gpu.GpuMemory, "_used", staticmethod(lambda: next(used)))
    watch = gpu.GpuMemory()
    watch.look()
    watch.look()
    assert watch.most == 200
