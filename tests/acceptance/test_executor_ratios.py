"""The benchmarks of executors in small form: every place gives the same bits, and what each takes is printed.

What is faster is for the benchmarks to say (``benchmarks/bench_executors.py`` and ``bench_clusters.py``), on a machine
that does nothing else: these trainings are shorter than what is beside them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tiny_training import parameters, same

from mtfscalper.executors.executor import Executor, Running
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.processes import ProcessesExecutor
from mtfscalper.executors.ray import RayExecutor
from mtfscalper.executors.ray_cluster import why_no_ray
from mtfscalper.machine import set_torch_threads
from mtfscalper.training.job import TrainingJob

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1800)]

WORKERS, N_JOBS = 2, 4


@pytest.fixture
def executors_bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("bench_executors")


def timed(running: Running, jobs: Sequence[TrainingJob]) -> tuple[float, dict[int, Any]]:
    """Seconds of jobs, and what each seed gave."""
    began, waiting, models = time.perf_counter(), list(jobs), {}
    for _ in jobs:
        while waiting and running.room > 0:
            running.submit(waiting.pop())
        job, outcome = running.next_finished()
        assert not isinstance(outcome, Exception), outcome
        models[job.seed] = parameters(outcome[0])
    return time.perf_counter() - began, models


def test_every_executor_gives_the_same_bits_and_the_ratios_are_printed(executors_bench: Any) -> None:
    sizes = executors_bench.Sizes(WORKERS, N_JOBS, rounds=1, cycles=1, n_steps=256)
    job = executors_bench.job_of("small", sizes, 1)
    set_torch_threads(1, 2)
    executors: dict[str, Executor] = {
        "inline": InlineExecutor(),
        "processes": ProcessesExecutor(lambda _: WORKERS),
        "one process": ProcessesExecutor(lambda _: 1),
    }
    if why_no_ray() is None:
        executors["ray"] = RayExecutor(job.settings.rl.model_copy(update={"executor": "ray"}))
    seconds, models = {}, {}
    with ExitStack() as held:
        for name, executor in executors.items():
            running = held.enter_context(executor.start())
            # Every process is there.
            timed(running, executors_bench.many(job, WORKERS))
            seconds[name], models[name] = timed(running, executors_bench.many(job, N_JOBS))
    for name, took in seconds.items():
        print(f"{name}: {N_JOBS} trainings in {took:.2f} s, {took / seconds['inline']:.2f} times inline's")
        assert models[name].keys() == models["inline"].keys() == set(range(N_JOBS))
        assert all(same(models[name][seed], models["inline"][seed]) for seed in range(N_JOBS))
    if "ray" not in seconds:
        pytest.skip("Ray is not installed; `make acceptance` installs it where it has a wheel")
