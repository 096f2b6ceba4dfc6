"""Walk-forward: what a policy earned where it learned, where it was chosen, and where it was traded.

Log returns a day throughout, so that stretches of different lengths can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go

from mtfscalper.reporting.figures.style import CLASSIC, GREY, OURS, PALETTE, TEAL, VIOLET, figure, label, zero_line

_STAGES = ("training", "evaluation", "traded", "classic exits")


class Period(NamedTuple):
    """Log returns a day of one period's policy; None where not known.

    :ivar name: for the hover
    :ivar first_ms: when it began to trade, milliseconds since 1970
    :ivar evaluation: by which it was chosen
    :ivar trades: of the evaluation and of trading
    :ivar evaluations: of its training: timesteps, log return a day, trades
    :ivar chosen_timesteps: after which the policy was kept; None where not known
    :ivar falls_back: whether the rules ended its trades: what was traded then says nothing of the evaluation
    """

    pair: str
    name: str
    first_ms: int
    training: float | None
    evaluation: float | None
    traded: float
    classic: float
    trades: tuple[int | None, int]
    evaluations: Sequence[tuple[int, float, int]] = ()
    chosen_timesteps: int | None = None
    falls_back: bool = False


def overfitting(periods: Sequence[Period]) -> go.Figure:
    """From training over evaluation to trading, a line for each period and for their median: its fall is the gap."""
    stages = [stage for stage, known in zip(_STAGES, _known(periods), strict=True) if known]
    made = figure()
    values = np.array([_values(period) for period in periods], dtype=np.float64)
    shown = values[:, [_STAGES.index(stage) for stage in stages]]
    for period, row in zip(periods, shown, strict=True):
        made.add_scatter(
            x=stages,
            y=100 * row,
            mode="lines+markers",
            line={"color": GREY, "width": 1},
            marker={"size": 5},
            opacity=0.55,
            showlegend=False,
            hovertemplate=f"{label(period.name)}, %{{x}}: %{{y:+.3f}} % a day<extra></extra>",
        )
    made.add_scatter(
        x=stages,
        y=100 * np.nanmedian(shown, axis=0),
        name="median of the periods",
        mode="lines+markers",
        line={"color": OURS, "width": 4},
        marker={"size": 12},
        hovertemplate="median, %{x}: %{y:+.3f} % a day<extra></extra>",
    )
    return zero_line(made, "y").update_yaxes(ticksuffix=" %", title_text="log return a day")


def _known(periods: Sequence[Period]) -> list[bool]:
    return [any(value is not None for value in column) for column in zip(*map(_values, periods), strict=True)]


def _values(period: Period) -> tuple[float | None, ...]:
    return period.training, period.evaluation, period.traded, period.classic


def walk_forward(periods: Sequence[Period]) -> go.Figure:
    """Every period in its time: what the policy promised, what it then earned, and a line between them."""
    made, looks = figure(height=420), {"training": TEAL, "evaluation": VIOLET, "traded": OURS, "classic exits": CLASSIC}
    symbols = {"training": "diamond-open", "evaluation": "circle-open", "traded": "circle", "classic exits": "x"}
    pairs = list(dict.fromkeys(period.pair for period in periods))
    # Beside each other, or the pairs of one period would cover each other.
    width = _step_ms(periods) * 0.7 / max(len(pairs), 1)
    times = [datetime.fromtimestamp((p.first_ms + pairs.index(p.pair) * width) / 1000, UTC) for p in periods]
    links: tuple[list[datetime | None], list[float | None]] = ([], [])
    for time, period in zip(times, periods, strict=True):
        promised = period.evaluation
        if promised is not None and not period.falls_back:
            links[0].extend((time, time, None))
            links[1].extend((100 * promised, 100 * period.traded, None))
    made.add_scatter(
        x=links[0], y=links[1], mode="lines", line={"color": GREY, "width": 2}, name="gap", hoverinfo="skip"
    )
    for stage, known, column in zip(_STAGES, _known(periods), zip(*map(_values, periods), strict=True), strict=True):
        if known:
            made.add_scatter(
                x=times,
                y=[None if value is None else 100 * value for value in column],
                name=stage,
                mode="markers",
                marker={"size": 9, "color": looks[stage], "symbol": symbols[stage], "line": {"width": 2}},
                text=[label(_told(period, stage)) for period in periods],
                hovertemplate="%{text}: %{y:+.3f} % a day<extra></extra>",
            )
    return zero_line(made, "y").update_yaxes(ticksuffix=" %", title_text="log return a day")


def _sizes(trades: npt.ArrayLike, chosen: int) -> npt.NDArray[np.float64]:
    sizes = np.minimum(5 + np.sqrt(np.asarray(trades, dtype=np.float64)), 20)
    return np.asarray(sizes + 6 * (np.arange(len(sizes)) == chosen))


def _step_ms(periods: Sequence[Period]) -> int:
    starts = np.unique([period.first_ms for period in periods])
    return int(np.diff(starts).min()) if len(starts) > 1 else 86_400_000


def _told(period: Period, stage: str) -> str:
    trades = {"evaluation": period.trades[0], "traded": period.trades[1], "classic exits": period.trades[1]}.get(stage)
    return f"{period.name}, {stage}" + ("" if trades is None else f" ({trades} trades)")


def evaluations(periods: Sequence[Period]) -> go.Figure:
    """The evaluations of all trainings: a line for each, larger marks for more trades, a star for the one chosen."""
    made = figure(height=420)
    pairs = list(dict.fromkeys(period.pair for period in periods))
    for pair in pairs:
        colour, group = PALETTE[pairs.index(pair) % len(PALETTE)], f"pair{pairs.index(pair)}"
        for at, period in enumerate(period for period in periods if period.pair == pair):
            steps, returns, trades = np.array(period.evaluations, dtype=np.float64).reshape(-1, 3).T
            [chosen] = np.flatnonzero(steps == period.chosen_timesteps)[-1:].tolist() or [-1]
            made.add_scatter(
                x=steps,
                y=100 * returns,
                mode="lines+markers",
                name=label(pair),
                legendgroup=group,
                showlegend=at == 0,
                line={"color": colour, "width": 1},
                marker={
                    "size": _sizes(trades, chosen),
                    "color": colour,
                    "symbol": ["star" if point == chosen else "circle" for point in range(len(returns))],
                },
                customdata=trades,
                hovertemplate=(
                    f"{label(period.name)}, after %{{x:,}} timesteps: %{{y:+.3f}} % a day on %{{customdata}} trades"
                    "<extra></extra>"
                ),
            )
    made.update_xaxes(title_text="timesteps")
    return zero_line(made, "y").update_yaxes(ticksuffix=" %", title_text="log return a day")
