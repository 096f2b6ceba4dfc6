"""Figures from plain values: the numbers drawn are those given."""

from __future__ import annotations

import numpy as np
import pytest

from mtfscalper.reporting import figures
from mtfscalper.reporting.figures.style import GREY
from mtfscalper.reporting.figures.walk_forward import Period

DAYS = ("2025-01-01", "2025-01-02", "2025-01-03")


def period(training: float | None, evaluation: float | None, traded: float) -> Period:
    points = [(100, 0.01, 4), (200, 0.03, 9), (300, 0.03, 16)]
    return Period("BTC/USDT", "first", 0, training, evaluation, traded, 0.001, (9, 12), points)


def test_paired_differences_are_summed_up_in_percent() -> None:
    bars, line = figures.paired_differences(DAYS, (0.01, -0.03, 0.005)).data
    assert list(bars.y) == [1.0, -3.0, 0.5]
    assert list(line.y) == [1.0, -2.0, -1.5]
    assert len(set(bars.marker.color)) == 2


def test_a_drawdown_begins_at_the_balance_and_not_at_the_first_day() -> None:
    [line] = figures.drawdowns(DAYS, {"this run": (90.0, 110.0, 99.0)}, 100.0).data
    assert list(line.y) == pytest.approx([-10.0, 0.0, -10.0])


def test_an_interval_is_drawn_from_its_lower_to_its_upper_end() -> None:
    first, second = figures.spans(("a", "b"), (0.01, 0.02), ((0.005, 0.03), None)).data
    assert (first.x[0], first.error_x.arrayminus[0], first.error_x.array[0]) == pytest.approx((1.0, 0.5, 2.0))
    assert (second.error_x.arrayminus[0], second.error_x.array[0]) == (0.0, 0.0)
    # A mean alone is no gain.
    assert second.marker.color == second.error_x.color == GREY
    assert "no interval" in second.hovertemplate


def test_the_median_falls_from_training_over_evaluation_to_trading() -> None:
    periods = [period(0.04, 0.02, -0.01), period(0.06, 0.03, -0.02), period(0.05, None, 0.0)]
    *_, median = figures.overfitting(periods).data
    assert list(median.x) == ["training", "evaluation", "traded", "classic exits"]
    assert list(median.y) == pytest.approx([5.0, 2.5, -1.0, 0.1])


def test_what_no_period_noted_is_left_out() -> None:
    periods = [period(None, 0.02, -0.01)]
    assert list(figures.overfitting(periods).data[-1].x) == ["evaluation", "traded", "classic exits"]
    gap, *stages = figures.walk_forward(periods).data
    assert list(gap.y) == [2.0, -1.0, None]
    assert [stage.name for stage in stages] == ["evaluation", "traded", "classic exits"]


@pytest.mark.parametrize(("chosen", "at"), [(100, 0), (200, 1), (300, 2), (None, None)])
def test_the_evaluation_by_which_a_policy_was_chosen_has_the_star(chosen: int | None, at: int | None) -> None:
    """With ``evaluation_mode`` "lower" it need not be the one of the highest return."""
    [line] = figures.evaluations([period(None, 0.02, -0.01)._replace(chosen_timesteps=chosen)]).data
    assert [point for point, symbol in enumerate(line.marker.symbol) if symbol == "star"] == (
        [] if at is None else [at]
    )
    plain = np.delete(np.array(line.marker.size), [] if at is None else [at])
    assert (np.diff(plain) > 0).all()


def test_no_gap_is_drawn_where_the_rules_ended_the_trades() -> None:
    gap, *_ = figures.walk_forward([period(None, 0.02, -0.01)._replace(falls_back=True)]).data
    assert not gap.y


def test_a_chart_has_entries_exits_by_reason_and_what_the_policy_thought() -> None:
    times = 300_000 * np.arange(4)
    chart = figures.CandleChart(times, *(np.full(4, rate) for rate in (2.0, 3.0, 1.0, 2.5)))
    trades = [
        figures.TradeMark(False, 0, 2.0, 600_000, 2.5, "roi", 0.25),
        figures.TradeMark(True, 300_000, 2.0, 900_000, 2.5, "<b>own</b>", -0.25),
    ]
    lines = [figures.PolicyLine([300_000, 600_000], [0.2, 0.8], [False, True])]
    named = {trace.name: trace for trace in figures.candles(chart, trades, lines).data}
    assert {"candles", "long entry", "short entry", "roi", "&lt;b&gt;own&lt;/b&gt;"} < named.keys()
    assert list(named["roi"].y) == [2.5]
    assert list(named["exit probability"].y) == [0.2, 0.8, None]
    assert list(named["wants to leave"].y) == [0.8]
    without = [trace.name for trace in figures.candles(chart, trades).data]
    assert "exit probability" not in without


def test_excursions_are_grouped_by_reason() -> None:
    figure = figures.excursions(["roi", "stop_loss", "roi"], [-0.01, -0.02, 0.0], [0.02, -0.02, 0.03], "worst")
    named = {trace.name: list(trace.x) for trace in figure.data}
    assert named["roi"] == [-1.0, 0.0]
    assert named["stop_loss"] == [-2.0]


def contrast(colour: str, ground: str) -> float:
    """WCAG 2.1's ratio of two colours such as ``#1c2430``."""

    def luminance(text: str) -> float:
        channels = np.array([int(text[at : at + 2], 16) for at in (1, 3, 5)]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(colour), luminance(ground)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("ground", ["#ffffff", "#18202b"], ids=["light", "dark"])
def test_every_colour_can_be_told_from_both_grounds(ground: str) -> None:
    assert {colour: contrast(colour, ground) for colour in figures.PALETTE if contrast(colour, ground) < 3} == {}
