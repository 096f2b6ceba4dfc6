"""Two forms of an environment, side by side: the same seed, the same actions, everything equal."""

from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from builders import make_rules, make_tape, random_candles
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.lookback_observation import make_env
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.reward import TERMS, RewardSettings
from mtfscalper.trading.trading_rules import TradingRules

ALL_TERMS = RewardSettings(**{f"{name}_weight": 0.1 * k for k, name in enumerate(TERMS, 1)})


def every_rule(**changes: Any) -> TradingRules:
    """Rules under which a trade can end in every way."""
    return make_rules(
        **{
            "stoploss_ratio": 0.02,
            "max_trade_duration_candles": 5,
            "leverage_long": 3.0,
            "leverage_short": 2.0,
            "minimal_roi": ((0, 0.03), (15, 0.01)),
            "trailing_stop": True,
            "trailing_stop_positive": 0.008,
            "trailing_stop_positive_offset": 0.012,
            "trailing_only_offset_is_reached": True,
            "stake_ratio": 0.9,
            "max_drawdown_ratio": 0.1,
        }
        | changes
    )


def all_rules_settings(entry_mode: str, lookback: int = 3, random_start: bool = False, **rules: Any) -> EnvSettings:
    """Settings with every rule and every term of the reward."""
    return EnvSettings(every_rule(**rules), ALL_TERMS, entry_mode, lookback, random_start, record_trades=True)


# Rules whose leverages are the candle's.
OF_CANDLES: dict[str, Any] = {"leverage_long": None, "leverage_short": None}


def eventful_tape(n: int = 900, seed: int = 0, gaps: bool = True, features: int = 2, terms: bool = False) -> MarketTape:
    """Candles with wicks, jumps, funding and signals, in runs of several lengths.

    :param terms: whether a strategy says something else of its trades at each candle, see :data:`OF_CANDLES`
    """
    rng = np.random.default_rng(seed)
    candles = random_candles(seed, n)
    if gaps:
        # An hour is missing in two places; the third run is short, and the last one ends without a signal.
        hours = np.searchsorted([n // 3, n // 2, n // 2 + 40], np.arange(n), side="right")
        candles["date"] += pd.to_timedelta(hours, unit="h")
    due = np.arange(n) % 20 == 0
    candles = candles.assign(funding=np.where(due, rng.normal(0, 0.05, n), 0.0))
    signals = rng.random((2, n)) < 0.12
    signals[:, -30:] = False
    if terms:
        for side, liquidation in (("long", 0.997), ("short", 1.003)):
            candles[f"{side}_gate"] = rng.random(n) < 0.9
            candles[f"{side}_exit"] = rng.random(n) < 0.05
            candles[f"{side}_leverage"] = rng.choice([1.0, 2.5, 7.0], n)
            candles[f"{side}_liquidation"] = np.where(rng.random(n) < 0.5, liquidation, 0.0)
            candles[f"{side}_stake"] = rng.choice([0.0, 0.5, 1.0, 2.0], n)
        candles["funding_within"] = np.roll(candles["funding"], 7)
    return make_tape(candles, *signals, features=rng.normal(size=(n, features)).astype(np.float32))


def dummy_env(tape: MarketTape, settings: EnvSettings, n_envs: int, compact: bool = True) -> DummyVecEnv:
    """The scalar environments that everything else is compared with."""
    return DummyVecEnv([partial(make_env, tape, settings, compact)] * n_envs)


def assert_equal_trajectories(
    reference: VecEnv, other: VecEnv, n_steps: int, *, seed: int = 7, money: float = 0.0
) -> Counter[str]:
    """Play the same random actions on both and compare everything they say.

    :param money: tolerance of numbers that come from the account; 0 for equality to the last bit
    :return: exit reasons of the trades, and how often episodes were terminated and truncated
    """
    seen: Counter[str] = Counter()
    rng = np.random.default_rng(seed)
    n_envs = reference.num_envs
    reference.seed(seed)
    other.seed(seed)
    compare(reference.reset(), other.reset(), money)
    for k in range(n_steps):
        # Mostly what can be done, sometimes what cannot.
        masks = np.stack(reference.env_method("action_masks"))
        np.testing.assert_array_equal(np.stack(other.env_method("action_masks")), masks)
        possible = (masks * rng.random((n_envs, 5)) * [3, 1, 1, 1, 1]).argmax(axis=1)
        actions = np.where(rng.random(n_envs) < 0.1, rng.integers(0, 5, n_envs), possible)
        expected, got = reference.step(actions), other.step(actions)
        compare(expected[:2], got[:2], money)
        np.testing.assert_array_equal(expected[2], got[2])
        # SubprocVecEnv gives a tuple of them.
        compare(expected[3], list(got[3]), money)
        for info in np.array(expected[3], dtype=object)[expected[2]]:
            seen["truncated" if info["TimeLimit.truncated"] else "terminated"] += 1
            seen.update(trade.exit_reason for trade in info["trades"])
        if k % 97 == 0:
            compare(reference.env_method("drain_reward_terms"), other.env_method("drain_reward_terms"), money)
    return seen


def compare(expected: Any, got: Any, money: float) -> None:
    """Equal in type and value, through lists, tuples and dictionaries."""
    assert type(got) is type(expected)
    if isinstance(expected, dict):
        assert set(got) == set(expected)
        for key, value in expected.items():
            compare(value, got[key], money)
    elif isinstance(expected, list | tuple):
        assert len(got) == len(expected)
        for one, other in zip(expected, got, strict=True):
            compare(one, other, money)
    elif isinstance(expected, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        # What is shown as float32 may fall on either side of a rounding.
        np.testing.assert_allclose(got, expected, rtol=2e-7 if money else 0, atol=money)
    elif isinstance(expected, float) and money:
        assert abs(got - expected) <= money * max(1.0, abs(expected))
    else:
        assert got == expected
