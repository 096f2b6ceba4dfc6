"""Where profit comes from, and how far trades went before they were left."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from mtfscalper.reporting.figures.style import (
    CLASSIC,
    GAIN,
    GREY,
    LOSS,
    SYMBOLS,
    figure,
    label,
    reason_colours,
    zero_line,
)


def profits(
    keys: Sequence[str], profit: Sequence[float], classic: Sequence[float], trades: Sequence[int], currency: str
) -> go.Figure:
    """Profit of groups of trades, beside that of the same entries with classic exits.

    :param profit: stake currency, as ``classic``
    """
    money = np.asarray(profit, dtype=np.float64)
    names = [label(key) for key in keys]
    made = figure(
        go.Bar(
            x=names,
            y=money,
            name="this run",
            marker_color=np.where(money < 0, LOSS, GAIN),
            customdata=list(trades),
            hovertemplate="%{x}: %{y:+,.2f} from %{customdata} trades<extra></extra>",
            showlegend=False,
        ),
        go.Scatter(
            x=names,
            y=list(classic),
            name="same entries, classic exits",
            mode="markers",
            marker={"symbol": "diamond", "size": 10, "color": CLASSIC, "line": {"width": 1.5, "color": "white"}},
            hovertemplate="%{x}, classic exits: %{y:+,.2f}<extra></extra>",
        ),
        height=320,
    )
    made.update_xaxes(type="category")
    return zero_line(made, "y").update_yaxes(title_text=label(currency))


def excursions(reasons: Sequence[str], reached: npt.ArrayLike, left: npt.ArrayLike, title: str) -> go.Figure:
    """How far each trade went against where it was left, coloured by exit reason.

    :param reached: worst (MAE) or best (MFE) it stood at, as ratios, shape (n,)
    :param left: where it was left, shape (n,)
    :param title: of the axis of ``reached``
    """
    far, exits = 100 * np.asarray(reached, dtype=np.float64), 100 * np.asarray(left, dtype=np.float64)
    named = np.asarray(reasons, dtype=object)
    made = figure(height=420)
    for at, (reason, colour) in enumerate(reason_colours(reasons).items()):
        of = named == reason
        made.add_scatter(
            x=np.round(far[of], 3),
            y=np.round(exits[of], 3),
            mode="markers",
            name=label(reason),
            marker={"color": colour, "size": 6, "opacity": 0.65, "symbol": SYMBOLS[at % len(SYMBOLS)]},
            hovertemplate=f"{label(reason)}: reached %{{x:+.2f}} %, left at %{{y:+.2f}} %<extra></extra>",
        )
    ends = [far.min(initial=0.0), far.max(initial=0.0)]
    made.add_scatter(
        x=ends, y=ends, mode="lines", name="left right there", line={"color": GREY, "dash": "dot"}, hoverinfo="skip"
    )
    made.update_xaxes(ticksuffix=" %", title_text=title)
    return zero_line(made, "y").update_yaxes(ticksuffix=" %", title_text="left at")
