"""Environments over tensors against the batched NumPy environment: the same starts and actions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from comparison import Check, difference, largest

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.device_env import DeviceEnv
from mtfscalper.envs.episodes import EnvSettings, Start
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Fill
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.arrays import map_arrays
from mtfscalper.trading.episode import EpisodeState

N_ENVS = 64
# Discrete columns of a fill's row: environment, candle, whether entered and exited, reason and side.
N_KNOWN = 6


class StartedEnv(BatchedTradingEnv):
    """A batch that starts episodes where it is told to, and keeps its fills."""

    def __init__(self, tape: MarketTape, settings: EnvSettings) -> None:
        super().__init__(tape, replace(settings, record_trades=True), N_ENVS)
        self.draws = np.zeros(N_ENVS)
        self.fills: list[np.ndarray] = []
        self._counts = True

    @property
    def state(self) -> EpisodeState:
        return self._state

    def _choose_start(self, index: int, seed: int | None) -> Start:
        [(_, first, last)] = self._map.segments
        return Start(0, first + int(self.draws[index] * (last - first)))

    def _begin(self, members: Any, starts: list[Start]) -> None:
        # A device reckons what an episode opens with beforehand, and tells nobody.
        self._counts = False
        super()._begin(members, starts)
        self._counts = True

    def _record(self, members: Any, state: EpisodeState, fill: Fill) -> None:
        if self._counts:
            self.fills.append(filled(np.arange(N_ENVS) if members is None else members, state.candle, fill))
        super()._record(members, state, fill)


def filled(envs: np.ndarray, candles: np.ndarray, fill: Fill) -> np.ndarray:
    """Fills that happened, a row each: environment, candle, and the columns of :class:`Fill`."""
    happened = np.asarray(fill.entered, dtype=bool) | np.asarray(fill.exited, dtype=bool)
    columns = [np.asarray(column, dtype=float)[happened] for column in (envs, candles, *fill)]
    return np.stack(columns, axis=1)


def in_order(fills: list[np.ndarray]) -> np.ndarray:
    """Fills of a step by environment, those of one in their order."""
    rows = np.concatenate([np.empty((0, 2 + len(Fill._fields))), *fills])
    return rows[np.argsort(rows[:, 0], kind="stable")]


def environments(tape: MarketTape, settings: EnvSettings, device: torch.device, n_steps: int) -> Iterator[Check]:
    """The same draws and actions on both.

    :param tape: one run of candles
    :return: whether fills are the same; money, of fills and of the accounts at the end; what is observed
    """
    random = np.random.default_rng(7)
    reference, env = StartedEnv(tape, settings), DeviceEnv([tape], settings, N_ENVS, device)
    fills: list[np.ndarray] = []

    def record(episode: EpisodeState, fill: Fill, concerned: torch.Tensor) -> None:
        # In one piece, as each transfer waits for the device. Numbers of candles and reasons are exact in float64.
        columns = torch.stack([column.double() for column in (concerned, episode.candle, *fill)]).cpu().numpy()
        envs = np.flatnonzero(columns[0])
        candles, *values = columns[1:, envs]
        fills.append(filled(envs, candles, Fill(*values)))

    env.recorder = record

    def draw() -> torch.Tensor:
        reference.draws = random.random(N_ENVS)
        return torch.from_numpy(reference.draws).to(device)

    env.reset(draw())
    reference.reset()
    n_fills, n_episodes, different, apart, shown_apart = 0, 0, 0, 0.0, 0.0
    for _ in range(n_steps):
        # Mostly what can be done, sometimes what cannot.
        masks = reference.action_masks() * random.random((N_ENVS, N_ACTIONS)) * [3, 1, 1, 1, 1]
        actions = np.where(random.random(N_ENVS) < 0.1, random.integers(0, N_ACTIONS, N_ENVS), masks.argmax(axis=1))
        draws = draw()
        observations, rewards, dones, _ = reference.step(actions)
        step = env.step(torch.from_numpy(actions).to(device), draws)
        different += int((step.ended.cpu().numpy() != dones).sum())
        shown = (observations, step.observations), (rewards, step.rewards)
        shown_apart = largest([shown_apart, *(difference(theirs, ours.cpu()) for theirs, ours in shown)])
        expected, got = in_order(reference.fills), in_order(fills)
        reference.fills.clear()
        fills.clear()
        n_fills, n_episodes = n_fills + len(expected), n_episodes + int(dones.sum())
        if expected.shape != got.shape:
            different += max(len(expected), len(got))
            continue
        different += int((expected[:, :N_KNOWN] != got[:, :N_KNOWN]).any(axis=1).sum())
        apart = largest([apart, difference(expected[:, N_KNOWN:], got[:, N_KNOWN:])])
    at_the_end: list[float] = []
    map_arrays(lambda theirs, ours: at_the_end.append(difference(theirs, ours.cpu())), reference.state, env.episode)
    mode, compared = settings.entry_mode, f"{n_fills} fills, {n_episodes} episodes"
    # Without a fill nothing was compared.
    yield Check(f"{mode}: fills and ends that differ", different if n_fills and n_episodes else np.nan, 0, compared)
    money = largest([apart, *at_the_end])
    tolerance = 1e-12 if device.type == "cpu" else 1e-9
    yield Check(f"{mode}: money", money, tolerance, f"{compared}, accounts at the end")
    # In float32, whose last bit is 1e-7 of a number near 1.
    yield Check(f"{mode}: observations and rewards", shown_apart, 1e-6, f"{n_steps} steps x {N_ENVS}")
