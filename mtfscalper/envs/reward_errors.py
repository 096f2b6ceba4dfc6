"""What becomes of a reward of the user's that fails in a worker process, whose error nobody would read."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from mtfscalper.trading.own_reward import OwnRewardError

REWARD_ERROR = "reward_error"

_Observation = npt.NDArray[np.float32]


class RewardErrorsInInfo(gymnasium.Wrapper[_Observation, np.int64, _Observation, np.int64]):
    """An environment that ends an episode where its reward fails, and says so in the step's info."""

    def __init__(self, env: gymnasium.Env[_Observation, np.int64]) -> None:
        super().__init__(env)
        self._failed: str | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Observation, dict[str, Any]]:
        try:
            return super().reset(seed=seed, options=options)
        except OwnRewardError as error:
            # The next step tells it.
            self._failed = str(error)
            return self._nothing(), {}

    def step(self, action: np.int64) -> tuple[_Observation, Any, bool, bool, dict[str, Any]]:
        if self._failed is None:
            try:
                return super().step(action)
            except OwnRewardError as error:
                self._failed = str(error)
        return self._nothing(), 0.0, True, False, {REWARD_ERROR: self._failed}

    def _nothing(self) -> _Observation:
        shape = self.observation_space.shape
        assert shape is not None
        return np.zeros(shape, dtype=np.float32)
