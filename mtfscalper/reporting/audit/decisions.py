"""What was decided about each trade of a run: from its record of decisions, or by asking its sealed policies again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from freqtrade.persistence import LocalTrade

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive, why_not_that_version
from mtfscalper.freqai.columns import ACTION_COLUMN
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.freqai.policy_exits import POLICY_REASON
from mtfscalper.freqai.policy_store import PolicyStore
from mtfscalper.freqai.run_plan import DecisionsError, RunPlan
from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.audit.causes import Decided, Seen
from mtfscalper.reporting.policies import RunPolicies
from mtfscalper.reporting.strategy_columns import one_line
from mtfscalper.seals import Seals
from mtfscalper.trading.actions import Action
from mtfscalper.trading.reliving import NEVER

_UNDECIDED = Decided(NEVER, known=False)


class Answer(NamedTuple):
    """An answer about a trade at a candle.

    :ivar policy: which answered; empty where that is not known
    """

    leave: bool
    policy: str


class Decisions(NamedTuple):
    """What was decided about the trades of a run, in their order.

    :ivar notes: what is to be known of it, one sentence each
    """

    of_trades: list[Decided]
    notes: tuple[str, ...]


def no_decisions(trades: list[Seen], *notes: str) -> Decisions:
    """Of a run that no policy decided in, or whose decisions are not read."""
    return Decisions([_UNDECIDED] * len(trades), notes)


def decisions_of_columns(trades: list[Seen], columns: Mapping[str, pd.DataFrame], timeframe_ms: int) -> Decisions:
    """What the columns of a backtest decided, with ``decision_mode`` "replay": the exits stand in them.

    :param columns: of each pair, one row a candle, with ``date`` and the action
    """
    leaving: dict[tuple[str, str], list[int]] = {}
    for pair, frame in columns.items():
        candles = pd.DatetimeIndex(frame["date"]).as_unit("ms").astype("int64").to_numpy() + timeframe_ms
        actions = frame[ACTION_COLUMN].to_numpy()
        for side, action in (("long", Action.LONG_EXIT), ("short", Action.SHORT_EXIT)):
            leaving[(pair, side)] = candles[actions == action].tolist()
    found = []
    for trade in trades:
        if trade.pair not in columns:
            found.append(_UNDECIDED)
            continue
        after = leaving[(trade.pair, trade.side)]
        at = bisect_right(after, trade.filled_ms)
        found.append(Decided((after[at] - trade.filled_ms) // timeframe_ms if at < len(after) else NEVER, known=True))
    return Decisions(found, ())


def decided_of(
    trade: Seen,
    answers: Mapping[int, Answer],
    asked_at: Callable[[int], bool],
    stale: Callable[[int, str], str],
    timeframe_ms: int,
    last_ms: int,
) -> Decided:
    """What is known of the decisions about one trade.

    :param answers: by candle, milliseconds since 1970
    :param asked_at: whether somebody must have been asked at a candle
    :param stale: why a policy should not have decided at a candle; empty where it should
    :param last_ms: the last candle of the run
    """
    leave_after, missed, stale_ms, why = NEVER, None, None, ""
    stop_ms = last_ms if trade.exit_ms is None else trade.exit_ms
    for candle in range(trade.filled_ms + timeframe_ms, stop_ms + 1, timeframe_ms):
        answer = answers.get(candle)
        if answer is None:
            # In the candle of its end a stop, or the strategy's own signal, may come before the question.
            is_last = candle == stop_ms and trade.reason != POLICY_REASON
            if missed is None and not is_last and asked_at(candle):
                missed = candle
            continue
        if stale_ms is None and (why := stale(candle, answer.policy)):
            stale_ms = candle
        if answer.leave:
            leave_after = (candle - trade.filled_ms) // timeframe_ms
            break
    return Decided(leave_after, True, missed, stale_ms, why)


# ---------------------------------------------------------------------- of a backtest


def decisions_of_backtest(
    trades: list[Seen],
    policies: RunPolicies,
    archive: Archive,
    seals: Seals,
    tapes: Mapping[str, MarketTape],
    leaves: Callable[[ExitDecision], bool],
) -> Decisions:
    """What the policies of a backtest decided about its trades.

    :param seals: of the user directory
    :param tapes: the candles of the run, by pair
    :param leaves: whether the strategy takes a decision for leaving
    """
    notes = list[str]()
    pairs = {pair: _Pair(plan, archive, seals) for pair, plan in policies.plans.items()}
    lost = sorted({folder for pair in pairs.values() for folder in pair.lost})
    if policies.questions is not None:
        recorded = _by_trade(policies.questions)
        if lost:
            notes.append(
                f"{len(lost)} policies of this run are no longer kept ({lost[0]}): the record of decisions decides "
                "alone, and candles at which nobody was asked are not told"
            )
    else:
        recorded = {}
        notes.append("there is no record of this run's decisions: its sealed policies were asked again")
    asked = _Asked(archive, seals, policies.plans, leaves)
    found = []
    for trade in trades:
        pair = pairs.get(trade.pair)
        if pair is None:
            found.append(_UNDECIDED)
            continue
        tape = tapes[trade.pair]
        if policies.questions is not None:
            answers = recorded.get((trade.pair, trade.opened_ms, trade.side), {})
        else:
            try:
                answers = asked.answers(trade, tape)
            except DecisionsError as error:
                notes.append(str(error))
                found.append(_UNDECIDED)
                continue
            except Exception as error:
                # A network, and the strategy's policy_leaves, are the user's code: they may raise anything.
                notes.append(f"{trade.pair}: its policy cannot be asked again ({one_line(error)})")
                found.append(_UNDECIDED)
                continue
        found.append(
            decided_of(
                trade, answers, pair.decides, pair.why_stale, tape.timeframe_ms, min(pair.stop_ms, tape.dates_ms[-1])
            )
        )
    return Decisions(found, tuple(dict.fromkeys(notes)))


class _Pair:
    """The periods of a pair: which rows their policies could decide on.

    :ivar lost: folders of policies that are no longer kept
    """

    def __init__(self, plan: RunPlan, archive: Archive, seals: Seals) -> None:
        self._plan, self._timeframe_ms = plan, plan.terms.rules.timeframe_minutes * 60_000
        self._starts = [period.first_ms for period in plan.periods]
        self._decidable: list[set[int] | None] = []
        self.lost: list[str] = []
        for period in plan.periods:
            folder = archive.root / period.folder
            if why_not_that_version(folder, ("decisions",), seals) is not None:
                self.lost.append(folder.parent.name)
                self._decidable.append(None)
                continue
            with np.load(artefacts.sealed_path(folder, "decisions")) as arrays:
                self._decidable.append(set(arrays["dates_ms"][arrays["decidable"]].tolist()))

    @property
    def stop_ms(self) -> int:
        """The first candle that nobody decides at."""
        return max(period.stop_ms for period in self._plan.periods) + self._timeframe_ms

    def _at(self, candle: int) -> int | None:
        row = candle - self._timeframe_ms
        at = bisect_right(self._starts, row) - 1
        return at if at >= 0 and row < self._plan.periods[at].stop_ms else None

    def decides(self, candle: int) -> bool:
        """Whether the policy of a candle's period must have been asked at it."""
        at = self._at(candle)
        decidable = None if at is None else self._decidable[at]
        return decidable is not None and candle - self._timeframe_ms in decidable

    def why_stale(self, candle: int, policy: str) -> str:
        """Why a policy is not that of a candle's period."""
        at = self._at(candle)
        wanted = "" if at is None else self._plan.periods[at].folder
        if not policy or policy == wanted:
            return ""
        return f"{_name(policy)} decided, of the period {_name(wanted)}" if wanted else f"{_name(policy)} decided"


