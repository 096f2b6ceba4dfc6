"""Many trading environments stepped by one call: the rules over a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env import VecEnv

from mtfscalper.envs.episodes import EnvSettings, EpisodeMap, Start
from mtfscalper.envs.lookback_observation import expand_observations, window_observation_space
from mtfscalper.envs.trading_env import observation_space
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.actions import N_ACTIONS, Action, valid_actions
from mtfscalper.trading.arrays import NUMPY, SCALAR, BatchNamespace
from mtfscalper.trading.observation import trade_state
from mtfscalper.trading.reward import REWARD_TERMS, Transition, reward_terms
from mtfscalper.trading.rules import (
    FLAT,
    Account,
    Candle,
    Fill,
    force_exit,
    mark,
    step,
)
from mtfscalper.trading.trades import ClosedTrade, closed_trade

# Shared by every environment that has nothing to say: DummyVecEnv's info of a step inside an episode.
_UNEVENTFUL: dict[str, Any] = {"TimeLimit.truncated": False}


class _Batch(NamedTuple):
    """What every environment of a batch is in the middle of; arrays of shape (n_envs,).

    :ivar profit: profit ratio of the open trade at the tick's open
    :ivar tick: the candle about to be decided
    :ivar last: the candle that ends the episode
    :ivar equity: marked at the tick's open
    :ivar peak: highest equity of the episode
    :ivar terms: sums of the reward's terms over the episode
    """

    account: Account
    profit: Any
    tick: Any
    last: Any
    equity: Any
    peak: Any
    terms: tuple[Any, ...]


class _Ends(NamedTuple):
    """Which episodes of a batch are over: booleans.

    :ivar ended: by a drawdown or by the last candle
    :ivar terminated: by a drawdown
    """

    ended: Any
    terminated: Any


class BatchedTradingEnv(VecEnv):
    """Environments equal to as many :class:`mtfscalper.envs.trading_env.TradingEnv` in a DummyVecEnv, step by step.

    Nothing is done environment by environment except where an episode ends. Infos are DummyVecEnv's; those inside an
    episode are one shared dictionary, which nobody may change.
    """

    def __init__(
        self,
        tapes: MarketTape | Sequence[MarketTape],
        settings: EnvSettings,
        n_envs: int,
        *,
        compact: bool = True,
        xp: BatchNamespace = NUMPY,
    ) -> None:
        """
        :param tapes: the candles to play on; of several pairs, the ticks count along the tapes laid end to end
        :param compact: compact observations, else windows of features
        :param xp: the array namespace that holds accounts and candles
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        """
        self.settings = settings
        self._xp = xp
        self._map = EpisodeMap.of(tapes, settings)
        each = [tapes] if isinstance(tapes, MarketTape) else tapes
        self._features = None if compact else np.concatenate([tape.features for tape in each])
        space: spaces.Box[np.float32] = observation_space()
        if self._features is not None:
            space = window_observation_space(settings.window, self._features.shape[1])
        # One row a candle: a candle's numbers lie together in memory.
        candles, long, short = self._map.candles, self._map.long_permitted, self._map.short_permitted
        following = np.append(candles.open[1:], candles.open[-1])
        # Decision k needs a permission at row k - 1.
        carried_out = _carried_out_offset(np.roll(long, 1), np.roll(short, 1))
        rows = [*candles, following, self._map.range_position, carried_out]
        self._rows = xp.asarray(np.stack(rows, axis=1).astype(np.float64))
        self._long_permitted = xp.asarray(long)
        self._short_permitted = xp.asarray(short)
        self._always_permitted = bool((long | short).all())
        self._next_entry = xp.asarray(self._map.next_entry)
        self._carried_out = xp.asarray(_carried_out_table())
        self._members = [_Member(self, index) for index in range(n_envs)]
        self._generators: list[np.random.Generator | None] = [None] * n_envs
        self._segments = [0] * n_envs
        self._trades: list[list[ClosedTrade]] = [[] for _ in range(n_envs)]
        self._term_names = [name for name in REWARD_TERMS if getattr(settings.reward, f"{name}_weight")]
        # Candles played, and how many they were at each environment's last call of drain_reward_terms.
        self._candles = 0
        self._drained_at = [0] * n_envs
        self._masks: npt.NDArray[np.bool_] | None = None
        self._actions: npt.NDArray[np.int64] = np.zeros(n_envs, dtype=np.int64)
        super().__init__(n_envs, space, spaces.Discrete(N_ACTIONS))
        everyone = xp.asarray(np.arange(n_envs))
        self._carried = self._numbers(everyone, 0.0)
        self._zeros = self._carried
        starts = [Start(0, self._map.segments[0].first)] * n_envs
        self._undrained = [self._numbers(everyone, 0.0) for _ in self._term_names]
        self._batch = self._flat(everyone, starts)

    # stable-baselines3's interface

    def reset(self) -> npt.NDArray[np.float32]:
        """Start an episode in every environment: at its own random candle after :meth:`seed`."""
        starts = [self._choose_start(index, seed) for index, seed in enumerate(self._seeds)]
        self._begin(self._xp.asarray(np.arange(self.num_envs)), starts)
        self._reset_seeds()
        self._reset_options()
        return self._shown(self._observed(self._batch))

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions = np.asarray(actions, dtype=np.int64).reshape(self.num_envs)

    def step_wait(
        self,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        actions = self._actions
        # Read without its sign, a negative number is a large one.
        if actions.view(np.uint64).max() >= N_ACTIONS:
            bad = int(np.flatnonzero((actions < 0) | (actions >= N_ACTIONS))[0])
            raise IndexError(f"the action of environment {bad} is {actions[bad]}; accepted: 0 to {N_ACTIONS - 1}")
        xp = self._xp
        self._masks = None
        self._batch, gained, ends = self._run(None, self._batch, xp.asarray(actions))
        rewards = xp.to_numpy(self._carried + gained).astype(np.float32)
        self._carried = self._zeros
        observed = self._observed(self._batch)
        infos = [_UNEVENTFUL] * self.num_envs
        if xp.any(ends.ended):
            observed = self._end_episodes(ends, observed, infos)
        return self._shown(observed), rewards, xp.to_numpy(ends.ended), infos

    def close(self) -> None:
        """Nothing to release: there is no process and no file."""

    def get_attr(self, attr_name: str, indices: int | Iterable[int] | None = None) -> list[Any]:
        return [getattr(member, attr_name) for member in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: int | Iterable[int] | None = None) -> None:
        for member in self._chosen(indices):
            setattr(member, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: int | Iterable[int] | None = None, **method_kwargs: Any
    ) -> list[Any]:
        return [getattr(member, method_name)(*method_args, **method_kwargs) for member in self._chosen(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: int | Iterable[int] | None = None
    ) -> list[bool]:
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: int | Iterable[int] | None) -> list[_Member]:
        return [self._members[index] for index in self._get_indices(indices)]

    # What single environments are asked for

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """The actions that can be done now, shape (n_envs, 5)."""
        if self._masks is None:
            xp, batch = self._xp, self._batch
            row = batch.tick - 1
            masks = valid_actions(batch.account.side, self._long_permitted[row], self._short_permitted[row], xp)
            self._masks = np.stack([xp.to_numpy(mask) for mask in masks], axis=1)
        return self._masks

    def drain_reward_terms(self, index: int) -> dict[str, float]:
        """Sums of one environment's reward terms by name since its last call."""
        if self._drained_at[index] == self._candles:
            return {}
        self._drained_at[index] = self._candles
        drained = {name: float(total[index]) for name, total in zip(self._term_names, self._undrained, strict=True)}
        for total in self._undrained:
            total[index] = 0.0
        return drained

    # Episodes

    def _choose_start(self, index: int, seed: int | None) -> Start:
        """The start that TradingEnv.reset chooses."""
        if seed is not None:
            self._generators[index] = seeding.np_random(seed)[0]
        if seed is None and not self.settings.random_start:
            return self._map.start_after(self._segments[index])
        generator = self._generators[index]
        if generator is None:
            generator = self._generators[index] = seeding.np_random()[0]
        return self._map.random_start(generator)

    def _begin(self, members: Any, starts: list[Start]) -> None:
        """Put flat accounts at their starts and run each to its first decision.

        :param members: indices of the environments that begin
        """
        xp = self._xp
        for _ in range(len(self._map.segments) + 1):
            indices = xp.to_numpy(members).tolist()
            for index, start in zip(indices, starts, strict=True):
                self._segments[index] = start.segment
                self._trades[index] = []
            batch = self._flat(members, starts)
            undecided = batch.tick == batch.last
            carried = self._numbers(members, 0.0)
            if self.settings.entry_mode == "classic":
                ends = _Ends(ended=undecided, terminated=undecided)
                batch, carried, ends = self._enter_automatically(
                    members, batch, carried, ends, xp.logical_not(undecided)
                )
                undecided = ends.ended
            self._batch = _put(xp, self._batch, members, batch)
            self._carried = xp.put(self._carried, members, carried)
            if not xp.any(undecided):
                return
            # A start after the last entry of its segment meets no decision: go on from the start of the next.
            members = members[undecided]
            starts = [self._map.start_after(self._segments[index]) for index in xp.to_numpy(members).tolist()]
        raise self._map.no_living_trade()

    def _end_episodes(self, ends: _Ends, observed: Any, infos: list[dict[str, Any]]) -> Any:
        """Tell how episodes ended and begin the next ones.

        :param observed: compact observations of every environment
        :param infos: those of environments that ended are replaced
        :return: compact observations, the first of the next episode where one ended
        """
        xp = self._xp
        members = xp.indices(ends.ended)
        indices = xp.to_numpy(members).tolist()
        terminal = self._shown(observed[members])
        terminated = xp.to_numpy(ends.terminated[members]).tolist()
        equities = xp.to_numpy(self._batch.equity[members]).tolist()
        terms = [xp.to_numpy(totals[members]).tolist() for totals in self._batch.terms]
        for at, index in enumerate(indices):
            infos[index] = {
                "final_equity": equities[at],
                "reward_terms": {name: totals[at] for name, totals in zip(self._term_names, terms, strict=True)},
                "TimeLimit.truncated": not terminated[at],
                "terminal_observation": terminal[at],
            }
            if self.settings.record_trades:
                infos[index]["trades"] = self._trades[index]
        self._begin(members, [self._choose_start(index, None) for index in indices])
        return xp.put(observed, members, self._observed(_take(self._batch, members)))

    def _flat(self, members: Any, starts: list[Start]) -> _Batch:
        """Flat accounts at the first candle from each start on where an entry is permitted."""
        xp, segments = self._xp, self._map.segments
        ones = self._numbers(members, 1.0)
        return _Batch(
            account=Account(*(self._numbers(members, value) for value in FLAT)),
            profit=self._numbers(members, 0.0),
            tick=self._next_entry[xp.asarray(np.array([start.tick for start in starts]))],
            last=xp.asarray(np.array([segments[start.segment].last for start in starts])),
            equity=ones,
            peak=ones,
            terms=tuple(self._numbers(members, 0.0) for _ in self._term_names),
        )

    def _numbers(self, members: Any, value: float | bool) -> Any:
        return self._xp.asarray(np.full(len(members), value))

    # Candles

    def _run(self, members: Any, batch: _Batch, actions: Any) -> tuple[_Batch, Any, _Ends]:
        """Act at this candle, then let the candles without a decision pass.

        :param members: indices of the environments of the batch, None for all of them
        :return: the batch at its next decisions or ends, rewards, ends
        """
        batch, gained, ends = self._one_candle(members, batch, actions)
        if self.settings.entry_mode == "classic":
            undecided = _undecided(self._xp, batch, ends)
            batch, gained, ends = self._enter_automatically(members, batch, gained, ends, undecided)
        return batch, gained, ends

    def _enter_automatically(
        self, members: Any, batch: _Batch, gained: Any, ends: _Ends, undecided: Any
    ) -> tuple[_Batch, Any, _Ends]:
        """Classic mode: flat accounts enter by themselves, until every one is in a trade or at its episode's end.

        :param gained: rewards so far, to which those of the candles that pass are added
        :param ends: ends so far
        :param undecided: which environments are flat, and at a permitted entry
        """
        xp = self._xp
        positions = xp.indices(undecided)
        while len(positions):
            some = _take(batch, positions)
            long_permitted = self._long_permitted[some.tick - 1]
            actions = xp.where(long_permitted, int(Action.LONG_ENTER), int(Action.SHORT_ENTER))
            some_members = positions if members is None else members[positions]
            some, reward, now = self._one_candle(some_members, some, actions)
            batch, ends = _put(xp, batch, positions, some), _put(xp, ends, positions, now)
            gained = xp.put(gained, positions, gained[positions] + reward)
            positions = positions[_undecided(xp, some, now)]
        return batch, gained, ends

    def _one_candle(self, members: Any, batch: _Batch, actions: Any) -> tuple[_Batch, Any, _Ends]:
        """Carry out actions at the batch's candles, mark the accounts at the next opens, and reward the difference.

        Flat accounts then go on to their next permitted entry: until there nothing changes.
        """
        xp, rules, reward = self._xp, self.settings.rules, self.settings.reward
        *candle, following, position, offset = xp.columns(self._rows, batch.tick)
        before = batch.account
        # An entry without permission is no entry, whoever asks.
        carried_out = self._carried_out[xp.to_index(offset + before.side * N_ACTIONS + actions)]
        account, fill = step(xp, rules, before, carried_out, Candle(*candle))
        if self.settings.record_trades:
            self._record(members, fill, batch.tick)
        tick = batch.tick + 1
        account, profit, equity = mark(xp, rules, account, following)
        at_end = tick == batch.last
        if xp.any(at_end):
            account, profit, equity, fill = self._force_exits(members, at_end, tick, (account, profit, equity, fill))
        peak = xp.maximum(batch.peak, equity)
        accepted, declined = True, False
        if reward.invalid_weight:
            accepted = carried_out == actions
        if reward.idle_weight:
            waits = xp.logical_and(before.side == 0, actions == int(Action.NEUTRAL))
            permitted = xp.logical_or(self._long_permitted[batch.tick - 1], self._short_permitted[batch.tick - 1])
            declined = xp.logical_and(waits, permitted)
        transition = Transition(
            before=before,
            after=account,
            fill=fill,
            profit_after=profit,
            equity_before=batch.equity,
            equity_after=equity,
            accepted=accepted,
            declined=declined,
            range_position=position,
        )
        terms = reward_terms(xp, reward, rules.max_trade_duration_candles, transition)
        self._add_to_drain(members, terms)
        totals = tuple(total + term for total, term in zip(batch.terms, terms.values(), strict=True))
        gained = sum(terms.values()) if terms else 0.0 * equity
        terminated = equity <= peak * (1 - rules.max_drawdown_ratio)
        if not self._always_permitted:
            waits = xp.logical_and(account.side == 0, xp.logical_not(terminated))
            tick = xp.where(waits, self._next_entry[tick], tick)
            at_end = tick == batch.last
        ends = _Ends(ended=xp.logical_or(terminated, at_end), terminated=terminated)
        return _Batch(account, profit, tick, batch.last, equity, peak, totals), gained, ends

    def _force_exits(
        self, members: Any, at_end: Any, tick: Any, marked: tuple[Account, Any, Any, Fill]
    ) -> tuple[Account, Any, Any, Fill]:
        """Close what is open at the last candle of an episode, after it has tested the exits.

        :param marked: accounts, their profits and equities, and what was filled
        :return: the same, of the accounts after that
        """
        xp = self._xp
        positions = xp.indices(at_end)
        account, _, _, fill = _take(marked, positions)
        candle = Candle(*xp.columns(self._rows, tick[positions])[: len(Candle._fields)])
        closed, forced = force_exit(xp, self.settings.rules, account, candle)
        if self.settings.record_trades:
            self._record(positions if members is None else members[positions], forced, tick[positions])
        last = _each(lambda ours, theirs: xp.where(forced.exited, ours, theirs), forced, fill)
        ended: tuple[Account, Any, Any, Fill] = _put(xp, marked, positions, (closed, 0.0, closed.equity, last))
        return ended

    def _add_to_drain(self, members: Any, terms: dict[str, Any]) -> None:
        self._candles += 1
        for total, term in zip(self._undrained, terms.values(), strict=True):
            if members is None:
                total += term
            else:
                total[members] += term

    def _record(self, members: Any, fill: Fill, ticks: Any) -> None:
        """Note the trades that were closed."""
        xp = self._xp
        positions = xp.indices(fill.exited)
        if not len(positions):
            return
        indices = xp.to_numpy(positions if members is None else members[positions]).tolist()
        values = [xp.to_numpy(column[positions]).tolist() for column in fill]
        for index, tick, *one in zip(indices, xp.to_numpy(ticks[positions]).tolist(), *values, strict=True):
            pair = self._map.segments[self._segments[index]].pair
            close_ms = int(self._map.dates_ms[tick])
            self._trades[index].append(closed_trade(pair, Fill(*one), close_ms, self._map.timeframe_ms))

    def _observed(self, batch: _Batch) -> Any:
        """Compact observations, float32, shape (n, 7)."""
        xp, row = self._xp, batch.tick - 1
        state = trade_state(
            xp,
            self.settings.rules,
            self.settings.view,
            batch.account,
            batch.profit,
            self._long_permitted[row],
            self._short_permitted[row],
        )
        return xp.float32_rows([row, *state])

    def _shown(self, observed: Any) -> npt.NDArray[np.float32]:
        """Observations as stable-baselines3 takes them."""
        compact = self._xp.to_numpy(observed)
        if self._features is None:
            return compact
        return expand_observations(compact, self._features, self.settings.window)


