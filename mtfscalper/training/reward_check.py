"""Can the reward be computed, and does it agree with profit? Asked before a policy learns to please it."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.actions import Action, ActionTable
from mtfscalper.trading.arrays import NUMPY, SCALAR, Namespace, map_arrays
from mtfscalper.trading.own_reward import OWN_REWARD
from mtfscalper.trading.reward import TERMS, RewardSettings, Transition, WeightedTerm, weighted_terms
from mtfscalper.training.own_reward import rewards_and_profits
from mtfscalper.user_code import UserCode

logger = logging.getLogger(__name__)

N_POLICIES = 128
N_DECISIONS = 200
# Of a reward that is asked about one account at a time, which takes longer.
N_POLICIES_ONE_BY_ONE = 32
# Below it, a policy with more reward is hardly more likely to have more profit.
LEAST_AGREEMENT = 0.5
# Accounts and decisions on which the user's terms are tried.
N_PROBES = 16
N_PROBED_DECISIONS = 50


class RewardTermError(ValueError):
    """A term of the user's cannot be used. Names the term, what it gave, what is accepted and the remedy."""


def reward_profit_correlation(tape: MarketTape, settings: EnvSettings, seed: int) -> float:
    """Spearman's rank correlation of reward and profit over random policies.

    Each policy takes the actions that can be done, with its own eagerness to enter and to leave, for 200 decisions
    from its own start. Its profit is the log growth of its equity: the default reward, on the same trajectory.

    :return: in [-1, 1]; 1 where the reward is nothing but the default term; NaN where no policy traded
    """
    if settings.own_reward is not None:
        return _rank_correlation(_own_sums(tape, settings, seed))
    terms = weighted_terms(settings.reward, settings.own_terms)
    if [(term.name, term.weight > 0) for term in terms] == [("equity", True)]:
        return 1.0
    profit = replace(settings, reward=RewardSettings(), own_terms=())
    envs = [
        BatchedTradingEnv(tape.without_features(), replace(scene, record_trades=False), N_POLICIES)
        for scene in (settings, profit)
    ]
    random = np.random.default_rng(seed)
    eagerness = _eagerness(random, N_POLICIES)
    sums = np.zeros((2, N_POLICIES))
    for env in envs:
        env.seed(seed)
        env.reset()
    for _ in range(N_DECISIONS):
        actions = _random_actions(envs[0].action_masks(), eagerness, random)
        for env, total in zip(envs, sums, strict=True):
            _, rewards, _, _ = env.step(actions)
            total += rewards
    return _rank_correlation(sums)


def _own_sums(tape: MarketTape, settings: EnvSettings, seed: int) -> npt.NDArray[np.float64]:
    """What policies are paid by a reward that is asked about one account at a time, and earn."""
    random = np.random.default_rng(seed)
    policies = [
        partial(_random_actions, eagerness=eagerness[None], random=random)
        for eagerness in _eagerness(random, N_POLICIES_ONE_BY_ONE)
    ]
    return rewards_and_profits(tape, settings, seed, policies, N_DECISIONS)


