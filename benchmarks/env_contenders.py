"""Environments that take random actions against the clock: one, a batch of NumPy's, or tensors."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from mtfscalper.envs.device_env import DeviceEnv
from mtfscalper.monitoring.ppo_rounds import Clock
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.trading_rules import TradingRules

# Every rule at work: leverage, stop, ROI table, trailing stop, funding, longest duration.
RULES = TradingRules(
    fee_ratio=0.0005,
    stoploss_ratio=0.04,
    max_trade_duration_candles=96,
    timeframe_minutes=5,
    leverage_long=3.0,
    leverage_short=3.0,
    minimal_roi=((0, 0.06), (60, 0.03), (240, 0.015)),
    trailing_stop=True,
    trailing_stop_positive=0.015,
    trailing_stop_positive_offset=0.02,
    trailing_only_offset_is_reached=True,
    max_drawdown_ratio=0.9,
)

Contender = Callable[[float], float]


def single(env: Any) -> Contender:
    """Steps a second of one environment by itself."""
    actions = np.random.default_rng(1).integers(0, N_ACTIONS, 4096).tolist()
    env.reset(seed=1)

    def run(seconds: float) -> float:
        steps, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            for action in actions[:64]:
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()
            steps += 64
        return steps / elapsed

    return run


def vectorised(vec_env: Any, clock: Clock = time.perf_counter) -> Contender:
    """Environment steps a second of a vector environment."""
    n_envs = vec_env.num_envs
    actions = np.random.default_rng(1).integers(0, N_ACTIONS, (64, n_envs))
    vec_env.seed(1)
    vec_env.reset()

    def run(seconds: float) -> float:
        steps, started = 0, clock()
        while (elapsed := clock() - started) < seconds:
            for row in actions[: max(1, 64 // n_envs)]:
                vec_env.step(row)
                steps += n_envs
        return steps / elapsed

    return run


def on_device(env: DeviceEnv, clock: Clock = time.perf_counter) -> Contender:
    """Environment steps a second of environments over tensors, starts drawn as in a training."""
    n_envs = env.n_members * env.n_envs
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(0, N_ACTIONS, (64, n_envs), generator=generator)
    draws = torch.rand(64, n_envs, dtype=torch.float64, generator=generator)
    env.reset(draws[0])
    # A compiler compiles at the first step.
    env.step(actions[0], draws[0])

    def run(seconds: float) -> float:
        steps, started = 0, clock()
        while (elapsed := clock() - started) < seconds:
            for k in range(max(1, 64 // n_envs)):
                env.step(actions[k], draws[k])
                steps += n_envs
        return steps / elapsed

    return run
