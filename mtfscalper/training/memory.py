"""The memory that a training needs, by arithmetic on its settings, and what is said where a machine has less.

The figures are least ones: candles, torch itself and worker processes come on top. So a refusal is certain, and a
training that is let through may still be too large.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from mtfscalper.envs.trading_env import observation_space
from mtfscalper.settings import Settings, SettingsError
from mtfscalper.trading.actions import N_ACTIONS

_FLOAT = 4
# Of every weight: itself, its gradient, Adam's two moments, and the best policy by evaluation.
_COPIES_OF_WEIGHTS = 5
# Of a member of an ensemble that has been trained, while the next one trains: itself and Adam's two moments.
_COPIES_OF_A_MEMBER = 3
# Of every step of a PPO rollout beside its observation: an action of eight bytes and six float32 (training/storage.py).
_STEP = 8 + 6 * _FLOAT


class Need(NamedTuple):
    """Memory that one part of a training takes.

    :ivar key: the setting that decides most about it
    :ivar received: that setting's value
    :ivar what: the part, in words
    :ivar n_bytes: at least
    :ivar others: further settings that lower it
    """

    key: str
    received: object
    what: str
    n_bytes: int
    others: tuple[str, ...]


def memory_needed(settings: Settings, n_features: int = 1) -> tuple[Need, ...]:
    """What a training needs at least.

    :param n_features: features of a candle; at least one
    """
    rl, ppo = settings.rl, settings.ppo
    looked_at = settings.lookback * n_features
    n_account = observation_space().shape[0] - 1
    is_ppo = rl.model_type == "PPO"
    hidden = [rl.net_arch, rl.net_arch_value or rl.net_arch]
    weights = sum(
        inputs * outputs + outputs for sizes in hidden for inputs, outputs in pairwise((n_account, *sizes, N_ACTIONS))
    )
    first_weights = sum(looked_at * sizes[0] for sizes in hidden)
    # Of PPO's minibatch: every layer's outputs and their gradients.
    outputs = 2 * sum(map(sum, hidden)) * ppo.batch_size if is_ppo else 0
    gathered = looked_at * ppo.batch_size if is_ppo else 0
    needs = [
        Need(
            "freqai.rl_config.net_arch",
            list(rl.net_arch),
            "a pair of networks",
            _FLOAT * (weights * _COPIES_OF_WEIGHTS + outputs),
            ("net_arch_value", "batch_size"),
        ),
        Need(
            "freqai.conv_width",
            settings.lookback,
            f"reading it, for {n_features} or more features a candle,",
            _FLOAT * (first_weights * _COPIES_OF_WEIGHTS + gathered),
            ("net_arch", "the number of features"),
        ),
    ]
    n_steps = ppo.n_steps if is_ppo else settings.other_algorithm_kwargs.get("n_steps", 0)
    # PPO keeps what it saw as the number of a row; once as it is collected, and once flat for the update. The other
    # algorithms keep the whole lookback of every step.
    step = 2 * ((1 + n_account) * _FLOAT + _STEP) if is_ppo else (looked_at + n_account) * _FLOAT
    section = "rl_config" if is_ppo else "model_training_parameters"
    rollout = int(n_steps) * rl.environments * step
    needs.append(
        Need(f"freqai.{section}.n_steps", n_steps, f"a rollout of n_envs {rl.environments}", rollout, ("n_envs",))
    )
    trained = (rl.ensemble - 1) * _FLOAT * (weights + first_weights) * _COPIES_OF_A_MEMBER
    what = "keeping its members that are trained already"
    needs.append(Need("freqai.rl_config.ensemble", rl.ensemble, what, trained, ("net_arch",)))
    return tuple(needs)


# Of every step of a rollout on a device, on top: what an episode would have gone on to, and the numbers drawn before.
_DEVICE_STEP = 1 + 3 * _FLOAT
# Of every candle on a device: prices and what is permitted, and what an account that starts there begins with.
_DEVICE_CANDLE = 48 * 8
# Of every environment on a device: accounts before, while and after they are stepped.
_DEVICE_ENV = 160 * 8


def member_bytes(settings: Settings, n_features: int, n_candles: int) -> int:
    """Memory that one training takes at least where all of it lies on a device.

    :param n_candles: to train on and held out
    """
    n_inputs = observation_space().shape[0]
    steps = settings.ppo.n_steps * settings.rl.environments * (_DEVICE_STEP + n_inputs * _FLOAT)
    candles = n_candles * (_DEVICE_CANDLE + n_features * _FLOAT)
    return (
        sum(need.n_bytes for need in memory_needed(settings, n_features))
        + steps
        + candles
        + settings.rl.environments * _DEVICE_ENV
    )


def check_memory(settings: Settings, available: int, n_features: int = 1) -> None:
    """Refuse a training that cannot fit.

    :param available: bytes that the machine, or its GPU, has in all
    :param n_features: features of a candle; at least one
    :raises SettingsError: with the setting that needs most, what it needs, and what there is
    """
    needs = memory_needed(settings, n_features)
    total = sum(need.n_bytes for need in needs)
    if total <= available:
        return
    most = max(needs, key=lambda need: need.n_bytes)
    raise SettingsError(
        f"{most.key} is {most.received!r}, with which {most.what} needs at least {_gigabytes(most.n_bytes)} of memory "
        f"and the training {_gigabytes(total)}; accepted: a training within the {_gigabytes(available)} that this "
        f"machine has; remedy: lower {most.key.rpartition('.')[2]}, {' or '.join(most.others)}"
    )


def _gigabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:,.1f} GB"
