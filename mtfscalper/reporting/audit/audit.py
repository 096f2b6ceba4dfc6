"""The audit of a run: every trade beside what training assumed of it, and the reasons of those that differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.exchange import timeframe_to_msecs

from mtfscalper import artefacts
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.exit_policy import ExitDecision, leaves
from mtfscalper.freqai.policy_exits import PolicyExits
from mtfscalper.freqai.trade_differences import END_OF_BACKTEST
from mtfscalper.reporting.audit.bot import (
    decisions_of_bot,
    is_database,
    read_bot,
    slippage_note,
    trained_rules,
)
from mtfscalper.reporting.audit.causes import (
    EXIT_SIGNAL,
    Cause,
    Decided,
    Departure,
    Expected,
    Limits,
    Seen,
    departure,
    ends_alike,
)
from mtfscalper.reporting.audit.decisions import Decisions, decisions_of_backtest, decisions_of_columns, no_decisions
from mtfscalper.reporting.audit.entries import (
    Missing,
    Signals,
    expired_entries,
    market_of_backtest,
    market_of_bot,
    missing_entries,
    own_entries,
    signals_of_bot,
    signals_of_columns,
)
from mtfscalper.reporting.audit.lives import Lives
from mtfscalper.reporting.audit.missed import missed_signals
from mtfscalper.reporting.audit.own_signals import OwnSignals, own_signals
from mtfscalper.reporting.audit.seen import seen_trades
from mtfscalper.reporting.loaded_run import LoadedRun, load_run
from mtfscalper.reporting.offline_exchange import fee_of_run
from mtfscalper.reporting.origin import moment
from mtfscalper.reporting.policies import RunPolicies, policies_of
from mtfscalper.reporting.reliving import ExitSignals, relive
from mtfscalper.reporting.run_result import Asked, RunResult
from mtfscalper.reporting.run_rules import rules_of_run
from mtfscalper.reporting.trades import trades_of_freqtrade
from mtfscalper.reporting.without_freqai import NotRun
from mtfscalper.trading.trading_rules import TradingRules

# Of a bot: a rate this far from the candle's, in basis points, is slippage. What a taker pays as a fee.
BOT_SLIPPAGE_BPS = 5.0
# Of the rules: how much is staked, which no trade's ratio depends on.
_OF_STAKES = {"stake_ratio", "fixed_stake_ratio", "available_ratio", "max_drawdown_ratio", "can_short"}


class Reason(NamedTuple):
    """Why trades differ.

    :ivar name: a member of :class:`mtfscalper.reporting.audit.causes.Cause`
    :ivar count: trades
    :ivar first: the first of them: pair, time, what was expected, what was seen
    """

    name: str
    count: int  # type: ignore[assignment]
    first: str


class MissingEntry(NamedTuple):
    """An entry that training assumed and that was not made.

    :ivar candle: at whose open, UTC
    :ivar reason: as :attr:`Reason.name`
    """

    pair: str
    side: str
    candle: str
    reason: str


class Audit(NamedTuple):
    """What an audit found.

    :ivar compared: trades that were made, and entries that training assumed and that were not made
    :ivar equal: trades that are what training assumed
    :ivar reasons: of the others, the most frequent first; their counts add up to them
    :ivar notes: what else is to be known, one sentence each
    :ivar missing: each entry that was not made, which the reasons count too
    """

    compared: int
    equal: int
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    missing: tuple[MissingEntry, ...] = ()

    @property
    def sentence(self) -> str:
        """The result in one line."""
        if not self.compared:
            return "There are no trades to compare with what training assumed."
        return f"{self.equal} of {self.compared} trades are what training assumed."

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        lists = {name: [one._asdict() for one in getattr(self, name)] for name in ("reasons", "missing")}
        values = {**self._asdict(), "sentence": self.sentence, **lists}
        return artefacts.plain_json(values)  # type: ignore[no-any-return]


def audit_of(
    asked: Asked, slippage_bps: float | None = None, progress: Callable[[str], None] = lambda _: None
) -> Audit:
    """Re-live every trade of a backtest's export or of a bot's database. Trains nothing, writes nothing.

    :param slippage_bps: how far rates may lie from those expected, in basis points; None for :data:`BOT_SLIPPAGE_BPS`
        of a bot, and nothing of a backtest
    :param progress: is told what is worked out next
    :raises ReportError: if it cannot be had
    """
    progress("reading the trades")
    if asked.result is not None and is_database(asked.result):
        result, record = read_bot(asked)
        bps = BOT_SLIPPAGE_BPS if slippage_bps is None else slippage_bps
        run = load_run(result, RunPolicies({}, (), None, {}, ()), checked=False)
        return _Auditor(run, record, Limits(rates=bps / 1e4, is_bot=True), progress).audit()
    result = RunResult.read(asked)
    return audit_run(load_run(result, policies_of(result)), slippage_bps, progress)


def audit_run(
    run: LoadedRun, slippage_bps: float | None = None, progress: Callable[[str], None] = lambda _: None
) -> Audit:
    """Re-live every trade of a backtest that has been read. See :func:`audit_of`."""
    limits = Limits() if not slippage_bps else Limits(rates=slippage_bps / 1e4)
    return _Auditor(run, None, limits, progress).audit()


class _Auditor:
    """One audit."""

    def __init__(
        self, run: LoadedRun, record: BotRecord | None, limits: Limits, progress: Callable[[str], None]
    ) -> None:
        result = run.result
        self._result, self._record, self._progress = result, record, progress
        self._timeframe_ms = timeframe_to_msecs(result.timeframe)
        self._notes = list[str]()
        self._exchange, self._tapes, self._strategy, self._policies = (
            run.exchange,
            run.tapes,
            run.strategy,
            run.policies,
        )
        if not self._policies.plans and record is None:
            self._notes += self._policies.missing
        self._is_replay = not self._asks_about_trades()
        self._limits = limits._replace(policy_reason=EXIT_SIGNAL) if self._is_replay else limits
        self._seals = result.seals

    def audit(self) -> Audit:
        """Compare, and count."""
        made, seen = seen_trades(self._result.trades, self._tapes, self._timeframe_ms)
        if left_out := len(self._result.trades) - len(seen):
            self._notes.append(f"{left_out} trades are not compared: the data lack candles of their time")
        entries = trades_of_freqtrade(made, self._timeframe_ms)
        entries = entries.assign(open_ms=[trade.filled_ms for trade in seen])
        rules, settings = self._rules()
        columns = self._columns()
        decisions = self._decisions(seen, columns)
        self._notes += decisions.notes
        self._progress("re-living the trades")
        own = self._own_signals(seen)
        expected = self._expected(entries, decisions.of_trades, rules, own.exits)
        found = {at: one for at, one in enumerate(self._departures(seen, expected, decisions.of_trades, rules)) if one}
        found = self._other_settings(found, seen, entries, decisions.of_trades, rules, settings, own.exits)
        signals = self._entry_signals(columns, own)
        for at, entered in (own_entries(seen, signals) | self._expired(seen)).items():
            if at not in found or entered.at_ms <= found[at].at_ms:
                found[at] = entered
        absent = self._absent(seen, signals, rules)
        self._tell_of_bot(seen, expected, made)
        told = [(f"{seen[at].words}, {moment(one.at_ms)}", one) for at, one in found.items()]
        told += [(f"{pair} {side} of {moment(one.at_ms)}", one) for pair, side, one in absent]
        compared = len(seen) + len(absent)
        missing = tuple(MissingEntry(pair, side, moment(one.at_ms), one.cause.value) for pair, side, one in absent)
        return Audit(compared, compared - len(told), _reasons(told), tuple(dict.fromkeys(self._notes)), missing)

    # ------------------------------------------------------------------ what was to be expected

    def _asks_about_trades(self) -> bool:
        """Whether open trades are decided about one by one, and not in the columns."""
        rl = self._result.freqai.get("rl_config", {}) if self._result.freqai else {}
        return str(rl.get("decision_mode", "exact")) == "exact"

    def _rules(self) -> tuple[dict[str, TradingRules], dict[str, TradingRules]]:
        """The rules of training, and those that were in force."""
        plans = self._policies.plans
        in_force = rules_of_run(self._result, fee_of_run(self._result), plans, self._strategy)
        trained = (
            {pair: plan.terms.rules for pair, plan in plans.items()}
            if self._record is None
            else trained_rules(self._result)
        )
        self._notes += in_force.unknown if not trained else ()
        if self._record is not None and (without := sorted(set(self._result.pairs) - set(trained))):
            self._notes.append(
                f"no policy of {', '.join(without)} is kept that says what rules it was trained for: those of the "
                "strategy and its config stand for them"
            )
        return {**in_force.by_pair, **trained}, in_force.by_pair

    def _columns(self) -> dict[str, pd.DataFrame]:
        """What the sealed policies predicted, by pair."""
        for pair, sealed in self._policies.columns.items():
            self._notes += [
                f"{pair}: what was predicted in {missing}: entries that were not made there are not told"
                for missing in sealed.missing
            ]
        return {pair: sealed.frame for pair, sealed in self._policies.columns.items()}

    def _decisions(self, seen: list[Seen], columns: Mapping[str, pd.DataFrame]) -> Decisions:
        if self._is_replay and self._record is not None:
            return no_decisions(
                seen,
                "decisions of a bot in decision_mode replay are not read: its exits by policy are taken as made",
            )
        if self._is_replay:
            return decisions_of_columns(seen, columns, self._timeframe_ms)
        if self._record is not None:
            return decisions_of_bot(seen, self._result, self._record)
        archive = self._result.archive
        if not self._policies.plans or archive is None:
            return no_decisions(seen)
        return decisions_of_backtest(seen, self._policies, archive, self._seals, self._tapes, self._leaves)

    def _leaves(self, decision: ExitDecision) -> bool:
        return leaves(decision, self._strategy.policy_leaves if isinstance(self._strategy, PolicyExits) else None)

    def _own_signals(self, seen: list[Seen]) -> OwnSignals:
        """The strategy's own signals, where a trade was left by one, or no policy enters."""
        nothing = OwnSignals({}, {})
        signalled = any(trade.reason == EXIT_SIGNAL for trade in seen)
        if self._record is not None or not self._tapes or (self._result.freqai and not signalled):
            return nothing
        if self._is_replay and self._policies.plans:
            # The policy's exits are in the columns, as the strategy's own are.
            return nothing
        if self._result.freqai and not self._policies.plans:
            return nothing
        self._progress(f"letting {self._result.strategy} make its columns")
        own = own_signals(self._result, self._exchange)
        if isinstance(own, NotRun):
            self._notes.append(f"the strategy's own signals are not known: {own.reason}")
            return nothing
        return own

    def _expected(
        self,
        entries: pd.DataFrame,
        decided: Sequence[Decided],
        rules: Mapping[str, TradingRules],
        signals: Mapping[str, ExitSignals],
    ) -> list[Expected]:
        if entries.empty:
            return []
        leave_after = np.array([one.leave_after for one in decided])
        with_signals = {pair: signals[pair] for pair in signals if pair in self._tapes}
        lived = relive(entries, self._tapes, rules, leave_after=leave_after, signals=with_signals or None)
        return [
            Expected(
                row["close_ms"],
                row["close_rate"],
                row["exit_reason"],
                row["profit_ratio"],
                # At the last candle its open closes what the policy leaves and what it holds.
                row["exit_reason"] in (EXIT_SIGNAL, END_OF_BACKTEST) and row["held_candles"] == leave,
            )
            for row, leave in zip(lived.to_dict("records"), leave_after.tolist(), strict=True)
        ]

    # ------------------------------------------------------------------ what differs

    def _departures(
        self,
        seen: Sequence[Seen],
        expected: Sequence[Expected],
        decided: Sequence[Decided],
        rules: Mapping[str, TradingRules],
    ) -> list[Departure | None]:
        found = []
        for trade, lived, known in zip(seen, expected, decided, strict=True):
            trained = rules[trade.pair]
            leverage = trained.leverage_short if trade.side == "short" else trained.leverage_long
            if not known.known:
                lived = _as_seen(trade, lived, self._limits)
            has_policy = self._record is not None or trade.pair in self._policies.plans
            found.append(departure(trade, lived, known, self._limits, leverage if has_policy else None))
        return found

    def _other_settings(
        self,
        found: dict[int, Departure],
        seen: Sequence[Seen],
        entries: pd.DataFrame,
        decided: Sequence[Decided],
        trained: Mapping[str, TradingRules],
        in_force: Mapping[str, TradingRules],
        signals: Mapping[str, ExitSignals],
    ) -> dict[int, Departure]:
        """Trades that are as the settings in force make them, where those are not the ones of the training."""
        differing = {
            pair: words
            for pair, rules in in_force.items()
            if pair in trained and (words := _other_rules(trained[pair], rules))
        }
        at = [one for one in found if seen[one].pair in differing]
        if not at:
            return found
        lived = self._expected(entries.iloc[at].reset_index(drop=True), [decided[one] for one in at], in_force, signals)
        changed = dict(found)
        for one, expected in zip(at, lived, strict=True):
            if ends_alike(seen[one], expected, self._limits):
                was = found[one]
                words = f"{was.seen}, with {differing[seen[one].pair]}"
                changed[one] = Departure(Cause.OTHER_SETTINGS, was.at_ms, was.expected, words)
        return changed

    def _entry_signals(self, columns: Mapping[str, pd.DataFrame], own: OwnSignals) -> dict[str, Signals]:
        if self._record is not None:
            decided = {pair: signals_of_bot(self._record, pair, self._timeframe_ms) for pair in self._result.pairs}
            missed = missed_signals(self._result, self._record, self._exchange, self._progress)
            self._notes += missed.notes
            return {pair: one.with_missed(missed.signals.get(pair)) for pair, one in decided.items()}
        if self._policies.plans:
            return {pair: signals_of_columns(frame, self._timeframe_ms) for pair, frame in columns.items()}
        return own.entries

    def _expired(self, seen: list[Seen]) -> dict[int, Departure]:
        if self._record is None:
            return {}
        return expired_entries(seen, self._record, self._timeframe_ms)

    def _absent(
        self, seen: list[Seen], signals: Mapping[str, Signals], rules: Mapping[str, TradingRules]
    ) -> tuple[Missing, ...]:
        if self._record is not None:
            market = market_of_bot(self._result, self._record, self._timeframe_ms)
        else:
            market = market_of_backtest(self._result, self._timeframe_ms)
        absent = missing_entries(seen, signals, market, Lives(self._tapes, rules).end_ms)
        self._notes += absent.notes
        return absent.entries

    def _tell_of_bot(self, seen: Sequence[Seen], expected: Sequence[Expected], made: pd.DataFrame) -> None:
        if self._record is None:
            return
        rates = []
        for trade, lived in zip(seen, expected, strict=True):
            side = -1 if trade.side == "short" else 1
            rates.append((trade.open_rate, trade.market_rate, side))
            if trade.exit_ms is not None and trade.exit_ms == lived.exit_ms:
                rates.append((trade.close_rate, lived.close_rate, -side))
        if len(made):
            self._notes.append(slippage_note(rates))


