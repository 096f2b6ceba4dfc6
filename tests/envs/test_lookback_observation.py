"""Window observations against the naive slice."""

import warnings

import numpy as np
import pytest
from builders import make_settings, make_tape, random_candles
from stable_baselines3.common.env_checker import check_env

from mtfscalper.envs.lookback_observation import LookbackObservation
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape

N_FEATURES = 3


def featured_tape() -> MarketTape:
    features = np.random.default_rng(0).uniform(-1, 1, (200, N_FEATURES)).astype(np.float32)
    return make_tape(random_candles(2, 200), np.arange(200) % 8 == 0, features=features)


@pytest.mark.parametrize("lookback", [1, 6])
@pytest.mark.parametrize("entry_mode", ["classic", "gated", "agent"])
def test_an_observation_is_the_lookback_up_to_the_last_closed_candle_and_then_the_account(
    entry_mode: str, lookback: int
) -> None:
    tape = featured_tape()
    settings = make_settings(entry_mode, lookback=lookback)
    compact, wide = TradingEnv(tape, settings), LookbackObservation(TradingEnv(tape, settings), tape.features)
    rng = np.random.default_rng(0)
    seen, got, ended, steps = compact.reset(seed=2)[0], wide.reset(seed=2)[0], False, 0
    while not ended:
        row = int(seen[0])
        np.testing.assert_array_equal(got[:-6], tape.features[row - lookback + 1 : row + 1].ravel())
        np.testing.assert_array_equal(got[-6:], seen[1:])
        np.testing.assert_array_equal(wide.action_masks(), compact.action_masks())
        assert wide.observation_space.contains(got)
        action = rng.choice(np.flatnonzero(compact.action_masks()))
        seen, *_, ended, _ = compact.step(action)
        got, *_ = wide.step(action)
        steps += 1
    assert steps > 10


def test_the_environment_checker_accepts_lookback_observations() -> None:
    tape = featured_tape()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(LookbackObservation(TradingEnv(tape, make_settings("gated", lookback=4)), tape.features))


def test_features_far_outside_the_space_are_clipped_into_it() -> None:
    features = np.full((200, 1), 1e30, dtype=np.float32)
    tape = make_tape(random_candles(2, 200), features=features)
    env = LookbackObservation(TradingEnv(tape, make_settings("agent")), tape.features)
    observation, _ = env.reset()
    assert observation[0] == 1e6
    assert env.observation_space.contains(observation)
