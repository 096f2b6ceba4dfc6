"""Figures of runs: plain values in, plotly figures out. A page, a notebook or a study shows them.

They set no template: whoever shows them chooses one, :data:`TEMPLATES` being those of the page.
"""

from mtfscalper.reporting.figures.candles import CandleChart, PolicyLine, TradeMark, candles
from mtfscalper.reporting.figures.comparison import drawdowns, equities, paired_differences, spans
from mtfscalper.reporting.figures.policy import action_shares, exit_probability, importances
from mtfscalper.reporting.figures.style import PALETTE, TEMPLATES
from mtfscalper.reporting.figures.trades import excursions, profits
from mtfscalper.reporting.figures.walk_forward import evaluations, overfitting, walk_forward

__all__ = [
    "PALETTE",
    "TEMPLATES",
    "CandleChart",
    "PolicyLine",
    "TradeMark",
    "action_shares",
    "candles",
    "drawdowns",
    "equities",
    "evaluations",
    "excursions",
    "exit_probability",
    "importances",
    "overfitting",
    "paired_differences",
    "profits",
    "spans",
    "walk_forward",
]
