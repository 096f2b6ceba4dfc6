"""The compiled loss equals the plain one, and a missing compiler stops nothing."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import torch
from test_ppo import model, with_a_rollout
from tiny_training import env_settings_of, random_tape, tiny_settings
from torch._dynamo.exc import TorchDynamoException

from mtfscalper.policy.network import masked_logits
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.device import minibatch_gradients
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.ppo import FusedPPO, LossSettings, loss_gradients


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiled_loss_has_the_gradients_of_the_plain_one() -> None:
    made = with_a_rollout(model(FusedPPO))
    assert isinstance(made, FusedPPO)
    samples = made.rollout_buffer.samples().rows(slice(0, 64))
    logits, values = torch.randn(64, 5), torch.randn(64)
    logits = masked_logits(logits, samples.impossible)
    settings = LossSettings(0.2, 0.1, True, 0.01, 0.5)
    compiled = CompiledFunction(loss_gradients)
    theirs, ours = (function(logits, values, samples, settings) for function in (loss_gradients, compiled))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert compiled.compiled


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_the_compiled_gradients_of_members_are_the_plain_ones() -> None:
    made = with_a_rollout(model(FusedPPO))
    assert isinstance(made, FusedPPO)
    packed = torch.unflatten(made.rollout_buffer.samples().rows(slice(0, 64)).packed(), 1, (2, 32))
    logits, values = torch.randn(2, 32, 5), torch.randn(2, 32)
    settings = LossSettings(*(torch.tensor([[0.2], [0.1]]),) * 2, True, *(torch.tensor([[0.01], [0.5]]),) * 2)
    compiled = CompiledFunction(minibatch_gradients)
    theirs, ours = (function(packed, logits, values, settings) for function in (minibatch_gradients, compiled))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert compiled.compiled


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_fit_compiles_and_reports_it_and_the_model_can_be_sent_to_another_process() -> None:
    settings = tiny_settings(compile=True)
    made, report = TrainingJob(settings, random_tape(), None, env_settings_of(settings)).run()
    assert report.compiled
    assert isinstance(made, FusedPPO)
    sent = pickle.loads(cloudpickle.dumps(made))
    assert sent.loss_gradients is made.loss_gradients is loss_gradients


@pytest.mark.parametrize("setting", [True, False])
def test_a_report_says_so_where_nothing_was_compiled(setting: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*arguments: Any, **options: Any) -> None:
        raise TorchDynamoException("no compiler")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: failing)
    settings = tiny_settings(compile=setting)
    _, report = TrainingJob(settings, random_tape(), None, env_settings_of(settings)).run()
    assert not report.compiled


WITHOUT_COMPILER = """
import logging, torch
from mtfscalper.training.compiled import CompiledFunction
logging.basicConfig(format="%(levelname)s %(message)s")
double = CompiledFunction(lambda values: (2 * values + 1).sin())
for _ in range(2):
    print(double(torch.zeros(3)).tolist() == torch.ones(3).sin().tolist())
"""


def test_without_a_compiler_training_goes_on_with_one_warning(tmp_path: Path) -> None:
    environment = {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", WITHOUT_COMPILER]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=tmp_path)
    assert result.stdout.split() == ["True", "True"]
    warnings = [line for line in result.stderr.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "freqai.rl_config.compile is on, but torch.compile does not work here" in warnings[0]
    assert "No working C++ compiler found" in warnings[0]


def test_what_compiles_nothing_does_not_wait_for_the_compiler() -> None:
    script = (
        "import sys, mtfscalper.training.job, mtfscalper.executors.worker; print('torch' in sys.modules, "
        "'torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]
