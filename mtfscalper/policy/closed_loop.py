"""A policy's trades over a tape: decisions and rules in closed loop, one account.

Flat decisions are made for all rows at once, but for a policy that remembers: that is asked along the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.envs.episodes import EnvSettings, candles_of, permitted_entries, scene_on
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.inference import MAX_BATCH, Decider, TradeDecision, decider_for
from mtfscalper.policy.recurrent import Memory, Recollection, RecurrentDecider, is_recurrent
from mtfscalper.trading.account import FLAT, Account, ExitReason
from mtfscalper.trading.actions import N_ACTIONS, Action, ActionTable
from mtfscalper.trading.arrays import NUMPY, SCALAR
from mtfscalper.trading.episode import EpisodeState, Market, advance, carry_out, exit_candle
from mtfscalper.trading.observation import observe
from mtfscalper.trading.rules import mark
from mtfscalper.trading.trades import ClosedTrade, closed_trade


class FlatDecisions(NamedTuple):
    """What would be done flat, at every row of a range.

    Of a policy that remembers it is what was done flat: neutral, and 0, where a trade was open or nothing could be
    entered, because the policy was not asked there and what it would have said depends on that.

    :ivar actions: members of :class:`Action`, automatic entries included, int64, shape (n_rows,)
    :ivar probabilities: the policy's, float32, shape (n_rows, 5)
    """

    actions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]

    @classmethod
    def none(cls, n_rows: int) -> FlatDecisions:
        """Neutral at every row."""
        return cls(np.zeros(n_rows, dtype=np.int64), np.zeros((n_rows, N_ACTIONS), dtype=np.float32))


@dataclass(frozen=True)
class ClosedLoop:
    """What a policy did on a range of rows; row i holds the decision for the open of candle i + 1.

    :ivar actions: what was done, automatic entries and the end of the longest duration included, int64, shape (n_rows,)
    :ivar flat: what would have been done flat
    :ivar exit_probability: probability of leaving, where a trade was open, else 0, shape (n_rows,)
    :ivar account: the account after the last candle
    :ivar equity: equity marked at the last open seen
    """

    actions: npt.NDArray[np.int64]
    flat: FlatDecisions
    exit_probability: npt.NDArray[np.float32]
    trades: tuple[ClosedTrade, ...]
    account: Account
    equity: float


def flat_decisions(
    decider: Decider, tape: MarketTape, settings: EnvSettings, rows: npt.NDArray[np.int64]
) -> FlatDecisions:
    """Batched decisions for an account that is flat, whether or not the rows have a whole lookback.

    :param rows: positions of the last closed candle of each decision, shape (n,)
    """
    long_permitted, short_permitted = permitted_entries(tape, settings, rows)
    zeros = np.zeros(len(rows))
    flat = Account(*(zeros + float(value) for value in FLAT))
    seen = observe(NUMPY, settings.rules, settings.view, rows, flat, zeros, long_permitted, short_permitted)
    chosen, probabilities = decider.decide(NUMPY.float32_rows(seen))
    offset = ActionTable.permission_offset(long_permitted, short_permitted)
    # In classic mode the signals enter, whatever the policy says.
    return FlatDecisions(ActionTable.from_entry_mode(settings.entry_mode).carried_out[offset + chosen], probabilities)


def decidable_rows(tape: MarketTape, lookback: int) -> npt.NDArray[np.bool_]:
    """Rows whose whole lookback is there: usable features, no gap.

    :return: shape (n_candles,)
    """
    decidable = np.zeros(len(tape), dtype=bool)
    for start, stop in tape.segments:
        if stop - start < lookback:
            continue
        whole = np.lib.stride_tricks.sliding_window_view(tape.usable[start:stop], lookback).all(axis=1)
        decidable[start + lookback - 1 : stop] = whole
    return decidable


def loop_decider(
    model: BaseAlgorithm, features: npt.NDArray[np.float32], lookback: int, max_batch: int = MAX_BATCH
) -> Decider | RecurrentDecider:
    """What :func:`run` asks of a model, recurrent or not; see :func:`mtfscalper.policy.inference.decider_for`."""
    if is_recurrent(model):
        return RecurrentDecider(model, features, lookback)
    return decider_for(model, features, lookback, max_batch)


class _Answers(Protocol):
    """A policy's answers along a loop.

    :ivar flat: what it does flat, of a policy that remembers up to now
    """

    flat: FlatDecisions

    def flat_action(self, index: int, row: int, account: Account) -> int:
        """What is done flat.

        :param index: of the row in the loop
        """
        ...

    def trade_decision(self, row: int, account: Account, profit: float) -> TradeDecision:
        """What is made of an open trade."""
        ...


class _AtOnce:
    """Of a policy that remembers nothing: all flat decisions before the loop, a trade's where it is met."""

    def __init__(self, decider: Decider, tape: MarketTape, settings: EnvSettings, rows: npt.NDArray[np.int64]) -> None:
        self.flat = flat_decisions(decider, tape, settings, rows)
        self._trades, self._settings = decider.trade_decider(), settings
        self._permitted = tuple(side.tolist() for side in permitted_entries(tape, settings))

    def flat_action(self, index: int, row: int, account: Account) -> int:
        """See :class:`_Answers`."""
        return int(self.flat.actions[index])

    def trade_decision(self, row: int, account: Account, profit: float) -> TradeDecision:
        """See :class:`_Answers`."""
        settings, (long_permitted, short_permitted) = self._settings, self._permitted
        permitted = long_permitted[row], short_permitted[row]
        seen = observe(SCALAR, settings.rules, settings.view, row, account, profit, *permitted)
        [decision] = self._trades.decide([seen])
        return decision


