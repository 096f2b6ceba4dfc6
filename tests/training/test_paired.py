"""The paired comparison: figures by hand, and how often it is wrong about a policy that earns nothing."""

import math

import numpy as np
import pytest

from mtfscalper.training.mean_interval import lower_end, standard_error
from mtfscalper.training.paired import paired
from mtfscalper.training.paired_result import ENOUGH_TRADES_TO_JUDGE, PairedResult

DAY_MS = 86_400_000
EIGHT_HOURS_MS = DAY_MS // 3


def result_of(differences: list[float], opens_ms: list[int], max_trade_ms: int = EIGHT_HOURS_MS) -> PairedResult:
    classic = np.full(len(opens_ms), 0.01)
    return paired(np.array(opens_ms, dtype=np.int64), classic + differences, classic, max_trade_ms)


def test_the_error_of_single_values_is_the_usual_one_and_that_of_groups_their_own() -> None:
    values = [1.0, 2.0, 4.0, 9.0]
    assert standard_error(values, [1] * 4) == pytest.approx(np.std(values, ddof=1) / 2)
    # Groups (1, 2) and (4, 9): mean 4, residuals 3 - 8 = -5 and 13 - 8 = 5, sqrt(2/1 * 50) / 4 = 2.5.
    assert standard_error([3.0, 13.0], [2, 2]) == pytest.approx(2.5)
    assert math.isnan(standard_error([3.0], [2]))
    # Student's t of 0.95 with one degree of freedom is tan(0.45 pi).
    assert lower_end(4.0, 2.5, 2) == pytest.approx(4 - 2.5 * math.tan(0.45 * math.pi))
    assert math.isnan(lower_end(4.0, 2.5, 1))


def test_a_result_says_what_each_earned_and_how_sure_it_is() -> None:
    # Two days of two trades each, differences 1, 2 and 4, 9: the error over days, 2.5, is larger than that over trades.
    result = result_of([1.0, 2.0, 4.0, 9.0], [0, 1000, DAY_MS, 2 * DAY_MS - 1])
    assert (result.trades, result.days) == (4, 2)
    assert (result.policy_mean, result.classic_mean) == (pytest.approx(4.01), pytest.approx(0.01))
    assert result.difference == pytest.approx(4.0)
    assert result.lower == pytest.approx(4 - 2.5 * math.tan(0.45 * math.pi))


def test_differences_that_cancel_out_within_a_day_are_not_taken_for_certainty() -> None:
    result = result_of([5.0, -3.0] * 20, [at // 2 * DAY_MS for at in range(40)])
    assert result.difference == pytest.approx(1.0)
    # Over days the error is 0; over trades it is 4.05 / sqrt(40).
    assert result.lower == pytest.approx(lower_end(1.0, np.std([5.0, -3.0] * 20, ddof=1) / math.sqrt(40), 20))


def test_trades_longer_than_a_day_are_grouped_by_as_many_days() -> None:
    opens_ms = [at * DAY_MS for at in range(30)]
    assert result_of([0.1] * 30, opens_ms, DAY_MS).days == 30
    assert result_of([0.1] * 30, opens_ms, DAY_MS + 1).days == 15


@pytest.mark.parametrize(("trades", "beaten"), [(ENOUGH_TRADES_TO_JUDGE - 1, False), (ENOUGH_TRADES_TO_JUDGE, True)])
def test_under_thirty_trades_nothing_beats_classic(trades: int, beaten: bool) -> None:
    differences = [0.01 + 0.001 * (at % 2) for at in range(trades)]
    result = result_of(differences, [at * DAY_MS for at in range(trades)])
    assert result.lower is not None
    assert result.lower > 0.009
    assert result.beats_classic is beaten
    assert ("not beaten" in result.in_words()) is not beaten


@pytest.mark.parametrize(
    ("differences", "opens_ms", "told"),
    [
        ([], [], "made no trade"),
        ([0.01] * 40, [0] * 40, "one day shows no spread"),
        # A policy that never leaves.
        ([0.0] * 40, [at * DAY_MS for at in range(40)], "not beaten"),
        ([-0.01 - 0.001 * (at % 2) for at in range(40)], [at * DAY_MS for at in range(40)], "not beaten"),
    ],
)
def test_what_shows_nothing_beats_nothing(differences: list[float], opens_ms: list[int], told: str) -> None:
    result = result_of(differences, opens_ms)
    assert not result.beats_classic
    assert told in result.in_words()


def test_a_policy_that_earns_nothing_more_is_seldom_believed_whatever_trades_of_a_day_share() -> None:
    random = np.random.default_rng(16)
    believed = 0
    for _ in range(2000):
        # Two trades a day that share half their variance, fat tails: 60 trades of 30 days.
        of_day = random.standard_t(4, 30).repeat(2)
        differences = 0.01 * (of_day + random.standard_t(4, 60))
        believed += result_of(differences.tolist(), [at // 2 * DAY_MS + at for at in range(60)]).beats_classic
    assert 0.01 < believed / 2000 <= 0.06
