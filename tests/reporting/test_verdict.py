"""The sentence of the verdict, for everything that there is to find."""

import pytest

from mtfscalper.reporting.intervals import Interval
from mtfscalper.reporting.verdict import FINDINGS, judge


@pytest.mark.parametrize(
    ("interval", "finding", "words"),
    [
        (Interval(0.0015, 0.0002, 0.0031), "for", "evidence of an edge"),
        (Interval(0.0015, -0.0002, 0.0031), "none", "no evidence of an edge"),
        (Interval(-0.0015, -0.0031, -0.0002), "against", "evidence against it, the policy costs money"),
        (Interval(0.0015, None, None), "too_few", "too few to say anything"),
    ],
)
def test_a_finding_has_its_words_and_its_numbers(interval: Interval, finding: str, words: str) -> None:
    verdict = judge(interval, 1234, 56, 0.0005, -0.001)
    assert verdict.finding == finding
    assert f": {words}" in verdict.sentence
    assert verdict.sentence.startswith("Over 1,234 trades on 56 days the policy's exits earned ")
    assert "beside the same entries with classic exits" in verdict.sentence
    assert verdict.beside.startswith("The trades earned +0.050 % each after costs")
    assert "−0.100 %" in verdict.beside


def test_an_interval_is_given_where_there_is_one() -> None:
    sentence = judge(Interval(0.0015, -0.0002, 0.0031), 100, 40, 0.0, 0.0).sentence
    assert "+0.150 % a trade (90 % interval −0.020 % to +0.310 %)" in sentence
    few = judge(Interval(0.0015, None, None), 1, 1, 0.0, 0.0).sentence
    assert few.startswith("Over 1 trade on 1 day ")
    assert "interval needs 30 trades, 30 days and a difference on 10" in few


def test_zero_at_the_edge_of_an_interval_is_no_evidence() -> None:
    assert judge(Interval(0.001, 0.0, 0.002), 100, 40, 0.0, 0.0).finding == "none"
    assert judge(Interval(0.0, 0.0, 0.0), 100, 40, 0.0, 0.0).finding == "none"


def test_a_run_without_trades_has_nothing_to_judge() -> None:
    verdict = judge(Interval(0.0, None, None), 0, 0, None, None)
    assert verdict.finding == "no_trades"
    assert FINDINGS["no_trades"] in verdict.sentence
    assert verdict.beside == ""


def test_a_run_of_no_policy_is_not_said_to_have_one() -> None:
    sentence = judge(Interval(-0.0015, -0.0031, -0.0002), 100, 40, 0.0, 0.0, policy=False).sentence
    assert "the run's exits earned" in sentence
    assert "policy" not in sentence
