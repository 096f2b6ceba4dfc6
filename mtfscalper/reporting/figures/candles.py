"""Candles with the trades on them, and what the policy thought of leaving while they were open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtfscalper.reporting.figures.style import BLUE, GREY, RED, SYMBOLS, figure, label, reason_colours

_ENTRIES = ((False, "long entry", "triangle-up"), (True, "short entry", "triangle-down"))


class CandleChart(NamedTuple):
    """Candles of one pair; arrays of one length."""

    dates_ms: npt.NDArray[np.int64]
    open: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    close: npt.NDArray[np.float64]


class TradeMark(NamedTuple):
    """A trade on a chart; times in milliseconds since 1970."""

    is_short: bool
    open_ms: int
    open_rate: float
    close_ms: int
    close_rate: float
    reason: str
    profit_ratio: float


class PolicyLine(NamedTuple):
    """What a policy gave leaving one trade, candle by candle."""

    dates_ms: Sequence[int]
    probabilities: Sequence[float]
    leaves: Sequence[bool]


def candles(chart: CandleChart, trades: Sequence[TradeMark], lines: Sequence[PolicyLine] = ()) -> go.Figure:
    """Candles, entries, exits coloured by reason, and the policy's exit probability under each trade.

    :param lines: one for each trade that the policy was asked about; empty without a policy
    """
    rows = 2 if lines else 1
    made = make_subplots(rows=rows, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.7, 0.3][:rows])
    figure_of = figure()
    made.update_layout(figure_of.layout).update_layout(height=560 if lines else 440)
    made.add_trace(
        go.Candlestick(
            x=_times(chart.dates_ms),
            open=chart.open,
            high=chart.high,
            low=chart.low,
            close=chart.close,
            name="candles",
            increasing={"line": {"color": GREY, "width": 1}, "fillcolor": "rgba(0,0,0,0)"},
            decreasing={"line": {"color": GREY, "width": 1}, "fillcolor": GREY},
            showlegend=False,
        ),
        row=1,
        col=1,
    )
    _add_trades(made, trades)
    if lines:
        _add_lines(made, lines)
    made.update_xaxes(rangeslider_visible=False, automargin=True)
    return made.update_yaxes(automargin=True, row=1, col=1)


def _add_trades(made: go.Figure, trades: Sequence[TradeMark]) -> None:
    times: list[np.datetime64 | None] = []
    rates: list[float | None] = []
    for trade in trades:
        times += [*_times([trade.open_ms, trade.close_ms]), None]
        rates += [trade.open_rate, trade.close_rate, None]
    path = go.Scatter(
        x=times,
        y=rates,
        mode="lines",
        line={"color": BLUE, "width": 1.5, "dash": "dot"},
        hoverinfo="skip",
        showlegend=False,
    )
    made.add_trace(path, row=1, col=1)
    for is_short, name, symbol in _ENTRIES:
        entered = [trade for trade in trades if trade.is_short == is_short]
        if entered:
            made.add_trace(
                go.Scatter(
                    x=_times([trade.open_ms for trade in entered]),
                    y=[trade.open_rate for trade in entered],
                    mode="markers",
                    name=name,
                    marker={"symbol": symbol, "size": 11, "color": BLUE, "line": {"width": 1, "color": "white"}},
                    hovertemplate=f"{name} at %{{y}}<br>%{{x}}<extra></extra>",
                ),
                row=1,
                col=1,
            )
    colours = reason_colours(trade.reason for trade in trades)
    for at, (reason, colour) in enumerate(colours.items()):
        left = [trade for trade in trades if trade.reason == reason]
        made.add_trace(
            go.Scatter(
                x=_times([trade.close_ms for trade in left]),
                y=[trade.close_rate for trade in left],
                mode="markers",
                name=label(reason),
                marker={
                    "symbol": SYMBOLS[at % len(SYMBOLS)],
                    "size": 10,
                    "color": colour,
                    "line": {"width": 1, "color": "white"},
                },
                customdata=[100 * trade.profit_ratio for trade in left],
                hovertemplate=f"{label(reason)} at %{{y}}, %{{customdata:+.2f}} %<br>%{{x}}<extra></extra>",
            ),
            row=1,
            col=1,
        )


def _add_lines(made: go.Figure, lines: Sequence[PolicyLine]) -> None:
    times: list[np.datetime64 | None] = []
    values: list[float | None] = []
    for line in lines:
        times += [*_times(line.dates_ms), None]
        values += [*(round(value, 4) for value in line.probabilities), None]
    thought = go.Scatter(
        x=times,
        y=values,
        mode="lines+markers",
        marker={"size": 3},
        name="exit probability",
        line={"color": BLUE, "width": 1.5},
        hovertemplate="%{y:.3f}<br>%{x}<extra></extra>",
    )
    made.add_trace(thought, row=2, col=1)
    leaves = [(ms, probability) for line in lines for ms, probability, leaves in zip(*line, strict=True) if leaves]
    if leaves:
        made.add_trace(
            go.Scatter(
                x=_times([ms for ms, _ in leaves]),
                y=[probability for _, probability in leaves],
                mode="markers",
                name="wants to leave",
                marker={"size": 9, "color": RED, "symbol": "x"},
                hovertemplate="wants to leave: %{y:.3f}<br>%{x}<extra></extra>",
            ),
            row=2,
            col=1,
        )
    made.update_yaxes(range=[-0.04, 1.04], title_text="p(leave)", automargin=True, row=2, col=1)


def _times(moments_ms: npt.ArrayLike) -> npt.NDArray[np.datetime64]:
    return np.asarray(moments_ms, dtype=np.int64).astype("datetime64[ms]")
