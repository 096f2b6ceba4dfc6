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
    @property
    def ray_address(self) -> str | None: ...
    @property
    def device(self) -> str: ...


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
    if rl.ray_address is not None and rl.executor != "ray":
        complaints.append(
            f"freqai.rl_config.ray_address is {rl.ray_address!r}, and executor {rl.executor!r}; accepted: null with "
            "it, which knows no cluster; remedy: set executor to 'ray', or remove ray_address"
        )
    if rl.executor == "ray" and rl.device.startswith("cuda:"):
        complaints.append(
            f"freqai.rl_config.executor is 'ray', and device {rl.device!r}; accepted: 'auto', 'cpu' or 'cuda' with it, "
            "for Ray gives each training a GPU of its own; remedy: set device to 'cuda'"
        )
    return complaints
