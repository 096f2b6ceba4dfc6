"""The roofline (https://doi.org/10.1145/1498765.1498785): the least that a step of training must compute and move.

A phase can be no faster than its operations at the machine's best rate of matrix products, and no faster than its bytes
at the machine's memory bandwidth.
"""

from __future__ import annotations

from collections.abc import Sequence

from mtfscalper.monitoring.ppo_rounds import flops
from mtfscalper.trading.account import Account, Candle
from mtfscalper.trading.observation import N_ACCOUNT

_FLOAT32, _FLOAT64 = 4, 8


def network_operations(
    n_features: int, net_arch: Sequence[int], net_arch_value: Sequence[int] | None
) -> tuple[float, float]:
    """Operations of one sample in one epoch, and of one environment step's decision.

    :param n_features: of an observation's whole lookback
    """
    policy = flops(n_features + N_ACCOUNT, net_arch)
    value = policy if net_arch_value is None else flops(n_features + N_ACCOUNT, net_arch_value)
    # flops() counts two networks alike. A rollout asks both of them.
    return (policy[0] + value[0]) / 2, policy[1] + value[1]


def step_bytes(n_features: int) -> float:
    """Bytes that one step of one environment reads and writes: its candle, its account, its observation.

    :param n_features: of an observation's whole lookback
    """
    account = 2 * len(Account._fields) * _FLOAT64
    # Gathered from the tape into the network's input.
    observation = 2 * (n_features + N_ACCOUNT) * _FLOAT32
    return float(len(Candle._fields) * _FLOAT64 + account + observation)
