"""Episodes on a device: decisions and their beginnings without a value that the host would have to read.

What :class:`mtfscalper.envs.batched_env.BatchedTradingEnv` loops over until every account has something to decide, is
bounded here beforehand: the candles that pass by themselves by the longest run of them, the starts by a table.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mtfscalper.envs.episodes import EnvSettings, EpisodeMap
from mtfscalper.trading.account import FLAT, Account, Fill
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import take_members
from mtfscalper.trading.episode import EpisodeState, Scene, advance, carry_out, enters_by_itself
from mtfscalper.trading.observation import observe
from mtfscalper.trading.torch_arrays import Layout, TorchNamespace

logger = logging.getLogger(__name__)

# Each pass costs as much as a step: from here on a user is told why steps are slow.
_MANY_PASSES = 8

Recorder = Callable[[EpisodeState, Fill, Tensor], None]


class Gains(NamedTuple):
    """What candles brought, tensors of shape (n,), float64.

    :ivar terms: sums of the reward's terms, in the scene's order
    :ivar trades: trades that were closed
    :ivar wins: those closed with a profit
    """

    terms: tuple[Tensor, ...]
    trades: Tensor
    wins: Tensor

    def reward(self, carried: Tensor) -> Tensor:
        """The terms' sum, in their order, on top of a reward."""
        for term in self.terms:
            carried = carried + term
        return carried


class Running(NamedTuple):
    """What an environment is in the middle of, tensors of shape (n,).

    :ivar episode: of its account
    :ivar carried: reward of the candles that passed before the first decision; 0 after it
    :ivar following: row of the start after this one, in turn
    :ivar earned: rewards of the episode
    :ivar decisions: of the episode
    """

    episode: EpisodeState
    carried: Tensor
    following: Tensor
    earned: Tensor
    decisions: Tensor


def has_ended(episode: EpisodeState) -> Tensor:
    """Whether episodes are over, by the drawdown or at their last candle."""
    ended: Tensor = episode.terminated | (episode.candle == episode.last)
    return ended


def flat_episodes(candles: Tensor, last: Tensor) -> EpisodeState:
    """Accounts at the beginning of their episodes.

    :param candles: numbers of the candles at which they stand, shape (n,)
    :param last: numbers of the candles that end the episodes, shape (n,)
    """
    zeros = torch.zeros(candles.shape, dtype=torch.float64, device=candles.device)
    return EpisodeState(_flat_accounts(zeros), zeros, candles, last, zeros + 1.0, zeros + 1.0, zeros != 0)


class DevicePlay:
    """Accounts that play on the candles of a scene, from decision to decision."""

    def __init__(self, xp: TorchNamespace, settings: EnvSettings, game: EpisodeMap) -> None:
        self.settings = settings
        self.scene = game.scene(settings, xp)
        # Hears of every candle: the states before it, its fills, and of which accounts they are true.
        self.recorder: Recorder | None = None
        self._xp = xp
        self._permitted = xp.table([game.market.long_permitted, game.market.short_permitted])
        self._passes = _longest_run(xp, self.scene, game)

    @property
    def enters_by_itself(self) -> bool:
        """Whether accounts enter without a decision."""
        return self._passes > 0

    def decide(self, episode: EpisodeState, actions: Tensor) -> tuple[EpisodeState, Gains]:
        """Act, then let the candles without a decision pass.

        :param actions: members of :class:`mtfscalper.trading.actions.Action`, int64
        :return: the states at the next decisions or ends
        """
        return self.let_pass(*self._one_candle(episode, actions, None))

    def let_pass(self, episode: EpisodeState, gains: Gains) -> tuple[EpisodeState, Gains]:
        """Let accounts enter by themselves, until every one is in a trade or at its episode's end.

        :param gains: so far, to which those of the candles that pass are added
        """
        for _ in range(self._passes):
            passes = enters_by_itself(self._xp, self.scene, episode) & ~has_ended(episode)
            episode, gains = self._xp.replace_where(passes, (episode, gains), self._pass, episode, gains, passes)
        return episode, gains

    def no_gains(self, like: Tensor) -> Gains:
        """
        :param like: float64, shape (n,)
        """
        nothing = torch.zeros_like(like)
        return Gains(tuple(nothing for _ in self.scene.terms), nothing, nothing)

    def observed(self, episode: EpisodeState) -> Tensor:
        """Compact observations, float32, shape (7, n): each of their numbers contiguous."""
        row = episode.candle - 1
        seen = observe(
            self._xp,
            self.settings.rules,
            self.settings.view,
            row.to(torch.float64),
            episode.account,
            episode.profit,
            *self._xp.columns(self._permitted, row),
        )
        return torch.stack(seen).to(torch.float32)

    def _pass(self, episode: EpisodeState, gains: Gains, passes: Tensor) -> tuple[EpisodeState, Gains]:
        # The others' results are not used; behind the last candle of all there would be none to look up.
        somewhere = self._xp.where(passes, episode.candle, 0)
        after, more = self._one_candle(episode._replace(candle=somewhere), int(Action.NEUTRAL), passes)
        terms = tuple(total + term for total, term in zip(gains.terms, more.terms, strict=True))
        return after, Gains(terms, gains.trades + more.trades, gains.wins + more.wins)

    def _one_candle(
        self, episode: EpisodeState, actions: Tensor | int, concerned: Tensor | None
    ) -> tuple[EpisodeState, Gains]:
        """
        :param concerned: the accounts of which the result is true; None for all
        """
        after, fill, terms = advance(self._xp, self.scene, episode, actions)
        if self.recorder is not None:
            self.recorder(episode, fill, torch.ones_like(fill.exited) if concerned is None else concerned)
        trades, wins = fill.exited.to(torch.float64), (fill.profit_ratio > 0).to(torch.float64)
        return after, Gains(tuple(terms.values()), trades, wins)


