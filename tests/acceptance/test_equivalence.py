"""Every form of the environment over 50,000 steps with all rules active: equal, step by step."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from equivalence import OF_CANDLES, all_rules_settings, assert_equal_trajectories, compare, dummy_env, eventful_tape
from stable_baselines3.common.vec_env import VecEnv

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.build import build_vec_env, underlying
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason
from mtfscalper.trading.torch_arrays import TorchNamespace

pytestmark = pytest.mark.acceptance

N_STEPS, N_ENVS = 50_000, 2
ENTRY_MODES = ("classic", "gated", "agent")
# How each is made, and how far numbers of the account may differ.
FORMS: dict[str, tuple[Callable[[MarketTape, EnvSettings], VecEnv], float]] = {
    "subproc": (lambda tape, settings: underlying(build_vec_env("subproc", tape, settings, N_ENVS)), 0.0),
    "batched": (lambda tape, settings: BatchedTradingEnv(tape, settings, N_ENVS), 0.0),
    "torch": (lambda tape, settings: BatchedTradingEnv(tape, settings, N_ENVS, xp=TorchNamespace()), 1e-12),
}


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
@pytest.mark.parametrize("form", FORMS)
def test_every_vector_environment_equals_single_environments(form: str, entry_mode: str) -> None:
    torch.set_num_threads(1)
    make, money = FORMS[form]
    seen: Counter[str] = Counter()
    # Trades of one leverage, and such whose terms are the candle's.
    for terms, rules in ((False, {}), (True, OF_CANDLES)):
        tape = eventful_tape(terms=terms)
        settings = all_rules_settings(entry_mode, random_start=True, max_drawdown_ratio=0.15, **rules)
        other = make(tape, settings)
        try:
            seen += assert_equal_trajectories(dummy_env(tape, settings, N_ENVS), other, N_STEPS // 2, money=money)
        finally:
            other.close()
    print(form, entry_mode, dict(seen))
    assert set(seen) == {EXIT_REASON_NAMES[reason] for reason in ExitReason if reason} | {"terminated", "truncated"}


@pytest.mark.parametrize("entry_mode", ENTRY_MODES)
def test_a_dummy_vec_env_equals_the_environment_itself(entry_mode: str) -> None:
    tape, settings = eventful_tape(), all_rules_settings(entry_mode, random_start=True, max_drawdown_ratio=0.15)
    env, vec_env = TradingEnv(tape, settings), dummy_env(tape, settings, 1)
    rng = np.random.default_rng(0)
    vec_env.seed(3)
    observation, _ = env.reset(seed=3)
    compare(observation, vec_env.reset()[0], 0.0)
    for action in rng.integers(0, 5, N_STEPS):
        observation, reward, terminated, truncated, info = env.step(action)
        observations, rewards, dones, infos = vec_env.step(np.array([action]))
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, _ = env.reset()
        compare(observation, observations[0], 0.0)
        compare(info | {"TimeLimit.truncated": truncated}, infos[0], 0.0)
        assert (np.float32(reward), terminated or truncated) == (rewards[0], dones[0])
