"""A policy's trades over a tape: decisions and rules in closed loop, one account, flat decisions batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.inference import Decider
from mtfscalper.trading.actions import Action, automatic_action, entry_permissions
from mtfscalper.trading.arrays import NUMPY, SCALAR
from mtfscalper.trading.observation import account_state
from mtfscalper.trading.rules import FLAT, Account, Candle, ExitReason, equity_at, force_exit, see_open, step
from mtfscalper.trading.trades import ClosedTrade, closed_trade

_POLICY_DECIDES = -1


class FlatDecisions(NamedTuple):
    """What would be done flat, at every row of a range.

    :ivar actions: members of :class:`Action`, automatic entries included, int64, shape (n_rows,)
    :ivar probabilities: the policy's, float32, shape (n_rows, 5)
    """

    actions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Replay:
    """A replayed range of rows; row i holds the decision for the open of candle i + 1.

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
    """Batched decisions for an account that is flat, whether or not the rows have a whole window.

    :param rows: positions of the last closed candle of each decision, shape (n,)
    """
    long_permitted, short_permitted = entry_permissions(
        settings.entry_mode, settings.rules.can_short, tape.long_signal[rows], tape.short_signal[rows]
    )
    zeros = np.zeros(len(rows))
    flat = Account(*(zeros + float(value) for value in FLAT))
    state = account_state(NUMPY, settings.rules, settings.view, flat, zeros + 1.0, long_permitted, short_permitted)
    observations = np.stack([rows.astype(np.float64), *state], axis=1).astype(np.float32)
    chosen, probabilities = decider.decide(observations)
    automatic = _automatic_actions(settings.entry_mode)[long_permitted.astype(int), short_permitted.astype(int)]
    return FlatDecisions(np.where(automatic == _POLICY_DECIDES, chosen, automatic), probabilities)


def _automatic_actions(entry_mode: str) -> npt.NDArray[np.int64]:
    """What is done flat without asking the policy, by whether long and short are permitted, shape (2, 2)."""
    table = np.full((2, 2), _POLICY_DECIDES, dtype=np.int64)
    for permitted in np.ndindex(2, 2):
        action = automatic_action(entry_mode, True, *map(bool, permitted))
        if action is not None:
            table[permitted] = action
    return table


def decidable_rows(tape: MarketTape, window: int) -> npt.NDArray[np.bool_]:
    """Rows whose whole window is there: usable features, no gap.

    :return: shape (n_candles,)
    """
    decidable = np.zeros(len(tape), dtype=bool)
    for start, stop in tape.segments:
        if stop - start < window:
            continue
        whole = np.lib.stride_tricks.sliding_window_view(tape.usable[start:stop], window).all(axis=1)
        decidable[start + window - 1 : stop] = whole
    return decidable


def replay(
    decider: Decider,
    tape: MarketTape,
    settings: EnvSettings,
    first_row: int,
    stop_row: int,
    *,
    account: Account = FLAT,
    last_candle_closes: bool = False,
) -> Replay:
    """Run one account over rows [first_row, stop_row) of a tape.

    Row i decides at the open of candle i + 1, which then tests the exits. On rows without a whole window the
    policy is not asked: a flat account stays flat, an open trade is held.

    :param account: the account at the open of candle ``first_row + 1``
    :param last_candle_closes: close an open trade at the open of the tape's last candle, as the backtester does at
        the end of its data
    """
    rules, query = settings.rules, decider.trade_query()
    rows = np.arange(first_row, stop_row)
    flat = flat_decisions(decider, tape, settings, rows)
    decidable = decidable_rows(tape, settings.window)
    long_permitted, short_permitted = entry_permissions(
        settings.entry_mode, rules.can_short, tape.long_signal, tape.short_signal
    )
    actions = np.zeros(len(rows), dtype=np.int64)
    exit_probability = np.zeros(len(rows), dtype=np.float32)
    trades: list[ClosedTrade] = []
    last = len(tape) - 1
    equity = equity_at(SCALAR, rules, account, float(tape.open[min(first_row + 1, last)]))
    for index, row in enumerate(rows.tolist()):
        if row == last:
            # The candle of this decision is not there yet.
            if account.side == 0:
                actions[index] = flat.actions[index] if decidable[row] else Action.NEUTRAL
            continue
        candle = _candle(tape, row + 1)
        account = see_open(SCALAR, rules, account, candle.open)
        equity = equity_at(SCALAR, rules, account, candle.open)
        if last_candle_closes and row + 1 == last:
            account, fill = force_exit(SCALAR, rules, account, candle)
        else:
            if not decidable[row]:
                action = int(Action.NEUTRAL)
            elif account.side == 0:
                action = int(flat.actions[index])
            else:
                permitted = bool(long_permitted[row]), bool(short_permitted[row])
                state = account_state(SCALAR, rules, settings.view, account, candle.open, *permitted)
                [(action, exit_probability[index])] = query.decide([row], [state])
            actions[index] = action
            account, fill = step(SCALAR, rules, account, action, candle)
        if fill.reason == ExitReason.MAX_DURATION:
            # At the open, as a signal: a strategy that reads columns alone knows of no longest duration.
            actions[index] = Action.LONG_EXIT if fill.side > 0 else Action.SHORT_EXIT
        if fill.exited:
            trades.append(closed_trade(tape.pair, fill, int(tape.dates_ms[row + 1]), tape.timeframe_ms))
            equity = account.equity
    return Replay(actions, flat, exit_probability, tuple(trades), account, float(equity))


def _candle(tape: MarketTape, position: int) -> Candle:
    columns = (tape.open, tape.high, tape.low, tape.close, tape.funding, tape.price_scale)
    return Candle(*(float(column[position]) for column in columns))
