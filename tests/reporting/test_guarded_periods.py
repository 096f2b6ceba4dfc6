"""A report says of each period who ended its trades, and what its policy earned where it learned."""

from dataclasses import replace

import pandas as pd
import pytest
from builders import PAIR, make_rules

from mtfscalper.freqai.run_plan import PlannedPeriod
from mtfscalper.reporting.periods import PeriodResult, Stretch, period_results
from mtfscalper.reporting.policies import SealedPeriod
from mtfscalper.reporting.tabular import guarded_line
from mtfscalper.reporting.trades import COLUMNS
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport

DAY_MS = 86_400_000
BEATEN = PairedResult(40, 12, 0.01, 0.002, 0.003)
NOT_BEATEN = PairedResult(40, 12, 0.004, 0.002, -0.001)
LEARNED = {"timesteps": 640, "log_return": 0.6, "trades": 90}
REPORT = TrainingReport(
    PAIR,
    "PPO",
    1,
    train_candles=27 * 288,
    evaluation_candles=3 * 288,
    training_evaluation=LEARNED,
    best_evaluation={"timesteps": 640, "log_return": 0.09, "trades": 12},
)


def result_of(report: TrainingReport, *, falls_back: bool = False) -> PeriodResult:
    planned = PlannedPeriod(0, 7 * DAY_MS, "somewhere", falls_back)
    sealed = SealedPeriod(PAIR, planned, make_rules(), report)
    nothing = pd.DataFrame({name: [] for name in COLUMNS})
    [result] = period_results((sealed,), nothing, nothing, 300_000, 7 * DAY_MS)
    return result


def test_what_a_policy_earned_where_it_learned_is_of_its_training_candles() -> None:
    assert result_of(REPORT).training == Stretch(0.6, 90, 27.0)
    assert result_of(REPORT).training.a_day == pytest.approx(0.6 / 27)  # type: ignore[union-attr]
    assert result_of(replace(REPORT, training_evaluation=None)).training is None


def test_a_guarded_period_says_who_ends_its_trades_and_why() -> None:
    fallen = result_of(replace(REPORT, judged=NOT_BEATEN), falls_back=True)
    kept = result_of(replace(REPORT, judged=BEATEN))
    assert fallen.falls_back
    # What the rules traded says nothing about what the policy promised.
    assert (fallen.gap_a_day, kept.gap_a_day) == (None, pytest.approx(0.03))
    assert guarded_line(fallen) == (
        f"{PAIR} 1970-01-01 to 1970-01-08, guarded: the rules end its trades; +0.400% a trade beside +0.200% for the "
        "same entries with classic exits, on 40 trades of 12 days that chose nothing; lower end of the difference "
        "-0.100%: not beaten."
    )
    assert "guarded: the policy ends its trades" in (guarded_line(kept) or "")
    assert guarded_line(result_of(REPORT)) is None
