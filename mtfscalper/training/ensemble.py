"""An ensemble's training: one job for each member, and what their results are together."""

from __future__ import annotations

import io
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.files_read import note_all
from mtfscalper.policy.joined_model import join_models, n_members_of_zip, split_model
from mtfscalper.training.evaluation import can_evaluate, evaluate
from mtfscalper.training.fit import model_zip
from mtfscalper.training.guard import judged
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.report import TrainingReport

logger = logging.getLogger(__name__)


def member_jobs(job: TrainingJob) -> list[TrainingJob]:
    """The trainings that ``rl_config.ensemble`` asks for: of 1, the job alone.

    As environment i of a training starts with its seed + i, member m has seed + m · n_envs: no two environments of an
    ensemble see the same random numbers.
    """
    rl = job.settings.rl
    n = rl.ensemble
    first_seed = rl.seed if job.seed is None else job.seed
    initial = _initial_models(job)
    if n == 1:
        return [replace(job, initial_model=initial[0])]
    return [
        replace(
            job,
            seed=first_seed + member * rl.environments,
            initial_model=initial[member],
            # stable-baselines3 numbers its folders by what is there, which two trainings at a time would not see.
            tensorboard_dir=None if job.tensorboard_dir is None else job.tensorboard_dir / f"member_{member + 1}",
            part=f"member {member + 1} of {n}",
        )
        for member in range(n)
    ]


def is_alone(job: TrainingJob) -> bool:
    """Whether a job is all the training of its policy, and not a member's."""
    return job.settings.rl.ensemble == 1


def begun(job: TrainingJob) -> TrainingJob:
    """The training that is to be run for a job: of one that is alone, the only one of :func:`member_jobs`."""
    return member_jobs(job)[0] if is_alone(job) else job


def ended(job: TrainingJob, result: tuple[BaseAlgorithm, TrainingReport]) -> tuple[BaseAlgorithm, TrainingReport]:
    """What the training of :func:`begun` gave: of one that is alone, joined and judged where it was trained."""
    return join(job, [result]) if is_alone(job) else result


def join(
    job: TrainingJob, results: Sequence[tuple[BaseAlgorithm, TrainingReport]]
) -> tuple[BaseAlgorithm, TrainingReport]:
    """What the trainings of :func:`member_jobs` gave, as one, judged: of a single one, its own model and report.

    The report also says what the policy earns on the candles that it has learned from. That is found out here, when all
    learning is over, so that it changes none.

    :param job: that they were made of
    :param results: in their order
    """
    model, report = results[0] if len(results) == 1 else _joined(job, results)
    if can_evaluate(job.train, job.env):
        report = replace(report, training_evaluation=evaluate(model, job.train, job.env).figures())
    return model, judged(job, model, report)


def _joined(
    job: TrainingJob, results: Sequence[tuple[BaseAlgorithm, TrainingReport]]
) -> tuple[BaseAlgorithm, TrainingReport]:
    models, reports = zip(*results, strict=True)
    joined = join_models(models)
    return joined, _joined_report(job, joined, reports)


def _joined_report(job: TrainingJob, model: PPO, members: Sequence[TrainingReport]) -> TrainingReport:
    evaluation = None
    if job.evaluation is not None and can_evaluate(job.evaluation, job.env):
        evaluation = evaluate(model, job.evaluation, job.env).figures()
    terms: Counter[str] = Counter()
    for member in members:
        terms.update(member.reward_terms)
    read: dict[str, str] = {}
    for member in members:
        note_all(read, member.files_read)
    # Members that trained at once did so in the same seconds.
    in_turn = members if members[0].population == 1 else members[:1]
    return replace(
        members[0],
        timesteps_asked=sum(member.timesteps_asked for member in members),
        timesteps=sum(member.timesteps for member in members),
        seconds=sum(member.seconds for member in in_turn),
        worker_pids=[pid for member in members for pid in member.worker_pids],
        phases=[phase for member in in_turn for phase in member.phases],
        reward_terms=dict(terms),
        evaluations=[evaluation] if evaluation is not None else [],
        best_evaluation=evaluation,
        members=list(members),
        files_read=read,
    )


def _initial_models(job: TrainingJob) -> Sequence[bytes | None]:
    """What each member goes on from: the member of the same number, where there are as many."""
    n, initial = job.settings.rl.ensemble, job.initial_model
    had = n if initial is None else n_members_of_zip(initial)
    if had != n:
        logger.warning(
            "%s: the model to go on from has another number of members (ensemble was %d and is %d); training starts "
            "anew.",
            job.train.pair,
            had,
            n,
        )
    if initial is None or had != n:
        return [None] * n
    if n == 1:
        return [initial]
    return [model_zip(member) for member in split_model(PPO.load(io.BytesIO(initial), device="cpu"))]
