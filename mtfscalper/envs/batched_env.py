"""Many trading environments stepped by one call: the rules over a batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from stable_baselines3.common.vec_env import VecEnv

from mtfscalper.envs.episodes import EnvSettings, EpisodeMap, Start
from mtfscalper.envs.lookback_observation import expand_observations, lookback_observation_space
from mtfscalper.envs.trading_env import observation_space
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import FLAT, Account, Fill
from mtfscalper.trading.actions import N_ACTIONS, Action, valid_actions
from mtfscalper.trading.arrays import NUMPY, BatchNamespace, put_members, take_members
from mtfscalper.trading.episode import EpisodeState, advance, enters_by_itself, exit_candle
from mtfscalper.trading.observation import observe
from mtfscalper.trading.trades import ClosedTrade, closed_trade

# Shared by every environment that has nothing to say: DummyVecEnv's info of a step inside an episode.
_UNEVENTFUL: dict[str, Any] = {"TimeLimit.truncated": False}


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
        :param tapes: the candles to play on; of several pairs, rows count along the tapes laid end to end
        :param compact: compact observations, else such that hold their lookback
        :param xp: the array namespace that holds accounts and candles
        :raises TapeError: if no segment has room for a decision, or no entry is ever permitted
        """
        self.settings = settings
        self._xp = xp
        self._map = EpisodeMap.from_tapes(tapes, settings)
        each = [tapes] if isinstance(tapes, MarketTape) else tapes
        self._features = None if compact else np.concatenate([tape.features for tape in each])
        space: spaces.Box[np.float32] = observation_space()
        if self._features is not None:
            space = lookback_observation_space(settings.lookback, self._features.shape[1])
        self._scene = self._map.scene(settings, xp)
        self._long_permitted = xp.asarray(self._map.market.long_permitted)
        self._short_permitted = xp.asarray(self._map.market.short_permitted)
        self._next_entry = xp.asarray(self._map.next_entry)
        self._members = [_Member(self, index) for index in range(n_envs)]
        self._generators: list[np.random.Generator | None] = [None] * n_envs
        self._segments = [0] * n_envs
        self._trades: list[list[ClosedTrade]] = [[] for _ in range(n_envs)]
        # Candles played, and how many they were at each environment's last call of drain_reward_terms.
        self._candles = 0
        self._drained_at = [0] * n_envs
        self._masks: npt.NDArray[np.bool_] | None = None
        self._actions: npt.NDArray[np.int64] = np.zeros(n_envs, dtype=np.int64)
        super().__init__(n_envs, space, spaces.Discrete(N_ACTIONS))
        everyone = xp.asarray(np.arange(n_envs))
        self._carried = self._numbers(everyone, 0.0)
        self._zeros = self._carried
        # Sums of the reward's terms by name: over the episode, and since the last call of drain_reward_terms.
        names = [term.name for term in self._scene.terms]
        self._episode_terms = {name: self._numbers(everyone, 0.0) for name in names}
        self._undrained = {name: self._numbers(everyone, 0.0) for name in names}
        self._state = self._flat(everyone, [Start(0, self._map.segments[0].first)] * n_envs)

    # stable-baselines3's interface

    def reset(self) -> npt.NDArray[np.float32]:
        """Start an episode in every environment: at its own random candle after :meth:`seed`."""
        starts = [self._choose_start(index, seed) for index, seed in enumerate(self._seeds)]
        self._begin(self._xp.asarray(np.arange(self.num_envs)), starts)
        self._reset_seeds()
        self._reset_options()
        return self._shown(self._observed(self._state))

    def step_async(self, actions: npt.NDArray[np.int64]) -> None:
        self._actions = np.asarray(actions, dtype=np.int64).reshape(self.num_envs)

    def step_wait(
        self,
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_], list[dict[str, Any]]]:
        actions = self._actions
        # One comparison for both bounds: the bits of a negative number, read as an unsigned one, make a huge one.
        if actions.view(np.uint64).max() >= N_ACTIONS:
            bad = int(np.flatnonzero((actions < 0) | (actions >= N_ACTIONS))[0])
            raise IndexError(f"the action of environment {bad} is {actions[bad]}; accepted: 0 to {N_ACTIONS - 1}")
        xp = self._xp
        self._masks = None
        self._state, gained = self._run(None, self._state, xp.asarray(actions))
        rewards = xp.to_numpy(self._carried + gained).astype(np.float32)
        self._carried = self._zeros
        observed = self._observed(self._state)
        infos = [_UNEVENTFUL] * self.num_envs
        ended = self._ended(self._state)
        if xp.any(ended):
            observed = self._end_episodes(ended, observed, infos)
        return self._shown(observed), rewards, xp.to_numpy(ended), infos

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
            xp, state = self._xp, self._state
            row = state.candle - 1
            masks = valid_actions(state.account.side, self._long_permitted[row], self._short_permitted[row], xp)
            self._masks = np.stack([xp.to_numpy(mask) for mask in masks], axis=1)
        return self._masks

    def drain_reward_terms(self, index: int) -> dict[str, float]:
        """Sums of one environment's reward terms by name since its last call."""
        if self._drained_at[index] == self._candles:
            return {}
        self._drained_at[index] = self._candles
        drained = {name: float(total[index]) for name, total in self._undrained.items()}
        for total in self._undrained.values():
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
            state = self._flat(members, starts)
            for total in self._episode_terms.values():
                total[members] = 0.0
            carried = self._numbers(members, 0.0)
            if self._scene.entry_mode == "classic":
                state, carried = self._let_pass(members, state, carried)
            self._state = put_members(xp, self._state, members, state)
            self._carried = xp.put(self._carried, members, carried)
            undecided = self._ended(state)
            if not xp.any(undecided):
                return
            # A start after the last entry of its segment meets no decision: go on from the start of the next.
            members = members[undecided]
            starts = [self._map.start_after(self._segments[index]) for index in xp.to_numpy(members).tolist()]
        raise self._map.no_living_trade()

    def _end_episodes(self, ended: Any, observed: Any, infos: list[dict[str, Any]]) -> Any:
        """Tell how episodes ended and begin the next ones.

        :param ended: which did, shape (n_envs,)
        :param observed: compact observations of every environment
        :param infos: those of environments that ended are replaced
        :return: compact observations, the first of the next episode where one ended
        """
        xp = self._xp
        members = xp.indices(ended)
        indices = xp.to_numpy(members).tolist()
        terminal = self._shown(observed[members])
        terminated = xp.to_numpy(self._state.terminated[members]).tolist()
        equities = xp.to_numpy(self._state.equity[members]).tolist()
        terms = {name: xp.to_numpy(total[members]).tolist() for name, total in self._episode_terms.items()}
        for at, index in enumerate(indices):
            infos[index] = {
                "final_equity": equities[at],
                "reward_terms": {name: totals[at] for name, totals in terms.items()},
                "TimeLimit.truncated": not terminated[at],
                "terminal_observation": terminal[at],
            }
            if self.settings.record_trades:
                infos[index]["trades"] = self._trades[index]
        self._begin(members, [self._choose_start(index, None) for index in indices])
        return xp.put(observed, members, self._observed(take_members(self._state, members)))

    def _flat(self, members: Any, starts: list[Start]) -> EpisodeState:
        """Flat accounts at the first candle from each start on where an entry is permitted."""
        xp, segments = self._xp, self._map.segments
        ones = self._numbers(members, 1.0)
        return EpisodeState(
            account=Account(*(self._numbers(members, value) for value in FLAT)),
            profit=self._numbers(members, 0.0),
            candle=self._next_entry[xp.asarray(np.array([start.candle for start in starts]))],
            last=xp.asarray(np.array([segments[start.segment].last for start in starts])),
            equity=ones,
            peak=ones,
            terminated=self._numbers(members, False),
        )

    def _numbers(self, members: Any, value: float | bool) -> Any:
        return self._xp.asarray(np.full(len(members), value))

    # Candles

    def _ended(self, state: EpisodeState) -> Any:
        return self._xp.logical_or(state.terminated, state.candle == state.last)

    def _run(self, members: Any, state: EpisodeState, actions: Any) -> tuple[EpisodeState, Any]:
        """Act at this candle, then let the candles without a decision pass.

        :param members: indices of the environments of the state, None for all of them
        :return: the state at the next decisions or ends, and rewards
        """
        state, gained = self._one_candle(members, state, actions)
        if self._scene.entry_mode == "classic":
            state, gained = self._let_pass(members, state, gained)
        return state, gained

    def _let_pass(self, members: Any, state: EpisodeState, gained: Any) -> tuple[EpisodeState, Any]:
        """Let accounts enter by themselves, until every one is in a trade or at its episode's end.

        :param gained: rewards so far, to which those of the candles that pass are added
        """
        xp = self._xp
        positions = xp.indices(self._passes_by_itself(state))
        while len(positions):
            some_members = positions if members is None else members[positions]
            some, reward = self._one_candle(some_members, take_members(state, positions), int(Action.NEUTRAL))
            state = put_members(xp, state, positions, some)
            gained = xp.put(gained, positions, gained[positions] + reward)
            positions = positions[self._passes_by_itself(some)]
        return state, gained

    def _passes_by_itself(self, state: EpisodeState) -> Any:
        xp = self._xp
        return xp.logical_and(enters_by_itself(xp, self._scene, state), xp.logical_not(self._ended(state)))

    def _one_candle(self, members: Any, state: EpisodeState, actions: Any) -> tuple[EpisodeState, Any]:
        """:func:`mtfscalper.trading.episode.advance`, its trades and rewards noted.

        :return: the state at the next candles, and rewards
        """
        after, fill, terms = advance(self._xp, self._scene, state, actions)
        if self.settings.record_trades:
            self._record(members, state, fill)
        self._candles += 1
        for name, term in terms.items():
            for total in (self._episode_terms[name], self._undrained[name]):
                if members is None:
                    total += term
                else:
                    total[members] += term
        return after, sum(terms.values()) if terms else 0.0 * after.equity

    def _record(self, members: Any, state: EpisodeState, fill: Fill) -> None:
        """Note the trades that were closed."""
        xp = self._xp
        positions = xp.indices(fill.exited)
        if not len(positions):
            return
        indices = xp.to_numpy(positions if members is None else members[positions]).tolist()
        candles = xp.to_numpy(xp.to_index(exit_candle(state, fill)[positions])).tolist()
        values = [xp.to_numpy(column[positions]).tolist() for column in fill]
        for index, candle, *one in zip(indices, candles, *values, strict=True):
            pair = self._map.segments[self._segments[index]].pair
            close_ms = int(self._map.dates_ms[candle])
            self._trades[index].append(closed_trade(pair, Fill(*one), close_ms, self._map.timeframe_ms))

    def _observed(self, state: EpisodeState) -> Any:
        """Compact observations, float32, shape (n, 7)."""
        xp, row = self._xp, state.candle - 1
        seen = observe(
            xp,
            self.settings.rules,
            self.settings.view,
            row,
            state.account,
            state.profit,
            self._long_permitted[row],
            self._short_permitted[row],
        )
        return xp.float32_rows(seen)

    def _shown(self, observed: Any) -> npt.NDArray[np.float32]:
        """Observations as stable-baselines3 takes them."""
        compact = self._xp.to_numpy(observed)
        if self._features is None:
            return compact
        return expand_observations(compact, self._features, self.settings.lookback)


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
