"""Trainings side by side in real processes give what they give here, and one that fails stops no other."""

from __future__ import annotations

import os
from dataclasses import replace

import psutil
import torch
from builders import make_tape, random_candles
from test_inline import trained
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.market.tape import TapeError
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import TrainingState


def test_two_processes_train_what_is_trained_here_bit_for_bit() -> None:
    settings = tiny_settings(executor="processes", workers=2, threads_per_job=1)
    inline = tiny_settings(threads_per_job=1)
    env = env_settings_of(settings)
    jobs = [
        TrainingJob(settings, random_tape(seed=seed), random_tape(80, seed=9), env, period=str(seed)) for seed in (1, 2)
    ]
    too_short = replace(jobs[0], train=make_tape(random_candles(1, 3), [False] * 3, [False] * 3), period="short")
    states: list[TrainingState] = []
    *done, failed = run_all(executor_for(settings), [*jobs, too_short], None, states.append)
    torch.set_num_threads(1)
    here = run_all(executor_for(inline), [replace(job, settings=inline) for job in jobs])
    for (model, report), (own, own_report) in zip(trained(done), trained(here), strict=True):
        assert same(parameters(model), parameters(own))
        assert report.train_tape_sha256 == own_report.train_tape_sha256
        assert report.best_evaluation is not None
        assert {**report.best_evaluation, "seconds": 0} == {**(own_report.best_evaluation or {}), "seconds": 0}
        assert report.training_evaluation is not None
        assert report.torch_threads == 1
        assert report.process_id != os.getpid()
    assert isinstance(failed, TapeError)
    assert "In the process of the training" in failed.__notes__[0]
    assert "in run" in failed.__notes__[0]
    assert {state.name.split()[-1] for state in states if state.has_ended} == {"1", "2"}
    assert not [one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())]
