"""A report of a run, as plain values: what a terminal, a page or a study shows of it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.exchange import timeframe_to_minutes, timeframe_to_msecs

from mtfscalper import artefacts
from mtfscalper.freqai.policy_exits import POLICY_REASON
from mtfscalper.reporting.action_shares import Shares, action_shares
from mtfscalper.reporting.audit.audit import Audit, audit_run
from mtfscalper.reporting.breakdowns import Excursion, Group, breakdowns, excursions, with_excursions
from mtfscalper.reporting.charts import ChosenCandles, chosen_candles
from mtfscalper.reporting.importance import Importance, importance
from mtfscalper.reporting.loaded_run import load_run
from mtfscalper.reporting.offline_exchange import fee_of_run
from mtfscalper.reporting.origin import Origin, moment, origin_of
from mtfscalper.reporting.periods import PeriodResult, period_results
from mtfscalper.reporting.policies import ExitGrid, RunPolicies, exit_grid, policies_of
from mtfscalper.reporting.rivals import Compared, Rival, compare
from mtfscalper.reporting.run_result import DAY_MS, Asked, ReportError, RunResult
from mtfscalper.reporting.run_rules import rules_of_run
from mtfscalper.reporting.sharpe import DeflatedSharpe, deflated_sharpe
from mtfscalper.reporting.trades import trades_of_freqtrade
from mtfscalper.reporting.trials import sharpes_of_trials
from mtfscalper.reporting.verdict import Verdict, judge
from mtfscalper.reporting.without_freqai import NotRun, WithoutFreqai, run_without_freqai


class Decisions(NamedTuple):
    """What the policy answered about open trades.

    :ivar questions: how often it was asked
    :ivar leaves: how often it wanted to leave
    :ivar ended: trades that it ended
    :ivar grid: how probable it found leaving
    """

    questions: int
    leaves: int
    ended: int
    grid: ExitGrid


class Report(NamedTuple):
    """All that is known of a run.

    :ivar result: the export
    :ivar policy: whether a policy of this project decided
    :ivar days: the days of the run, ISO dates, as the rivals' equities have them
    :ivar paired_days: the days that the verdict is from, ISO dates
    :ivar paired_differences: of each of them: the run's profit less that of its entries with classic exits, in shares
        of the stakes
    :ivar deflated_sharpe: None where only one trial was made
    :ivar periods: empty for a run without this project's model
    :ivar groups: the run's trades, by what they are grouped
    :ivar actions: how often the policy chose each action; empty without a policy
    :ivar importance: what the policy looks at; None where it cannot be asked again
    :ivar trades: one mapping a trade, with how it would have ended by classic exits
    :ivar candles: of each pair the stretch that is drawn
    :ivar audit: which trades are what training assumed
    :ivar missing: what cannot be said, and what was not re-lived, one sentence each
    """

    result: str
    strategy: str
    policy: bool
    verdict: Verdict
    run: Rival
    rivals: tuple[Rival, ...]
    days: tuple[str, ...]
    paired_days: tuple[str, ...]
    paired_differences: tuple[float, ...]
    deflated_sharpe: DeflatedSharpe | None
    periods: tuple[PeriodResult, ...]
    groups: dict[str, list[Group]]
    excursions: list[Excursion]
    decisions: Decisions | None
    actions: Shares
    importance: Importance | None
    trades: tuple[dict[str, Any], ...]
    candles: tuple[ChosenCandles, ...]
    audit: Audit
    origin: Origin
    missing: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; numbers that are not finite become None."""
        return artefacts.plain_json({**_plain(self), "audit": self.audit.as_json()})  # type: ignore[no-any-return]


def report_of(asked: Asked, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Read a backtest, let its entries live again and put it beside its rivals. Trains nothing, writes nothing.

    :param progress: is told what is worked out next
    :raises ReportError: if it cannot be had
    """
    if find_spec("arch") is None:
        raise ReportError(
            "the package arch is not installed, which draws the intervals of a report; accepted: 8.0 or newer; remedy: "
            "pip install 'mtfscalper[report]'"
        )
    progress("reading the result")
    result = RunResult.read(asked)
    policies = policies_of(result)
    run = load_run(result, policies)
    tapes, fee = run.tapes, fee_of_run(result)
    rules = rules_of_run(result, fee, policies.plans, run.strategy)
    trades = trades_of_freqtrade(result.trades, timeframe_to_msecs(result.timeframe))
    without: WithoutFreqai | NotRun
    if isinstance(run.loaded_strategy, NotRun):
        without = run.loaded_strategy
    else:
        progress(f"backtesting {result.strategy} without FreqAI")
        without = run_without_freqai(result, run.exchange)
    compared = compare(result, trades, tapes, rules.by_pair, without, progress)
    progress("asking the policies again")
    missing: list[str] = []
    looks = importance(result, policies, missing)
    actions = action_shares(policies, missing)
    audit = audit_run(run, progress=progress)
    progress("putting the report together")
    return _report(
        result,
        policies,
        compared,
        with_excursions(trades, tapes),
        origin=origin_of(result, tapes, policies, fee),
        missing=(*policies.missing, *rules.unknown, *missing),
        candles=chosen_candles(trades, tapes, policies.questions),
        actions=actions,
        importance=looks,
        audit=audit,
    )


def _report(
    result: RunResult,
    policies: RunPolicies,
    compared: Compared,
    trades: pd.DataFrame,
    **known: Any,
) -> Report:
    classic, run = compared.classic, compared.run
    assert run.statistics is not None
    held = classic["profit_ratio"].mean() if len(classic) else None
    verdict = judge(
        compared.verdict,
        len(trades),
        len(compared.paired),
        run.statistics.per_trade,
        None if held is None else float(held),
        policy=bool(policies.plans),
    )
    returns = np.diff(np.append(result.starting_balance, run.equity)) / result.starting_balance
    questions, decisions = policies.questions, None
    if questions is not None and len(questions):
        ended = int((trades["exit_reason"] == POLICY_REASON).sum())
        decisions = Decisions(len(questions), int(questions["leave"].sum()), ended, exit_grid(questions))
    return Report(
        result=str(result.path),
        strategy=result.strategy,
        policy=bool(policies.plans),
        verdict=verdict,
        run=run,
        rivals=compared.rivals,
        days=tuple(_date(result.first_ms // DAY_MS + day) for day in range(result.n_days)),
        paired_days=tuple(_date(day) for day in compared.paired.index),
        paired_differences=tuple(map(float, compared.paired)),
        deflated_sharpe=deflated_sharpe(returns, sharpes_of_trials(result)),
        periods=period_results(policies.periods, trades, classic, timeframe_to_msecs(result.timeframe), result.last_ms),
        groups=breakdowns(trades, classic, timeframe_to_minutes(result.timeframe)),
        excursions=excursions(trades),
        decisions=decisions,
        trades=_trades(trades, classic),
        **known,
    )


def _trades(trades: pd.DataFrame, classic: pd.DataFrame) -> tuple[dict[str, Any], ...]:
    of_classic = ("close_ms", "close_rate", "profit_ratio", "profit", "exit_reason")
    shown = trades.assign(**{f"classic_{name}": classic[name].to_numpy() for name in of_classic})
    return tuple({str(name): value for name, value in trade.items()} for trade in shown.to_dict("records"))


def _date(day: int) -> str:
    return moment(day * DAY_MS)[:10]


def _plain(value: Any) -> Any:
    """Named tuples as mappings."""
    if hasattr(value, "_asdict"):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return str(value) if isinstance(value, Path) else value
