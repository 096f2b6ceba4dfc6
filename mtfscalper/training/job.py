"""A training as one value: what it needs goes in, can be sent to wherever it runs, and is run once."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device, set_random_seed

from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.worker_env import SupervisedSubprocVecEnv
from mtfscalper.files_read import note_all, watched
from mtfscalper.machine import memory_bytes
from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor
from mtfscalper.training.callbacks import Door, OnEvaluation, PhaseClock
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.curves import Curves, CurvesCallback
from mtfscalper.training.evaluation import KeepBest
from mtfscalper.training.fit import build_model, learn, network_arguments
from mtfscalper.training.memory import check_memory
from mtfscalper.training.own_reward import OwnRewardCallback
from mtfscalper.training.population import train_population, why_not_on_device
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.request import TrainingRequest
from mtfscalper.training.reward_check import check_reward
from mtfscalper.training.vec_env_choice import environments_decided, fastest_environments
from mtfscalper.training.watching import Watch, WatchCallback

logger = logging.getLogger(__name__)


class TrainingStoppedError(RuntimeError):
    """The bot is shutting down, and training with it."""


def stop_on(event: threading.Event) -> OnEvaluation:
    """What ends a training (:meth:`TrainingJob.run`) once an event is set, with :class:`TrainingStoppedError`."""

    def check(_: object) -> None:
        if event.is_set():
            raise TrainingStoppedError("the bot is stopping; this training is given up and its model not saved")

    return check


class TrainingJob(TrainingRequest):
    """One training. It can be pickled."""

    def run(
        self, on_evaluation: OnEvaluation | None = None, watch: Watch | None = None
    ) -> tuple[BaseAlgorithm, TrainingReport]:
        """Train, evaluate after every update, and return the best policy by evaluation.

        Worker processes are ended before this returns or raises.

        :param on_evaluation: is told each :class:`mtfscalper.training.evaluation.Evaluation` right after it was made,
            and None at every step of the environments in between; what it raises ends the training and comes out here
        :param watch: is told how far the training is
        :raises mtfscalper.settings.SettingsError: if it needs more memory than this machine has
        :raises mtfscalper.envs.worker_env.WorkerDiedError: if a worker process is lost
        :raises mtfscalper.user_code.UserCodeError: if the user's network cannot be used
        :raises mtfscalper.training.reward_check.RewardTermError: if a term of the user's cannot be used
        :raises mtfscalper.trading.own_reward.OwnRewardError: if a reward of the user's cannot be computed
        """
        if not self.has_users_code:
            return self._run(on_evaluation, watch)
        read: dict[str, str] = {}
        with watched(read):
            model, report = self._run(on_evaluation, watch)
        note_all(report.files_read, read)
        return model, report

    def _run(self, on_evaluation: OnEvaluation | None, watch: Watch | None) -> tuple[BaseAlgorithm, TrainingReport]:
        if self.settings.rl.n_envs == "auto":
            network = network_arguments(self.settings, self.train.n_features, self.network)
            decided = environments_decided(self.settings, self.train, self.env, network)
            return replace(self, settings=decided)._run(on_evaluation, watch)
        settings, train = self.seeded().settings, self.train
        rl, name = settings.rl, str(settings.rl.vec_env)
        if name == "torch":
            why_not = why_not_on_device(settings)
            if why_not is None:
                return train_population([self], [on_evaluation], watch)[0]
            logger.warning("vec_env 'torch' does not train this (%s); training goes on with 'batched'.", why_not)
            name = "batched"
        if self.part:
            logger.info("%s: training %s, with seed %d.", train.pair, self.part, rl.seed)
        report = self.begin_report()
        timesteps = report.timesteps_asked
        check_memory(settings, memory_bytes(get_device(rl.device)), train.n_features)
        compact = rl.model_type == "PPO"
        started = time.perf_counter()
        network = network_arguments(settings, train.n_features, self.network)
        report.reward_profit_correlation = check_reward(train, self.env, rl.seed)
        if name == "auto":
            name = fastest_environments(settings, train, self.env, network, compact=compact).vec_env
        set_random_seed(rl.seed)
        with ExitStack() as resources:
            vec_env = build_vec_env(name, train, self.env, rl.environments, compact=compact, n_workers=rl.env_workers)
            resources.callback(vec_env.close)
            inner = underlying(vec_env)
            report.vec_env, report.n_envs = type(inner).__name__, vec_env.num_envs
            if isinstance(inner, SupervisedSubprocVecEnv):
                report.worker_pids = inner.pids
                report.vec_env = "SubprocVecEnv"
            model = build_model(settings, train, vec_env, network, self.initial_model, self.tensorboard_dir)
            report.rollout_timesteps = getattr(model, "n_steps", 0) * model.n_envs
            if isinstance(model.policy, MaskedActorCriticPolicy):
                report.precision = model.policy.precision
            keep_best = self._keep_best(report.rollout_timesteps, on_evaluation)
            judgement = keep_best.judgement if keep_best is not None else None
            callbacks: list[BaseCallback] = [PhaseClock(report)]
            if keep_best is not None:
                resources.callback(keep_best.close)
                callbacks.append(keep_best)
            pause = self.pause(report.rollout_timesteps)
            callbacks.append(CurvesCallback(Curves(report, judgement), self.seeded(), pause))
            if watch is not None:
                callbacks.append(WatchCallback(watch, self, report.timesteps_planned, judgement))
            if self.env.own_reward is not None:
                callbacks.append(OwnRewardCallback())
            if on_evaluation is not None:
                callbacks.append(Door(on_evaluation))
            learn(model, timesteps, callbacks, self.board_name)
            if self.has_users_code and isinstance(inner, SupervisedSubprocVecEnv):
                for read in vec_env.env_method("files_read"):
                    note_all(report.files_read, read)
            # The model outlives its environments, their candles, and what only training needed.
            model.env = None
            if isinstance(model, FusedPPO):
                report.fused = model.fused
                report.compiled = isinstance(model.loss_gradients, CompiledFunction) and model.loss_gradients.compiled
                model.release_memory()
            if keep_best is not None:
                keep_best.restore()
                keep_best.judgement.tell(report)
        if compact:
            features_extractor(model).features = torch.empty(0, train.n_features, device=model.device)
        report.timesteps = model.num_timesteps
        report.seconds = time.perf_counter() - started
        if self.part:
            logger.info("%s, %s: %s", self.name, self.part, report.summary())
        return model, report

    def _keep_best(self, rollout_steps: int, on_evaluation: OnEvaluation | None) -> KeepBest | None:
        every = self.evaluation_every(rollout_steps)
        if every is None or self.evaluation is None:
            return None
        mode = self.settings.rl.evaluation_mode
        return KeepBest(self.evaluation, self.env, every_timesteps=every, on_evaluation=on_evaluation, mode=mode)
