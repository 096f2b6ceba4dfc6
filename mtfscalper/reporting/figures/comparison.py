"""A run beside its rivals: what it earned more, day by day and over the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mtfscalper.reporting.figures.style import (
    CLASSIC,
    DASHES,
    GAIN,
    GREY,
    LOSS,
    OURS,
    PALETTE,
    figure,
    label,
    zero_line,
)


def spans(names: Sequence[str], means: Sequence[float], ranges: Sequence[tuple[float, float] | None]) -> go.Figure:
    """Means with their intervals, one below the other.

    :param means: ratios, drawn as percentages
    :param ranges: lower and upper end of each; None where there is none
    """
    percents = 100 * np.asarray(means, dtype=np.float64)
    known = [
        (mean, mean) if span is None else (100 * span[0], 100 * span[1])
        for mean, span in zip(percents, ranges, strict=True)
    ]
    # Without an interval nothing lies on one side of zero.
    colours = [GREY if span is None else GAIN if span[0] > 0 else LOSS if span[1] < 0 else GREY for span in ranges]
    said = ["no interval" if span is None else f"{100 * span[0]:+.4f} to {100 * span[1]:+.4f}" for span in ranges]
    made = figure(height=90 + 44 * len(names), showlegend=False)
    for name, mean, (low, high), colour, span in zip(names, percents, known, colours, said, strict=True):
        made.add_scatter(
            x=[mean],
            y=[label(name)],
            mode="markers",
            marker={"size": 12, "color": colour},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - mean],
                "arrayminus": [mean - low],
                "thickness": 3,
                "width": 8,
                "color": colour,
            },
            hovertemplate=f"{mean:+.4f} % ({span})<extra></extra>",
        )
    made.update_yaxes(autorange="reversed")
    return zero_line(made, "x").update_xaxes(ticksuffix=" %", title_text="this run earned more")


def paired_differences(days: Sequence[str], differences: Sequence[float]) -> go.Figure:
    """What the run earned more than its rival, day by day, and summed up.

    :param days: ISO dates
    :param differences: of each, in shares of the stakes
    """
    # Rounded: sums that cancel out leave no axis of 1e-15.
    percents = np.round(100 * np.asarray(differences, dtype=np.float64), 6)
    made = figure(
        go.Bar(
            x=list(days),
            y=percents,
            name="a day",
            marker_color=np.where(percents < 0, LOSS, GAIN),
            hovertemplate="%{x}: %{y:+.2f} %<extra></extra>",
        ),
        go.Scatter(
            x=list(days),
            y=np.round(np.cumsum(percents), 6),
            name="summed up",
            mode="lines",
            line={"color": OURS, "width": 2.5},
            hovertemplate="%{x}: %{y:+.2f} % since the start<extra></extra>",
        ),
    )
    return zero_line(made, "y").update_yaxes(ticksuffix=" %", title_text="of the stakes")


def equities(days: Sequence[str], equity: Mapping[str, Sequence[float]], currency: str) -> go.Figure:
    """Equities at the end of each day: the first one is the run's.

    :param days: ISO dates
    :param equity: by name, stake currency
    """
    made = _lines(days, {name: np.asarray(values) for name, values in equity.items()}, "%{y:,.2f}")
    return made.update_yaxes(title_text=label(currency))


def drawdowns(days: Sequence[str], equity: Mapping[str, Sequence[float]], starting_balance: float) -> go.Figure:
    """How far each equity is below its peak; the first one is the run's.

    :param equity: as of :func:`equities`
    """
    fallen = {}
    for name, values in equity.items():
        path = np.append(starting_balance, values)
        peak = np.maximum.accumulate(path)
        fallen[name] = (100 * (path / peak - 1))[1:]
    return _lines(days, fallen, "%{y:.2f} %").update_yaxes(ticksuffix=" %", title_text="below the peak")


def _lines(days: Sequence[str], values: Mapping[str, np.ndarray], shown: str) -> go.Figure:
    made = figure(hovermode="x unified")
    colours = (OURS, CLASSIC, *(colour for colour in PALETTE if colour not in (OURS, CLASSIC)))
    for at, (name, series) in enumerate(values.items()):
        made.add_scatter(
            x=list(days),
            y=np.round(series, 4),
            name=label(name),
            mode="lines" if len(days) > 1 else "markers",
            line={
                "color": colours[at % len(colours)],
                "width": 3 if at == 0 else 1.5,
                "dash": DASHES[at % len(DASHES)],
            },
            hovertemplate=f"{shown}<extra>{label(name)}</extra>",
        )
    return made
