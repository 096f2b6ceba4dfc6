"""How many processes train at a time: by measurement on a clock of the test's own, and by the memory that is free."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from fake_workers import job

from mtfscalper.executors import worker_count as module
from mtfscalper.executors.worker_count import measured, short_training, worker_count
from mtfscalper.training.job import TrainingJob


class Machine:
    """One on which several trainings at once take as long as a test says.

    :ivar seconds: of so many trainings at once
    :ivar timed: how many trained at once, each time
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now, self.seconds = 0.0, seconds
        self.timed: list[int] = []
        self.threads: list[int | None] = []
        self.fails = False
        self._waiting: list[TrainingJob] = []
        self._left = 0

    def clock(self) -> float:
        return self.now

    @contextmanager
    def start_pool(self, *_: object) -> Iterator[Machine]:
        yield self

    def submit(self, one: TrainingJob) -> None:
        self._waiting.append(one)

    def next_finished(self) -> tuple[TrainingJob, Any]:
        if not self._left:
            self._left = len(self._waiting)
            self.timed.append(self._left)
            self.threads.append(self._waiting[0].settings.rl.threads_per_job)
            self.now += self.seconds(self._left)
        self._left -= 1
        return self._waiting.pop(), RuntimeError("no") if self.fails else ("model", "report")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """With 16 processors, of which eight trainings at once gain from, no more."""
    made = Machine(lambda n: 1.0 if n <= 8 else n / 8)
    monkeypatch.setattr(module, "start_pool", made.start_pool)
    monkeypatch.setattr(module, "usable_processors", lambda: 16)
    monkeypatch.setattr("mtfscalper.executors.threads.usable_processors", lambda: 16)
    monkeypatch.setattr(measured, "__defaults__", (made.clock,))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    free_memory(monkeypatch, 64e9)
    return made


def free_memory(monkeypatch: pytest.MonkeyPatch, n_bytes: float) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=n_bytes, total=64e9))


def asked(workers: int | str = "auto", **rl: Any) -> TrainingJob:
    return job("", executor="processes", workers=workers, cpu_count=16, **rl)


def test_the_number_that_trains_most_is_measured_once(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert worker_count(asked()) == 8
    # Each number twice, the first time to warm up.
    assert machine.timed == [1, 1, 2, 2, 4, 4, 8, 8, 16, 16]
    assert machine.threads[::2] == [16, 8, 4, 2, 1]
    assert "workers 'auto' takes 8 (measured now):\n    8 x 2 threads     480.0 short trainings" in caplog.text
    assert worker_count(asked(train_cycles=7, seed=3)) == 8
    assert len(machine.timed) == 10
    assert f"measured before, from {tmp_path}" in caplog.text
    assert len(json.loads((tmp_path / "mtfscalper" / "workers.json").read_text())) == 1
    # What trains no faster and no slower is not timed anew; what does, is.
    worker_count(asked(live_training="thread", decision_mode="exact", kept_runs=9))
    assert len(machine.timed) == 10
    worker_count(asked(net_arch=[9]))
    assert len(machine.timed) == 20
    worker_count(asked(interop_threads=3))
    assert len(machine.timed) == 30


def test_more_are_not_tried_once_they_gain_nothing(machine: Machine) -> None:
    machine.seconds = lambda n: float(n)
    assert worker_count(asked()) == 1
    assert machine.timed == [1, 1, 2, 2]


def test_a_training_that_fails_is_not_timed_and_nothing_is_remembered(machine: Machine, tmp_path: Path) -> None:
    machine.fails = True
    assert worker_count(asked()) == 1
    assert not list(tmp_path.rglob("*.json"))


def test_a_number_that_is_given_is_taken(machine: Machine) -> None:
    assert worker_count(asked(3)) == 3
    assert machine.timed == []


def test_no_more_are_started_than_free_memory_holds(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free_memory(monkeypatch, 1.0e9)
    assert worker_count(asked(8)) == 2
    [line] = caplog.messages
    assert line.startswith("freqai.rl_config.workers is 8, and free memory holds 2 trainings of 0.5 GB each")
    assert worker_count(asked()) == 2
    assert machine.timed == [1, 1, 2, 2]
    free_memory(monkeypatch, 0.1e9)
    assert worker_count(asked(8)) == 1


def test_what_is_timed_computes_as_the_training_does_and_is_short() -> None:
    whole = asked(n_steps=4096, batch_size=64, net_arch=[7], train_cycles=30)
    short = short_training(whole, 2)
    rl, ppo = short.settings.rl, short.settings.ppo
    assert (rl.net_arch, ppo.batch_size, rl.n_envs) == ((7,), 64, 2)
    assert rl.train_cycles == 1
    assert rl.n_envs * ppo.n_steps <= 4100
    assert short.evaluation is None
    assert short.begin_report().timesteps_asked == len(whole.train)
