"""Environments on a device beside the batches of NumPy's that they must equal: the same starts, the same actions."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from equivalence import compare

from mtfscalper.envs.batched_env import BatchedTradingEnv
from mtfscalper.envs.device_env import Compiler, DeviceEnv, RolloutSums
from mtfscalper.envs.episodes import EnvSettings, Start
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason, Fill
from mtfscalper.trading.arrays import map_arrays
from mtfscalper.trading.episode import EpisodeState

MONEY = 1e-12
Tapes = MarketTape | Sequence[MarketTape]


class Fills:
    """What was filled, in the order of the environments and, of each, of its candles."""

    def __init__(self, first_env: int = 0, first_candle: int = 0) -> None:
        """
        :param first_env: what is added to the numbers of environments, as ``first_candle`` to those of candles
        """
        self._first = [first_env, first_candle]
        self._rows: list[np.ndarray] = []

    def add(self, environments: np.ndarray, candles: np.ndarray, fill: Fill) -> None:
        happened = np.asarray(fill.entered) | np.asarray(fill.exited)
        columns = [environments + self._first[0], candles + self._first[1], *fill]
        self._rows.append(np.stack([np.asarray(column, dtype=float)[happened] for column in columns], axis=1))

    def take(self) -> np.ndarray:
        """Those since the last call, a row each."""
        rows = np.concatenate([np.empty((0, 2 + len(Fill._fields))), *self._rows])
        self._rows = []
        return rows[np.argsort(rows[:, 0], kind="stable")]


class ReferenceEnv(BatchedTradingEnv):
    """A batch that starts where it is told to, and tells its fills and what its steps add up to."""

    def __init__(self, tapes: Tapes, settings: EnvSettings, n_envs: int, fills: Fills) -> None:
        super().__init__(tapes, settings, n_envs)
        self.draws = np.zeros(n_envs)
        self.fills = fills
        self.sums: Counter[str] = Counter()
        self._beginning = False
        self._earned, self._decisions = np.zeros(n_envs), np.zeros(n_envs)
        # A seed asks for a random start, wherever that then lies.
        self.seed(0)

    @property
    def state(self) -> EpisodeState:
        return self._state

    def step_wait(self) -> Any:
        observations, rewards, dones, infos = super().step_wait()
        self._earned += rewards
        self._decisions += 1
        for index in np.flatnonzero(dones):
            self.sums["episodes"] += 1
            self.sums["episode_rewards"] += self._earned[index]
            self.sums["episode_decisions"] += self._decisions[index]
            self.sums["log_final_equity"] += np.log(infos[index]["final_equity"])
        self._earned[dones] = self._decisions[dones] = 0
        return observations, rewards, dones, infos

    def take_sums(self) -> dict[str, Any]:
        terms: Counter[str] = Counter()
        for drained in self.env_method("drain_reward_terms"):
            terms.update(drained)
        sums, self.sums = self.sums, Counter()
        return {"reward_terms": dict(terms), **sums}

    def _choose_start(self, index: int, seed: int | None) -> Start:
        if seed is None and not self.settings.random_start:
            return super()._choose_start(index, seed)
        candles = [
            (s, candle) for s, (_, first, last) in enumerate(self._map.segments) for candle in range(first, last)
        ]
        return Start(*candles[int(self.draws[index] * len(candles))])

    def _begin(self, members: Any, starts: list[Start]) -> None:
        self._beginning = True
        super()._begin(members, starts)
        self._beginning = False

    def _record(self, members: Any, state: EpisodeState, fill: Fill) -> None:
        self.sums["trades"] += int(np.count_nonzero(fill.exited))
        self.sums["wins"] += int(np.count_nonzero(fill.profit_ratio > 0))
        if not self._beginning:
            self.fills.add(np.arange(self.num_envs) if members is None else members, state.candle, fill)
        super()._record(members, state, fill)


def assert_equal_to_batches(
    members: Sequence[Tapes],
    settings: EnvSettings,
    n_envs: int,
    n_steps: int,
    *,
    compiler: Compiler | None = None,
    drain_every: int = 97,
) -> Counter[str]:
    """Play the same random actions on the device's environments and on a batch for each member, and compare everything.

    :param compiler: see :class:`DeviceEnv`; a compiled step tells no fills
    :return: exit reasons of trades, entries, and how often episodes were cut off and ended by the drawdown
    """
    seen: Counter[str] = Counter()
    rng = np.random.default_rng(7)
    env = DeviceEnv(members, settings, n_envs, "cpu", compiler=compiler)
    lengths = [sum(map(len, [tapes] if isinstance(tapes, MarketTape) else tapes)) for tapes in members]
    before = np.cumsum(lengths) - lengths
    slices = [slice(k * n_envs, (k + 1) * n_envs) for k in range(len(members))]
    references = [
        ReferenceEnv(tapes, settings, n_envs, Fills(own.start, place))
        for tapes, own, place in zip(members, slices, before, strict=True)
    ]
    fills, before = Fills(), np.repeat(before, n_envs)
    n = len(members) * n_envs

    def record(episode: EpisodeState, fill: Fill, concerned: torch.Tensor) -> None:
        at = concerned.numpy()
        fills.add(np.arange(n)[at], episode.candle.numpy()[at], Fill(*(column.numpy()[at] for column in fill)))

    if compiler is None:
        env.recorder = record
    offset = np.outer(before, [1, 0, 0, 0, 0, 0, 0]).astype(np.float32)

    def draw() -> torch.Tensor:
        draws = rng.random(n)
        for reference, own in zip(references, slices, strict=True):
            reference.draws = draws[own]
        return torch.from_numpy(draws)

    shown = env.reset(draw()).numpy()
    compare(np.concatenate([reference.reset() for reference in references]) + offset, shown, MONEY)
    for k in range(n_steps):
        # Mostly what can be done, sometimes what cannot.
        masks = np.concatenate([reference.action_masks() for reference in references])
        possible = (masks * rng.random((n, 5)) * [3, 1, 1, 1, 1]).argmax(axis=1)
        actions = np.where(rng.random(n) < 0.1, rng.integers(0, 5, n), possible)
        got = env.step(torch.from_numpy(actions), draw())
        told = [reference.step(actions[own]) for reference, own in zip(references, slices, strict=True)]
        observations, rewards, dones = (np.concatenate([one[part] for one in told]) for part in range(3))
        compare(observations + offset, got.observations.numpy(), MONEY)
        compare(rewards, got.rewards.numpy(), MONEY)
        np.testing.assert_array_equal(got.ended.numpy(), dones)
        infos = [info for one in told for info in one[3]]
        truncated = np.array([info["TimeLimit.truncated"] for info in infos])
        np.testing.assert_array_equal(got.cut_off.numpy(), truncated)
        # Where nothing ended the two are the same.
        terminal = [info.get("terminal_observation", row) for info, row in zip(infos, observations, strict=True)]
        compare(np.stack(terminal) + offset, got.terminal.numpy(), MONEY)
        seen["cut_off"] += int(truncated.sum())
        seen["terminated"] += int((dones & ~truncated).sum())
        map_arrays(_compare_numbers, _members_in_one(references, before), env.episode)
        expected, filled = np.concatenate([reference.fills.take() for reference in references]), fills.take()
        if compiler is None:
            _compare_fills(expected, filled)
        seen["entered"] += int(expected[:, 2].sum())
        seen.update(EXIT_REASON_NAMES[ExitReason(int(reason))] for reason in expected[expected[:, 3] > 0, 4])
        if k % drain_every == 0 or k == n_steps - 1:
            for drained, reference in zip(env.drain(), references, strict=True):
                _compare_sums(reference.take_sums(), drained)
    return seen


def _members_in_one(references: Sequence[ReferenceEnv], before: np.ndarray) -> EpisodeState:
    """The states of all members' environments, their candles counted along all tapes."""
    states = [reference.state for reference in references]
    whole = map_arrays(lambda *parts: np.concatenate(parts), *states)
    return whole._replace(candle=whole.candle + before, last=whole.last + before)


def _compare_fills(expected: np.ndarray, got: np.ndarray) -> None:
    assert got.shape == expected.shape
    # Environment, candle, whether entered and exited, reason and side; then rates, candles held and profit.
    np.testing.assert_array_equal(got[:, :6], expected[:, :6])
    np.testing.assert_allclose(got[:, 6:], expected[:, 6:], rtol=0, atol=MONEY)


def _compare_numbers(expected: np.ndarray, got: torch.Tensor) -> None:
    np.testing.assert_allclose(got.numpy(), expected, rtol=MONEY, atol=MONEY)


def _compare_sums(expected: dict[str, Any], got: RolloutSums) -> None:
    terms, numbers = expected["reward_terms"], got._asdict()
    # Sums in another order.
    assert got.reward_terms == pytest.approx(terms, rel=1e-9, abs=1e-9)
    for name in RolloutSums._fields[1:]:
        # A single environment's rewards are summed as float32.
        assert numbers[name] == pytest.approx(expected.get(name, 0), rel=1e-5, abs=1e-5), name
