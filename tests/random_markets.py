"""Tapes of random candles, and policies whose random weights make them trade."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from builders import make_rules, make_tape, random_candles
from gymnasium import spaces
from torch import nn

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import observation_space
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.network import LookbackExtractor, MaskedActorCriticPolicy
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.reward import RewardSettings
from mtfscalper.trading.trading_rules import TradingRules

N_FEATURES = 4

RULES = make_rules(
    stoploss_ratio=0.03,
    max_trade_duration_candles=24,
    leverage_long=2.0,
    leverage_short=3.0,
    minimal_roi=((0, 0.04), (30, 0.02)),
    stake_ratio=0.9,
    # Out of reach: an environment would end its episode there, a replay goes on.
    max_drawdown_ratio=0.999,
)


def random_tape(
    n_candles: int, seed: int = 1, *, gaps: tuple[int, ...] = (), usable: np.ndarray | None = None
) -> MarketTape:
    """A random walk with funding, random signals and random features.

    :param gaps: positions before which an hour of candles is missing
    """
    random = np.random.default_rng(seed)
    candles = random_candles(seed, n_candles, volatility=0.002)
    for position in gaps:
        candles.loc[position:, "date"] += pd.Timedelta(hours=1)
    due = np.arange(n_candles) % 96 == 0
    tape = make_tape(
        candles.assign(funding=np.where(due, random.normal(0, 0.01, n_candles), 0.0)),
        random.random(n_candles) < 0.15,
        random.random(n_candles) < 0.15,
        random.normal(0, 1, (n_candles, N_FEATURES)),
    )
    return tape if usable is None else replace(tape, usable=usable)


def env_settings(entry_mode: str = "gated", lookback: int = 1, rules: TradingRules = RULES) -> EnvSettings:
    return EnvSettings(rules, RewardSettings(), entry_mode, lookback, record_trades=True)


def random_policy(
    lookback: int = 1, seed: int = 0, precision: str = "fp32", net_arch: tuple[int, ...] = (64,)
) -> MaskedActorCriticPolicy:
    """An untrained policy that prefers every action somewhere."""
    torch.manual_seed(seed)
    policy = MaskedActorCriticPolicy(
        observation_space(),
        spaces.Discrete(N_ACTIONS),
        lambda _: 3e-4,
        net_arch=list(net_arch),
        activation_fn=nn.ReLU,
        features_extractor_class=LookbackExtractor,
        features_extractor_kwargs={"n_features": N_FEATURES, "lookback": lookback},
        precision=precision,
    )
    features = np.random.default_rng(0).normal(size=(500, N_FEATURES)).astype(np.float32)
    make_decisive(policy, features, lookback)
    return policy


def make_decisive(policy: MaskedActorCriticPolicy, features: np.ndarray, lookback: int, leaves: float = 0.1) -> None:
    """Give a policy large logits, by which it enters at a third of its chances.

    :param features: what it sees, shape (n_candles, n_features)
    :param leaves: share of its chances at which it leaves
    """
    extractor = policy.features_extractor
    with torch.no_grad(), extractor.on_tape(extractor.as_tape(features)):
        policy.action_net.weight.mul_(3.0 / policy.action_net.weight.norm(dim=1, keepdim=True))
        observations = torch.from_numpy(random_observations(4000, len(features), lookback))
        logits = policy.action_net(policy.mlp_extractor(extractor(observations))[0])
        side = observations[:, 1]
        for action, where, share in (
            (1, side == 0, 0.67),
            (3, side == 0, 0.67),
            (2, side > 0, 1 - leaves),
            (4, side < 0, 1 - leaves),
        ):
            lead = logits[where, action] - logits[where, 0]
            policy.action_net.bias[action] -= lead.quantile(share)


def random_observations(n: int, n_candles: int, lookback: int, seed: int = 3) -> np.ndarray:
    """Compact observations of every kind of account: flat or in a trade, entries permitted or not."""
    random = np.random.default_rng(seed)
    side = random.integers(-1, 2, n)
    in_trade = side != 0
    columns = [
        random.integers(lookback - 1, n_candles, n),
        side,
        np.where(in_trade, random.normal(0, 1, n), 0),
        np.where(in_trade, random.normal(0, 1, n), 0),
        np.where(in_trade, random.random(n), 0),
        random.integers(0, 2, n),
        random.integers(0, 2, n),
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def possible_actions(observations: np.ndarray) -> np.ndarray:
    """What each account can do, written out once more, bool, shape (n, 5)."""
    rows = []
    for _, side, *_, long_permitted, short_permitted in observations.tolist():
        flat = math.isclose(side, 0)
        rows.append([True, flat and long_permitted > 0, side > 0, flat and short_permitted > 0, side < 0])
    return np.array(rows)
