"""A policy's trades over a tape: decisions and rules in closed loop, one account, flat decisions batched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.decide import Decider
from mtfscalper.trading.actions import Action, automatic_action, entry_permissions
from mtfscalper.trading.namespace import NUMPY, SCALAR
from mtfscalper.trading.observation import account_state
from mtfscalper.trading.rules import FLAT, Account, Candle, equity_at, force_exit, see_open, step
from mtfscalper.trading.trades import ClosedTrade, closed_trade


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

    :ivar actions: what was done, automatic entries included, int64, shape (n_rows,)
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
    state = account_state(
        NUMPY, settings.rules, settings.reward.profit_aim, flat, zeros + 1.0, long_permitted, short_permitted
    )
    observations = np.stack([rows.astype(np.float64), *state], axis=1).astype(np.float32)
    chosen, probabilities = decider.decide(observations)
    actions = [
        action if (automatic := automatic_action(settings.entry_mode, True, *permitted)) is None else automatic
        for action, *permitted in zip(chosen.tolist(), long_permitted.tolist(), short_permitted.tolist(), strict=True)
    ]
    return FlatDecisions(np.array(actions, dtype=np.int64), probabilities)


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
    rules = settings.rules
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
                action, exit_probability[index] = _decide_in_trade(
                    decider, settings, account, row, candle.open, *permitted
                )
            actions[index] = action
            account, fill = step(SCALAR, rules, account, action, candle)
        if fill.exited:
            trades.append(closed_trade(tape.pair, fill, int(tape.dates_ms[row + 1]), tape.timeframe_ms))
            equity = account.equity
    return Replay(actions, flat, exit_probability, tuple(trades), account, float(equity))


def _decide_in_trade(
    decider: Decider,
    settings: EnvSettings,
    account: Account,
    row: int,
    open_rate: float,
    long_permitted: bool,
    short_permitted: bool,
) -> tuple[int, float]:
    """The policy's action inside a trade, and its probability of leaving."""
    state = account_state(
        SCALAR, settings.rules, settings.reward.profit_aim, account, open_rate, long_permitted, short_permitted
    )
    decided = decider.decide(np.array([[row, *state]], dtype=np.float32))
    leave = Action.LONG_EXIT if account.side > 0 else Action.SHORT_EXIT
    return int(decided.actions[0]), float(decided.probabilities[0, leave])


def _candle(tape: MarketTape, position: int) -> Candle:
    columns = (tape.open, tape.high, tape.low, tape.close, tape.funding, tape.price_scale)
    return Candle(*(float(column[position]) for column in columns))


def account_of_trade(
    tape: MarketTape,
    settings: EnvSettings,
    *,
    is_short: bool,
    open_ms: int,
    open_rate: float,
    leverage: float,
    funding: float = 0.0,
) -> Account:
    """The account of a true trade at the end of a tape, from the trade and closed candles alone.

    The open of the candle that is still forming stands in as the last close.

    :param tape: candles since the trade was opened at the least
    :param open_ms: when the trade was opened, milliseconds since 1970
    :param funding: what one unit of the asset received so far, in quote currency; negative if it was paid
    """
    side = -1.0 if is_short else 1.0
    account = FLAT._replace(side=side, open_rate=open_rate, leverage=leverage, best_profit=-np.inf)
    entry_ms = open_ms // tape.timeframe_ms * tape.timeframe_ms
    now_ms = int(tape.dates_ms[-1]) + tape.timeframe_ms
    # Opens seen since the entry; the entry itself counts with the rate that was paid.
    for rate in (open_rate, *tape.open[tape.dates_ms > entry_ms].tolist()):
        account = see_open(SCALAR, settings.rules, account, rate)
    account = see_open(SCALAR, settings.rules, account._replace(funding=funding), float(tape.close[-1]))
    return account._replace(held_candles=float((now_ms - entry_ms) // tape.timeframe_ms))


def trade_decision(
    decider: Decider, tape: MarketTape, settings: EnvSettings, account: Account, row: int
) -> tuple[int, float]:
    """The policy's action for an open trade after row ``row`` closed, and its probability of leaving."""
    if not decidable_rows(tape, settings.window)[row]:
        return int(Action.NEUTRAL), 0.0
    long_permitted, short_permitted = entry_permissions(
        settings.entry_mode, settings.rules.can_short, tape.long_signal[row : row + 1], tape.short_signal[row : row + 1]
    )
    return _decide_in_trade(
        decider, settings, account, row, float(tape.close[row]), bool(long_permitted[0]), bool(short_permitted[0])
    )
