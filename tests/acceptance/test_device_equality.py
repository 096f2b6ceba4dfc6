"""Environments on a device over 50,000 steps with all rules active: equal to a batch of NumPy's, step by step."""

from functools import partial
from pathlib import Path

import pytest
import torch
from builders import make_settings
from device_equivalence import assert_equal_to_batches
from equivalence import OF_CANDLES, all_rules_settings, eventful_tape
from tiny_training import parameters, random_tape, tiny_settings

from mtfscalper.envs.device_env import EXACT_ARITHMETIC
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.training.job import TrainingJob

pytestmark = pytest.mark.acceptance

N_STEPS, N_ENVS = 50_000, 64
ENTRY_MODES = ("classic", "gated", "agent")


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_environments_on_a_device_equal_a_batch(entry_mode: str) -> None:
    torch.set_num_threads(1)
    settings = all_rules_settings(entry_mode, random_start=True, max_drawdown_ratio=0.15, **OF_CANDLES)
    # The first's signals end before its candles do: nothing is forced out there.
    tapes = [eventful_tape(terms=True), eventful_tape(500, 2, terms=True)]
    seen = assert_equal_to_batches([tapes], settings, N_ENVS, N_STEPS)
    print(entry_mode, dict(seen))
    reasons = {EXIT_REASON_NAMES[reason] for reason in ExitReason if reason}
    assert set(seen) == reasons | {"entered", "terminated", "cut_off"}


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_compiled_step_equals_a_batch(entry_mode: str) -> None:
    torch.set_num_threads(1)
    compiler = partial(torch.compile, dynamic=False, options=EXACT_ARITHMETIC)
    settings = all_rules_settings(entry_mode, random_start=True, max_drawdown_ratio=0.15)
    seen = assert_equal_to_batches([eventful_tape()], settings, N_ENVS, N_STEPS // 10, compiler=compiler)
    print(entry_mode, dict(seen))
    assert min(seen["entered"], seen["terminated"], seen["cut_off"]) > 0


def test_a_population_learns_the_same_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    jobs = [
        TrainingJob(
            tiny_settings(vec_env="torch", entry_mode="gated", compile=compiled),
            random_tape(190),
            random_tape(80, 51),
            make_settings("gated", random_start=True),
        )
        for compiled in (False, True)
    ]
    (plain, _), (model, report) = (job.run() for job in jobs)
    assert report.compiled
    for name, value in parameters(plain).items():
        torch.testing.assert_close(parameters(model)[name], value, rtol=0, atol=1e-5)
