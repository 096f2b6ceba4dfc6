"""An ensemble is trained member by member, each as a training by itself, and evaluated as one."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import PPO
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.policy.ensemble import EnsemblePolicy
from mtfscalper.policy.joined_model import join_models, split_model
from mtfscalper.policy.network import MaskedActorCriticPolicy
from mtfscalper.training.ensemble import join, member_jobs
from mtfscalper.training.evaluation import evaluate
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport, doubts


def job(ensemble: int = 3, held_out: bool = True, seed: int | None = None, **keywords: Any) -> TrainingJob:
    job_keys = {name: keywords.pop(name) for name in ("initial_model", "tensorboard_dir") if name in keywords}
    settings = tiny_settings(ensemble=ensemble, **keywords)
    evaluation = random_tape(400, seed=2) if held_out else None
    return TrainingJob(settings, random_tape(), evaluation, env_settings_of(settings), seed=seed, **job_keys)


def trained(asked: TrainingJob) -> tuple[Any, TrainingReport]:
    return join(asked, [member.run() for member in member_jobs(asked)])


def reopened(model: Any) -> PPO:
    return PPO.load(io.BytesIO(model_zip(model)), device="cpu")


# ---------------------------------------------------------------------- the jobs


def test_no_two_environments_of_an_ensemble_start_with_one_seed() -> None:
    n_envs, jobs = 2, member_jobs(job(seed=7))
    assert [member.seed for member in jobs] == [7, 9, 11]
    started = [member.seed + index for member in jobs for index in range(n_envs)]
    assert len(set(started)) == len(started)
    assert [member.seed for member in member_jobs(job(n_envs=4, seed=None))] == [42, 46, 50]


def test_an_ensemble_of_one_is_the_job_itself() -> None:
    asked = job(1)
    [only] = member_jobs(asked)
    assert (only.seed, only.part, only.tensorboard_dir) == (asked.seed, asked.part, asked.tensorboard_dir)
    result = only.run()
    model, report = join(asked, [result])
    assert model is result[0]
    # What the policy earns where it has learned is looked at once it has.
    assert report.training_evaluation is not None
    assert replace(report, training_evaluation=None) == result[1]
    assert not result[1].members


def test_members_write_their_tensorboard_files_apart(tmp_path: Path) -> None:
    trained(job(2, tensorboard_dir=tmp_path))
    assert {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("events*")} == {
        "member_1/PPO_1",
        "member_2/PPO_1",
    }


def test_the_log_says_which_member_is_trained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trained(job(2))
    assert ": training member 2 of 2, with seed 44." in caplog.text
    assert f"{job().train.pair}, member 1 of 2: trained 256 timesteps" in caplog.text
    caplog.clear()
    trained(job(1))
    assert "member" not in caplog.text


# ---------------------------------------------------------------------- what comes out


def test_each_member_is_the_policy_that_a_training_with_its_seed_gives() -> None:
    model, report = trained(job(2))
    parts = split_model(reopened(model))
    for part, seed in zip(parts, (42, 44), strict=True):
        alone, alone_report = job(1, seed=seed).run()
        assert same(parameters(part), parameters(alone))
        assert report.members[seed // 44].best_evaluation is not None
        assert report.members[seed // 44].best_evaluation["log_return"] == alone_report.best_evaluation["log_return"]
    assert not same(*(parameters(part) for part in parts))


def test_the_report_sums_up_the_members_and_evaluates_them_as_one() -> None:
    asked = job(3, learning_rate=0.02, n_epochs=5, entry_mode="agent")
    model, report = trained(asked)
    members = report.members
    assert len(members) == 3
    assert report.timesteps == sum(member.timesteps for member in members) == 3 * members[0].timesteps
    assert report.timesteps_asked == 3 * 200
    assert report.seconds == pytest.approx(sum(member.seconds for member in members))
    assert report.seconds_of("update") == pytest.approx(sum(member.seconds_of("update") for member in members))
    assert report.reward_terms["equity"] == pytest.approx(sum(member.reward_terms["equity"] for member in members))
    assert asked.evaluation is not None
    expected = evaluate(model, asked.evaluation, asked.env)
    assert report.best_evaluation is not None
    assert report.best_evaluation["log_return"] == expected.log_return
    assert report.best_evaluation["trades"] == expected.trades
    # The control: it is another policy than any of its members.
    alone = [evaluate(part, asked.evaluation, asked.env).log_return for part in split_model(model)]
    assert expected.log_return not in alone
    told = report.summary()
    assert f"evaluation of all 3 as one: {expected.log_return:+.4f}" in told
    assert ", ".join(f"{one:+.4f}" for one in alone) in told


def test_a_report_comes_back_from_json_with_its_members() -> None:
    _, report = trained(job(2))
    assert TrainingReport.from_json(json.loads(json.dumps(report.as_json()))) == report


def test_doubts_count_the_members_trainings() -> None:
    told = doubts([trained(job(2, n_steps=128))[1]])
    assert told is not None
    assert "in 2 of 2 trainings 200 timesteps" in told
    assert "evaluations to choose the best policy from: 1" in told


def test_without_held_out_candles_there_is_no_evaluation() -> None:
    model, report = trained(job(2, held_out=False))
    assert isinstance(model.policy, EnsemblePolicy)
    assert report.best_evaluation is None
    assert report.evaluations == []
    assert "as one: none" in report.summary()


# ---------------------------------------------------------------------- learning on


def test_an_ensemble_goes_on_member_by_member() -> None:
    model, _ = trained(job(2))
    # A learning rate this small leaves each member where it started; another seed tells that nothing began anew.
    on, _ = trained(job(2, seed=1000, learning_rate=1e-9, initial_model=model_zip(model)))
    before, after = (parameters(one) for one in (model, on))
    assert max((after[name] - before[name]).abs().max().item() for name in before) < 1e-5
    afresh = parameters(trained(job(2, seed=1000, learning_rate=1e-9))[0])
    assert max((afresh[name] - before[name]).abs().max().item() for name in before) > 1e-2
    # Adam's count of steps goes on too.
    [first], [then] = (
        {state["step"].item() for state in one.policy.optimizer.state_dict()["state"].values()} for one in (model, on)
    )
    assert then == 2 * first > 0


@pytest.mark.parametrize(("had", "wanted"), [(1, 2), (2, 1), (2, 3)])
def test_another_number_of_members_is_trained_anew_and_said(
    had: int, wanted: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = model_zip(trained(job(had))[0])
    model, _ = trained(job(wanted, initial_model=before))
    assert f"has another number of members (ensemble was {had} and is {wanted}); training starts anew" in caplog.text
    assert same(parameters(model), parameters(trained(job(wanted))[0]))


def test_an_ensemble_of_another_network_is_trained_anew(caplog: pytest.LogCaptureFixture) -> None:
    before = model_zip(trained(job(2, net_arch=[6]))[0])
    model, _ = trained(job(2, initial_model=before))
    assert "another network (net_arch was [6] and is [8])" in caplog.text
    assert same(parameters(model), parameters(trained(job(2))[0]))


def test_a_member_that_learned_in_bfloat16_decides_in_float32_and_learns_on_in_it() -> None:
    model, report = trained(job(2, precision="bf16"))
    assert {member.precision for member in report.members} == {"bf16"}
    policy = model.policy
    assert isinstance(policy, EnsemblePolicy)
    assert {member.precision for member in policy.members} == {"fp32"}
    _, again = trained(job(2, precision="bf16", initial_model=model_zip(model)))
    assert {member.precision for member in again.members} == {"bf16"}


def test_models_of_another_class_can_be_joined_too() -> None:
    """What plain stable-baselines3 opens again is as good as what was just trained."""
    members = [member.run()[0] for member in member_jobs(job(2))]
    ours, theirs = join_models(members), join_models([reopened(member) for member in members])
    assert same(parameters(ours), parameters(theirs))
    assert all(isinstance(part.policy, MaskedActorCriticPolicy) for part in split_model(theirs))
    assert torch.equal(*(next(one.policy.parameters()) for one in (ours, theirs)))