class _Member:
    """One environment of a batch, as far as it can be asked by itself."""

    render_mode: str | None = None

    def __init__(self, batch: BatchedTradingEnv, index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def settings(self) -> EnvSettings:
        return self._batch.settings

    @property
    def observation_space(self) -> spaces.Space[Any]:
        return self._batch.observation_space

    @property
    def action_space(self) -> spaces.Space[Any]:
        return self._batch.action_space

    def action_masks(self) -> npt.NDArray[np.bool_]:
        """See :meth:`mtfscalper.envs.trading_env.TradingEnv.action_masks`."""
        masks: npt.NDArray[np.bool_] = self._batch.action_masks()[self._index]
        return masks.copy()

    def drain_reward_terms(self) -> dict[str, float]:
        """See :meth:`mtfscalper.envs.trading_env.TradingEnv.drain_reward_terms`."""
        return self._batch.drain_reward_terms(self._index)


def _carried_out_table() -> npt.NDArray[np.int64]:
    """What is done when an action is asked for, at position :func:`_carried_out_offset` + side * 5 + action."""
    valid = [
        valid_actions(side, bool(permitted & 1), bool(permitted & 2), SCALAR)
        for permitted in range(4)
        for side in (-1, 0, 1)
    ]
    return np.where(valid, np.arange(N_ACTIONS), int(Action.NEUTRAL)).ravel()


def _carried_out_offset(
    long_permitted: npt.NDArray[np.bool_], short_permitted: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """Where the entries for a flat account and these permissions begin in the table."""
    return ((long_permitted + 2 * short_permitted) * 3 + 1) * N_ACTIONS


def _undecided(xp: BatchNamespace, batch: _Batch, ends: _Ends) -> Any:
    """Which environments are flat before their episode's end."""
    return xp.logical_and(batch.account.side == 0, xp.logical_not(ends.ended))


def _each(function: Callable[..., Any], *groups: Any) -> Any:
    """Apply a function to every array of one or more nested tuples of arrays."""
    values = [
        _each(function, *parts) if isinstance(parts[0], tuple) else function(*parts)
        for parts in zip(*groups, strict=True)
    ]
    kind = type(groups[0])
    return kind(*values) if hasattr(kind, "_fields") else tuple(values)


def _take(group: Any, positions: Any) -> Any:
    """The members of a batch at some positions."""
    return _each(lambda values: values[positions], group)


def _put(xp: BatchNamespace, group: Any, positions: Any, members: Any) -> Any:
    """A batch with other members at some positions."""
    return _each(lambda values, new: xp.put(values, positions, new), group, members)