class _OneByOne:
    """Of a policy that remembers: asked at a row, with what it remembers of those before."""

    def __init__(self, recollection: Recollection, n_rows: int) -> None:
        self.flat = FlatDecisions.none(n_rows)
        self._recollection = recollection

    def flat_action(self, index: int, row: int, account: Account) -> int:
        """See :class:`_Answers`."""
        self.flat.actions[index], self.flat.probabilities[index] = self._recollection.flat(row, account)
        return int(self.flat.actions[index])

    def trade_decision(self, row: int, account: Account, profit: float) -> TradeDecision:
        """See :class:`_Answers`."""
        decision = self._recollection.in_trade(row, account, profit)
        return TradeDecision(decision.action, decision.exit_probability(account.side))


def run(
    decider: Decider | RecurrentDecider,
    tape: MarketTape,
    settings: EnvSettings,
    first_row: int,
    stop_row: int,
    *,
    account: Account = FLAT,
    last_candle_closes: bool = False,
    policy_exits: bool = True,
    memory: Memory | None = None,
) -> ClosedLoop:
    """Run one account over rows [first_row, stop_row) of a tape.

    Row i decides at the open of candle i + 1, which then tests the exits. On rows whose features to look back on are
    not all there the policy is not asked: a flat account stays flat, an open trade is held.

    :param account: the account at the open of candle ``first_row + 1``
    :param last_candle_closes: close an open trade at the open of the tape's last candle, as the backtester does at
        the end of its data
    :param policy_exits: whether the policy may leave; else only the rules end its trades, and what it would have given
        leaving is noted all the same
    :param memory: what a recurrent policy remembers of the rows before the first; None begins an episode
    """
    rows = np.arange(first_row, stop_row)
    answers: _Answers
    if isinstance(decider, RecurrentDecider):
        answers = _OneByOne(Recollection(decider, tape, settings, memory, first_row), len(rows))
    else:
        answers = _AtOnce(decider, tape, settings, rows)
    decidable = decidable_rows(tape, settings.lookback)
    sides = permitted_entries(tape, settings)
    market = Market(
        candles_of([tape]),
        np.zeros(len(tape)),
        *(side & decidable for side in sides),
    )
    scene = scene_on(market, settings)._replace(terms=())
    actions = np.zeros(len(rows), dtype=np.int64)
    exit_probability = np.zeros(len(rows), dtype=np.float32)
    trades: list[ClosedTrade] = []
    last = len(tape) - 1
    rules, opens = settings.rules, tape.open.tolist()
    account, profit, equity = mark(SCALAR, rules, account, opens[min(first_row + 1, last)])
    state = EpisodeState(account, profit, first_row + 1, last if last_candle_closes else -1, equity, equity, False)
    for index, row in enumerate(rows.tolist()):
        candle = row + 1
        if candle > last:
            # The candle of this decision is not there yet.
            if account.side == 0:
                actions[index] = answers.flat_action(index, row, account) if decidable[row] else Action.NEUTRAL
            continue
        if candle == state.last:
            # It has closed what was open, right after the candle before it.
            break
        action = int(Action.NEUTRAL)
        if decidable[row] and state.account.side == 0:
            action = answers.flat_action(index, row, state.account)
        elif decidable[row]:
            asked, exit_probability[index] = answers.trade_decision(row, state.account, state.profit)
            action = asked if policy_exits else action
        actions[index] = action
        before = state
        if candle == last:
            account, fill = carry_out(SCALAR, scene, state.account, candle, action)
            equity = account.equity if fill.exited else state.equity
        else:
            state, fill, _ = advance(SCALAR, scene, state, action)
            account, equity = state.account, state.equity
        if fill.exited:
            closed_in = int(exit_candle(before, fill))
            if fill.reason == ExitReason.MAX_DURATION and closed_in == candle:
                # At the open, as a signal: a strategy that reads columns alone knows of no longest duration.
                actions[index] = Action.LONG_EXIT if fill.side > 0 else Action.SHORT_EXIT
            trades.append(closed_trade(tape.pair, fill, int(tape.dates_ms[closed_in]), tape.timeframe_ms))
    return ClosedLoop(actions, answers.flat, exit_probability, tuple(trades), account, float(equity))
