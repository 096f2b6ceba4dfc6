"""Training on a reward of the user's own: tried before, ranked beside profit, and watched while it pays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.callbacks import BaseCallback

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Fill
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.episode import EpisodeState
from mtfscalper.trading.own_reward import EpisodeReward, OwnReward

# From the mask of an account, shape (1, 5), to an action of shape (1,).
Choose = Callable[[npt.NDArray[np.bool_]], npt.NDArray[np.int64]]


@dataclass
class _Watched:
    """A reward whose sums are noted beside the logarithm of what the account has gained."""

    inner: OwnReward
    sums: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(2))
    account: EpisodeReward | None = None

    def on(self, tape: MarketTape) -> _Watched:
        return replace(self, account=self.inner.on(tape))

    def begin(self, state: EpisodeState) -> None:
        assert self.account is not None
        self.account.begin(state)

    def of_candle(self, before: EpisodeState, action: int, fill: Fill, after: EpisodeState) -> float:
        assert self.account is not None
        reward = self.account.of_candle(before, action, fill, after)
        self.sums += reward, math.log(after.equity / before.equity)
        return reward

    def metrics(self) -> dict[str, float]:
        return {}


def rewards_and_profits(
    tape: MarketTape, settings: EnvSettings, seed: int, policies: Sequence[Choose], n_decisions: int
) -> npt.NDArray[np.float64]:
    """What policies are paid and what they earn, as a logarithm, each from its own start.

    Before, 200 actions are tried that nobody has masked: algorithms that mask none take such.

    :return: shape (2, n_policies)
    :raises OwnRewardError: if the reward cannot be computed
    """
    assert settings.own_reward is not None
    watched = _Watched(settings.own_reward)
    env = TradingEnv(tape.without_features(), replace(settings, own_reward=watched, record_trades=False))
    random = np.random.default_rng(seed)
    _play(env, seed, lambda _: random.integers(0, N_ACTIONS, 1), 200)
    sums = np.zeros((2, len(policies)))
    for index, choose in enumerate(policies):
        watched.sums[:] = 0.0
        _play(env, seed + index, choose, n_decisions)
        sums[:, index] = watched.sums
    return sums


def _play(env: TradingEnv, seed: int, choose: Choose, n_decisions: int) -> None:
    env.reset(seed=seed)
    for _ in range(n_decisions):
        _, _, terminated, truncated, _ = env.step(choose(env.action_masks()[None])[0])
        if terminated or truncated:
            env.reset()


class OwnRewardCallback(BaseCallback):
    """Records the reward's own figures: those of the first environment's episode, as FreqAI shows them."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        [metrics] = self.training_env.env_method("reward_metrics", indices=0)
        for name, value in metrics.items():
            self.logger.record(name, value)
