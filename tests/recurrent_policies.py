"""Recurrent policies with random weights that trade, and stable-baselines3's loop that asks them with a memory."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from random_markets import random_observations
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.vec_env import VecEnv

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.lookback_observation import LookbackObservation, expand_observations
from mtfscalper.envs.trading_env import TradingEnv
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.actions import Action, valid_actions
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import observe
from mtfscalper.trading.rules import mark
from mtfscalper.trading.trades import ClosedTrade


def recurrent_model(tape: MarketTape, settings: EnvSettings, seed: int = 0) -> RecurrentPPO:
    """An untrained model that trades, and whose memory matters."""
    vec_env = build_vec_env("dummy", tape, settings, 1, compact=False)
    return decisive(made(vec_env, seed), tape.features, settings.lookback)


def made(vec_env: VecEnv, seed: int) -> RecurrentPPO:
    """A small untrained model."""
    kwargs = {"net_arch": [16], "lstm_hidden_size": 16, "n_lstm_layers": 1}
    return RecurrentPPO("MlpLstmPolicy", vec_env, n_steps=8, seed=seed, device="cpu", policy_kwargs=kwargs)


def decisive(model: RecurrentPPO, features: np.ndarray, lookback: int) -> RecurrentPPO:
    """Give a model large logits, by which it enters at most of its chances and leaves at a fifth."""
    policy = model.policy
    compact = random_observations(3000, len(features), lookback)
    expanded = torch.from_numpy(expand_observations(compact, features, lookback))
    with torch.no_grad():
        policy.lstm_actor.weight_hh_l0.mul_(3.0)
        policy.action_net.weight.mul_(30.0 / policy.action_net.weight.norm(dim=1, keepdim=True))
        nothing = torch.zeros(policy.lstm_hidden_state_shape)
        distribution, _ = policy.get_distribution(expanded, (nothing, nothing), torch.zeros(len(compact)))
        logits = distribution.distribution.logits
        side = torch.from_numpy(compact[:, 1])
        for action, where, share in ((1, side == 0, 0.6), (3, side == 0, 0.6), (2, side > 0, 0.8), (4, side < 0, 0.8)):
            policy.action_net.bias[action] -= (logits[where, action] - logits[where, 0]).quantile(share)
    return model


class Loop(NamedTuple):
    """What stable-baselines3's loop did on one episode.

    :ivar decisions: by row, at each decision of the environment; an impossible action is Neutral
    """

    decisions: dict[int, int]
    trades: list[ClosedTrade]
    equity: float


def stateful_loop(
    model: RecurrentPPO,
    tape: MarketTape,
    settings: EnvSettings,
    *,
    warm_up: range = range(0),
    first_row: int | None = None,
    account: Account = FLAT,
    remembers: bool = True,
) -> Loop:
    """Play one episode of a tape without gaps, as stable-baselines3's documentation shows it.

    :param warm_up: rows before, on which the policy is asked flat where it may enter, and does nothing
    :param first_row: the first that is decided on, of an account that may be in a trade; by default the tape's first
    :param account: at the open of the candle after ``first_row``
    :param remembers: False drops the memory at every decision
    """
    inner = TradingEnv(tape, replace(settings, record_trades=True))
    env = LookbackObservation(inner, tape.features)
    observation, _ = env.reset()
    state, starts, over, decisions = None, np.ones(1, dtype=bool), False, {}
    for row in warm_up:
        permitted = bool(inner._long_permitted[row]), bool(inner._short_permitted[row])
        if any(permitted) and settings.entry_mode != "classic":
            flat = observe(SCALAR, settings.rules, settings.view, row, FLAT, 0.0, *permitted)
            seen = env.observation(np.array(flat, dtype=np.float32))
            _, state = model.predict(seen, state=state, episode_start=starts, deterministic=True)
            starts[:] = False
    if first_row is not None:
        candle = first_row + 1
        account, profit, equity = mark(SCALAR, settings.rules, account, float(tape.open[candle]))
        if account.side == 0:
            candle = inner._next_entry[candle]
        inner._state = inner._state._replace(
            account=account, profit=profit, candle=candle, equity=equity, peak=equity, terminated=False
        )
        if inner._passes_by_itself():
            inner._run(Action.NEUTRAL)
        observation = env.observation(inner._observation())
    while not over:
        action, state = model.predict(observation, state=state, episode_start=starts, deterministic=True)
        row, side = inner._state.candle - 1, inner._state.account.side
        permitted = bool(inner._long_permitted[row]), bool(inner._short_permitted[row])
        possible = valid_actions(side, *permitted, SCALAR)
        decisions[row] = int(action) if possible[int(action)] else int(Action.NEUTRAL)
        observation, _, terminated, over, info = env.step(action)
        assert not terminated
        starts[:] = not remembers
    return Loop(decisions, info["trades"], info["final_equity"])
