"""n_envs 'auto' in a backtest: one number for all periods, which each of them keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from damage import truncate
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch

from mtfscalper.artefacts import MANIFEST_NAME, REPORT_NAME
from mtfscalper.freqai import environments_note
from mtfscalper.training import vec_env_choice
from mtfscalper.training.vec_env_choice import Measured

# Of 2,048 steps a rollout, 8 environments take 256 each, 16 of them 128.
AUTO: dict[str, Any] = {"freqai": {"rl_config": {"vec_env": "batched", "n_envs": "auto", "n_steps": 256}}}


def numbers(run: FreqtradeBacktest) -> list[tuple[int, int]]:
    """What is sealed with each period, and what its report says."""
    return [
        (
            json.loads((run.folder(period) / MANIFEST_NAME).read_text())["fingerprint"]["n_envs"],
            json.loads((run.folder(period) / REPORT_NAME).read_text())["n_envs"],
        )
        for period in PERIODS
    ]


def test_periods_keep_the_number_that_was_chosen_for_them(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    watch, fastest, asked = Watch(monkeypatch), 16, list[int]()

    def measure(name: str, _tape: Any, _settings: Any, n_envs: int, *_: Any, **__: Any) -> Measured:
        asked.append(n_envs)
        return Measured(name, n_envs, 1000.0 if n_envs == fastest else 1.0, 0.1)

    monkeypatch.setattr(vec_env_choice, "measure", measure)
    run = FreqtradeBacktest(tmp_path / "home", market, **AUTO)
    run.run()
    assert watch.trained == [PAIR] * 3
    assert asked == [8, 16]
    assert numbers(run) == [(16, 16)] * 3

    # Another machine would choose otherwise, and nobody asks it: one period is made anew, as it was.
    fastest = 8
    vec_env_choice.cache_path().unlink()
    watch.forget()
    run = FreqtradeBacktest(tmp_path / "home", market, **AUTO)
    truncate(next(run.folder(PERIODS[1]).glob("*_model.zip")))
    run.run()
    assert (watch.trained, asked) == ([PAIR], [8, 16])
    assert numbers(run) == [(16, 16)] * 3

    # Whoever removes the note chooses anew, and what is sealed still holds.
    [note] = (tmp_path / "home").rglob(environments_note._NAME)
    note.unlink()
    watch.forget()
    run = FreqtradeBacktest(tmp_path / "home", market, **AUTO)
    truncate(next(run.folder(PERIODS[1]).glob("*_model.zip")))
    run.run()
    assert (watch.trained, asked) == ([PAIR], [8, 16, 8, 16])
    assert numbers(run) == [(16, 16), (8, 8), (16, 16)]
