"""How figures look: colours that are told apart on white and on black, and the two templates."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

import plotly.graph_objects as go

# Each has a contrast of 3 or more to both backgrounds (WCAG 2.1, 1.4.11).
BLUE, ORANGE, GREEN, RED, VIOLET, AMBER, TEAL, GREY = (
    *("#2f7ed8", "#d9660a", "#1f9254", "#dc3b45"),
    *("#9159d1", "#a67c00", "#0e8a94", "#7b8494"),
)
PALETTE = (BLUE, ORANGE, TEAL, VIOLET, AMBER, GREEN, RED, GREY)
OURS, CLASSIC, GAIN, LOSS = BLUE, ORANGE, GREEN, RED
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

_REASONS = {
    "rl_exit": VIOLET,
    "stop_loss": RED,
    "trailing_stop_loss": ORANGE,
    "roi": GREEN,
    "max_duration": AMBER,
    "exit_signal": TEAL,
    "force_exit": GREY,
    "liquidation": RED,
}
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon")


def reason_colours(reasons: Iterable[str]) -> dict[str, str]:
    """A colour for each exit reason, the same in all figures where the reason is freqtrade's or this project's."""
    names = sorted(set(reasons))
    other = [name for name in names if name not in _REASONS]
    return {name: _REASONS.get(name) or PALETTE[other.index(name) % len(PALETTE)] for name in names}


def label(text: str) -> str:
    """Text from a file as plotly shows it: it takes some tags for markup."""
    return escape(text, quote=False)


def figure(*traces: Any, **layout: Any) -> go.Figure:
    """A figure of these traces in the house's layout."""
    made = go.Figure(list(traces))
    made.update_layout(
        height=380,
        margin={"l": 8, "r": 8, "t": 12, "b": 8},
        legend={"orientation": "h", "y": -0.18, "x": 0, "yanchor": "top"},
        hoverlabel={"namelength": -1},
        barcornerradius=2,
        template=None,
    )
    made.update_xaxes(automargin=True)
    made.update_yaxes(automargin=True)
    return made.update_layout(**layout)


def zero_line(made: go.Figure, axis: str) -> go.Figure:
    """Draw the line of no difference.

    :param axis: ``x`` or ``y``
    """
    update = made.update_xaxes if axis == "x" else made.update_yaxes
    return update(zeroline=True, zerolinewidth=2, zerolinecolor=GREY)


def _template(ink: str, grid: str, hover: str) -> dict[str, Any]:
    axis = {"gridcolor": grid, "linecolor": grid, "tickcolor": grid, "zerolinecolor": grid}
    return {
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": ink, "size": 13, "family": "system-ui, sans-serif"},
            "colorway": list(PALETTE),
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {"bgcolor": hover, "bordercolor": grid, "font": {"color": ink}},
            "annotationdefaults": {"font": {"color": ink}},
        }
    }


TEMPLATES = {
    "light": _template("#1c2430", "#dfe3ea", "#ffffff"),
    "dark": _template("#e4e8ef", "#333c4a", "#1c2430"),
}
