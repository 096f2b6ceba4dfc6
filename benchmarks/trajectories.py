"""Hashes of what the environments say over 50,000 steps in each entry mode, for a change that must change nothing.

Run it before and after, or in two checkouts, and compare the lines. Observations, rewards, ends, infos with every
trade, action masks and the reward's terms go into a hash, to the last bit.

    PYTHONPATH=/path/to/checkout python benchmarks/trajectories.py
"""

import hashlib
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

import mtfscalper
from mtfscalper.envs.batched_env import BatchedTradingEnv

# Beside the package that is imported, so that each checkout brings its own.
sys.path.insert(0, str(Path(mtfscalper.__file__).parents[1] / "tests"))

from equivalence import all_rules_settings, dummy_env, eventful_tape

N_STEPS = 50_000
FORMS: dict[str, tuple[int, Callable[..., VecEnv]]] = {"single": (2, dummy_env), "batched": (50, BatchedTradingEnv)}


def plain(value: Any) -> Any:
    """A value in a form whose pickle depends on nothing but the value, floats to the last bit."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in sorted(value.items())}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    return value.hex() if isinstance(value, float) else repr(value)


def played(env: VecEnv, n_steps: int) -> tuple[str, int]:
    """The hash of what an environment says to random actions, and the trades that were closed."""
    random, hasher, trades = np.random.default_rng(5), hashlib.sha256(), 0
    env.seed(11)
    hasher.update(pickle.dumps(plain(env.reset())))
    for step in range(n_steps):
        masks = np.stack(env.env_method("action_masks"))
        # Mostly what can be done, sometimes what cannot.
        possible = (masks * random.random(masks.shape) * [3, 1, 1, 1, 1]).argmax(axis=1)
        anything = random.random(env.num_envs) < 0.1
        results = env.step(np.where(anything, random.integers(0, 5, env.num_envs), possible))
        hasher.update(pickle.dumps([plain(results), plain(masks)]))
        trades += sum(len(info["trades"]) for info in results[3] if "trades" in info)
        if step % 97 == 0:
            hasher.update(pickle.dumps(plain(env.env_method("drain_reward_terms"))))
    return hasher.hexdigest(), trades


def main() -> None:
    tape = eventful_tape(6000, seed=3)
    for mode in ("classic", "gated", "agent"):
        settings = all_rules_settings(mode, random_start=True, max_drawdown_ratio=0.5)
        for name, (n_envs, make) in FORMS.items():
            digest, trades = played(make(tape, settings, n_envs), N_STEPS // n_envs)
            print(f"{mode:<8} {name:<8} {N_STEPS} steps {trades:>6} trades {digest[:24]}", flush=True)


if __name__ == "__main__":
    main()
