"""What was learned: how the policy decides, and whether it trades."""

from __future__ import annotations

import math

from mtfscalper.monitoring.facts import RunFacts
from mtfscalper.monitoring.verdicts import Check, Verdict, counted, distinct, judge

ROWS_MIN = 500


def check_batched_decisions(facts: RunFacts) -> Check:
    """One batch and row by row take the same actions."""
    rows = sum(period.decided.rows for period in facts.periods)
    equal = sum(period.decided.equal for period in facts.periods)
    ties = sum(period.decided.ties for period in facts.periods)
    kinds = max(period.decided.kinds for period in facts.periods)
    check = judge(
        "policy",
        "batched = row by row",
        f"{equal:,} of {rows:,} rows equal, {kinds} kinds of action" + (f", {ties} ties" if ties else ""),
        f"all of at least {ROWS_MIN}",
        equal + ties == rows >= ROWS_MIN,
        "train_period_days leaves too few candles" if rows < ROWS_MIN else "a bug: report it with the model file",
    )
    if check.verdict is Verdict.OK and ties:
        return check._replace(verdict=Verdict.NOTE, remedy="nothing to do: two actions with the same probability")
    if check.verdict is Verdict.OK and kinds < 2:
        return check._replace(verdict=Verdict.NOTE, remedy="one action everywhere shows little: train for longer")
    return check


def check_learned(facts: RunFacts) -> Check:
    """Every parameter tensor moved away from the untrained network."""
    tensors = sum(period.saved.tensors for period in facts.periods)
    moved = sum(period.saved.tensors_moved for period in facts.periods)
    finite = all(period.saved.finite for period in facts.periods)
    change = distinct(f"{period.saved.relative_change:.1%}" for period in facts.periods)
    rows = sum(period.decided.rows for period in facts.periods)
    unlike = sum(period.decided.unlike_untrained for period in facts.periods)
    return judge(
        "policy",
        "differs from untrained",
        f"{moved} of {tensors} tensors moved, by {change}; {unlike / max(rows, 1):.0%} of actions differ"
        + ("" if finite else "; some are not finite"),
        "all moved, all finite",
        moved == tensors > 0 and finite,
        "the updates did not reach the saved model, or diverged: look for warnings in the log, lower learning_rate",
    )


def check_evaluation(facts: RunFacts) -> Check:
    """Evaluations on held-out candles took place and gave numbers."""
    evaluations = [evaluation for period in facts.periods for evaluation in period.report.evaluations]
    if not facts.asked.evaluates:
        return Check("policy", "evaluation", f"{len(evaluations)} evaluations", "none: test_size is 0", Verdict.NOTE)
    # JSON has no infinity: the report writes null for it.
    values = [value for evaluation in evaluations for value in evaluation.values()]
    finite = all(value is not None and math.isfinite(value) for value in values)
    best = [period.report.best_evaluation for period in facts.periods]
    figures = distinct(
        f"{found['log_return']:+.4f} ({counted(found['trades'], 'trade')})" for found in best if found and finite
    )
    return judge(
        "policy",
        "evaluation",
        f"{len(evaluations)}, {f'best log return {figures}' if finite else 'some not finite'}",
        "finite, at least one a training",
        finite and all(period.report.evaluations for period in facts.periods),
        "raise data_split_parameters.test_size, so that the held-out candles are enough",
    )


def check_trades(facts: RunFacts) -> Check:
    """The backtest traded."""
    trades, mode = facts.trades, facts.asked.entry_mode
    reasons = ", ".join(f"{reason} {count}" for reason, count in list(trades.exit_reasons.items())[:3])
    detail = f": {trades.long} long, {trades.short} short; {reasons}" if trades.total else ""
    remedies = {
        "gated": "the policy vetoed every entry: train for longer, or set entry_mode to 'classic'",
        "classic": "no classic signal came up: lengthen --timerange",
        "agent": "the policy never entered: train for longer",
    }
    return judge(
        "policy",
        "trades made",
        f"{trades.total}{detail}",
        f"more than 0 (entry_mode '{mode}')",
        trades.total > 0,
        remedies.get(mode, "train for longer"),
    )
