"""What a watch sees of a training that is judged, in folds and with members, each way it can be trained."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_training import ROLLOUT, env_settings_of, random_tape, tiny_settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.progress.run import RunProgress
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import TrainingState

GUARDED: dict[str, Any] = {"fallback": "classic", "evaluation_folds": 4, "evaluation_mode": "lower"}


@pytest.mark.parametrize("vec_env", ["dummy", "torch"])
@pytest.mark.parametrize("members", [1, 2])
def test_judging_and_joining_count_neither_as_progress_nor_as_evaluations(vec_env: str, members: int) -> None:
    settings = tiny_settings(**GUARDED, vec_env=vec_env, ensemble=members)
    tapes = random_tape(), random_tape(90, seed=2)
    job = TrainingJob(settings, *tapes, env_settings_of(settings), judging=random_tape(400, seed=5), period="1")
    run, states, shares = RunProgress(), list[TrainingState](), list[float]()
    run.expect({job.name}, members)

    def watch(state: TrainingState) -> None:
        states.append(state)
        run.note(state)
        shares.append(run.share)

    [outcome] = run_all(executor_for(settings), [job], None, watch)
    assert not isinstance(outcome, Exception)
    report = outcome[1]
    assert report.judged is not None
    assert report.judged.trades > 0
    assert (shares[0], shares[-1], run.n_policies) == (0.0, 1.0, 1)
    assert shares == sorted(shares)
    for at, member in enumerate(report.trainings):
        last = [state for state in states if not members > 1 or state.part == f"member {at + 1} of {members}"][-1]
        assert last.updated
        assert (last.timesteps, last.timesteps_planned) == (member.timesteps, member.timesteps)
        assert member.timesteps % ROLLOUT == 0
        assert last.evaluation is not None
        assert last.best is not None
        assert last.evaluation.figures() == member.evaluations[-1]
        assert last.best.figures() == member.best_evaluation


def test_an_algorithm_that_takes_a_few_steps_more_than_asked_is_never_beyond_its_end() -> None:
    settings = tiny_settings(model_type="DQN", n_envs=1, other={"train_freq": 7, "learning_starts": 10})
    tape = random_tape()
    states: list[TrainingState] = []
    _, report = TrainingJob(settings, tape, None, env_settings_of(settings)).run(None, states.append)
    assert report.timesteps > report.timesteps_asked
    assert all(state.timesteps <= state.timesteps_planned for state in states)
