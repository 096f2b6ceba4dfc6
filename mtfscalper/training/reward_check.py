"""Does the reward agree with profit? Asked of random policies, before a policy learns to please it."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.actions import Action
from mtfscalper.trading.reward import RewardSettings

logger = logging.getLogger(__name__)

N_POLICIES = 128
N_DECISIONS = 200
# Below it, a policy with more reward is hardly more likely to have more profit.
LEAST_AGREEMENT = 0.5


def reward_profit_correlation(tape: MarketTape, settings: EnvSettings, seed: int) -> float:
    """Spearman's rank correlation of reward and profit over random policies.

    Each policy takes the actions that can be done, with its own eagerness to enter and to leave, for 200 decisions
    from its own start. Its profit is the log growth of its equity: the default reward, on the same trajectory.

    :return: in [-1, 1]; 1 where the reward is nothing but the default term; NaN where no policy traded
    """
    if _is_profit(settings.reward):
        return 1.0
    scenes = [replace(settings, reward=reward, record_trades=False) for reward in (settings.reward, RewardSettings())]
    envs = [BatchedTradingEnv(tape.without_features(), scene, N_POLICIES) for scene in scenes]
    random = np.random.default_rng(seed)
    # From every second candle to one in a hundred.
    eagerness = 10 ** random.uniform(-2, np.log10(0.5), (N_POLICIES, 1))
    sums = np.zeros((2, N_POLICIES))
    for env in envs:
        env.seed(seed)
        env.reset()
    for _ in range(N_DECISIONS):
        actions = _random_actions(envs[0].action_masks(), eagerness, random)
        for env, total in zip(envs, sums, strict=True):
            _, rewards, _, _ = env.step(actions)
            total += rewards
    if np.ptp(sums, axis=1).min() == 0:
        return float("nan")
    ranks = pd.DataFrame(sums.T).rank().to_numpy()
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def check_reward(tape: MarketTape, settings: EnvSettings, seed: int) -> float:
    """Log how the reward agrees with profit, as a warning where it does not.

    :return: see :func:`reward_profit_correlation`
    """
    correlation = reward_profit_correlation(tape, settings, seed)
    weights = {
        name: value for name, value in settings.reward.model_dump().items() if name.endswith("_weight") and value
    }
    said = ", ".join(f"{name} {value:g}" for name, value in weights.items()) or "every weight 0"
    if correlation >= LEAST_AGREEMENT:
        logger.info("%s: reward and profit of random policies rank alike (%.2f; %s).", tape.pair, correlation, said)
    else:
        logger.warning(
            "%s: over %d random policies the reward ranks them unlike their profit (rank correlation %.2f, asked at "
            "least %.1f; %s): a policy can please this reward without earning. Raise equity_weight in "
            "freqai.rl_config.model_reward_parameters, or lower the others.",
            tape.pair,
            N_POLICIES,
            correlation,
            LEAST_AGREEMENT,
            said,
        )
    return correlation


def _is_profit(reward: RewardSettings) -> bool:
    weights = {name: value for name, value in reward.model_dump().items() if name.endswith("_weight")}
    return weights.pop("equity_weight") > 0 and not any(weights.values())


def _random_actions(
    masks: npt.NDArray[np.bool_], eagerness: npt.NDArray[np.float64], random: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Neutral, or with each policy's eagerness one of the other actions that can be done.

    :param masks: shape (n, 5)
    :param eagerness: shape (n, 1)
    """
    scores = np.where(masks, random.random(masks.shape), -1.0)
    scores[:, Action.NEUTRAL] = np.where(random.random(len(masks)) < eagerness[:, 0], -0.5, 2.0)
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)
