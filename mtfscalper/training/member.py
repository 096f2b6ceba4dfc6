"""One training of a population: what it is made of, what is said of it, and what comes out."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.utils import set_random_seed

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.device_env import RolloutSums
from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.curves import Curves, record_actions, record_rewards, record_settings
from mtfscalper.training.device import UPDATE_METRICS
from mtfscalper.training.evaluation import Evaluation, Judgement
from mtfscalper.training.fit import build_model, model_zip, network_arguments
from mtfscalper.training.member_envs import Stage
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest
from mtfscalper.training.reward_check import check_reward
from mtfscalper.training.watching import Watch, Watched

Trained = tuple[BaseAlgorithm, TrainingReport]


class EndMemberError(Exception):
    """Raised by an ``on_evaluation``: its training ends here, and returns its best policy so far; the others go on."""


class Member:
    """One training of a population.

    :ivar job: its seed among its settings
    :ivar n_rollouts: how many it learns from
    :ivar judgement: its evaluations, None where it has none
    :ivar has_ended: whether it learns no more
    """

    def __init__(self, job: TrainingRequest, on_evaluation: OnEvaluation | None, watch: Watch | None = None) -> None:
        self.job = job = job.seeded()
        self._on_evaluation = on_evaluation
        rl, ppo = job.settings.rl, job.settings.ppo
        self.report = report = job.begin_report()
        report.vec_env, report.n_envs, report.fused = "torch", rl.environments, True
        report.rollout_timesteps = rl.environments * ppo.n_steps
        report.reward_profit_correlation = check_reward(job.train, job.env, rl.seed)
        self.n_rollouts = report.timesteps_planned // report.rollout_timesteps
        every = job.evaluation_every(report.rollout_timesteps)
        self.judgement = None if every is None else Judgement(every, rl.evaluation_mode)
        self.has_ended = False
        self._terms: Counter[str] = Counter()
        self.model = self._built()
        report.precision = self.policy.precision
        self._curves = Curves(report, self.judgement)
        record_settings(self.model.logger, job)
        self._watched: Watched | None = None
        if watch is not None:
            self._watched = Watched(watch, job, report.timesteps_planned, self.model.logger, self.judgement)
        # Steps of the rollout that is being collected.
        self._n_steps = 0

    def _built(self) -> FusedPPO:
        job = self.job
        set_random_seed(job.settings.rl.seed)
        # It tells a model its spaces and the number of environments, and is not stepped.
        env = build_vec_env("batched", job.train, job.env, job.settings.rl.environments)
        try:
            network = network_arguments(job.settings, job.train.n_features)
            model = build_model(job.settings, job.train, env, network, job.initial_model, job.tensorboard_dir)
            assert isinstance(model, FusedPPO)
            model._setup_learn(self.report.timesteps_asked, tb_log_name=job.board_name)
        finally:
            env.close()
        model.env = None
        return model

    @property
    def policy(self) -> MaskedActorCriticPolicy:
        policy = self.model.policy
        assert isinstance(policy, MaskedActorCriticPolicy)
        return policy

    @property
    def stage(self) -> Stage:
        """What it is trained on."""
        return Stage(self.job.train, self.job.env)

    @property
    def held_out(self) -> Stage | None:
        """What it is evaluated on."""
        tape = self.job.evaluation
        return None if self.judgement is None or tape is None else Stage(tape, self.job.env)

    @property
    def is_due(self) -> bool:
        """Whether it is to be evaluated before the next rollout; what is untrained is not."""
        timesteps = self.model.num_timesteps
        if self.has_ended or self.judgement is None or not timesteps:
            return False
        return self.has_learned or self.judgement.is_due(timesteps)

    @property
    def has_learned(self) -> bool:
        """Whether it has had all its rollouts."""
        return self.model.num_timesteps >= self.n_rollouts * self.report.rollout_timesteps

    def note_evaluation(self, result: Evaluation | None) -> bool:
        """
        :return: whether it is the best so far
        """
        return self.judgement is not None and result is not None and self.judgement.note(result, self.model.logger)

    def tell_step(self) -> None:
        """Let a watch see that a step of the environments has been taken."""
        if self._watched is not None and not self.has_ended:
            self._n_steps += 1
            self._watched.tell(self.model.num_timesteps + self._n_steps * self.report.n_envs)

    def settle(self) -> None:
        """Write what was recorded since the last rollout, and let a watch see it."""
        self._curves.settle(self.model.logger, self.model.num_timesteps)
        if self._watched is None:
            return
        if self.model.num_timesteps:
            self._watched.tell_update(self.model.num_timesteps)
        else:
            self._watched.tell(0)

    def note_rollout(self, sums: RolloutSums, actions: Sequence[int], iteration: int) -> None:
        """Log a rollout under stable-baselines3's names, as it does before the update.

        :param actions: how often each was taken in it
        """
        model = self.model
        model.num_timesteps += self.report.rollout_timesteps
        self._n_steps = 0
        self._terms.update(sums.reward_terms)
        record_rewards(model.logger, sums.reward_terms, self.report.rollout_timesteps)
        record_actions(model.logger, actions)
        if sums.episodes:
            model.logger.record("rollout/ep_rew_mean", sums.episode_rewards / sums.episodes)
            model.logger.record("rollout/ep_len_mean", sums.episode_decisions / sums.episodes)
        model._update_current_progress_remaining(model.num_timesteps, self.report.timesteps_asked)
        model.dump_logs(iteration)

    def note_update(self, metrics: Sequence[float]) -> None:
        """Log an update.

        :param metrics: of :data:`UPDATE_METRICS`
        """
        values = dict(zip(UPDATE_METRICS, metrics, strict=True))
        self.model._n_updates += round(values.pop("n_epochs"))
        for name, value in values.items():
            self.model.logger.record(f"train/{name}", value)
        self.model.logger.record("train/n_updates", self.model._n_updates, exclude="tensorboard")

    @property
    def has_best(self) -> bool:
        """Whether any evaluation has chosen a policy; without one the last is returned."""
        return self.judgement is not None and self.judgement.best is not None

    def ask(self, result: Evaluation | None) -> None:
        """Let whoever runs the training see it, and end it."""
        if self._on_evaluation is None or self.has_ended:
            return
        try:
            self._on_evaluation(result)
        except EndMemberError:
            self.has_ended = True

    def finish(self, population: int, seconds: float) -> Trained:
        """The model with its best policy, ready to decide, and what the training did.

        :param population: members that trained at once
        :param seconds: that all of them took
        """
        report, model = self.report, self.model
        report.timesteps, report.population, report.seconds = model.num_timesteps, population, seconds
        report.reward_terms = dict(self._terms)
        if self.judgement is not None:
            self.judgement.tell(report)
        if model.device.type != "cpu":
            # As whoever opens its zip has it: decisions are made on the CPU.
            model = FusedPPO.load(io.BytesIO(model_zip(model)), device="cpu")
        model.release_memory()
        features_extractor(model).features = torch.empty(0, self.job.train.n_features)
        return model, report
