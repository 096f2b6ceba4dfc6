"""One rollout and one update of a training, in a process that does nothing else."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import DummyVecEnv

from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.machine import has_bf16, set_torch_threads, usable_processors, why_device_is_missing
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.monitoring.choices import BACKENDS, Abilities, Choice
from mtfscalper.monitoring.ppo_rounds import Seconds, one_round, rounds_of
from mtfscalper.monitoring.roofline import Roofline, copy_rate
from mtfscalper.monitoring.timing import PerStep, TrialError
from mtfscalper.offline.synthetic import generate_market
from mtfscalper.policy.user_network import UserNetwork
from mtfscalper.settings import Settings
from mtfscalper.trading.reward import load_own_terms
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.fit import build_model, network_arguments
from mtfscalper.training.member import Member
from mtfscalper.training.population import Population, why_not_on_device
from mtfscalper.training.request import TrainingRequest
from mtfscalper.user_code import forget_user_code

# Steps of a round's rollout, all environments together, and its epochs: as few as still tell.
SAMPLES, EPOCHS = 1024, 4
SAMPLES_OF_ONE_EPOCH = 16_384
CANDLES_MAX = 20_000
PAIR = "BTC/USDT:USDT"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Limits(NamedTuple):
    """What the machine gives at best, with as many threads as the training has.

    :ivar flops: of matrix products in the training's precision, by second
    :ivar copied_bytes: that are read, and as many written, by second
    """

    flops: float
    copied_bytes: float


@dataclass(frozen=True)
class Task:
    """What is trained: the watched training's features and rules, on candles of the synthetic market.

    :ivar settings: the watched training's
    :ivar features: scaled, shape (n_candles, n_features)
    :ivar user_data: where the user's own code lies
    :ivar signal_share: of the candles, those with an entry signal: passing over the others takes time too
    """

    settings: Settings
    features: npt.NDArray[np.float32]
    rules: TradingRules
    user_data: Path
    signal_share: float

    def rounds_settings(self, choice: Choice) -> Settings:
        """The settings with a choice in them, and a rollout that takes no longer than it must."""
        rl, ppo = self.settings.rl, self.settings.ppo
        samples = max(SAMPLES, 2 * ppo.batch_size)
        n_steps = min(ppo.n_steps, -(-samples // rl.environments))
        short = n_steps * rl.environments < SAMPLES_OF_ONE_EPOCH
        chosen = choice._asdict() | {"progress_bar": False, "entry_mode": _entry_mode(rl.entry_mode)}
        return self.settings.model_copy(
            update={
                "rl": rl.model_copy(update=chosen),
                "ppo": ppo.model_copy(
                    update={"n_steps": n_steps, "n_epochs": min(ppo.n_epochs, EPOCHS) if short else 1}
                ),
            }
        )

    def abilities(self) -> Abilities:
        """What this machine can do for it."""
        on_device = why_not_on_device(self.settings) is None
        devices = ("cpu", *(("cuda",) if torch.cuda.is_available() else ()))
        return Abilities(
            processors=usable_processors(),
            devices=devices,
            bf16=tuple(device for device in devices if has_bf16(torch.device(device))),
            backends=tuple(name for name in BACKENDS if name != "torch" or on_device),
        )

    def tape(self) -> MarketTape:
        """Candles with as many signals as the watched run had."""
        features = self.features[:CANDLES_MAX]
        start = datetime(2024, 1, 1, tzinfo=UTC)
        stop = start + timedelta(hours=1 + len(features) // 12)
        candles = generate_market(start=start, stop=stop, pairs=(PAIR,))[PAIR].iloc[: len(features)]
        random = np.random.default_rng(0)
        signals = {name: random.random(len(candles)) < self.signal_share / 2 for name in (LONG_SIGNAL, SHORT_SIGNAL)}
        frame = candles.reset_index(drop=True).assign(**signals)
        frame["price_scale"] = price_scale(frame, 1.0)
        return MarketTape.from_frame(frame, features, pair=PAIR, timeframe_ms=300_000, signals_needed=True)


class Trials:
    """Trainings by every choice that was asked for, each kept until the next question about it."""

    def __init__(self, task: Task) -> None:
        self._task, self._tape = task, task.tape()
        self._network = None
        forget_user_code()
        if task.settings.rl.network is not None:
            self._network = UserNetwork.from_name(task.settings.rl.network, task.user_data)
        self._own_terms = load_own_terms(task.settings.rl.model_reward_parameters, task.user_data)
        self._made: dict[tuple[str, str, str], tuple[Settings, Callable[[], Seconds]]] = {}
        self._resources = ExitStack()

    def close(self) -> None:
        """End the workers of all of them."""
        self._resources.close()

    def round(self, choice: Choice) -> PerStep:
        """One rollout and one update."""
        if why := why_device_is_missing(choice.device):
            raise TrialError(why)
        set_torch_threads(choice.cpu_count, choice.interop_threads)
        # Threads can be changed between rounds; the rest is made once.
        key = (choice.vec_env, choice.precision, choice.device)
        if key not in self._made:
            self._made[key] = self._make(choice)
        settings, run = self._made[key]
        seconds, samples = run(), settings.rl.environments * settings.ppo.n_steps
        return PerStep(seconds.rollout / samples, seconds.update / samples / settings.ppo.n_epochs)

    def limits(self, choice: Choice) -> Limits:
        """What the machine gives at best."""
        set_torch_threads(choice.cpu_count, choice.interop_threads)
        dtype, device = DTYPES[choice.precision], get_device(choice.device)
        roofline = Roofline([dtype], device)
        roofline.measure()
        return Limits(1e9 * roofline.peak(dtype), copy_rate())

    def _make(self, choice: Choice) -> tuple[Settings, Callable[[], Seconds]]:
        settings = self._task.rounds_settings(choice)
        rl = settings.rl
        env = EnvSettings(
            self._task.rules,
            rl.model_reward_parameters,
            rl.entry_mode,
            settings.lookback,
            state_info=rl.add_state_info,
            own_terms=self._own_terms,
        )
        if choice.vec_env == "torch":
            population = Population([Member(TrainingRequest(settings, self._tape, None, env), None)])
            population.rollout.reset()
            return settings, lambda: one_round(population)
        vec_env = build_vec_env(choice.vec_env, self._tape, env, rl.environments)
        self._resources.callback(vec_env.close)
        if choice.vec_env == "subproc" and isinstance(underlying(vec_env), DummyVecEnv):
            raise TrialError("vec_env 'subproc' could not start its workers here")
        network = network_arguments(settings, self._tape.n_features, self._network)
        model = build_model(settings, self._tape, vec_env, network, None, None)
        assert isinstance(model, OnPolicyAlgorithm)
        return settings, rounds_of(model)


def _entry_mode(mode: str) -> str:
    return "gated" if mode == "auto" else mode


class TrialProcess:
    """A process that holds :class:`Trials`. Inter-op threads are set once in a process: each number needs its own."""

    def __init__(self, task: Task) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, task), name="mtfscalper-trial")
        self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join(timeout=5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def round(self, choice: Choice) -> PerStep:
        """
        :raises TrialError: if it cannot run
        """
        return PerStep(*self._asked("round", choice))

    def limits(self, choice: Choice) -> Limits:
        """
        :raises TrialError: if nothing can be measured
        """
        return Limits(*self._asked("limits", choice))

    def _asked(self, name: str, choice: Choice) -> Any:
        try:
            self._connection.send((name, choice))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise TrialError(f"the process that times {choice} ended ({error or 'no answer'})") from error
        if isinstance(answer, str):
            raise TrialError(answer)
        return answer


def _serve(connection: Connection, task: Task) -> None:
    # Ctrl-C reaches the whole process group; who asked closes the connection, and this ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable(logging.WARNING)
    trials: Trials | None = None
    try:
        while True:
            name, choice = connection.recv()
            try:
                trials = trials or Trials(task)
                answer: Any = tuple(getattr(trials, name)(choice))
            except Exception as error:
                answer = f"{choice}: {type(error).__name__}: {error}"
            connection.send(answer)
    except (EOFError, OSError):
        # Nobody asks any more.
        return
    finally:
        if trials is not None:
            trials.close()
