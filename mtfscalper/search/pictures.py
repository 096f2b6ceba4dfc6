"""A trial's pictures for the dashboard: its equity, and how its policies learned."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtfscalper.search.learning_curves import LearningCurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mtfscalper.search.run_figures import RunFigures

EQUITY_NAME = "equity.png"
CURVES_NAME = "learning_curves.png"
# Inches, and dots an inch: sharp at the width of a phone held sideways, and some 70 kB.
_WIDTH, _DPI = 8.0, 90
_INK, _GREY = "#1c2430", "#7b8494"
# More lines than these are told apart by nobody: they are drawn alike.
_NAMED = 8


def draw_equity(runs: Sequence[RunFigures], path: Path) -> None:
    """Draw profits, and paired differences to classic exits, summed up over the days of each run.

    :param path: of the PNG
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    figure = _figure(6.0)
    profits, differences = figure.subplots(2, 1, sharex=True)
    for run in runs:
        days = np.array(run.days, dtype="datetime64[D]")
        label = f"seed {run.seed}"
        profits.plot(days, 100 * np.cumsum(run.profits), label=label, linewidth=1.5)
        differences.plot(days, 100 * np.cumsum(run.differences), label=label, linewidth=1.5)
    _finish(profits, "Profit, summed up", "% of the wallet at the start")
    _finish(differences, "Over the same entries with classic exits, summed up", "% of the stakes")
    if 1 < len(runs) <= _NAMED:
        profits.legend(frameon=False, loc="upper left")
    dates = AutoDateLocator(maxticks=7)  # type: ignore[no-untyped-call]
    differences.xaxis.set_major_locator(dates)
    differences.xaxis.set_major_formatter(ConciseDateFormatter(dates))  # type: ignore[no-untyped-call]
    figure.savefig(path, dpi=_DPI, format="png")


def draw_curves(curves: Sequence[LearningCurve], path: Path) -> None:
    """Draw what the policies of each training earned on the candles held out, as it went on.

    :param path: of the PNG
    """
    figure = _figure(4.0)
    axes = figure.subplots()
    named = len(curves) <= _NAMED
    for curve in curves:
        style = {"label": curve.name} if named else {"color": _GREY, "alpha": 0.5}
        marker = "o" if len(curve.timesteps) == 1 else ""
        axes.plot(curve.timesteps, curve.log_returns, linewidth=1.2, marker=marker, markersize=4, **style)
    if not named:
        axes.plot(*_mean(curves), color="#2f7ed8", linewidth=2.5, label=f"mean of {len(curves)}")
    _finish(axes, "Evaluations on the candles held out, while training", "log return after costs")
    axes.set_xlabel("samples learned from")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=_DPI, format="png")


def _mean(curves: Sequence[LearningCurve]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over curves where all of them are: from the last first evaluation to the first last one."""
    start = max(curve.timesteps[0] for curve in curves)
    stop = min(curve.timesteps[-1] for curve in curves)
    at = np.linspace(start, max(stop, start), 50)
    return at, np.mean([np.interp(at, curve.timesteps, curve.log_returns) for curve in curves], axis=0)


def _figure(height: float) -> Figure:
    # Without pyplot, which keeps figures and a window system between trials.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    # By numbers: working out what room the words need takes half of the time, and a study draws after each trial.
    left, right, top, bottom = 0.85, 0.2, 0.35, 0.55
    figure.subplots_adjust(
        left=left / _WIDTH, right=1 - right / _WIDTH, top=1 - top / height, bottom=bottom / height, hspace=0.2
    )
    return figure


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.axhline(0.0, color=_GREY, linewidth=1.0, zorder=0)
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", nbins=6)
    axes.grid(axis="y", alpha=0.25)
