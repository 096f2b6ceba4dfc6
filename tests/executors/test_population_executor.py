"""Trainings of one shape at once, and every other arrangement that settings ask for."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import pytest
from builders import make_settings
from test_inline import trained
from tiny_training import parameters, random_tape, same, tiny_settings

from mtfscalper.executors import population
from mtfscalper.executors.batches import Batches, in_batches
from mtfscalper.executors.choice import executor_for, why_executor_cannot_be
from mtfscalper.executors.ensembles import EnsembleExecutor
from mtfscalper.executors.executor import run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.population import PopulationExecutor
from mtfscalper.market.tape import TapeError
from mtfscalper.policy.joined_model import split_model
from mtfscalper.training.job import TrainingJob, TrainingStoppedError


def job(seed: int, **rl: Any) -> TrainingJob:
    """
    :param rl: keys of ``rl_config``
    """
    settings = tiny_settings(vec_env="torch", entry_mode="gated", **rl)
    return TrainingJob(settings, random_tape(150, seed), random_tape(80, 50 + seed), make_settings("gated"), seed=seed)


def test_jobs_of_one_shape_train_at_once_and_each_gets_its_own_result() -> None:
    jobs = [job(1), job(2, net_arch=[6]), job(3), job(4, net_arch=[6]), job(5)]
    done = trained(run_all(PopulationExecutor(), jobs))
    assert [report.population for _, report in done] == [3, 2, 3, 2, 3]
    for (model, report), one in zip(done, jobs, strict=True):
        alone, _ = one.run()
        assert report.train_tape_sha256 == one.train.digest()
        assert (
            max(
                (a - b).abs().max() for a, b in zip(parameters(model).values(), parameters(alone).values(), strict=True)
            )
            < 1e-5
        )


def test_a_training_that_cannot_begin_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    first, failed, last = run_all(PopulationExecutor(), [job(1), replace(job(2), train=random_tape(2)), job(3)])
    assert isinstance(failed, TapeError)
    assert len(trained([first, last])) == 2
    assert "3 trainings at once fail" in caplog.text


def test_a_bot_that_stops_ends_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    train = population.train_population

    def counted(jobs: list[TrainingJob], doors: Any, watch: Any) -> Any:
        calls.append(len(jobs))
        return train(jobs, doors, watch)

    def stops(_: object) -> None:
        raise TrainingStoppedError("the bot is stopping")

    monkeypatch.setattr(population, "train_population", counted)
    done = run_all(PopulationExecutor(), [job(1), job(2)], stops)
    assert [type(outcome) for outcome in done] == [TrainingStoppedError] * 2
    assert calls == [2]


def test_an_ensembles_members_are_trained_at_once_and_joined() -> None:
    two = job(7, ensemble=2)
    [(model, report)] = trained(run_all(executor_for(two.settings), [two]))
    alone = [replace(two, seed=seed).run()[0] for seed in (7, 9)]
    for member, one in zip(split_model(model), alone, strict=True):
        ours, theirs = parameters(member), parameters(one)
        assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-5
    # Both took the same seconds, and are told once.
    assert [member.population for member in report.members] == [2, 2]
    assert report.seconds == report.members[0].seconds
    assert len(report.phases) == len(report.members[0].phases)
    assert report.timesteps == sum(member.timesteps for member in report.members)


def test_a_member_that_fails_fails_its_ensemble_and_no_other() -> None:
    whole, broken = job(1, ensemble=2), replace(job(2, ensemble=2), train=random_tape(2))
    done, failed = run_all(EnsembleExecutor(InlineExecutor()), [whole, broken])
    assert isinstance(failed, TapeError)
    assert len(trained([done])) == 1


@pytest.mark.parametrize(
    ("rl", "together"),
    [
        ({"vec_env": "torch"}, True),
        ({"vec_env": "torch", "activation": "tanh"}, False),
        ({"vec_env": "torch", "net_arch_value": [4]}, False),
        ({"vec_env": "batched"}, False),
        ({"vec_env": "torch", "executor": "population"}, True),
        ({"vec_env": "batched", "executor": "processes"}, True),
    ],
)
def test_the_settings_decide_where_trainings_run(rl: dict[str, Any], together: bool) -> None:
    assert executor_for(tiny_settings(**rl)).together is together


def test_a_population_that_cannot_be_is_refused_and_not_trained_otherwise() -> None:
    assert why_executor_cannot_be(tiny_settings(vec_env="torch", executor="population")) is None
    # By default it is trained all the same.
    assert why_executor_cannot_be(tiny_settings(vec_env="torch", activation="tanh")) is None
    why = why_executor_cannot_be(tiny_settings(vec_env="torch", executor="population", activation="tanh"))
    assert why is not None
    assert why.startswith("freqai.rl_config.executor is 'population', which cannot train this: activation is 'tanh'")


class OneAtATime:
    """Runs a job when asked for it, and holds no other one."""

    together = False

    def start(self, *_: object) -> AbstractContextManager[Batches]:
        return in_batches(lambda jobs: [one.run() for one in jobs], at_once=1)


def test_members_wait_for_room_and_further_ensembles_for_members() -> None:
    with EnsembleExecutor(OneAtATime()).start() as running:
        first, second = job(1, ensemble=3), job(2, ensemble=2)
        running.submit(first)
        assert running.room == 0
        assert running.next_finished()[0] is first
        assert running.room == 1
        running.submit(second)
        done, outcome = running.next_finished()
        assert done is second
        assert not isinstance(outcome, Exception)
        assert len(outcome[1].members) == 2


def test_another_seed_is_another_training() -> None:
    (left, _), (right, _) = trained(run_all(PopulationExecutor(), [job(1), replace(job(1), seed=2)]))
    assert not same(parameters(left), parameters(right))
