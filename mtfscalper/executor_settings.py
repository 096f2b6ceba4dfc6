"""Executors that cannot be, because other settings stand against them: one message for each."""

from __future__ import annotations

from typing import Protocol


class _RL(Protocol):
    """What is read of ``freqai.rl_config``."""

    @property
    def executor(self) -> str: ...
    @property
    def workers(self) -> int | str: ...
    @property
    def vec_env(self) -> str: ...


def impossible_executors(rl: _RL) -> list[str]:
    """What stands in the way of the executor that the settings ask for."""
    complaints = []
    if rl.executor == "population" and rl.vec_env != "torch":
        complaints.append(
            f"freqai.rl_config.executor is 'population', and vec_env {rl.vec_env!r}; accepted: vec_env 'torch', whose "
            "environments stand on one device; remedy: set it so, or executor to 'inline' or 'processes'"
        )
    if rl.executor == "processes" and rl.vec_env == "torch":
        complaints.append(
            "freqai.rl_config.executor is 'processes', and vec_env 'torch'; accepted: executor 'population' with it, "
            "which trains all periods of a pair at once on one device; remedy: set it so, or vec_env to 'batched'"
        )
    if rl.workers != "auto" and rl.executor != "processes":
        complaints.append(
            f"freqai.rl_config.workers is {rl.workers}, and executor {rl.executor!r}; accepted: 'auto' with it, which "
            "starts none; remedy: set executor to 'processes', or remove workers"
        )
    return complaints
