"""The trading environment: the rules at batch size one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from mtfscalper.market.tape import MarketTape, TapeError
from mtfscalper.market.windows import range_position
from mtfscalper.trading.actions import N_ACTIONS, Action, automatic_action, entry_permissions, valid_actions
from mtfscalper.trading.namespace import SCALAR
from mtfscalper.trading.observation import N_ACCOUNT, PROFIT_BOUND, account_state
from mtfscalper.trading.reward import RewardSettings, Transition, reward_terms
from mtfscalper.trading.rules import (
    FLAT,
    Account,
    Candle,
    Fill,
    TradingRules,
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


@dataclass(frozen=True)
class EnvSettings:
    """What an environment is made of, beside its tape.

    :ivar window: candles of features an observation stands for
    :ivar random_start: whether every episode starts at a random candle, or only the first after a seeded reset
    """

    rules: TradingRules
    reward: RewardSettings
    entry_mode: str
    window: int
    random_start: bool = False


def observation_space() -> spaces.Box[np.float32]:
    """Compact observations: the tick, then :data:`mtfscalper.trading.observation.ACCOUNT_FIELDS`.

    The tick is the position of the last closed candle on the tape; the policy gathers its window of features.
    """
    low = np.array([0, -1, -PROFIT_BOUND, -PROFIT_BOUND, 0, 0, 0], dtype=np.float32)
    high = np.array([MAX_TICK, 1, PROFIT_BOUND, PROFIT_BOUND, 1, 1, 1], dtype=np.float32)
    assert len(low) == 1 + N_ACCOUNT
    return spaces.Box(low, high, dtype=np.float32)


class TradingEnv(gymnasium.Env[npt.NDArray[np.float32], np.int64]):
    """One account on one tape.

    A step is a decision: candles on which nothing can be decided pass inside it, marked to market. An episode runs
    to the end of its gap-free segment, whose last candle tests the exits and closes what is left at its open, and is
    truncated there; it terminates when equity has lost ``max_drawdown_ratio`` of its peak.

    ``info["trades"]`` lists the trades that closed in a step, where any did; the last step of an episode adds
    ``final_equity`` and ``reward_terms`` (sums by name over the episode).
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own class attribute

    def __init__(self, tape: MarketTape, settings: EnvSettings) -> None:
        """
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        """
        self.observation_space = observation_space()
        self.action_space = spaces.Discrete(N_ACTIONS)
        self.settings = settings
        self._pair = tape.pair
        self._timeframe_ms = tape.timeframe_ms
        rules = settings.rules
        # Python numbers: indexing a NumPy array for one number costs more than a rule.
        self._dates = tape.dates_ms.tolist()
        columns = (tape.open, tape.high, tape.low, tape.close, tape.funding, tape.price_scale)
        self._candles = [Candle(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]
        self._range_position = range_position(tape.high, tape.low, tape.open, settings.reward.timing_candles).tolist()
        long_permitted, short_permitted = entry_permissions(
            settings.entry_mode, rules.can_short, tape.long_signal, tape.short_signal
        )
        self._long_permitted = long_permitted.tolist()
        self._short_permitted = short_permitted.tolist()
        permitted = long_permitted | short_permitted
        # First and last candle of each segment that can be decided, and the segment's end.
        self._segments: list[tuple[int, int]] = []
        next_entry = np.full(len(tape), len(tape), dtype=np.int64)
        for start, stop in tape.segments:
            first, last = start + settings.window, stop - 1
            if last <= first:
                continue
            # Decision k needs a permission at row k - 1.
            candidates = np.arange(first, last)[permitted[first - 1 : last - 1]]
            if len(candidates):
                self._segments.append((first, last))
                at = np.searchsorted(candidates, np.arange(first, last))
                next_entry[first:last] = np.append(candidates, last)[at]
        if not self._segments:
            raise TapeError(self._no_decision(tape, permitted))
        # Itself where an entry is permitted, else the next such candle, else the segment's last; that one itself.
        self._next_entry: list[int] = np.minimum(next_entry, len(tape) - 1).tolist()
        for _, last in self._segments:
            self._next_entry[last] = last
        self._segment = 0
        self._account: Account = FLAT
        self._tick = 0
        self._equity = self._peak = 1.0
        self._carried_reward = 0.0
        self._carried_trades: list[ClosedTrade] = []
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
            lengths = np.array([last - first for first, last in self._segments], dtype=np.float64)
            self._segment = int(self.np_random.choice(len(lengths), p=lengths / lengths.sum()))
            first, last = self._segments[self._segment]
            tick = int(self.np_random.integers(first, last))
        else:
            self._segment = (self._segment + 1) % len(self._segments)
            tick = self._segments[self._segment][0]
        # A start after the last entry of its segment meets no decision: go on from the start of the next.
        for _ in range(len(self._segments) + 1):
            if self._begin(tick):
                return self._observation(), {}
            self._segment = (self._segment + 1) % len(self._segments)
            tick = self._segments[self._segment][0]
        raise TapeError(
            f"{self._pair}: every trade of {len(self._candles)} candles ends in its entry candle, so that there is "
            "nothing to decide; accepted: a stop and ROI that let a trade live; remedy: widen the strategy's stoploss"
        )

    def step(self, action: np.int64) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Decide, then run to the next decision or to the episode's end."""
        reward, trades = self._carried_reward, self._carried_trades
        self._carried_reward, self._carried_trades = 0.0, []
        gained, terminated, truncated = self._run(int(action), trades)
        info: dict[str, Any] = {}
        if trades:
            info["trades"] = trades
        if terminated or truncated:
            info["final_equity"] = self._equity
            info["reward_terms"] = dict(self._episode_terms)
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

    def _begin(self, tick: int) -> bool:
        """Put a flat account at a candle and run to the first decision. False if there is none."""
        self._account = FLAT
        self._tick = self._next_entry[tick]
        self._peak = self._equity = 1.0
        self._carried_reward = 0.0
        self._carried_trades = []
        self._episode_terms.clear()
        if self._tick == self._segments[self._segment][1]:
            return False
        automatic = self._automatic()
        if automatic is None:
            return True
        self._carried_reward, terminated, truncated = self._run(automatic, self._carried_trades)
        return not (terminated or truncated)

    def _run(self, action: int, trades: list[ClosedTrade]) -> tuple[float, bool, bool]:
        """Act at this candle, then let the candles without a decision pass.

        :param trades: closed trades are added to it
        :return: reward, terminated, truncated
        """
        floor, last = 1 - self.settings.rules.max_drawdown_ratio, self._segments[self._segment][1]
        reward = 0.0
        while True:
            reward += self._one_candle(action, last, trades)
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

    def _one_candle(self, action: int, last: int, trades: list[ClosedTrade]) -> float:
        """Carry out an action at this candle, mark the account at the next open, and reward the difference."""
        rules, tick = self.settings.rules, self._tick
        before, candle = self._account, self._candles[tick]
        accepted = valid_actions(before.side, self._long_permitted[tick - 1], self._short_permitted[tick - 1], SCALAR)
        # An entry without permission is no entry, whoever asks.
        account, fill = step(SCALAR, rules, before, action if accepted[action] else Action.NEUTRAL, candle)
        if fill.exited:
            trades.append(closed_trade(self._pair, fill, self._dates[tick], self._timeframe_ms))
        self._tick = tick + 1
        following = self._candles[tick + 1]
        account = see_open(SCALAR, rules, account, following.open)
        if self._tick == last:
            account, fill = self._force_exit(account, following, fill, trades)
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

    def _force_exit(
        self, account: Account, candle: Candle, fill: Fill, trades: list[ClosedTrade]
    ) -> tuple[Account, Fill]:
        account, forced = force_exit(SCALAR, self.settings.rules, account, candle)
        if not forced.exited:
            return account, fill
        trades.append(closed_trade(self._pair, forced, self._dates[self._tick], self._timeframe_ms))
        return account, forced

    def _observation(self) -> npt.NDArray[np.float32]:
        row = self._tick - 1
        state = account_state(
            SCALAR,
            self.settings.rules,
            self.settings.reward.profit_aim,
            self._account,
            self._candles[self._tick].open,
            self._long_permitted[row],
            self._short_permitted[row],
        )
        return np.array([row, *state], dtype=np.float32)

    def _no_decision(self, tape: MarketTape, permitted: npt.NDArray[np.bool_]) -> str:
        if not permitted.any():
            return (
                f"{tape.pair}: none of {len(tape)} candles carries a classic signal, so that entry_mode "
                f"{self.settings.entry_mode!r} permits no entry; accepted: at least one; remedy: loosen the signals' "
                "thresholds, train on more days, or set freqai.rl_config.entry_mode to 'agent'"
            )
        longest = max((stop - start for start, stop in tape.segments), default=0)
        return (
            f"{tape.pair}: the longest run of candles without a gap has {longest}, and no entry is permitted inside "
            f"one; accepted: runs longer than conv_width + 2 = {self.settings.window + 2} candles with a signal; "
            "remedy: train on more days, or download the missing candles"
        )
