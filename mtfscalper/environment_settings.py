"""Environments that cannot be, because other settings stand against them: one message for each."""

from __future__ import annotations

from typing import Protocol

# Environments that are processes, or stand in a loop of Python.
_MOST_PROCESSES = 1024


class _RL(Protocol):
    """What is read of ``freqai.rl_config``."""

    @property
    def n_envs(self) -> int | str: ...
    @property
    def env_workers(self) -> int | None: ...
    @property
    def vec_env(self) -> str: ...
    @property
    def model_type(self) -> str: ...


def impossible_environments(rl: _RL) -> list[str]:
    """What stands in the way of the environments that the settings ask for."""
    complaints = []
    if rl.n_envs == "auto":
        if rl.vec_env == "torch":
            complaints.append(
                "freqai.rl_config.n_envs is 'auto', and vec_env 'torch'; accepted: a number with it, which shapes what "
                "the device computes; remedy: set one, or vec_env to 'auto'"
            )
        if rl.model_type != "PPO":
            complaints.append(
                f"freqai.rl_config.n_envs is 'auto', and model_type {rl.model_type!r}; accepted: a number with it, "
                "whose n_steps cannot be kept in step; remedy: set one"
            )
    elif int(rl.n_envs) > _MOST_PROCESSES and rl.vec_env not in ("batched", "torch"):
        complaints.append(
            f"freqai.rl_config.n_envs is {rl.n_envs}; accepted: at most {_MOST_PROCESSES} with vec_env "
            f"{rl.vec_env!r}; remedy: lower it, or set vec_env to 'batched' or 'torch'"
        )
    if rl.env_workers is None:
        return complaints
    if rl.vec_env not in ("subproc", "auto"):
        complaints.append(
            f"freqai.rl_config.env_workers is {rl.env_workers}, and vec_env {rl.vec_env!r}; accepted: null with it, "
            "which starts none; remedy: set vec_env to 'subproc', or remove env_workers"
        )
    if rl.n_envs != "auto" and rl.env_workers > int(rl.n_envs):
        complaints.append(
            f"freqai.rl_config.env_workers is {rl.env_workers}; accepted: at most n_envs = {rl.n_envs}, for each holds "
            "an environment; remedy: lower it, or raise n_envs"
        )
    return complaints
