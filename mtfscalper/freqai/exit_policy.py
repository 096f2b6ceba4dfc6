"""What a strategy asks in ``custom_exit``: the policy's decision on the true trade, in every run mode the same."""

from __future__ import annotations

import logging
from bisect import bisect_left
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from freqtrade.enums import TRADE_MODES
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.persistence import LocalTrade
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.open_trade import PriceHistory, TrueTrade
from mtfscalper.freqai.policy_store import DecidingWindow, PairPolicies, PolicyRegistry, TradeTerms
from mtfscalper.freqai.strategy_rules import differences_to_training
from mtfscalper.policy.inference import TradeDecision
from mtfscalper.trading.actions import Action
from mtfscalper.trading.arrays import NUMPY, SCALAR
from mtfscalper.trading.observation import trade_state
from mtfscalper.trading.rules import Account

logger = logging.getLogger(__name__)

# Questions about a trade that one pass through the network answers: its weights are read from memory once for all.
PREPARED_CANDLES = 32
# Of candles: what will be seen there, and the answer to it.
Prepared = dict[int, tuple[tuple[Any, ...], TradeDecision]]


class ExitDecision(NamedTuple):
    """The policy on an open trade at a candle's open.

    :ivar leave: whether the policy prefers to leave
    :ivar probability: which it gives leaving
    :ivar profit: ratio to the stake if closed at this open, costs and leverage included
    :ivar best_profit: highest such ratio at the opens so far
    :ivar held_candles: candles since the entry candle
    """

    leave: bool
    probability: float
    profit: float
    best_profit: float
    held_candles: int


class LiveDecisions(NamedTuple):
    """What a bot decides with, made anew at every closed candle: one policy, its features, the candles.

    :ivar last_close: close of the last candle, which stands for the open of the one that is forming
    """

    terms: TradeTerms
    history: PriceHistory
    window: DecidingWindow
    last_close: float


class LiveSource(Protocol):
    """The FreqAI model of a bot."""

    def live_decisions(self, pair: str) -> LiveDecisions | None:
        """What decides about a pair's trades now; None before the first prediction."""
        ...


class DecisionLostError(SystemExit):
    """A backtest cannot go on. freqtrade swallows ordinary exceptions of a strategy's callbacks and trades on."""


class _FollowedTrade:
    """The open trade of a pair, and the decision about it at the last candle: a bot asks again every few seconds.

    :ivar policies: of a backtest, None for a bot
    """

    def __init__(self, trade: LocalTrade, open_ms: int, terms: TradeTerms, policies: PairPolicies | None) -> None:
        self._identity = (open_ms, trade.is_short, trade.open_rate, trade.leverage)
        self.true_trade = true_trade(trade, terms)
        self.policies = policies
        self.decided_ms = 0
        self.decision: ExitDecision | None = None
        self.prepared: Prepared = {}

    def is_about(self, trade: LocalTrade, open_ms: int) -> bool:
        """Whether this is the trade."""
        return self._identity == (open_ms, trade.is_short, trade.open_rate, trade.leverage)


class TradeDecisions:
    """Decisions about open trades, one for each closed candle and trade, none in the entry candle.

    In backtests and hyperopt the policy of the candle's window is found by path; a bot asks the FreqAI model for the
    one that predicted last.
    """

    def __init__(self, config: dict[str, Any], strategy: IStrategy) -> None:
        """
        :param config: the freqtrade config, with its run mode
        :param strategy: whose ``custom_exit`` asks
        """
        self._strategy = strategy
        self._live = config.get("runmode") in TRADE_MODES
        self._registry = PolicyRegistry(Path(config["user_data_dir"]) / "models" / str(config["freqai"]["identifier"]))
        self._followed: dict[str, _FollowedTrade] = {}
        self._warned: set[str] = set()

    @cached_property
    def _timeframe_ms(self) -> int:
        # Not before it is asked: the config's timeframe reaches a strategy after it has been made.
        return timeframe_to_msecs(self._strategy.timeframe)

    def decide(self, trade: LocalTrade, current_time: datetime, current_rate: float) -> ExitDecision | None:
        """Ask the policy about an open trade.

        :param current_rate: as ``custom_exit`` gets it; in a backtest the candle's open
        :return: None in the entry candle, and on candles whose features are incomplete: the trade is held
        :raises DecisionLostError: in backtests, if the policy of the candle is missing or damaged
        """
        now_ms = int(current_time.timestamp() * 1000) // self._timeframe_ms * self._timeframe_ms
        open_ms = int(trade.open_date_utc.timestamp() * 1000)
        if open_ms >= now_ms:
            return None
        followed = self._followed.get(trade.pair)
        if followed is not None and followed.is_about(trade, open_ms) and followed.decided_ms == now_ms:
            return followed.decision
        try:
            return self._ask(trade, open_ms, now_ms, current_rate)
        except Exception as error:
            if self._live:
                # The stop on the exchange stays; freqtrade logs this and asks again.
                raise
            raise DecisionLostError(
                f"{trade.pair}, {current_time}: no decision about an open trade: {error}"
            ) from error

    def _ask(self, trade: LocalTrade, open_ms: int, now_ms: int, current_rate: float) -> ExitDecision | None:
        funding: float | None = None
        followed = self._followed.get(trade.pair)
        if followed is not None and not followed.is_about(trade, open_ms):
            followed = None
        if self._live:
            # freqtrade's attribute of a strategy with FreqAI.
            live = cast(LiveSource, self._strategy.freqai).live_decisions(trade.pair)
            if live is None:
                return None
            terms, history, window, current_rate = live
            funding = funding_received(trade)
        else:
            policies = followed.policies if followed is not None else self._registry.of_pair(trade.pair)
            assert policies is not None
            found = policies.window_of(now_ms - self._timeframe_ms)
            if found is None:
                return None
            terms, history, window = policies.terms, policies.history, found
        if followed is None:
            self._warn_of_other_rules(trade, terms)
            policies = None if self._live else policies
            followed = self._followed[trade.pair] = _FollowedTrade(trade, open_ms, terms, policies)
        prepared = None if self._live else followed.prepared
        decision = decide_on_trade(
            followed.true_trade, now_ms, current_rate, terms, history, window, funding=funding, prepared=prepared
        )
        if decision is not None:
            followed.decided_ms, followed.decision = now_ms, decision
        return decision

    def _warn_of_other_rules(self, trade: LocalTrade, terms: TradeTerms) -> None:
        """A policy decides as it was trained; hyperopt and a restarted bot may trade under other rules."""
        for difference in differences_to_training(self._strategy, trade.leverage or 1.0, trade.is_short, terms.rules):
            if difference not in self._warned:
                self._warned.add(difference)
                logger.warning("%s: the policy was trained for another value: %s.", trade.pair, difference)


