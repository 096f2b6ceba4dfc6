"""A training is a job: it can be sent away, and has one door through which it is ended."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import ROLLOUT, env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.market.tape import MarketTape
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob, TrainingStoppedError, stop_on


def job(changes: dict[str, Any] | None = None, **keywords: Any) -> TrainingJob:
    """
    :param changes: keys of ``rl_config``
    """
    settings = tiny_settings(**changes or {})
    return TrainingJob(settings, random_tape(), random_tape(80, seed=2), env_settings_of(settings), **keywords)


def run_elsewhere(pickled: bytes) -> tuple[dict[str, torch.Tensor], Any]:
    """What another process does with a job."""
    torch.set_num_threads(1)
    model, report = pickle.loads(pickled).run()
    return parameters(model), report.as_json()


def test_a_pickled_job_trains_the_same_parameters_in_another_process() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        theirs, report = pool.submit(run_elsewhere, pickle.dumps(job())).result()
    ours, own_report = job().run()
    assert same(parameters(ours), theirs)
    assert report["reward_terms"] == own_report.reward_terms
    assert report["process_id"] != own_report.process_id


def test_a_job_on_saved_tapes_trains_the_same_parameters(tmp_path: Path) -> None:
    here = job()
    assert here.evaluation is not None
    here.train.save(tmp_path / "train")
    here.evaluation.save(tmp_path / "evaluation")
    train, evaluation = (MarketTape.load(tmp_path / name) for name in ("train", "evaluation"))
    left, report = here.run()
    right, other = replace(here, train=train, evaluation=evaluation).run()
    assert same(parameters(left), parameters(right))
    assert report.train_tape_sha256 == other.train_tape_sha256


def test_a_jobs_seed_stands_before_that_of_its_settings() -> None:
    named, settings_own, other = (
        parameters(one.run()[0]) for one in (job(seed=7), job({"seed": 7}), job({"seed": 7}, seed=8))
    )
    assert same(named, settings_own)
    assert not same(named, other)


def test_a_job_goes_on_from_the_zip_of_a_model() -> None:
    first, _ = job({"seed": 1}).run()
    settings = {"seed": 2, "learning_rate": 1e-9}
    going_on, _ = pickle.loads(pickle.dumps(job(settings, initial_model=model_zip(first)))).run()
    before, after, afresh = parameters(first), parameters(going_on), parameters(job(settings).run()[0])
    # A learning rate this small leaves the result where it started.
    assert max((after[name] - before[name]).abs().max().item() for name in before) < 1e-5
    assert max((afresh[name] - before[name]).abs().max().item() for name in before) > 1e-2


# ---------------------------------------------------------------- the door


def test_the_door_sees_every_evaluation_right_after_it_and_every_step_in_between() -> None:
    seen: list[Evaluation | None] = []
    _, report = job().run(seen.append)
    evaluations = [at for at, one in enumerate(seen) if one is not None]
    # 32 steps of two environments a rollout, then an update, then its evaluation.
    assert evaluations == [32, 65, 98, 131]
    assert len(seen) == 132
    assert [one.figures() for one in seen if one is not None] == report.evaluations
    assert [one.timesteps for one in seen if one is not None] == [ROLLOUT * n for n in (1, 2, 3, 4)]


def test_the_door_changes_nothing_while_it_does_not_raise() -> None:
    assert same(parameters(job().run(lambda _: None)[0]), parameters(job().run()[0]))


class PrunedError(Exception):
    """What a study raises."""


@pytest.mark.parametrize(
    ("vec_env", "at"),
    # Worker processes are closed by one path, wherever the training ends.
    [("dummy", 33), ("dummy", 40), ("dummy", 132), ("subproc", 40)],
    ids=["an evaluation", "in between", "the last evaluation", "in between with worker processes"],
)
def test_what_the_door_raises_ends_the_training_and_leaves_nothing_behind(
    vec_env: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = 0

    def door(found: Evaluation | None) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            assert (found is None) == (at == 40)
            assert len(multiprocessing.active_children()) == (2 if vec_env == "subproc" else 0)
            raise PrunedError("enough")

    with pytest.raises(PrunedError, match="enough"):
        job({"vec_env": vec_env}).run(door)
    assert calls == at
    assert not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def test_a_stop_event_is_a_door_that_raises_once_it_is_set() -> None:
    event = threading.Event()
    door = stop_on(event)
    door(None)
    event.set()
    with pytest.raises(TrainingStoppedError, match="not saved"):
        door(None)