def _as_seen(trade: Seen, lived: Expected, limits: Limits) -> Expected:
    """What is expected of a trade of which no decision is known: an exit by its policy is taken as it is."""
    if trade.reason != limits.policy_reason or trade.exit_ms is None or trade.exit_ms > lived.exit_ms:
        return lived
    ratio = trade.profit_ratio if trade.profit_ratio is not None else lived.profit_ratio
    return Expected(trade.exit_ms, trade.close_rate, trade.reason, ratio, leaves=True)


def _other_rules(trained: TradingRules, in_force: TradingRules) -> str:
    """Where the settings in force are not those of the training, in words; empty where they are."""
    found = []
    for field in fields(TradingRules):
        was, now = getattr(trained, field.name), getattr(in_force, field.name)
        if field.name not in _OF_STAKES and not field.name.startswith(("leverage", "liquidation")) and was != now:
            found.append(f"{field.name} {now}, and {was} in training")
    return "; ".join(found)


def _reasons(told: list[tuple[str, Departure]]) -> tuple[Reason, ...]:
    by_cause: dict[str, list[tuple[str, Departure]]] = {}
    for words, one in sorted(told, key=lambda item: item[1].at_ms):
        by_cause.setdefault(one.cause.value, []).append((words, one))
    reasons = [
        Reason(name, len(found), f"{found[0][0]}: expected {found[0][1].expected}; seen {found[0][1].seen}")
        for name, found in by_cause.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.count))
