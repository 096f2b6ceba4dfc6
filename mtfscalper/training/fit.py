"""Train a policy on a tape."""

from __future__ import annotations

import io
import logging
import math
import os
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ProgressBarCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device, set_random_seed
from stable_baselines3.common.vec_env import VecEnv

from mtfscalper.envs.build import SupervisedSubprocVecEnv, build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.machine import compiles_on, precision_on
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.policy.network import CandleWindowExtractor, MaskedActorCriticPolicy, features_extractor, prefer_holding
from mtfscalper.settings import Settings
from mtfscalper.training.compiled import CompiledFunction
from mtfscalper.training.evaluation import KeepBest
from mtfscalper.training.ppo import FusedPPO, loss_gradients
from mtfscalper.training.reward_check import check_reward
from mtfscalper.training.vec_env_choice import fastest_vec_env

logger = logging.getLogger(__name__)


class TrainingStoppedError(RuntimeError):
    """The bot is shutting down, and training with it."""


@dataclass
class TrainingReport:
    """What a training really did, as measured while it ran. Written beside the model as JSON.

    :ivar phases: (name, start, stop) of every rollout and update, seconds since 1970
    :ivar reward_terms: sums by name over all rollouts
    :ivar reward_profit_correlation: see :func:`mtfscalper.training.reward_check.reward_profit_correlation`
    """

    pair: str
    model_type: str
    timesteps_asked: int
    timesteps: int = 0
    seconds: float = 0.0
    process_id: int = 0
    vec_env: str = ""
    n_envs: int = 0
    worker_pids: list[int] = field(default_factory=list)
    torch_threads: int = 0
    torch_interop_threads: int = 0
    precision: str = "fp32"
    compiled: bool = False
    train_candles: int = 0
    train_tape_sha256: str = ""
    evaluation_candles: int = 0
    phases: list[tuple[str, float, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_evaluation: dict[str, float] | None = None
    reward_terms: dict[str, float] = field(default_factory=dict)
    reward_profit_correlation: float = 0.0

    def seconds_of(self, phase: str) -> float:
        """Seconds spent in the phases of one name."""
        return sum(stop - start for name, start, stop in self.phases if name == phase)


class _PhaseClock(BaseCallback):
    """Times rollouts and updates, and collects the reward's terms once a rollout."""

    def __init__(self, report: TrainingReport) -> None:
        super().__init__()
        self._report = report
        self._terms: Counter[str] = Counter()
        self._rollout_since: float | None = None
        self._update_since: float | None = None

    def _on_rollout_start(self) -> None:
        self._end_update()
        # From the first step on: an evaluation may come first.
        self._rollout_since = None

    def _on_step(self) -> bool:
        if self._rollout_since is None:
            self._rollout_since = time.time()
        return True

    def _on_rollout_end(self) -> None:
        # Off-policy algorithms collect and update every few steps: too many phases to list.
        if not isinstance(self.model, OnPolicyAlgorithm):
            return
        if self._rollout_since is not None:
            self._report.phases.append(("rollout", self._rollout_since, time.time()))
        self._drain()
        for name, total in self._terms.items():
            self.logger.record(f"reward/{name}", total / max(self.num_timesteps, 1))
        self._update_since = time.time()

    def _on_training_end(self) -> None:
        self._end_update()
        self._drain()
        self._report.reward_terms = dict(self._terms)

    def _end_update(self) -> None:
        if self._update_since is not None:
            self._report.phases.append(("update", self._update_since, time.time()))
            self._update_since = None

    def _drain(self) -> None:
        for terms in self.training_env.env_method("drain_reward_terms"):
            self._terms.update(terms)


class _StopOnEvent(BaseCallback):
    """Leaves training when the bot stops."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def _on_step(self) -> bool:
        if self._event.is_set():
            raise TrainingStoppedError("the bot is stopping; this training is given up and its model not saved")
        return True


def fit(
    settings: Settings,
    train_tape: MarketTape,
    evaluation_tape: MarketTape | None,
    env_settings: EnvSettings,
    *,
    initial_model: BaseAlgorithm | None = None,
    tensorboard_dir: Path | None = None,
    stop_event: threading.Event | None = None,
) -> tuple[BaseAlgorithm, TrainingReport]:
    """Train, evaluate after every update, and return the best policy by evaluation.

    Worker processes are ended before this returns or raises.

    :param train_tape: candles to train on
    :param evaluation_tape: held-out candles, or None to return the last policy
    :param initial_model: a model to go on from; a copy is trained, the model itself stays as it is
    :param stop_event: once set, training stops with :class:`TrainingStoppedError`
    :raises mtfscalper.envs.build.WorkerDiedError: if a worker process is lost
    """
    rl = settings.rl
    timesteps = rl.train_cycles * len(train_tape)
    report = TrainingReport(
        pair=train_tape.pair,
        model_type=rl.model_type,
        timesteps_asked=timesteps,
        process_id=os.getpid(),
        torch_threads=torch.get_num_threads(),
        torch_interop_threads=torch.get_num_interop_threads(),
        train_candles=len(train_tape),
        train_tape_sha256=train_tape.digest(),
        evaluation_candles=len(evaluation_tape) if evaluation_tape is not None else 0,
    )
    compact = rl.model_type == "PPO"
    started = time.perf_counter()
    report.reward_profit_correlation = check_reward(train_tape, env_settings, rl.seed)
    name: str = rl.vec_env
    if name == "auto":
        name = fastest_vec_env(settings, train_tape, env_settings, compact=compact)
    set_random_seed(rl.seed)
    with ExitStack() as resources:
        vec_env = build_vec_env(name, train_tape, env_settings, rl.n_envs, compact=compact)
        resources.callback(vec_env.close)
        inner = underlying(vec_env)
        report.vec_env, report.n_envs = type(inner).__name__, vec_env.num_envs
        if isinstance(inner, SupervisedSubprocVecEnv):
            report.worker_pids = inner.pids
            report.vec_env = "SubprocVecEnv"
        model = _model(settings, train_tape, vec_env, initial_model, tensorboard_dir)
        if isinstance(model, FusedPPO):
            report.precision = model.policy_kwargs["precision"]
            if compiles_on(rl.compile, model.device):
                model.loss_gradients = CompiledFunction(loss_gradients)
        keep_best = _evaluation_callback(model, evaluation_tape, env_settings, len(train_tape))
        callbacks: list[BaseCallback] = [_PhaseClock(report)]
        if keep_best is not None:
            resources.callback(keep_best.close)
            callbacks.append(keep_best)
        if stop_event is not None:
            callbacks.append(_StopOnEvent(stop_event))
        _learn(model, timesteps, callbacks, rl.progress_bar, report)
        # The model outlives its environments, their candles, and what only training needed.
        model.env = None
        if isinstance(model, FusedPPO):
            report.compiled = isinstance(model.loss_gradients, CompiledFunction) and model.loss_gradients.compiled
            model.release_memory()
        if keep_best is not None:
            keep_best.restore()
            report.evaluations = [result._asdict() for result in keep_best.history]
            report.best_evaluation = keep_best.best._asdict() if keep_best.best else None
    if compact:
        features_extractor(model).features = torch.empty(0, train_tape.n_features, device=model.device)
    report.timesteps = model.num_timesteps
    report.seconds = time.perf_counter() - started
    return model, report


def _learn(
    model: BaseAlgorithm, timesteps: int, callbacks: list[BaseCallback], progress_bar: bool, report: TrainingReport
) -> None:
    progress: ProgressBarCallback | None = None
    if progress_bar:
        progress = ProgressBarCallback()
        callbacks = [progress, *callbacks]
    try:
        # Continual learning starts a new count: its zip would otherwise believe that it has finished.
        model.learn(total_timesteps=timesteps, callback=CallbackList(callbacks), reset_num_timesteps=True)
    finally:
        # SB3 closes the bar only when learning ends well.
        if progress is not None and progress.pbar is not None:
            progress.pbar.close()
    if model.num_timesteps > timesteps:
        logger.info(
            "%s: %d timesteps asked (train_cycles x candles), %d run: whole rollouts of n_envs x n_steps.",
            report.pair,
            timesteps,
            model.num_timesteps,
        )


def _evaluation_callback(
    model: BaseAlgorithm, tape: MarketTape | None, env_settings: EnvSettings, train_candles: int
) -> KeepBest | None:
    needed = env_settings.window + 2
    if tape is None or not any(stop - start >= needed for start, stop in tape.segments):
        logger.info(
            "No evaluation: the held-out part has no run of %d candles (data_split_parameters.test_size); the last "
            "policy is returned.",
            needed,
        )
        return None
    # A2C and the off-policy algorithms call every few steps a rollout; for them, one pass over the training candles
    # is a fair pause.
    rollout_steps: int = getattr(model, "n_steps", 0) * model.n_envs
    long = 10 * rollout_steps >= train_candles
    return KeepBest(tape, env_settings, every_timesteps=rollout_steps if long else train_candles)


def _model(
    settings: Settings,
    tape: MarketTape,
    vec_env: VecEnv,
    initial_model: BaseAlgorithm | None,
    tensorboard_dir: Path | None,
) -> BaseAlgorithm:
    rl = settings.rl
    # SB3 draws the environments' seeds from this one: environment i starts with seed + i.
    common: dict[str, Any] = {"seed": rl.seed, "device": rl.device}
    common["tensorboard_log"] = str(tensorboard_dir) if tensorboard_dir is not None else None
    model: BaseAlgorithm
    if initial_model is not None:
        continued = _copy_to_continue(initial_model, vec_env, settings, tape)
        if continued is not None:
            continued.tensorboard_log = common["tensorboard_log"]
            vec_env.seed(rl.seed)
            if rl.model_type == "PPO":
                features_extractor(continued).set_features(tape.features)
            return continued
    if rl.model_type != "PPO":
        arguments = settings.other_algorithm_kwargs | common
        policy_kwargs: dict[str, Any] = {"net_arch": list(rl.net_arch), "activation_fn": torch.nn.ReLU}
        if rl.policy_type == "LinearPolicy":
            # ARS's, which has no layers.
            policy_kwargs = {}
        model = algorithm_class(rl.model_type)(rl.policy_type, vec_env, policy_kwargs=policy_kwargs, **arguments)
        return model
    model = FusedPPO(
        MaskedActorCriticPolicy,
        vec_env,
        policy_kwargs=_network(settings, tape),
        **settings.ppo.model_dump(),
        **common,
    )
    features_extractor(model).set_features(tape.features)
    prefer_holding(model, rl.initial_exit_probability)
    return model


def _network(settings: Settings, tape: MarketTape) -> dict[str, Any]:
    """What shapes PPO's network, as arguments of the policy."""
    return {
        "net_arch": list(settings.rl.net_arch),
        "activation_fn": torch.nn.ReLU,
        "features_extractor_class": CandleWindowExtractor,
        "features_extractor_kwargs": {"n_features": tape.n_features, "window": settings.window},
        "precision": precision_on(settings.rl.precision, get_device(settings.rl.device)),
    }


def _copy_to_continue(
    initial_model: BaseAlgorithm, vec_env: VecEnv, settings: Settings, tape: MarketTape
) -> BaseAlgorithm | None:
    """A copy of a model in which inference may go on meanwhile; None if its network is not the one set now."""
    arguments: dict[str, Any] = {}
    if settings.rl.model_type == "PPO":
        had, wanted = initial_model.policy_kwargs, _network(settings, tape)
        # A precision is how a machine computes, not what the network is: a model may go on with another.
        changed = [
            f"{name} was {had.get(name)} and is {wanted[name]}"
            for name in wanted
            if name != "precision" and had.get(name) != wanted[name]
        ]
        if changed:
            logger.warning(
                "%s: the model to go on from has another network (%s); training starts anew.",
                tape.pair,
                ", ".join(changed),
            )
            return None
        # A zip brings the settings of its own training with it.
        arguments = settings.ppo.model_dump()
        arguments["_stats_window_size"] = arguments.pop("stats_window_size")
    buffer = io.BytesIO()
    initial_model.save(buffer)
    buffer.seek(0)
    # A model from disk is plain PPO: its class is not in its zip.
    kind = FusedPPO if settings.rl.model_type == "PPO" else type(initial_model)
    continued: Any = kind.load(buffer, env=vec_env, device=settings.rl.device, **arguments)
    if isinstance(continued, FusedPPO):
        precision = _network(settings, tape)["precision"]
        continued.policy.precision = continued.policy_kwargs["precision"] = precision
    return continued  # type: ignore[no-any-return]


def report_as_json(report: TrainingReport) -> dict[str, Any]:
    """A report as plain JSON values; numbers that are not finite become None."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return plain(asdict(report))  # type: ignore[no-any-return]
