"""What a policy does, and what it looks at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mtfscalper.reporting.figures.style import (
    AMBER,
    GREEN,
    GREY,
    OURS,
    PALETTE,
    RED,
    TEAL,
    VIOLET,
    figure,
    label,
)

_ACTIONS = {
    "wait": GREY,
    "hold": TEAL,
    "enter long": GREEN,
    "enter short": RED,
    "leave long": VIOLET,
    "leave short": AMBER,
}


def action_shares(shares: Mapping[str, Mapping[str, float]]) -> go.Figure:
    """How often each action was chosen.

    :param shares: by row, such as a pair, and action; of each row they add up to 1
    """
    rows, actions = [label(row) for row in shares], list(dict.fromkeys(name for of in shares.values() for name in of))
    made = figure(barmode="stack", height=150 + 34 * len(rows))
    for at, action in enumerate(actions):
        made.add_bar(
            y=rows,
            x=[100 * of.get(action, 0.0) for of in shares.values()],
            orientation="h",
            name=action,
            marker_color=_ACTIONS.get(action, PALETTE[at % len(PALETTE)]),
            hovertemplate=f"%{{y}}: {action} %{{x:.2f}} %<extra></extra>",
        )
    made.update_yaxes(autorange="reversed")
    return made.update_xaxes(ticksuffix=" %", range=[0, 100])


def importances(names: Sequence[str], changes: Sequence[float]) -> go.Figure:
    """How far the exit probability moves when a group of inputs is shuffled.

    :param changes: mean absolute change of each, in probability
    """
    made = figure(
        go.Bar(
            y=[label(name) for name in names],
            x=list(changes),
            orientation="h",
            marker_color=OURS,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        ),
        height=90 + 24 * len(names),
    )
    made.update_yaxes(autorange="reversed", dtick=1)
    return made.update_xaxes(title_text="mean change of the exit probability", rangemode="tozero")


def exit_probability(
    profit_edges: Sequence[float],
    held_edges: Sequence[float],
    probability: Sequence[Sequence[float | None]],
    questions: Sequence[Sequence[int]],
) -> go.Figure:
    """How probable a policy found leaving, over profit and time held; cells are drawn alike, whatever their width.

    :param profit_edges: ratios, n + 1
    :param held_edges: candles, m + 1
    :param probability: n rows of m
    :param questions: how often it was asked, n rows of m
    """
    made = figure(
        go.Heatmap(
            z=[[None if value is None else round(value, 5) for value in row] for row in probability],
            customdata=questions,
            colorscale="Viridis",
            zmin=0,
            colorbar={"title": {"text": "p(leave)"}, "thickness": 12},
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate="p(leave) %{z:.3f} on average of %{customdata:,} questions<extra></extra>",
        ),
        height=440,
    )
    made.update_xaxes(title_text="candles held", **_edges([f"{edge:.0f}" for edge in held_edges]))
    return made.update_yaxes(title_text="profit, %", **_edges([f"{100 * edge:+.2f}" for edge in profit_edges]))


def _edges(texts: list[str]) -> dict[str, object]:
    step = 1 if len(texts) <= 8 else 2
    return {"tickvals": list(np.arange(len(texts))[::step] - 0.5), "ticktext": texts[::step], "showgrid": False}
