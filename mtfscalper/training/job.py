"""A training as one value: what it needs goes in, can be sent to wherever it runs, and is run once."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import get_device, set_random_seed

from mtfscalper.envs.build import SupervisedSubprocVecEnv, build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.machine import memory_bytes
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.network import MaskedActorCriticPolicy, features_extractor
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.settings import Settings
from mtfscalper.training.callbacks import Door, OnEvaluation, PhaseClock
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.evaluation import KeepBest, can_evaluate, shortest_run
from mtfscalper.training.fit import build_model, learn, network_arguments
from mtfscalper.training.memory import check_memory
from mtfscalper.training.population import train_population, why_not_on_device
from mtfscalper.training.ppo import FusedPPO
from mtfscalper.training.report import TrainingReport
from mtfscalper.training.reward_check import check_reward
from mtfscalper.training.vec_env_choice import fastest_vec_env

logger = logging.getLogger(__name__)


class TrainingStoppedError(RuntimeError):
    """The bot is shutting down, and training with it."""


def stop_on(event: threading.Event) -> OnEvaluation:
    """What ends a training (:meth:`TrainingJob.run`) once an event is set, with :class:`TrainingStoppedError`."""

    def check(_: object) -> None:
        if event.is_set():
            raise TrainingStoppedError("the bot is stopping; this training is given up and its model not saved")

    return check


@dataclass(frozen=True, eq=False)
class TrainingJob:
    """One training. It can be pickled.

    :ivar train: candles to train on
    :ivar evaluation: held-out candles, or None to return the last policy
    :ivar env: how candles are traded and rewarded
    :ivar seed: in place of the settings' own
    :ivar initial_model: zip of a model to go on from
    :ivar tensorboard_dir: where TensorBoard's files go, None for none
    :ivar network: the class that ``rl_config.network`` names
    :ivar part: which of several trainings it is, in words for the log, "" for one by itself
    """

    settings: Settings
    train: MarketTape
    evaluation: MarketTape | None
    env: EnvSettings
    _: KW_ONLY
    seed: int | None = None
    initial_model: bytes | None = None
    tensorboard_dir: Path | None = None
    network: UserNetwork | None = None
    part: str = ""

    def seeded(self) -> TrainingJob:
        """The same training, its seed among its settings."""
        if self.seed is None:
            return self
        rl = self.settings.rl.model_copy(update={"seed": self.seed})
        return replace(self, settings=self.settings.model_copy(update={"rl": rl}), seed=None)

    def begin_report(self) -> TrainingReport:
        """What is known of the training before it begins."""
        return TrainingReport(
            pair=self.train.pair,
            model_type=self.settings.rl.model_type,
            timesteps_asked=self.settings.rl.train_cycles * len(self.train),
            process_id=os.getpid(),
            torch_threads=torch.get_num_threads(),
            torch_interop_threads=torch.get_num_interop_threads(),
            train_candles=len(self.train),
            train_tape_sha256=self.train.digest(),
            evaluation_candles=len(self.evaluation) if self.evaluation is not None else 0,
        )

    def evaluation_every(self, rollout_steps: int) -> int | None:
        """Timesteps between two evaluations; None, and one log line, where nothing can be evaluated."""
        if self.evaluation is None or not can_evaluate(self.evaluation, self.env):
            logger.info(
                "No evaluation: the held-out part has no run of %d candles (data_split_parameters.test_size); the last "
                "policy is returned.",
                shortest_run(self.env),
            )
            return None
        # A2C and the off-policy algorithms call every few steps a rollout; for them, one pass over the training
        # candles is a fair pause.
        return rollout_steps if 10 * rollout_steps >= len(self.train) else len(self.train)

    def run(self, on_evaluation: OnEvaluation | None = None) -> tuple[BaseAlgorithm, TrainingReport]:
        """Train, evaluate after every update, and return the best policy by evaluation.

        Worker processes are ended before this returns or raises.

        :param on_evaluation: is told each :class:`mtfscalper.training.evaluation.Evaluation` right after it was made,
            and None at every step of the environments in between; what it raises ends the training and comes out here
        :raises mtfscalper.settings.SettingsError: if it needs more memory than this machine has
        :raises mtfscalper.envs.build.WorkerDiedError: if a worker process is lost
        :raises mtfscalper.user_code.UserCodeError: if the user's network cannot be used
        :raises mtfscalper.training.reward_check.RewardTermError: if a term of the user's cannot be used
        """
        settings, train = self.seeded().settings, self.train
        rl, name = settings.rl, str(settings.rl.vec_env)
        if name == "torch":
            why_not = why_not_on_device(settings)
            if why_not is None:
                return train_population([self], [on_evaluation])[0]
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
            name = fastest_vec_env(settings, train, self.env, network, compact=compact)
        set_random_seed(rl.seed)
        with ExitStack() as resources:
            vec_env = build_vec_env(name, train, self.env, rl.n_envs, compact=compact)
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
            callbacks: list[BaseCallback] = [PhaseClock(report)]
            if keep_best is not None:
                resources.callback(keep_best.close)
                callbacks.append(keep_best)
            if on_evaluation is not None:
                callbacks.append(Door(on_evaluation))
            learn(model, timesteps, callbacks, rl.progress_bar)
            # The model outlives its environments, their candles, and what only training needed.
            model.env = None
            if isinstance(model, FusedPPO):
                report.fused = model.fused
                report.compiled = isinstance(model.loss_gradients, CompiledFunction) and model.loss_gradients.compiled
                model.release_memory()
            if keep_best is not None:
                keep_best.restore()
                report.evaluations = [result._asdict() for result in keep_best.history]
                report.best_evaluation = keep_best.best._asdict() if keep_best.best else None
        if compact:
            features_extractor(model).features = torch.empty(0, train.n_features, device=model.device)
        report.timesteps = model.num_timesteps
        if report.timesteps > timesteps:
            logger.info(
                "%s: %d timesteps asked (train_cycles x candles), %d run: whole rollouts of n_envs x n_steps.",
                report.pair,
                timesteps,
                report.timesteps,
            )
        report.seconds = time.perf_counter() - started
        if self.part:
            logger.info("%s: %s", self.part, report.summary())
        return model, report

    def _keep_best(self, rollout_steps: int, on_evaluation: OnEvaluation | None) -> KeepBest | None:
        every = self.evaluation_every(rollout_steps)
        if every is None or self.evaluation is None:
            return None
        return KeepBest(self.evaluation, self.env, every_timesteps=every, on_evaluation=on_evaluation)
