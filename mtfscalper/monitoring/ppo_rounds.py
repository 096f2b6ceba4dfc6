"""One rollout and one update of a PPO against the clock, and the arithmetic of its networks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from mtfscalper.trading.actions import N_ACTIONS

if TYPE_CHECKING:
    from mtfscalper.training.population import Population

# What tells seconds: time.perf_counter, or on a busy machine time.process_time.
Clock = Callable[[], float]


class Seconds(NamedTuple):
    """How long a rollout and the update after it took."""

    rollout: float
    update: float


def flops(n_inputs: int, net_arch: Sequence[int]) -> tuple[int, int]:
    """Floating-point operations of the matrix products of one sample in one epoch, and of one decision."""
    hidden = [n_in * n_out for n_in, n_out in pairwise([n_inputs, *net_arch])]
    n_weights = 2 * sum(hidden) + net_arch[-1] * (N_ACTIONS + 1)
    # Forward, gradient of weights and gradient of inputs, which the two first layers do not need.
    return 6 * n_weights - 2 * 2 * hidden[0], 2 * (sum(hidden) + net_arch[-1] * N_ACTIONS)


def collector(model: OnPolicyAlgorithm) -> Callable[[], bool]:
    """What fills a model's rollout buffer when called."""
    model.set_logger(Logger(None, []))
    _, callback = model._setup_learn(model.n_steps * model.n_envs, CallbackList([]))
    assert model.env is not None
    return partial(model.collect_rollouts, model.env, callback, model.rollout_buffer, model.n_steps)


def rounds_of(model: OnPolicyAlgorithm, clock: Clock = time.perf_counter) -> Callable[[], Seconds]:
    """What runs one rollout and one update when called."""
    collect = collector(model)

    def run() -> Seconds:
        started = clock()
        collect()
        collected = clock()
        model.train()
        return Seconds(collected - started, clock() - collected)

    return run


def one_round(population: Population, clock: Clock = time.perf_counter) -> Seconds:
    """A rollout and an update of a population; each waits for the device at its end."""
    started = clock()
    population.collect()
    collected = clock()
    population.update()
    return Seconds(collected - started, clock() - collected)
