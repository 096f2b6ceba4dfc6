"""The policies of a run and what they were chosen by: plans, training reports and the record of decisions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np
import pandas as pd

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.decision_record import newest_decisions, plans_between, records_folder
from mtfscalper.freqai.run_plan import DecisionsError, PlannedPeriod, RunPlan
from mtfscalper.freqai.views import SealedColumns
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.trading.trading_rules import TradingRules
from mtfscalper.training.report import TrainingReport

# A record's name has whole seconds, and so has the export's time.
_SLACK = timedelta(seconds=2)


class SealedPeriod(NamedTuple):
    """A period of one pair: who decided, and what is known of its training.

    :ivar rules: that its policy was trained for
    :ivar report: None where it is lost
    """

    pair: str
    period: PlannedPeriod
    rules: TradingRules
    report: TrainingReport | None


class RunPolicies(NamedTuple):
    """What decided about the trades of a run.

    :ivar plans: by pair; empty for a run without this project's model
    :ivar periods: in the order of pairs and time
    :ivar questions: the record of decisions of all pairs, None where there is none
    :ivar columns: what they predicted, by pair
    :ivar missing: what cannot be said, one sentence each
    """

    plans: dict[str, RunPlan]
    periods: tuple[SealedPeriod, ...]
    questions: pd.DataFrame | None
    columns: dict[str, SealedColumns]
    missing: tuple[str, ...]


def policies_of(result: RunResult) -> RunPolicies:
    """Find what decided about the trades of a run; reads, and writes nothing."""
    archive = result.archive
    if archive is None or not (archive.root / "plans").is_dir():
        who = result.stats.get("freqaimodel") or "no FreqAI model"
        return RunPolicies({}, (), None, {}, (f"nothing is sealed of this run ({who}): no periods and no decisions",))
    config = {**result.config, "user_data_dir": result.user_data_dir}
    folder, missing = records_folder(config), list[str]()
    began, ended = (datetime.fromtimestamp(ms / 1000, UTC) for ms in result.ran_ms)
    between = (began - _SLACK, ended + _SLACK)
    recorded = plans_between(folder, *between)
    plans, names = {}, {}
    for pair in result.pairs:
        try:
            if pair in recorded:
                plans[pair] = RunPlan.read(archive, pair, recorded[pair])
            else:
                plans[pair] = RunPlan.of_run(archive, pair, ended + _SLACK)
            names[pair] = plans[pair].name
        except DecisionsError as error:
            missing.append(str(error))
    periods = [_sealed(archive, plan, period, missing) for plan in plans.values() for period in plan.periods]
    asked = [newest_decisions(folder, pair, name, between) for pair, name in names.items() if pair in recorded]
    known = [frame for frame in asked if frame is not None]
    unnoted = sum(one.report is not None and not one.report.training_evaluation for one in periods)
    if unnoted:
        missing.append(
            f"what the policies of {unnoted} of {len(periods)} periods earned on the candles they were trained on: "
            "their trainings did not record it"
        )
    if plans and not known:
        missing.append("there is no record of this run's decisions about open trades")
    columns = {pair: SealedColumns.of_plan(plan, archive, result.seals) for pair, plan in plans.items()}
    questions = pd.concat(known, ignore_index=True) if known else None
    return RunPolicies(plans, tuple(periods), questions, columns, tuple(missing))


def _sealed(archive: Archive, plan: RunPlan, period: PlannedPeriod, missing: list[str]) -> SealedPeriod:
    folder, report = archive.root / period.folder, None
    try:
        path = artefacts.sealed_path(folder, "report")
        report = TrainingReport.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        missing.append(f"{plan.pair}: the training report of {folder.parent.name} cannot be read ({error!r})")
    return SealedPeriod(plan.pair, period, plan.terms.rules, report)


class ExitGrid(NamedTuple):
    """How probable the policy found leaving, over profit and time held.

    :ivar profit_edges: ratios to the stake, n + 1
    :ivar held_edges: candles, m + 1
    :ivar probability: mean, n rows of m; None where nothing was asked
    :ivar questions: how often it was asked, n rows of m
    """

    profit_edges: list[float]
    held_edges: list[float]
    probability: list[list[float | None]]
    questions: list[list[int]]


def exit_grid(questions: pd.DataFrame, rows: int = 12, columns: int = 12) -> ExitGrid:
    """Average the answers of a record over cells that hold as many questions in each direction."""
    profit, held = questions["profit"].to_numpy(), questions["held_candles"].to_numpy(dtype=np.float64)

    def edges(values: np.ndarray, n: int) -> np.ndarray:
        found = np.unique(np.quantile(values, np.linspace(0, 1, n + 1)))
        return found if len(found) > 1 else np.array([found[0], found[0] + 1.0])

    by_profit, by_held = edges(profit, rows), edges(held, columns)
    counts, _, _ = np.histogram2d(profit, held, (by_profit, by_held))
    sums, _, _ = np.histogram2d(profit, held, (by_profit, by_held), weights=questions["probability"].to_numpy())
    mean = [
        [float(total / n) if n else None for total, n in zip(*of_row, strict=True)]
        for of_row in zip(sums, counts, strict=True)
    ]
    return ExitGrid(by_profit.tolist(), by_held.tolist(), mean, counts.astype(int).tolist())
