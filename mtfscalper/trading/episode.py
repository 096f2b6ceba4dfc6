"""One candle of an episode: what is asked for is carried out, marked and rewarded, for one account or for many.

:func:`advance` is a pure function over an array namespace without a host value inside: the environment of one account,
the batch of them, one on a device and a policy's closed loop are shells around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.trading.account import Account, Candle, Fill
from mtfscalper.trading.actions import N_ACTIONS, ActionTable
from mtfscalper.trading.arrays import Array, BatchNamespace, Namespace
from mtfscalper.trading.reward import RewardSettings, Transition, WeightedTerm, reward_terms
from mtfscalper.trading.rules import can_afford_entry, force_exit, mark, may_run_out, step
from mtfscalper.trading.trading_rules import TradingRules


class Moment(NamedTuple):
    """What the market says of one candle; numbers, or arrays of shape (n,).

    :ivar next_open: open of the candle after it
    :ivar range_position: place of the open in the recent range, 0 its low, 1 its high
    :ivar permissions: which entries are permitted at its open, see :meth:`ActionTable.permission_offset`
    """

    candle: Candle
    next_open: Array
    range_position: Array
    permissions: Array


class Market(NamedTuple):
    """Every candle there is, as columns of shape (n_candles,).

    :ivar long_permitted: whether a long entry is permitted at the next candle's open, as ``short_permitted``
    """

    candles: Candle
    range_position: npt.NDArray[np.float64]
    long_permitted: npt.NDArray[np.bool_]
    short_permitted: npt.NDArray[np.bool_]

    def one_by_one(self) -> Callable[[int], Moment]:
        """The moments of single candles, in Python's numbers: indexing arrays for them costs more than a rule."""
        rows = zip(*(column.tolist() for column in self._columns()), strict=True)
        candle = self._candle
        return [Moment(candle(row[:-3]), *row[-3:]) for row in rows].__getitem__

    def in_batches(self, xp: BatchNamespace) -> Callable[[Array], Moment]:
        """The moments of many candles at once."""
        table = xp.table(self._columns())
        make_candle = self._candle

        def moments(candles: Array) -> Moment:
            *candle, next_open, position, permissions = xp.columns(table, candles)
            return Moment(make_candle(candle), next_open, position, permissions)

        return moments

    @property
    def _candle(self) -> Callable[[Sequence[Any]], Candle]:
        """Makes a candle of its fields' values, of those fields that this market has."""
        names = [name for name, column in zip(Candle._fields, self.candles, strict=True) if column is not None]
        if names == list(Candle._fields[: len(names)]):
            return lambda values: Candle(*values)
        return lambda values: Candle(**dict(zip(names, values, strict=True)))

    def _columns(self) -> list[npt.NDArray[Any]]:
        next_open = np.append(self.candles.open[1:], self.candles.open[-1])
        # What is permitted at the open of candle k stands in row k - 1.
        permissions = ActionTable.permission_offset(np.roll(self.long_permitted, 1), np.roll(self.short_permitted, 1))
        candles = [column for column in self.candles if column is not None]
        return [*candles, next_open, self.range_position, permissions]


class Scene(NamedTuple):
    """Where an episode plays: the rules, the reward and the market.

    :ivar terms: the terms of the reward that count
    :ivar moments: from the number of a candle to what the market says of it
    :ivar next_entry: of each candle, the first from it on where an entry is permitted, else the episode's last; None
        where accounts go candle by candle
    """

    rules: TradingRules
    reward: RewardSettings
    terms: tuple[WeightedTerm, ...]
    entry_mode: str
    actions: ActionTable
    moments: Callable[[Array], Moment]
    next_entry: Array | None


class EpisodeState(NamedTuple):
    """What an account is in the middle of; numbers, or arrays of shape (n,).

    :ivar account: has seen the open of ``candle``
    :ivar profit: profit ratio of the open trade at that open, 0 when flat
    :ivar candle: number of the candle about to be decided
    :ivar last: number of the candle that ends the episode
    :ivar equity: marked at that open; 1 at the start of an episode
    :ivar peak: highest equity of the episode
    :ivar terminated: whether the loss from the peak has ended the episode
    """

    account: Account
    profit: Array
    candle: Array
    last: Array
    equity: Array
    peak: Array
    terminated: Array


