"""A run of small trainings by an executor, in a process of its own: tells of each update, and keeps the weights.

python ray_run.py RESULT ADDRESS|local|inline [--bad]
"""

from __future__ import annotations

import logging
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import torch
from tiny_training import env_settings_of, parameters, random_tape, tiny_settings

from mtfscalper.executors.executor import Executor, run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.ray import RayExecutor
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import TrainingState

N_JOBS = 4
BAD = 3


def jobs(address: str | None, *, bad: bool) -> list[TrainingJob]:
    """Trainings of some seconds, which share two tapes.

    :param bad: whether one of them fails as it begins
    """
    settings = tiny_settings(train_cycles=5, net_arch=[32], threads_per_job=1, executor="ray", ray_address=address)
    train, held_out = random_tape(300), random_tape(100, seed=2)
    made = [
        TrainingJob(settings, train, held_out, env_settings_of(settings), seed=seed, period=f"period {seed}")
        for seed in range(N_JOBS)
    ]
    if bad:
        made[BAD] = replace(made[BAD], initial_model=b"no model")
    return made


def told(state: TrainingState) -> None:
    """Say that a training has learned, and who listens where while it does."""
    if state.updated and state.timesteps < state.timesteps_planned:
        print(f"updated {state.name}", flush=True)


def listening() -> set[str]:
    """Addresses that this process and those that it has started listen on."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }


def main(result: Path, where: str, bad: bool) -> None:
    logging.basicConfig(level=logging.INFO, format="log: %(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    made = jobs(None if where in ("local", "inline") else where, bad=bad)
    executor: Executor = InlineExecutor() if where == "inline" else RayExecutor(made[0].settings.rl)
    heard: set[str] = set()

    def watch(state: TrainingState) -> None:
        if not heard:
            heard.update(listening())
        told(state)

    outcomes: list[Any] = []
    for outcome in run_all(executor, made, None, watch):
        if isinstance(outcome, Exception):
            outcomes.append((str(outcome), *getattr(outcome, "__notes__", ())))
        else:
            outcomes.append({name: value.numpy().tobytes() for name, value in parameters(outcome[0]).items()})
    assert threading.active_count() < 10
    result.write_bytes(pickle.dumps((outcomes, heard)))
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], "--bad" in sys.argv)
