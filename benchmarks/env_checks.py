"""Environments over tensors against the batched NumPy environment: the same starts and actions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from comparison import Check, difference, largest

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.device_env import Compiler, DeviceEnv
from mtfscalper.envs.episodes import EnvSettings, Start
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import Account, Fill
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.episode import EpisodeState

N_ENVS = 64
# Discrete columns of a fill's row: environment, candle, whether entered and exited, reason and side.
N_KNOWN = 6
# An account in an episode, and what of it is discrete.
STATE_COLUMNS = (*Account._fields, *EpisodeState._fields[1:])
KNOWN_OF_STATE = [
    STATE_COLUMNS.index(name) for name in ("side", "held_candles", "stop_trailed", "candle", "last", "terminated")
]


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


def columns_of(state: EpisodeState) -> np.ndarray:
    """The columns of :data:`STATE_COLUMNS`, brought here in one piece."""
    columns = [*state.account, *state[1:]]
    if isinstance(state.candle, torch.Tensor):
        return torch.stack([column.double() for column in columns]).cpu().numpy()
    return np.stack([np.asarray(column, dtype=float) for column in columns])


def environments(
    tape: MarketTape, settings: EnvSettings, device: torch.device, n_steps: int, compiler: Compiler | None = None
) -> Iterator[Check]:
    """The same draws and actions on both.

    :param tape: one run of candles
    :param compiler: see :class:`DeviceEnv`. Compiled, it tells no fills; the accounts after each step tell of them
    :return: whether fills and accounts are the same; their money; what is observed
    """
    random = np.random.default_rng(7)
    reference, env = StartedEnv(tape, settings), DeviceEnv([tape], settings, N_ENVS, device, compiler=compiler)
    fills: list[np.ndarray] = []

    def record(episode: EpisodeState, fill: Fill, concerned: torch.Tensor) -> None:
        # In one piece, as each transfer waits for the device. Numbers of candles and reasons are exact in float64.
        columns = torch.stack([column.double() for column in (concerned, episode.candle, *fill)]).cpu().numpy()
        envs = np.flatnonzero(columns[0])
        candles, *values = columns[1:, envs]
        fills.append(filled(envs, candles, Fill(*values)))

    if compiler is None:
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
        theirs, ours = columns_of(reference.state), columns_of(env.episode)
        different += int((theirs[KNOWN_OF_STATE] != ours[KNOWN_OF_STATE]).any(axis=0).sum())
        apart = largest([apart, difference(theirs, ours)])
        expected, got = in_order(reference.fills), in_order(fills)
        reference.fills.clear()
        fills.clear()
        n_fills, n_episodes = n_fills + len(expected), n_episodes + int(dones.sum())
        if compiler is not None:
            continue
        if expected.shape != got.shape:
            different += max(len(expected), len(got))
            continue
        different += int((expected[:, :N_KNOWN] != got[:, :N_KNOWN]).any(axis=1).sum())
        apart = largest([apart, difference(expected[:, N_KNOWN:], got[:, N_KNOWN:])])
    mode = settings.entry_mode + ("" if compiler is None else ", compiled")
    compared = f"{n_fills} fills, {n_episodes} episodes"
    # Without a fill nothing was compared.
    yield Check(f"{mode}: fills and ends that differ", different if n_fills and n_episodes else np.nan, 0, compared)
    yield Check(f"{mode}: money", apart, 1e-12 if device.type == "cpu" else 1e-9, compared)
    # In float32, whose last bit is 1e-7 of a number near 1.
    yield Check(f"{mode}: observations and rewards", shown_apart, 1e-6, f"{n_steps} steps x {N_ENVS}")
