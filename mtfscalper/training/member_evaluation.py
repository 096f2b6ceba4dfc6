"""Evaluation of all members of a population: every held-out candle once, as one batch on the device.

What :func:`mtfscalper.training.evaluation.evaluate` does for one policy, account by account.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtfscalper.envs.device_episodes import flat_episodes
from mtfscalper.envs.episodes import candles_of, permitted_entries, scene_on
from mtfscalper.policy.network import impossible_actions, masked_logits
from mtfscalper.trading.arrays import map_arrays
from mtfscalper.trading.episode import EpisodeState, Market, Scene, advance
from mtfscalper.trading.observation import observe
from mtfscalper.trading.torch_arrays import TorchNamespace
from mtfscalper.training.evaluation import Evaluation, shortest_run
from mtfscalper.training.graphs import GraphedFunction
from mtfscalper.training.member_envs import Stage, in_groups
from mtfscalper.training.member_networks import MemberNetworks

# Candles that are played before the device is asked whether any are left.
_CANDLES_AT_ONCE = 64


class _Run(NamedTuple):
    """A gap-free run of a member's held-out candles.

    :ivar row: of its first candle, along the features of all members
    """

    member: int
    stage: Stage
    row: int


class _Field:
    """Accounts whose candles are traded by the same rules, one for each run of candles.

    :ivar first: the accounts at their first candles
    :ivar state: the accounts as far as they are
    :ivar trades: closed so far by each, as ``wins``
    """

    def __init__(self, runs: Sequence[_Run], device: torch.device) -> None:
        self._xp = xp = TorchNamespace(device)
        tapes, settings = [run.stage.tape for run in runs], runs[0].stage.settings
        self._settings = settings
        permitted = [permitted_entries(tape, settings) for tape in tapes]
        sides = [np.concatenate(side) for side in zip(*permitted, strict=True)]
        self._permitted = [xp.asarray(side) for side in sides]
        market = Market(candles_of(tapes), np.zeros(sum(map(len, tapes))), *sides)
        # Nothing is rewarded, and accounts go candle by candle: the policy is asked wherever it may decide.
        self._scene: Scene = scene_on(market, settings, None, xp)._replace(terms=())
        ends = np.cumsum([len(tape) for tape in tapes])
        starts = ends - [len(tape) for tape in tapes]
        self._rows = xp.asarray(np.array([run.row for run in runs]) - starts)
        self.first = flat_episodes(xp.asarray(starts + settings.lookback), xp.asarray(ends - 1))
        self.state: EpisodeState = map_arrays(torch.clone, self.first)
        self.trades = torch.zeros(len(runs), dtype=torch.int64, device=device)
        self.wins = torch.zeros_like(self.trades)

    def __len__(self) -> int:
        return len(self.trades)

    @property
    def longest(self) -> int:
        """Decisions of the longest run."""
        return int((self.first.last - self.first.candle).max())

    def begin(self) -> None:
        """Put every account at its first candle, flat."""
        map_arrays(lambda now, first: now.copy_(first), self.state, self.first)
        self.trades.zero_()
        self.wins.zero_()

    def observe(self) -> Tensor:
        """Compact observations, float32, shape (n, 7); their rows count along the features of all members."""
        state, row = self.state, self.state.candle - 1
        seen = observe(
            self._xp,
            self._settings.rules,
            self._settings.view,
            row + self._rows,
            state.account,
            state.profit,
            *(side[row] for side in self._permitted),
        )
        return self._xp.float32_rows(seen)

    def play(self, actions: Tensor) -> None:
        """One candle of every account that has not reached its last."""
        state, goes_on = self.state, self.going_on
        # An account at its last candle plays the one before it again, and forgets it.
        playing = state._replace(candle=torch.where(goes_on, state.candle, state.last - 1))
        after, fill, _ = advance(self._xp, self._scene, playing, actions)
        map_arrays(lambda now, new: now.copy_(torch.where(goes_on, new, now)), state, after)
        closed = fill.exited & goes_on
        self.trades.add_(closed)
        self.wins.add_(closed & (fill.profit_ratio > 0))

    @property
    def going_on(self) -> Tensor:
        """Which accounts have not reached their last candle."""
        goes_on: Tensor = self.state.candle < self.state.last
        return goes_on


class MemberEvaluation:
    """Evaluates the policies of all members, deterministically and in float32."""

    def __init__(
        self, networks: MemberNetworks, stages: Sequence[Stage | None], first_row: int, device: torch.device
    ) -> None:
        """
        :param stages: what each member holds out, None for nothing
        :param first_row: of the first of these candles, along the features of all members; the others follow
        """
        self._networks, self._n_members = networks, len(stages)
        runs = _runs(stages, first_row)
        order = in_groups([run.stage for run in runs])
        self._members = [runs[at].member for at in order]
        self._candles = np.array([len(runs[at].stage.tape) for at in order])
        self._fields: list[_Field] = []
        group: list[_Run] = []
        for at in order:
            if group and not group[0].stage.plays_with(runs[at].stage):
                self._fields.append(_Field(group, device))
                group = []
            group.append(runs[at])
        if group:
            self._fields.append(_Field(group, device))
        self._slots, self._place = _layout(self._members, self._n_members, device)
        self._one_candle = GraphedFunction(self._play_one_candle, device)

    def __call__(self, timesteps: Sequence[int]) -> list[Evaluation | None]:
        """
        :param timesteps: that each member has learned from
        :return: of each member, None where it holds nothing out
        """
        if not self._fields:
            return [None] * self._n_members
        started = time.perf_counter()
        for field in self._fields:
            field.begin()
        longest = max(field.longest for field in self._fields)
        for candle in range(longest):
            if candle % _CANDLES_AT_ONCE == 0 and not any(bool(field.going_on.any()) for field in self._fields):
                break
            self._one_candle()
        columns = [torch.cat(parts).cpu().numpy() for parts in zip(*map(self._results, self._fields), strict=True)]
        seconds = time.perf_counter() - started
        members = np.array(self._members)
        return [
            _evaluation(steps, [column[members == member] for column in (*columns, self._candles)], seconds)
            for member, steps in enumerate(timesteps)
        ]

    @torch.no_grad()
    def _play_one_candle(self) -> None:
        observations = torch.cat([field.observe() for field in self._fields])
        logits, _ = self._networks.forward(observations[self._slots], exact=True)
        impossible = impossible_actions(observations)
        answers = logits.flatten(0, 1)[self._place]
        actions = masked_logits(answers, impossible).argmax(-1)
        for field, own in zip(self._fields, torch.split(actions, [len(field) for field in self._fields]), strict=True):
            field.play(own)

    @staticmethod
    def _results(field: _Field) -> tuple[Tensor, Tensor, Tensor]:
        return field.state.equity, field.trades, field.wins


def _runs(stages: Sequence[Stage | None], first_row: int) -> list[_Run]:
    """The runs that have room for a decision."""
    runs = []
    for member, stage in enumerate(stages):
        if stage is None:
            continue
        tape = stage.tape
        for segment, (start, stop) in zip(tape.split(), tape.segments, strict=True):
            if stop - start >= shortest_run(stage.settings):
                runs.append(_Run(member, Stage(segment, stage.settings), first_row + start))
        first_row += len(tape)
    return runs


def _layout(members: Sequence[int], n_members: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """How observations of runs, in any order, become a batch of (n_members, most runs of a member), and back.

    :return: the run at each place of the batch, shape (n_members, n), and each run's place in it, shape (n_runs,)
    """
    most = max((members.count(member) for member in set(members)), default=0)
    # Where a member has fewer runs, the first run fills the room, and nobody reads the answer.
    slots = np.zeros((n_members, most), dtype=np.int64)
    place = np.zeros(len(members), dtype=np.int64)
    taken = [0] * n_members
    for at, member in enumerate(members):
        slots[member, taken[member]] = at
        place[at] = member * most + taken[member]
        taken[member] += 1
    return torch.from_numpy(slots).to(device), torch.from_numpy(place).to(device)


def _evaluation(timesteps: int, columns: Sequence[npt.NDArray[Any]], seconds: float) -> Evaluation | None:
    equity, trades, wins, candles = columns
    if not len(equity):
        return None
    return Evaluation.over(
        timesteps, np.log(equity).tolist(), candles.tolist(), int(trades.sum()), int(wins.sum()), seconds
    )
