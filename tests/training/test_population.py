"""Trainings side by side on a device: each is what it would have been alone."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_settings
from device_watch import NoHost
from stable_baselines3 import PPO
from tiny_training import ROLLOUT, parameters, random_tape, tiny_settings

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.settings import Settings
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.training import population
from mtfscalper.training.evaluation import Evaluation, evaluate
from mtfscalper.training.fit import model_zip
from mtfscalper.training.job import TrainingJob, TrainingStoppedError
from mtfscalper.training.member import EndMemberError, Member
from mtfscalper.training.member_rollout import MemberRollout, draw_actions
from mtfscalper.training.population import Population, PopulationError, train_population


def job(seed: int = 1, entry_mode: str = "gated", *, env: EnvSettings | None = None, **rl: Any) -> TrainingJob:
    """
    :param rl: keys of ``rl_config``
    """
    settings: Settings = tiny_settings(vec_env="torch", entry_mode=entry_mode, **rl)
    env = env or make_settings(entry_mode, random_start=True)
    return TrainingJob(settings, random_tape(180 + 10 * seed, seed), random_tape(80, 50 + seed), env, seed=seed)


def distance(left: Any, right: Any) -> float:
    ours, theirs = parameters(left), parameters(right)
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_a_member_is_the_training_that_it_is_alone(entry_mode: str) -> None:
    learns_alike: dict[str, Any] = {"entry_mode": entry_mode}
    jobs = [
        job(1, **learns_alike),
        job(2, **learns_alike, learning_rate=3e-3, ent_coef=0.1, gamma=0.9),
        job(3, **learns_alike, clip_range=0.05, gae_lambda=0.5, vf_coef=1.0, max_grad_norm=0.1, target_kl=1e-4),
    ]
    together, alone = train_population(jobs), [one.run() for one in jobs]
    for (ours, our_report), (theirs, their_report) in zip(together, alone, strict=True):
        assert distance(ours, theirs) < 1e-5
        assert our_report.reward_terms == pytest.approx(their_report.reward_terms, abs=1e-12)
        assert [one["trades"] for one in our_report.evaluations] == [one["trades"] for one in their_report.evaluations]
    assert distance(together[0][0], together[1][0]) > 1e-2
    assert [report.timesteps for _, report in together] == [192, 256, 256]


@pytest.mark.parametrize("n_members", [1, 3, 8])
def test_a_member_acts_and_learns_as_alone_whatever_the_number_of_members(n_members: int) -> None:
    def begun(*jobs: TrainingJob) -> Population:
        made = Population([Member(one, None) for one in jobs])
        made.rollout.reset()
        return made

    jobs = [job(seed, learning_rate=1e-3 * seed) for seed in range(1, n_members + 1)]
    together, alone = begun(*jobs), [begun(one) for one in jobs]
    n_envs = jobs[0].settings.rl.n_envs
    for _ in range(2):
        for trainings in (together, *alone):
            trainings.collect()
        for own, columns in zip(alone, together.rollout.buffer.actions.split(n_envs, dim=1), strict=True):
            assert torch.equal(columns, own.rollout.buffer.actions)
        for trainings in (together, *alone):
            trainings.update()
    assert len(set(together.rollout.buffer.actions.flatten().tolist())) > 2
    for trainings in (together, *alone):
        trainings.networks.store()
    for ours, theirs in zip(together.members, alone, strict=True):
        for name, value in parameters(theirs.members[0].model).items():
            torch.testing.assert_close(parameters(ours.model)[name], value, rtol=1e-5, atol=2e-6)


def test_in_float64_eight_members_are_what_each_is_alone() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        jobs = [job(seed) for seed in range(1, 9)]
        together = train_population(jobs)
        assert together[0][0].policy.action_net.weight.dtype == torch.float64
        assert max(distance(model, one.run()[0]) for (model, _), one in zip(together, jobs, strict=True)) < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


def test_members_may_have_rules_and_rewards_of_their_own() -> None:
    dear = make_settings("gated", random_start=True, fee_ratio=0.002)
    shaped = replace(dear, reward=RewardSettings(drawdown_weight=0.5))
    plain = make_settings("gated", random_start=True)
    jobs = [job(1, env=plain), job(2, env=dear), job(3, env=plain), job(4, env=shaped)]
    together = train_population(jobs)
    for (ours, report), one in zip(together, jobs, strict=True):
        theirs, alone = one.run()
        assert report.train_tape_sha256 == one.train.digest()
        assert distance(ours, theirs) < 1e-5
        assert report.reward_terms == pytest.approx(alone.reward_terms, abs=1e-12)
    assert together[3][1].reward_terms.keys() == {"equity", "drawdown"}


@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
@pytest.mark.parametrize("lookback", [1, 5])
def test_members_are_evaluated_as_one_policy_is(entry_mode: str, lookback: int) -> None:
    jobs = []
    for seed in (1, 2):
        one = job(
            seed,
            env=make_settings(entry_mode, lookback, max_drawdown_ratio=0.03),
            entry_mode=entry_mode,
            lookback=lookback,
        )
        # Two runs of candles, and one that is too short to decide anything.
        tape = random_tape(200, 90 + seed)
        dates = tape.dates_ms + np.where(np.arange(200) >= 120, 10**8, 0) + np.where(np.arange(200) >= 195, 10**8, 0)
        held_out = replace(tape, dates_ms=dates, segments=((0, 120), (120, 195), (195, 200)))
        jobs.append(replace(one, evaluation=held_out))
    for (model, report), one in zip(train_population(jobs), jobs, strict=True):
        assert one.evaluation is not None
        assert report.best_evaluation is not None
        expected = evaluate(model, one.evaluation, one.env)
        assert report.best_evaluation["log_return"] == pytest.approx(expected.log_return, abs=1e-12)
        assert (report.best_evaluation["trades"], report.best_evaluation["win_ratio"]) == expected[2:4]
        assert expected.trades >= 2


def test_a_policy_opens_with_plain_ppo_and_goes_on_learning() -> None:
    [(model, report)] = train_population([job(entry_mode="agent")])
    opened = PPO.load(io.BytesIO(model_zip(model)))
    assert distance(opened, model) == 0.0
    assert (report.vec_env, report.fused, report.timesteps) == ("torch", True, 3 * ROLLOUT)
    assert {name for name, *_ in report.phases} == {"rollout", "update"}
    again = replace(job(entry_mode="agent", learning_rate=1e-9), initial_model=model_zip(model))
    assert distance(train_population([again])[0][0], model) < 1e-5


def test_a_job_says_where_it_trains_and_what_else_does(caplog: pytest.LogCaptureFixture) -> None:
    _, report = job().run()
    assert report.vec_env == "torch"
    _, report = job(activation="tanh").run()
    assert report.vec_env == "BatchedTradingEnv"
    assert "vec_env 'torch' does not train this (activation is 'tanh', and only 'relu' does)" in caplog.text


def test_members_leave_nothing_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    train_population([job(1), job(2)])
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor")] == []


def test_trainings_of_different_shapes_are_refused() -> None:
    with pytest.raises(PopulationError, match=r"net_arch is \(8,\) and \(9,\).*remedy: train them apart"):
        train_population([job(1), job(2, net_arch=[9])])


# ---------------------------------------------------------------- the doors


def test_one_member_ends_early_and_the_others_go_on() -> None:
    seen: list[Sequence[Evaluation]] = [[], []]

    def ends(result: Evaluation | None) -> None:
        if result is not None:
            seen[0].append(result)  # type: ignore[attr-defined]
            raise EndMemberError

    def watches(result: Evaluation | None) -> None:
        if result is not None:
            seen[1].append(result)  # type: ignore[attr-defined]

    jobs = [job(1, train_cycles=2), job(2, train_cycles=2)]
    (ended, short), (went_on, whole) = train_population(jobs, [ends, watches])
    assert (len(seen[0]), short.timesteps, len(short.evaluations)) == (1, ROLLOUT, 1)
    assert (len(seen[1]), whole.timesteps) == (len(whole.evaluations), 7 * ROLLOUT)
    assert distance(went_on, jobs[1].run()[0]) < 1e-5
    one_rollout = replace(jobs[0], train=jobs[0].train)
    stopped = one_rollout.run(ends)[0]
    assert distance(ended, stopped) < 1e-5


def test_whatever_else_a_door_raises_ends_the_population() -> None:
    steps = iter(range(1000))

    def stops(_: Evaluation | None) -> None:
        if next(steps) == 40:
            raise TrainingStoppedError("enough")

    with pytest.raises(TrainingStoppedError, match="enough"):
        train_population([job(1), job(2)], [None, stops])


# ---------------------------------------------------------------- memory


def test_what_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    sizes: list[int] = []
    collect = MemberRollout.collect

    def too_large(self: MemberRollout, *arguments: Any) -> None:
        sizes.append(len(self._generators))
        if len(self._generators) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        collect(self, *arguments)

    jobs = [job(seed) for seed in (1, 2, 3)]
    whole = train_population(jobs)
    monkeypatch.setattr(MemberRollout, "collect", too_large)
    with caplog.at_level(logging.INFO, logger=population.__name__):
        halves = train_population(jobs)
    assert (sizes[0], set(sizes)) == (3, {1, 2, 3})
    assert "3 trainings at once need more memory than cpu has: 2 and 1 of them follow each other." in caplog.text
    assert "MB or more for each" in caplog.text
    assert "vec_env 'torch' is made for a GPU; on this machine's processor 'batched' is faster" in caplog.text
    for (ours, _), (theirs, _) in zip(halves, whole, strict=True):
        assert distance(ours, theirs) < 1e-5


# ---------------------------------------------------------------- the rollout


def test_actions_are_drawn_as_often_as_they_are_likely_and_never_if_impossible() -> None:
    probabilities = torch.tensor([0.0, 0.2, 0.0, 0.8, 0.0])
    uniforms = torch.rand(200_000, generator=torch.Generator().manual_seed(1))
    # The largest number that is drawn.
    uniforms[:2] = torch.tensor([0.0, 1 - 2**-24])
    drawn = draw_actions(probabilities.log().expand(len(uniforms), -1), uniforms)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert float(counts[1] / len(uniforms)) == pytest.approx(0.2, abs=0.004)


def test_nothing_waits_for_the_device_inside_a_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = 0
    one_step = MemberRollout._one_step

    def under_watch(self: MemberRollout) -> None:
        nonlocal watched
        watched += 1
        # The first step makes room.
        with NoHost() if watched > 1 else nullcontext():
            one_step(self)

    monkeypatch.setattr(MemberRollout, "_one_step", under_watch)
    train_population([job(1, "classic"), job(2, "classic")])
    assert watched > 100