def _eagerness(random: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    """How often policies act, from every second candle to one in a hundred, shape (n, 1)."""
    return np.asarray(10 ** random.uniform(-2, np.log10(0.5), (n, 1)))


def _rank_correlation(sums: npt.NDArray[np.float64]) -> float:
    """Spearman's, of rewards and profits, shape (2, n); NaN where all policies have the same of one."""
    if np.ptp(sums, axis=1).min() == 0:
        return float("nan")
    ranks = pd.DataFrame(sums.T).rank().to_numpy()
    return float(np.corrcoef(ranks, rowvar=False)[0, 1])


def check_reward(tape: MarketTape, settings: EnvSettings, seed: int) -> float:
    """Warn where the reward does not agree with profit.

    :return: see :func:`reward_profit_correlation`
    :raises RewardTermError: if a term of the user's cannot be used
    :raises mtfscalper.trading.own_reward.OwnRewardError: if a reward of the user's cannot be computed
    """
    if settings.own_terms:
        check_own_terms(tape, settings, seed)
    correlation = reward_profit_correlation(tape, settings, seed)
    terms = weighted_terms(settings.reward, settings.own_terms)
    keys = {term.name: f"{term.name}_weight" if term.name in TERMS else term.name for term in terms}
    said = ", ".join(f"{keys[term.name]} {term.weight:g}" for term in terms) or "every weight 0"
    remedy = "Raise equity_weight in freqai.rl_config.model_reward_parameters, or lower the others."
    if settings.own_reward is not None:
        said, remedy = OWN_REWARD, f"Let {OWN_REWARD} pay less for what is not profit."
    if correlation >= LEAST_AGREEMENT:
        logger.debug("%s: reward and profit of random policies rank alike (%.2f; %s).", tape.pair, correlation, said)
    else:
        logger.warning(
            "%s: over %d random policies the reward ranks them unlike their profit (rank correlation %.2f, asked at "
            "least %.1f; %s): a policy can please this reward without earning. %s",
            tape.pair,
            N_POLICIES if settings.own_reward is None else N_POLICIES_ONE_BY_ONE,
            correlation,
            LEAST_AGREEMENT,
            said,
            remedy,
        )
    return correlation


def check_own_terms(tape: MarketTape, settings: EnvSettings, seed: int) -> None:
    """Try the user's terms on what random accounts live through: in batches and one by one they say the same.

    :raises RewardTermError: naming the term, what it gave, what is accepted and the remedy
    """
    lived: list[Transition] = []

    def note(xp: Namespace, reward: RewardSettings, transition: Transition) -> Any:
        lived.append(transition)
        return 0.0 * transition.equity_after

    own = [term for term in weighted_terms(settings.reward, settings.own_terms) if term.name in settings.reward.terms]
    probe = UserCode("probe:note", "", note)
    watched = replace(
        settings,
        reward=settings.reward.model_copy(update={"terms": {probe.name: 1.0}}),
        own_terms=(probe,),
        record_trades=False,
    )
    env = BatchedTradingEnv(tape.without_features(), watched, N_PROBES)
    random = np.random.default_rng(seed)
    env.seed(seed)
    env.reset()
    for _ in range(N_PROBED_DECISIONS):
        env.step(_random_actions(env.action_masks(), np.full((N_PROBES, 1), 0.5), random))
    for transition in lived:
        for term in own:
            _check_term(term, settings.reward, transition)


def _check_term(term: WeightedTerm, reward: RewardSettings, transition: Transition) -> None:
    n = len(transition.equity_after)
    accepted = f"a finite number for each account, shape ({n},), and the same numbers for single accounts"
    try:
        together = np.asarray(term.function(NUMPY, reward, transition), dtype=np.float64)
        alone = np.array([float(term.function(SCALAR, reward, _member(transition, at))) for at in range(n)])
    except Exception as error:
        raise RewardTermError(
            f"the reward's term {term.name} fails ({type(error).__name__}: {error}); accepted: {accepted}; remedy: "
            "use xp.where, xp.maximum, ... instead of if and max, and no array's methods"
        ) from error
    if together.shape != (n,) or not np.isfinite(together).all():
        raise RewardTermError(
            f"the reward's term {term.name} gives shape {together.shape} and {np.isfinite(together).sum()} finite "
            f"numbers for {n} accounts; accepted: {accepted}; remedy: correct the function"
        )
    apart = np.abs(together - alone) > 1e-9 * np.maximum(1.0, np.abs(alone))
    if apart.any():
        at = int(np.flatnonzero(apart)[0])
        raise RewardTermError(
            f"the reward's term {term.name} gives {together[at]!r} for an account among {n} and {alone[at]!r} for it "
            f"alone; accepted: {accepted}; remedy: let no account's value depend on the others"
        )


def _member(transition: Transition, at: int) -> Transition:
    """What one account of a batch lived through, in Python's numbers."""

    def own(value: Any) -> Any:
        return value[at].item() if isinstance(value, np.ndarray) else value

    before, after, fill = (map_arrays(own, group) for group in (transition.before, transition.after, transition.fill))
    numbers = {name: own(value) for name, value in transition._asdict().items()}
    actions = ActionTable(*(column.tolist() for column in transition.actions))
    return Transition(**(numbers | {"before": before, "after": after, "fill": fill, "actions": actions}))


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
