"""What a recurrent policy remembers of a pair outside training: it is run over candles that the account lived through.

Its memory begins, empty, :data:`WARM_UP_CANDLES` before the first row that it decides on, which is the first after
those it was trained on. Up to that row the account counts as flat, but for a trade that is open there; from it on it
is what the account truly did. So a bot that is started again remembers what it would have remembered, as long as its
candles reach back so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from freqtrade.persistence import LocalTrade, Trade
from stable_baselines3.common.base_class import BaseAlgorithm

from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.freqai.candle_clock import candle_open_ms, milliseconds
from mtfscalper.freqai.open_trade import OpenTrade, PriceHistory
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy.closed_loop import FlatDecisions, decidable_rows
from mtfscalper.policy.inference import TradeDecision
from mtfscalper.policy.recurrent import Memory, Recollection, RecurrentDecider, RecurrentPolicyError
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.trading.observation import Observation
from mtfscalper.trading.trading_rules import TradingRules

# An LSTM's memory of longer ago has faded; at an episode's start in training there is none at all.
WARM_UP_CANDLES = 128


class Lived(NamedTuple):
    """A trade that an account had.

    :ivar last_ms: the last candle at whose open it was open, milliseconds since 1970; None while it is open
    """

    trade: OpenTrade
    entry_ms: int
    last_ms: int | None

    @classmethod
    def of(cls, trade: LocalTrade, rules: TradingRules, timeframe_ms: int) -> Lived:
        """One of freqtrade's."""
        closed = trade.close_date_utc if not trade.is_open else None
        last_ms = None if closed is None else candle_open_ms(timeframe_ms, milliseconds(closed))
        followed = OpenTrade(trade, rules)
        return cls(followed, candle_open_ms(timeframe_ms, followed.open_ms), last_ms)

    def is_open_at(self, candle_ms: int) -> bool:
        """Whether a policy is asked about it as a candle opens: it was entered before, and not closed yet."""
        return self.entry_ms < candle_ms and (self.last_ms is None or candle_ms <= self.last_ms)


class _Entered(NamedTuple):
    """What :class:`OpenTrade` reads of a trade."""

    pair: str
    open_date_utc: datetime
    open_rate: float
    leverage: float
    is_short: bool


def warm_up(
    decider: RecurrentDecider,
    tape: MarketTape,
    settings: EnvSettings,
    first_row: int,
    account: Account,
    history: PriceHistory,
) -> Memory | None:
    """What a policy remembers of the rows before a backtest's period.

    :param first_row: of the period
    :param account: at the open of the candle after it
    :param history: of the run's candles
    :return: None where nothing was asked before
    """
    trades = []
    if account.side:
        candle_ms = int(tape.dates_ms[first_row]) + tape.timeframe_ms
        entry_ms = candle_ms - int(account.held_candles) * tape.timeframe_ms
        opened = datetime.fromtimestamp(entry_ms / 1000, UTC)
        entered = _Entered(tape.pair, opened, float(account.open_rate), float(account.leverage), account.side < 0)
        trades.append(Lived(OpenTrade(entered, settings.rules), entry_ms, None))
    recollection = Recollection(decider, tape, settings)
    rows = range(max(first_row - WARM_UP_CANDLES, 0), first_row)
    _live_through(recollection, tape, settings, rows, trades, history, FLAT._replace(equity=account.equity))
    return recollection.memory_at(first_row)


def _live_through(
    recollection: Recollection,
    tape: MarketTape,
    settings: EnvSettings,
    rows: range,
    trades: Sequence[Lived],
    history: PriceHistory,
    flat_account: Account = FLAT,
) -> FlatDecisions:
    """Ask a policy on rows of the past what an environment would have asked it there.

    :param rows: of which the candle after each has opened
    :return: what it did flat, shape (n_candles,) and (n_candles, 5); nothing on rows on which it was not asked so
    """
    flat = FlatDecisions.none(len(tape))
    decidable = decidable_rows(tape, settings.lookback)
    for row in rows:
        candle_ms = int(tape.dates_ms[row]) + tape.timeframe_ms
        if not decidable[row] or tape.dates_ms[row + 1] != candle_ms:
            # On an episode's last candle nothing is decided.
            continue
        lived = next((one.trade for one in trades if one.is_open_at(candle_ms)), None)
        if lived is None:
            flat.actions[row], flat.probabilities[row] = recollection.flat(row, flat_account)
        else:
            recollection.in_trade(row, *lived.at(history, candle_ms, float(tape.open[row + 1])))
    return flat