def _name(folder: str) -> str:
    """Of a policy, as FreqAI names its period."""
    return Path(folder).parent.name or folder


def _by_trade(questions: pd.DataFrame) -> dict[tuple[str, int, str], dict[int, Answer]]:
    found: dict[tuple[str, int, str], dict[int, Answer]] = {}
    opened, candles = (
        pd.DatetimeIndex(questions[name]).as_unit("ms").astype("int64").tolist() for name in ("opened", "candle")
    )
    policies = questions["policy"].fillna("").tolist() if "policy" in questions else [""] * len(questions)
    rows = zip(questions["pair"], opened, questions["side"], candles, questions["leave"], policies, strict=True)
    for pair, opened_ms, side, candle, leave, policy in rows:
        found.setdefault((pair, opened_ms, side), {}).setdefault(candle, Answer(bool(leave), policy))
    return found


class _Asked:
    """Sealed policies, asked again about trades that have ended."""

    def __init__(
        self, archive: Archive, seals: Seals, plans: Mapping[str, RunPlan], leaves: Callable[[ExitDecision], bool]
    ) -> None:
        self._store, self._plans, self._leaves = PolicyStore(archive, seals), plans, leaves
        for pair, plan in plans.items():
            self._store.follow(pair, plan.name)

    def answers(self, trade: Seen, tape: MarketTape) -> dict[int, Answer]:
        """By candle, up to that of the trade's exit.

        :raises DecisionsError: if a policy is no longer kept
        """
        followed = OpenTrade(_as_freqtrades(trade), self._plans[trade.pair].terms.rules)
        stop_ms = int(tape.dates_ms[-1]) if trade.exit_ms is None else trade.exit_ms
        found = {}
        for candle in range(trade.filled_ms + tape.timeframe_ms, stop_ms + 1, tape.timeframe_ms):
            policy = self._store.exit_policy(trade.pair, candle - tape.timeframe_ms)
            at = int(np.searchsorted(tape.dates_ms, candle))
            is_known = at < len(tape) and tape.dates_ms[at] == candle
            decision = policy.decide(followed, candle, float(tape.open[at])) if policy and is_known else None
            if policy is None or decision is None:
                continue
            found[candle] = Answer(self._leaves(decision), policy.name)
            if found[candle].leave:
                break
        return found


def _as_freqtrades(trade: Seen) -> LocalTrade:
    return LocalTrade(  # type: ignore[no-untyped-call]
        pair=trade.pair,
        open_date=datetime.fromtimestamp(trade.opened_ms / 1000, UTC),
        open_rate=trade.open_rate,
        is_short=trade.side == "short",
        leverage=trade.leverage,
        fee_open=0.0,
        fee_close=0.0,
    )
