"""The training that bench_device.py and device_checks.py set, at three sizes: its settings, candles and jobs.

It needs what the package's training needs, and no freqtrade.
"""

from copy import deepcopy
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from env_contenders import RULES
from main_config import MAIN_CONFIG
from stable_baselines3 import PPO

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.signals import LONG_SIGNAL, SHORT_SIGNAL
from mtfscalper.market.tape import MarketTape, price_scale
from mtfscalper.offline.price_process import market_factor, pair_candles
from mtfscalper.policy.network import ACTIVATIONS
from mtfscalper.settings import Settings
from mtfscalper.training.fit import build_model, network_arguments
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.member import Member
from mtfscalper.training.population import Population
from mtfscalper.training.ppo import FusedPPO

PAIRS = ("BTC/USDT:USDT", "ETH/USDT:USDT")
PERIODS = 16
WEEK_CANDLES = 2016
N_FEATURES = 54
SIGNAL_DENSITY = 0.15
SEED = 42


class Size(NamedTuple):
    """How large a training is, and what is measured of it.

    :ivar n_candles: of each member's tape, of which a tenth is held out
    :ivar members: sizes of populations
    :ivar larger_batches: minibatches of which an update has fewer
    :ivar mission_cycles: passes of each of the ten trainings over its candles
    :ivar check_steps: steps of the environments that are compared
    """

    name: str
    n_envs: int
    n_steps: int
    batch_size: int
    n_epochs: int
    net_arch: tuple[int, ...]
    n_candles: int
    members: tuple[int, ...]
    larger_batches: tuple[int, ...]
    mission_cycles: int
    check_steps: int

    @property
    def samples(self) -> int:
        """Of a member's rollout."""
        return self.n_envs * self.n_steps

    def n_minibatches(self, batch_size: int) -> int:
        """Of an update."""
        return self.n_epochs * -(-self.samples // batch_size)

    def __str__(self) -> str:
        return (
            f"{self.n_envs} environments x {self.n_steps} steps, {self.n_epochs} epochs, net {list(self.net_arch)}, "
            f"{N_FEATURES} features, window 1"
        )


FULL = Size("full", 512, 64, 256, 10, (512, 512, 256), 8640, (1, 2, 4, 8, 16, 32), (4096, 16384), 30, 1500)
# What a CPU does in a minute or two.
SMALL = Size("small", 64, 32, 256, 10, (512, 512, 256), 8640, (1, 2, 4), (1024,), 1, 1500)
# Measures nothing: it shows that everything runs.
TOY = Size("toy", 8, 8, 16, 2, (16,), 300, (1, 2), (32,), 1, 60)


@cache
def pair_tape(pair: str, n_candles: int) -> MarketTape:
    """Candles of the synthetic market with random signals, funding due every eight hours, and random features."""
    dates = pd.date_range("2024-01-01", periods=n_candles, freq="5min", tz="UTC", unit="ms", name="date")
    candles = pair_candles(SEED, pair, dates, market_factor(SEED, dates))
    random = np.random.default_rng(PAIRS.index(pair))
    frame = candles.assign(
        funding=np.where(np.arange(n_candles) % 96 == 0, candles["open"] * 1e-4, 0.0),
        **{name: random.random(n_candles) < SIGNAL_DENSITY for name in (LONG_SIGNAL, SHORT_SIGNAL)},
    )
    frame["price_scale"] = price_scale(frame, 1.0)
    features = random.normal(size=(n_candles, N_FEATURES)).astype(np.float32)
    return MarketTape.from_frame(frame, features, pair=pair, timeframe_ms=300_000, signals_needed=True)


class Task:
    """Trainings of one size on one device."""

    def __init__(self, size: Size, device: str, precision: str = "auto") -> None:
        self.size, self.device, self.precision = size, torch.device(device), precision

    def tape(self, member: int) -> MarketTape:
        """The candles of a member: a period of a pair, a week after the one before."""
        pair, period = PAIRS[member % 2], member // 2 % PERIODS
        candles = pair_tape(pair, self.size.n_candles + (PERIODS - 1) * WEEK_CANDLES)
        first = period * WEEK_CANDLES
        return candles.rows(first, first + self.size.n_candles)

    def settings(self, **rl: Any) -> Settings:
        """The main configuration's, at this size.

        :param rl: keys of ``rl_config``
        """
        config = deepcopy(MAIN_CONFIG)
        size = self.size
        config["freqai"]["rl_config"] |= {
            "vec_env": "torch",
            "device": str(self.device),
            "precision": self.precision,
            "progress_bar": False,
            "n_envs": size.n_envs,
            "n_steps": size.n_steps,
            "batch_size": size.batch_size,
            "n_epochs": size.n_epochs,
            "net_arch": list(size.net_arch),
        } | rl
        return Settings.from_config(config)

    def env(self, settings: Settings) -> EnvSettings:
        """How candles are traded: with every rule at work."""
        rl = settings.rl
        return EnvSettings(RULES, rl.model_reward_parameters, rl.entry_mode, settings.lookback, random_start=True)

    def job(self, member: int, **rl: Any) -> TrainingJob:
        """A member's training; see :meth:`settings`."""
        settings, tape = self.settings(**rl), self.tape(member)
        n_train = len(tape) * 9 // 10
        train, held_out = tape.rows(0, n_train), tape.rows(n_train, len(tape))
        return TrainingJob(settings, train, held_out, self.env(settings), seed=SEED + member)

    def population(self, members: int | list[int], **rl: Any) -> Population:
        """Members that are ready to collect their first rollout.

        :param members: how many, or which
        """
        numbers = range(members) if isinstance(members, int) else members
        made = Population([Member(self.job(number, **rl), None) for number in numbers])
        made.rollout.reset()
        return made

    def fused(self) -> FusedPPO:
        """The first member's training on the batched NumPy environment."""
        job = self.job(0)
        vec_env = build_vec_env("batched", job.train, job.env, self.size.n_envs)
        network = network_arguments(job.settings, job.train.n_features)
        model = build_model(job.settings, job.train, vec_env, network, None, None)
        assert isinstance(model, FusedPPO)
        return model

    def stable_baselines3(self) -> PPO:
        """Plain stable-baselines3 on the first member's candles, whose observations hold the features."""
        job = self.job(0)
        vec_env = build_vec_env("dummy", job.train, job.env, self.size.n_envs, compact=False)
        network = {"net_arch": list(self.size.net_arch), "activation_fn": ACTIVATIONS[job.settings.rl.activation]}
        arguments = job.settings.ppo.model_dump()
        return PPO("MlpPolicy", vec_env, policy_kwargs=network, device=self.device, seed=SEED, **arguments)
