"""The trading environment: the rules at batch size one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from mtfscalper.envs.episodes import EnvSettings, EpisodeMap, Start
from mtfscalper.files_read import read_so_far
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import FLAT
from mtfscalper.trading.actions import N_ACTIONS, Action, valid_actions
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.episode import EpisodeState, advance, enters_by_itself, exit_candle
from mtfscalper.trading.observation import HIGHEST, LOWEST, observe
from mtfscalper.trading.own_reward import OWN_REWARD
from mtfscalper.trading.trades import ClosedTrade, closed_trade


def observation_space() -> spaces.Box[np.float32]:
    """Compact observations, see :class:`mtfscalper.trading.observation.Observation`."""
    return spaces.Box(np.array(LOWEST, dtype=np.float32), np.array(HIGHEST, dtype=np.float32), dtype=np.float32)


class TradingEnv(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """One account on the candles of one or more tapes.

    A step is a decision: candles on which nothing can be decided pass inside it, marked to market. An episode runs
    to the end of its gap-free segment, whose last candle tests the exits and closes what is left at its open, and is
    truncated there; it terminates when equity has lost ``max_drawdown_ratio`` of its peak.

    The last info of an episode holds ``final_equity``, ``reward_terms`` (sums by name over the episode) and, with
    ``record_trades``, ``trades`` (every :class:`mtfscalper.trading.trades.ClosedTrade` of the episode).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own class attribute

    def __init__(self, tapes: MarketTape | Sequence[MarketTape], settings: EnvSettings) -> None:
        """
        :param tapes: the candles to play on; of several pairs, rows count along the tapes laid end to end
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        :raises ValueError: if ``own_reward`` shall pay on several tapes
        """
        self.observation_space = observation_space()
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.settings = settings
        self._map = EpisodeMap.from_tapes(tapes, settings)
        self._own_reward = None if settings.own_reward is None else settings.own_reward.on(_only_one(tapes))
        self._scene = self._map.scene(settings)
        # Python numbers: indexing a NumPy array for one number costs more than a rule.
        self._long_permitted = self._map.market.long_permitted.tolist()
        self._short_permitted = self._map.market.short_permitted.tolist()
        self._next_entry: list[int] = self._map.next_entry.tolist()
        self._segment = 0
        self._state = self._flat_at(Start(0, self._map.segments[0].first))
        self._carried_reward = 0.0
        self._trades: list[ClosedTrade] = []
        self._episode_terms: Counter[str] = Counter()
        self._drained_terms: Counter[str] = Counter()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Start an episode: flat, equity 1.

        :param seed: seeds everything random, and with it the start; without one, episodes follow each other from
            the start of the segments in turn, unless ``random_start`` is set
        :param options: not used by this environment
        """
        super().reset(seed=seed)
        if seed is not None or self.settings.random_start:
            start = self._map.random_start(self.np_random)
        else:
            start = self._map.start_after(self._segment)
        # A start after the last entry of its segment meets no decision: go on from the start of the next.
        for _ in range(len(self._map.segments) + 1):
            if self._begin(start):
                return self._observation(), {}
            start = self._map.start_after(self._segment)
        raise self._map.no_living_trade()

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide, then run to the next decision or to the episode's end."""
        reward, self._carried_reward = self._carried_reward, 0.0
        reward += self._run(int(action))
        state = self._state
        truncated = not state.terminated and state.candle == state.last
        info: dict[str, Any] = {}
        if state.terminated or truncated:
            info["final_equity"] = state.equity
            info["reward_terms"] = dict(self._episode_terms)
            if self.settings.record_trades:
                info["trades"] = self._trades
        return self._observation(), reward, state.terminated, truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The actions that can be done now, under the name that sb3-contrib's MaskablePPO asks for."""
        row = self._state.candle - 1
        side = self._state.account.side
        return np.array(valid_actions(side, self._long_permitted[row], self._short_permitted[row], SCALAR), dtype=bool)

    def drain_reward_terms(self) -> dict[str, float]:
        """Sums of the reward's terms by name since the last call."""
        drained: dict[str, float] = dict(self._drained_terms)
        self._drained_terms.clear()
        return drained

    def reward_metrics(self) -> dict[str, float]:
        """Figures for TensorBoard by tag, of an ``own_reward`` that keeps some."""
        return {} if self._own_reward is None else self._own_reward.metrics()

    def files_read(self) -> dict[str, str]:
        """Files that code of the user's has read in this process, see :mod:`mtfscalper.files_read`."""
        return read_so_far()

    def _flat_at(self, start: Start) -> EpisodeState:
        """A flat account at the first candle from a start on where an entry is permitted."""
        last = self._map.segments[start.segment].last
        return EpisodeState(FLAT, 0.0, self._next_entry[start.candle], last, 1.0, 1.0, False)

    def _begin(self, start: Start) -> bool:
        """Put a flat account at a candle and run to the first decision. False if there is none."""
        self._segment = start.segment
        self._state = self._flat_at(start)
        self._carried_reward = 0.0
        self._trades = []
        self._episode_terms.clear()
        if self._own_reward is not None:
            self._own_reward.begin(self._state)
        if self._passes_by_itself():
            self._carried_reward = self._run(Action.NEUTRAL)
        return not self._ended

    @property
    def _ended(self) -> bool:
        return bool(self._state.terminated or self._state.candle == self._state.last)

    def _passes_by_itself(self) -> bool:
        return bool(enters_by_itself(SCALAR, self._scene, self._state)) and not self._ended

    def _run(self, action: int) -> float:
        """Act at this candle, then let the candles without a decision pass.

        :return: reward
        """
        reward = self._one_candle(action)
        while self._passes_by_itself():
            reward += self._one_candle(Action.NEUTRAL)
        return reward

    def _one_candle(self, action: int) -> float:
        before = self._state
        self._state, fill, terms = advance(SCALAR, self._scene, before, action)
        if fill.exited and self.settings.record_trades:
            pair, close_ms = self._map.segments[self._segment].pair, self._map.dates_ms[int(exit_candle(before, fill))]
            self._trades.append(closed_trade(pair, fill, close_ms, self._map.timeframe_ms))
        if self._own_reward is not None:
            terms = {OWN_REWARD: self._own_reward.of_candle(before, action, fill, self._state)}
        reward = 0.0
        for name, value in terms.items():
            self._episode_terms[name] += value
            self._drained_terms[name] += value
            reward += value
        return float(reward)

    def _observation(self) -> npt.NDArray[np.float32]:
        state, row = self._state, self._state.candle - 1
        seen = observe(
            SCALAR,
            self.settings.rules,
            self.settings.view,
            row,
            state.account,
            state.profit,
            self._long_permitted[row],
            self._short_permitted[row],
        )
        return np.array(seen, dtype=np.float32)


def _only_one(tapes: MarketTape | Sequence[MarketTape]) -> MarketTape:
    """The tape of an environment whose reward knows one pair."""
    if isinstance(tapes, MarketTape):
        return tapes
    if len(tapes) != 1:
        raise ValueError(f"own_reward is given {len(tapes)} tapes; accepted: one; remedy: train the pairs apart")
    return tapes[0]
