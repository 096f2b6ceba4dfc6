"""Observations that hold their lookback, for the algorithms whose policies do not gather it themselves."""

from __future__ import annotations

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from mtfscalper.envs.env_worker import Env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv, observation_space
from mtfscalper.market.lookback import lookbacks_ending_at
from mtfscalper.market.tape import MarketTape


def lookback_observation_space(lookback: int, n_features: int) -> spaces.Box[np.float32]:
    """The features of the candles looked back on, oldest first, then the account.

    Features are scaled into [-1, 1] on the training period; later candles may leave it, hence the wider bound.
    """
    account = observation_space()
    bound = np.full(lookback * n_features, 1e6, dtype=np.float32)
    return spaces.Box(
        np.concatenate([-bound, account.low[1:]]), np.concatenate([bound, account.high[1:]]), dtype=np.float32
    )


def expand_observations(
    compact: npt.NDArray[np.float32], features: npt.NDArray[np.float32], lookback: int
) -> npt.NDArray[np.float32]:
    """Replace the row of compact observations by the features of the candles up to there.

    :param compact: shape (n, 1 + n_account)
    :param features: the tape's, shape (n_candles, n_features)
    :return: shape (n, lookback * n_features + n_account)
    """
    lookbacks = lookbacks_ending_at(features, compact[:, 0].astype(np.int64), lookback)
    clipped = np.clip(np.concatenate([lookbacks, compact[:, 1:]], axis=1), -1e6, 1e6)
    return np.asarray(clipped, dtype=np.float32)


class LookbackObservation(gymnasium.ObservationWrapper[npt.NDArray[np.float32], np.int64, npt.NDArray[np.float32]]):
    """A trading environment whose observations hold their lookback."""

    def __init__(self, env: TradingEnv, features: npt.NDArray[np.float32]) -> None:
        super().__init__(env)
        self._features = features
        self._lookback = env.settings.lookback
        self.observation_space = lookback_observation_space(self._lookback, features.shape[1])

    def observation(self, observation: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.asarray(expand_observations(observation[None], self._features, self._lookback)[0])

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """See :meth:`TradingEnv.action_masks`."""
        masks: npt.NDArray[np.bool_] = self.env.unwrapped.action_masks()  # type: ignore[attr-defined]
        return masks


def make_env(tape: MarketTape, settings: EnvSettings, compact: bool) -> Env:
    """One trading environment, with compact observations, or such that hold their lookback."""
    env = TradingEnv(tape, settings)
    return env if compact else LookbackObservation(env, tape.features)
