"""A policy's trades over a tape: decisions and rules in closed loop, one account, flat decisions batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.envs.episodes import EnvSettings, candles_of, permitted_entries, scene_on
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.inference import Decider
from mtfscalper.trading.account import FLAT, Account, ExitReason
from mtfscalper.trading.actions import Action, ActionTable
from mtfscalper.trading.arrays import NUMPY, SCALAR
from mtfscalper.trading.episode import EpisodeState, Market, advance, carry_out, exit_candle
from mtfscalper.trading.observation import observe
from mtfscalper.trading.rules import mark
from mtfscalper.trading.trades import ClosedTrade, closed_trade


class FlatDecisions(NamedTuple):
    """What would be done flat, at every row of a range.

    :ivar actions: members of :class:`Action`, automatic entries included, int64, shape (n_rows,)
    :ivar probabilities: the policy's, float32, shape (n_rows, 5)
    """

    actions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


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


def run(
    decider: Decider,
    tape: MarketTape,
    settings: EnvSettings,
    first_row: int,
    stop_row: int,
    *,
    account: Account = FLAT,
    last_candle_closes: bool = False,
    policy_exits: bool = True,
) -> ClosedLoop:
    """Run one account over rows [first_row, stop_row) of a tape.

    Row i decides at the open of candle i + 1, which then tests the exits. On rows whose features to look back on are
    not all there the policy is not asked: a flat account stays flat, an open trade is held.

    :param account: the account at the open of candle ``first_row + 1``
    :param last_candle_closes: close an open trade at the open of the tape's last candle, as the backtester does at
        the end of its data
    :param policy_exits: whether the policy may leave; else only the rules end its trades, and what it would have given
        leaving is noted all the same
    """
    trade_decider = decider.trade_decider()
    rows = np.arange(first_row, stop_row)
    flat = flat_decisions(decider, tape, settings, rows)
    decidable = decidable_rows(tape, settings.lookback)
    sides = permitted_entries(tape, settings)
    market = Market(
        candles_of([tape]),
        np.zeros(len(tape)),
        *(side & decidable for side in sides),
    )
    scene = scene_on(market, settings)._replace(terms=())
    long_permitted, short_permitted = (side.tolist() for side in sides)
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
                actions[index] = flat.actions[index] if decidable[row] else Action.NEUTRAL
            continue
        if candle == state.last:
            # It has closed what was open, right after the candle before it.
            break
        action = int(Action.NEUTRAL)
        if decidable[row] and state.account.side == 0:
            action = int(flat.actions[index])
        elif decidable[row]:
            permitted = long_permitted[row], short_permitted[row]
            seen = observe(SCALAR, rules, settings.view, row, state.account, state.profit, *permitted)
            [(asked, exit_probability[index])] = trade_decider.decide([seen])
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
    return ClosedLoop(actions, flat, exit_probability, tuple(trades), account, float(equity))