def advance(
    xp: Namespace, scene: Scene, state: EpisodeState, action: Array
) -> tuple[EpisodeState, Fill, dict[str, Array]]:
    """Carry out an action at a candle's open, let the candle test the exits, and mark the account at the next open.

    What is not permitted is not done, and what enters by itself (``classic``) does so whatever is asked for. The
    episode's last candle follows at once: it tests the exits, and closes what is left at its open. A flat account goes
    on to the next candle with a permitted entry: until there nothing changes. One that is too small to enter again goes
    to the episode's last candle, whatever is permitted before it: nothing would change until there.

    :param action: members of :class:`mtfscalper.trading.actions.Action`
    :return: the state at the next candle, what was filled, and the reward's terms by name, weighted
    """
    rules, before = scene.rules, state.account
    account, fill, moment, asked = _carry_out(xp, scene, before, state.candle, action)
    account, profit, equity = mark(xp, rules, account, moment.next_open)
    candle = state.candle + 1

    def end(account: Account, fill: Fill, candle: Array) -> tuple[Account, Array, Array, Fill]:
        closed, forced = force_exit(xp, rules, account, scene.moments(candle).candle)
        fill = Fill(*xp.where_each(forced.exited, forced, fill))
        return closed, 0.0 * closed.equity, closed.equity, fill

    account, profit, equity, fill = xp.replace_where(
        candle == state.last, (account, profit, equity, fill), end, account, fill, candle
    )
    peak = xp.maximum(state.peak, equity)
    terminated = equity <= peak * (1 - rules.max_drawdown_ratio)
    terms = reward_terms(
        xp,
        scene.reward,
        scene.terms,
        Transition(
            before=before,
            after=account,
            fill=fill,
            profit_after=profit,
            equity_before=state.equity,
            equity_after=equity,
            range_position=moment.range_position,
            max_trade_duration_candles=rules.max_trade_duration_candles,
            staked_ratio=rules.staked_ratio,
            asked=asked,
            actions=scene.actions,
        ),
    )
    if scene.next_entry is not None:
        waits = xp.logical_and(account.side == 0, xp.logical_not(terminated))
        following = scene.next_entry[candle]
        if may_run_out(rules):
            following = xp.where(can_afford_entry(xp, rules, account), following, state.last)
        candle = xp.where(waits, following, candle)
    return EpisodeState(account, profit, candle, state.last, equity, peak, terminated), fill, terms


def carry_out(xp: Namespace, scene: Scene, account: Account, candle: Array, action: Array) -> tuple[Account, Fill]:
    """The part of :func:`advance` that needs no later candle.

    :param candle: number of the candle at whose open the action is carried out
    :return: the account after the candle, and what was filled
    """
    account, fill, _, _ = _carry_out(xp, scene, account, candle, action)
    return account, fill


def exit_candle(state: EpisodeState, fill: Fill) -> Array:
    """The candle in which a trade was closed: the one that was decided, or the episode's last after it.

    :param state: before the :func:`advance` that filled it
    """
    return state.candle - state.account.held_candles + fill.held_candles


def enters_by_itself(xp: Namespace, scene: Scene, state: EpisodeState) -> Array:
    """Whether no policy is asked at the state's candle, because the signals enter.

    Of states whose candle permits an entry or whose account is in a trade, as :func:`advance` leaves them.
    """
    return xp.logical_and(state.account.side == 0, scene.entry_mode == "classic")


def _carry_out(
    xp: Namespace, scene: Scene, account: Account, candle: Array, action: Array
) -> tuple[Account, Fill, Moment, Array]:
    moment = scene.moments(candle)
    asked = xp.to_index(moment.permissions + account.side * N_ACTIONS + action)
    after, fill = step(xp, scene.rules, account, scene.actions.carried_out[asked], moment.candle)
    return after, fill, moment, asked