def _flat_accounts(zeros: Tensor) -> Account:
    return Account(*(zeros != 0 if isinstance(value, bool) else zeros + value for value in FLAT))


def _longest_run(xp: TorchNamespace, scene: Scene, game: EpisodeMap) -> int:
    """How many candles an account can pass by itself between two decisions: entries that do not outlive their candle.

    Whether one does depends on the candle alone, as long as the account can afford it; one that cannot goes to the
    episode's last candle.
    """
    if scene.entry_mode != "classic":
        return 0
    n = len(game)
    zeros = torch.zeros(n, dtype=torch.float64, device=xp.device)
    everywhere = torch.arange(n, device=xp.device)
    entered, _ = carry_out(xp, scene, _flat_accounts(zeros), everywhere, int(Action.NEUTRAL))
    lives = xp.to_numpy(entered.side) != 0
    is_last = np.zeros(n, dtype=bool)
    is_last[[segment.last for segment in game.segments]] = True
    at = np.unique(np.concatenate([game.next_entry[first:last] for _, first, last in game.segments]))
    passes = 0
    while len(at := at[~is_last[at]]):
        passes += 1
        at = np.unique(game.next_entry[at[~lives[at]] + 1])
    if passes > _MANY_PASSES:
        logger.info(
            "Up to %d classic entries in a row end in their entry candle; every step of the environment works out as "
            "many candles.",
            passes,
        )
    return passes


class StartTable:
    """The first decision of an episode, for every candle at which one may start: worked out once.

    Rows count the decidable candles of all members, segment by segment.

    :ivar first_rows: of each member, int64, shape (n_members,), on the host, as ``n_rows``
    """

    def __init__(self, xp: TorchNamespace, play: DevicePlay, game: EpisodeMap, members: Sequence[EpisodeMap]) -> None:
        """
        :param game: the candles of all members, end to end
        :param members: those of each
        :raises mtfscalper.market.tape.TapeError: if a member has nothing to decide
        """
        lengths = np.array([last - first for _, first, last in game.segments])
        first_row_of_segment = np.cumsum(lengths) - lengths
        first_segments = np.cumsum([0, *(len(member.segments) for member in members)])
        bounds = np.append(first_row_of_segment, lengths.sum())[first_segments]
        self.first_rows, self.n_rows = bounds[:-1], np.diff(bounds)

        candles = np.concatenate([game.next_entry[first:last] for _, first, last in game.segments])
        lasts = np.repeat([segment.last for segment in game.segments], lengths)
        episode = flat_episodes(xp.asarray(candles), xp.asarray(lasts))
        episode, gains = play.let_pass(episode, play.no_gains(episode.equity))
        following = [
            before + member.start_after(segment).segment
            for before, member in zip(first_segments, members, strict=False)
            for segment in range(len(member.segments))
        ]
        next_rows = np.repeat(first_row_of_segment[following], lengths)
        noted = np.stack([xp.to_numpy(column) for column in (*gains.terms, gains.trades, gains.wins)], axis=1)
        rows, noted = self._decided(xp.to_numpy(has_ended(episode)), next_rows, noted, members)

        at = xp.asarray(rows)
        episode, gains = take_members((episode, gains), at)
        zeros = torch.zeros_like(episode.equity)
        running = Running(episode, gains.reward(zeros), xp.asarray(next_rows[rows]), zeros, zeros)
        self.layout = Layout(running)
        self._running = [_one_if_alike(matrix.T.contiguous()) for matrix in self.layout.pack(running)]
        self._gains = xp.asarray(noted)
        self._observations = play.observed(episode)

    def running(self, rows: Tensor) -> list[Tensor]:
        """What environments are at the rows' first decisions: matrices that broadcast to those of :attr:`layout`."""
        return [matrix.index_select(0, rows).T if len(matrix) > 1 else matrix.T for matrix in self._running]

    def gains(self, rows: Tensor) -> Tensor:
        """What the candles before the first decisions brought, by terms, trades and wins, shape (n_terms + 2, n).

        With what starts brought that met no decision.
        """
        return self._gains.index_select(0, rows).T

    def observations(self, rows: Tensor) -> Tensor:
        """Compact, of the first decisions, float32, shape (7, n)."""
        return self._observations.index_select(1, rows)

    def _decided(
        self,
        ended: npt.NDArray[np.bool_],
        next_rows: npt.NDArray[np.int64],
        noted: npt.NDArray[np.float64],
        members: Sequence[EpisodeMap],
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Go on from the start of the next segment where a start meets no decision.

        :param ended: which do not
        :param next_rows: where each goes on
        :param noted: what the candles of each start brought, shape (n_rows, n)
        :return: the rows that each row comes to, and what was brought on the way
        """
        rows, sums = np.arange(len(ended)), noted.copy()
        for _ in range(max(len(member.segments) for member in members)):
            undecided = ended[rows]
            rows = np.where(undecided, next_rows[rows], rows)
            sums[undecided] += noted[rows[undecided]]
        if ended[rows].any():
            first = np.flatnonzero(ended[rows])[0]
            raise members[int(np.searchsorted(self.first_rows, first, side="right")) - 1].no_living_trade()
        return rows, sums


def _one_if_alike(rows: Tensor) -> Tensor:
    """One row in place of many equal ones: what is the same at every start needs no look-up."""
    return rows[:1].clone() if bool((rows == rows[:1]).all()) else rows
