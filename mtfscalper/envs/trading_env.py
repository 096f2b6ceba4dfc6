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
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.actions import N_ACTIONS, Action, automatic_action, valid_actions
from mtfscalper.trading.arrays import SCALAR
from mtfscalper.trading.observation import N_ACCOUNT, PROFIT_BOUND, account_state
from mtfscalper.trading.reward import Transition, reward_terms
from mtfscalper.trading.rules import (
    FLAT,
    Account,
    Candle,
    Fill,
    equity_at,
    force_exit,
    profit_ratio,
    see_open,
    step,
)
from mtfscalper.trading.trades import ClosedTrade, closed_trade

# Observations are float32, which counts exactly up to here: 160 years of five-minute candles. Constant, so that a
# policy fits any tape.
MAX_TICK = 2.0**24


def observation_space() -> spaces.Box[np.float32]:
    """Compact observations: the tick, then :data:`mtfscalper.trading.observation.ACCOUNT_FIELDS`.

    The tick is the position of the last closed candle on the tape; the policy gathers its window of features.
    """
    low = np.array([0, -1, -PROFIT_BOUND, -PROFIT_BOUND, 0, 0, 0], dtype=np.float32)
    high = np.array([MAX_TICK, 1, PROFIT_BOUND, PROFIT_BOUND, 1, 1, 1], dtype=np.float32)
    assert len(low) == 1 + N_ACCOUNT
    return spaces.Box(low, high, dtype=np.float32)


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
        :param tapes: the candles to play on; of several pairs, the ticks count along the tapes laid end to end
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        """
        self.observation_space = observation_space()
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.settings = settings
        self._map = EpisodeMap.of(tapes, settings)
        # Python numbers: indexing a NumPy array for one number costs more than a rule.
        self._dates = self._map.dates_ms.tolist()
        columns = (column.tolist() for column in self._map.candles)
        self._candles = [Candle(*row) for row in zip(*columns, strict=True)]
        self._range_position = self._map.range_position.tolist()
        self._long_permitted = self._map.long_permitted.tolist()
        self._short_permitted = self._map.short_permitted.tolist()
        self._next_entry: list[int] = self._map.next_entry.tolist()
        self._segment = 0
        self._account: Account = FLAT
        self._tick = 0
        self._equity = self._peak = 1.0
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
        gained, terminated, truncated = self._run(int(action))
        info: dict[str, Any] = {}
        if terminated or truncated:
            info["final_equity"] = self._equity
            info["reward_terms"] = dict(self._episode_terms)
            if self.settings.record_trades:
                info["trades"] = self._trades
        return self._observation(), reward + gained, terminated, truncated, info

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The actions that can be done now, under the name that sb3-contrib's MaskablePPO asks for."""
        row = self._tick - 1
        mask = valid_actions(self._account.side, self._long_permitted[row], self._short_permitted[row], SCALAR)
        return np.array(mask, dtype=bool)

    def drain_reward_terms(self) -> dict[str, float]:
        """Sums of the reward's terms by name since the last call."""
        drained: dict[str, float] = dict(self._drained_terms)
        self._drained_terms.clear()
        return drained

    def _begin(self, start: Start) -> bool:
        """Put a flat account at a candle and run to the first decision. False if there is none."""
        self._segment = start.segment
        self._account = FLAT
        self._tick = self._next_entry[start.tick]
        self._peak = self._equity = 1.0
        self._carried_reward = 0.0
        self._trades = []
        self._episode_terms.clear()
        if self._tick == self._map.segments[self._segment].last:
            return False
        automatic = self._automatic()
        if automatic is None:
            return True
        self._carried_reward, terminated, truncated = self._run(automatic)
        return not (terminated or truncated)

    def _run(self, action: int) -> tuple[float, bool, bool]:
        """Act at this candle, then let the candles without a decision pass.

        :return: reward, terminated, truncated
        """
        floor, last = 1 - self.settings.rules.max_drawdown_ratio, self._map.segments[self._segment].last
        reward = 0.0
        while True:
            reward += self._one_candle(action, last)
            if self._equity <= self._peak * floor:
                return reward, True, False
            if self._account.side == 0:
                # Flat, and no entry permitted: nothing changes.
                self._tick = self._next_entry[self._tick]
            if self._tick == last:
                return reward, False, True
            automatic = self._automatic()
            if automatic is None:
                return reward, False, False
            action = automatic

    def _automatic(self) -> Action | None:
        row = self._tick - 1
        return automatic_action(
            self.settings.entry_mode,
            self._account.side == 0,
            self._long_permitted[row],
            self._short_permitted[row],
        )

    def _one_candle(self, action: int, last: int) -> float:
        """Carry out an action at this candle, mark the account at the next open, and reward the difference."""
        rules, tick = self.settings.rules, self._tick
        before, candle = self._account, self._candles[tick]
        accepted = valid_actions(before.side, self._long_permitted[tick - 1], self._short_permitted[tick - 1], SCALAR)
        # An entry without permission is no entry, whoever asks.
        account, fill = step(SCALAR, rules, before, action if accepted[action] else Action.NEUTRAL, candle)
        self._record(fill)
        self._tick = tick + 1
        following = self._candles[tick + 1]
        account = see_open(SCALAR, rules, account, following.open)
        if self._tick == last:
            account, forced = force_exit(SCALAR, rules, account, following)
            self._record(forced)
            fill = forced if forced.exited else fill
        self._account = account
        equity_before, self._equity = self._equity, equity_at(SCALAR, rules, account, following.open)
        self._peak = max(self._peak, self._equity)
        terms = reward_terms(
            SCALAR,
            self.settings.reward,
            rules.max_trade_duration_candles,
            Transition(
                before=before,
                after=account,
                fill=fill,
                profit_after=profit_ratio(rules, account, following.open),
                equity_before=equity_before,
                equity_after=self._equity,
                accepted=accepted[action],
                declined=action == Action.NEUTRAL and (accepted[Action.LONG_ENTER] or accepted[Action.SHORT_ENTER]),
                range_position=self._range_position[tick],
            ),
        )
        self._episode_terms.update(terms)
        self._drained_terms.update(terms)
        return float(sum(terms.values()))

    def _record(self, fill: Fill) -> None:
        if fill.exited and self.settings.record_trades:
            pair = self._map.segments[self._segment].pair
            self._trades.append(closed_trade(pair, fill, self._dates[self._tick], self._map.timeframe_ms))

    def _observation(self) -> npt.NDArray[np.float32]:
        row = self._tick - 1
        state = account_state(
            SCALAR,
            self.settings.rules,
            self.settings.view,
            self._account,
            self._candles[self._tick].open,
            self._long_permitted[row],
            self._short_permitted[row],
        )
        return np.array([row, *state], dtype=np.float32)
