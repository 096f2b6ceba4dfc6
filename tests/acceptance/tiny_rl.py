"""The smallest training that bots and backtests of the minutes-long tests can do."""

from typing import Any

TINY_RL: dict[str, Any] = {
    "train_cycles": 1,
    "n_envs": 2,
    "n_steps": 64,
    "batch_size": 32,
    "n_epochs": 1,
    "net_arch": [16],
    "vec_env": "dummy",
    "cpu_count": 1,
    "interop_threads": 1,
    "device": "cpu",
    "progress_bar": False,
}
# Classic signals are too rare for a few hours.
TINY_BOT_RL = {**TINY_RL, "entry_mode": "agent", "decision_mode": "exact"}