class AtLastRow:
    """A policy asked about open trades at the last row of a tape, with what it remembers of those before."""

    def __init__(self, recollection: Recollection, row: int) -> None:
        self._recollection, self._row = recollection, row

    def decide(self, observations: Sequence[Observation]) -> list[TradeDecision]:
        """See :class:`mtfscalper.policy.inference.TradeDecider`.

        :raises RecurrentPolicyError: for another row, of which it does not know what it remembered there
        """
        if any(int(seen.row) != self._row for seen in observations):
            raise RecurrentPolicyError
        answers = ((self._recollection.answer(seen), seen) for seen in observations)
        return [TradeDecision(answer.action, answer.exit_probability(seen.side)) for answer, seen in answers]


class _Kept(NamedTuple):
    """What a policy remembers of a pair.

    :ivar row_ms: of everything before the decision on this row
    """

    model: BaseAlgorithm
    row_ms: int
    memory: Memory | None


class LiveMemories:
    """What a bot's recurrent policies remember, by pair; it moves on once for each candle that has closed."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}

    def at_last_row(
        self,
        model: BaseAlgorithm,
        tape: MarketTape,
        settings: EnvSettings,
        history: PriceHistory,
        trained_ms: int,
        trades: Iterable[LocalTrade] | None = None,
    ) -> tuple[FlatDecisions, AtLastRow]:
        """What a policy does flat, and what answers about open trades, at the last row.

        :param tape: of the candles that the bot has now
        :param trained_ms: the end of what the policy was trained on, milliseconds since 1970
        :param trades: of the pair; those of freqtrade's database by default
        :return: flat decisions of all rows, of those alone that have been lived through now and of the last
        """
        last = len(tape) - 1
        last_ms = int(tape.dates_ms[last])
        kept = self._kept.get(tape.pair)
        first = int(np.searchsorted(tape.dates_ms, kept.row_ms)) if kept is not None else 0
        if kept is None or kept.model is not model or kept.row_ms > last_ms or tape.dates_ms[first] != kept.row_ms:
            # Another policy, or a bot that has just been started.
            kept = None
            first = max(int(np.searchsorted(tape.dates_ms, trained_ms)) - WARM_UP_CANDLES, 0)
        first = min(first, last)
        decider = RecurrentDecider(model, tape.features, settings.lookback)
        recollection = Recollection(decider, tape, settings, kept.memory if kept else None, first)
        flat = FlatDecisions.none(len(tape))
        if first < last:
            if trades is None:
                trades = trades_since(tape.pair, trained_ms)
            lived = [Lived.of(trade, settings.rules, tape.timeframe_ms) for trade in trades]
            # The one that opens after the first row that the policy decides on.
            first_candle_ms = (-(-trained_ms // tape.timeframe_ms) + 1) * tape.timeframe_ms
            lived = [one for one in lived if one.last_ms is None or one.last_ms >= first_candle_ms]
            flat = _live_through(recollection, tape, settings, range(first, last), lived, history)
        memory = recollection.memory_at(last)
        self._kept[tape.pair] = _Kept(model, last_ms, memory)
        if decidable_rows(tape, settings.lookback)[last]:
            now = Recollection(decider, tape, settings, memory, last)
            flat.actions[last], flat.probabilities[last] = now.flat(last, FLAT)
        return flat, AtLastRow(recollection, last)


def trades_since(pair: str, since_ms: int) -> list[LocalTrade]:
    """A bot's trades of a pair that are open, or were closed after a moment.

    :param since_ms: milliseconds since 1970
    """
    since = datetime.fromtimestamp(since_ms / 1000, UTC)
    return [
        *Trade.get_trades_proxy(pair=pair, is_open=True),
        *Trade.get_trades_proxy(pair=pair, is_open=False, close_date=since),
    ]