def funding_received(trade: LocalTrade) -> float:
    """Funding of one unit of the asset, as the exchange reckons it; negative if it was paid."""
    # The amount is 0 while the entry order waits.
    return (trade.funding_fees or 0.0) / trade.amount if trade.amount else 0.0


def true_trade(trade: LocalTrade, terms: TradeTerms) -> TrueTrade:
    """A trade of freqtrade's, to be followed from its entry on."""
    return TrueTrade(
        terms.rules,
        is_short=trade.is_short,
        open_ms=int(trade.open_date_utc.timestamp() * 1000),
        open_rate=trade.open_rate,
        leverage=trade.leverage or 1.0,
    )


def decide_on_trade(
    trade: TrueTrade,
    now_ms: int,
    now_rate: float,
    terms: TradeTerms,
    history: PriceHistory,
    window: DecidingWindow,
    *,
    funding: float | None = None,
    prepared: Prepared | None = None,
) -> ExitDecision | None:
    """A policy's decision about a trade at the open of a candle after that of its entry.

    :param now_ms: the candle that opens, milliseconds since 1970
    :param now_rate: its open
    :param funding: on one unit of the asset until now, where the trade knows better than the history
    :param prepared: answers worked out beforehand, to be used and added to; None works out this one alone
    :return: None where the window of features before the candle is not whole
    """
    found = window.decidable_row(now_ms - history.timeframe_ms)
    if found is None:
        return None
    row, permitted = found
    account, profit = trade.at(history, now_ms, now_rate, funding)
    state = trade_state(SCALAR, terms.rules, terms.view, account, profit, *permitted)
    known = None
    if prepared is not None:
        if now_ms not in prepared:
            prepared.clear()
            prepared.update(_prepare(trade, account, now_ms, terms, history, window))
        known = prepared.pop(now_ms, None)
    if known is not None and known[0] == state:
        action, probability = known[1]
    else:
        [(action, probability)] = window.query.decide([row], [state])
    return ExitDecision(
        leave=action != Action.NEUTRAL,
        probability=probability,
        profit=profit,
        best_profit=account.best_profit,
        held_candles=int(account.held_candles),
    )


def _prepare(
    trade: TrueTrade, now: Account, now_ms: int, terms: TradeTerms, history: PriceHistory, window: DecidingWindow
) -> Prepared:
    """The answers to the questions of this candle and the next ones, if the trade lives so long.

    A backtest knows the opens to come. Each answer is worked out from the state at its own open, and is given only
    if that is the state then; one pass through the network's weights serves them all.
    """
    accounts, profits = trade.ahead(history, now, now_ms, PREPARED_CANDLES)
    first = bisect_left(history.dates_ms, now_ms)
    dates_ms = history.dates_ms[first : first + len(profits)]
    found = [window.decidable_row(date_ms - history.timeframe_ms) for date_ms in dates_ms]
    # Up to where a window of features is not whole, or the policy's own window ends.
    whole = [row for row in takewhile(lambda row: row is not None, found) if row is not None]
    n, rows = len(whole), [row for row, _ in whole]
    permitted = np.array([permitted for _, permitted in whole]).reshape(n, 2)
    accounts = Account(*(value[:n] if isinstance(value, np.ndarray) else value for value in accounts))
    columns = trade_state(NUMPY, terms.rules, terms.view, accounts, profits[:n], permitted[:, 0], permitted[:, 1])
    states = np.stack(np.broadcast_arrays(*columns), axis=1).tolist()
    answers = zip(map(tuple, states), window.query.decide(rows, states), strict=True)
    return dict(zip(dates_ms, answers, strict=False))
