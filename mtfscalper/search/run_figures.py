"""What one backtest of a trial gave, beside the same entries with classic exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mtfscalper.market.tape import MarketTape
from mtfscalper.reporting.daily import begun_by_day, by_day, daily_differences, daily_profits
from mtfscalper.reporting.periods import days_of, entered_within
from mtfscalper.reporting.policies import SealedPeriod
from mtfscalper.reporting.run_result import DAY_MS, RunResult
from mtfscalper.reporting.statistics import statistics_of
from mtfscalper.trading.trading_rules import TradingRules


class Instance(NamedTuple):
    """One pair in one walk-forward period, traded by policies of one seed.

    :ivar period: day of its first row, ISO date
    :ivar days: how long it was traded
    :ivar trades: entered in it
    :ivar difference: of a day: what these trades earned less what the same entries earn with classic exits, in shares
        of the stakes
    """

    pair: str
    period: str
    seed: int
    days: float
    trades: int
    difference: float


class RunFigures(NamedTuple):
    """Figures of one backtest.

    :ivar seed: of its trainings
    :ivar first_ms: the first candle that was traded on, milliseconds since 1970
    :ivar last_ms: the last candle
    :ivar days: all days of the run, since 1970
    :ivar differences: of each day: the run's profit less that of its entries with classic exits, marked daily, in
        shares of the stakes
    :ivar begun: trades that began on each day
    :ivar profits: of each day, as a share of the wallet at the start
    :ivar trades: how many
    :ivar max_drawdown: the deepest fall of the daily marked equity from its peak, a share
    :ivar instances: in the order of pairs and time
    :ivar seconds: of the whole backtest
    :ivar training_seconds: of the trainings, as their reports say
    :ivar timesteps: of the trainings
    """

    seed: int
    first_ms: int
    last_ms: int
    days: tuple[int, ...]
    differences: tuple[float, ...]
    begun: tuple[int, ...]
    profits: tuple[float, ...]
    trades: int
    max_drawdown: float
    instances: tuple[Instance, ...]
    seconds: float
    training_seconds: float
    timesteps: int

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**self._asdict(), "instances": [instance._asdict() for instance in self.instances]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RunFigures:
        """The figures that :meth:`as_json` made.

        :raises TypeError: if a value is missing or unknown
        """
        lists = ("days", "differences", "begun", "profits")
        instances = tuple(Instance(**instance) for instance in values["instances"])
        return cls(**{**values, **{name: tuple(values[name]) for name in lists}, "instances": instances})


class Run(NamedTuple):
    """One backtest, with what its figures were made of.

    :ivar trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :ivar classic: the same entries with classic exits
    :ivar tapes: the candles of the run, by pair
    :ivar rules: what ends trades that nobody else ends, by pair
    """

    figures: RunFigures
    trades: pd.DataFrame
    classic: pd.DataFrame
    tapes: Mapping[str, MarketTape]
    rules: Mapping[str, TradingRules]


def mean_difference(instances: Sequence[Instance]) -> float:
    """The value of a trial: the mean of its instances' differences of a day, each of which counts by its days.

    The last period of a run may be as short as a day: counted as one of two weeks, it would decide.
    """
    days = sum(instance.days for instance in instances)
    return sum(instance.difference * instance.days for instance in instances) / days if days > 0 else 0.0


def mean_differences(runs: Sequence[RunFigures]) -> tuple[float, ...]:
    """The paired difference of each day, the mean of a trial's runs, which are all of the same days.

    :param runs: in the order of the tuning seeds: the last bits of a sum depend on it
    """
    return tuple(np.mean([run.differences for run in runs], axis=0).tolist())


def figures_of(
    result: RunResult,
    trades: pd.DataFrame,
    classic: pd.DataFrame,
    tapes: Mapping[str, MarketTape],
    rules: Mapping[str, TradingRules],
    periods: Sequence[SealedPeriod],
    *,
    seed: int,
    timeframe_ms: int,
    seconds: float,
) -> RunFigures:
    """Work out what a run gave.

    :param trades: with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`
    :param classic: the same entries with classic exits
    :param periods: of all pairs
    """
    first_day, n_days = result.first_ms // DAY_MS, result.n_days
    days = range(first_day, first_day + n_days)
    marks = daily_profits(trades, tapes, rules)
    differences = daily_differences(marks, daily_profits(classic, tapes, rules))
    profits = by_day(marks["day"].to_numpy(), marks["profit"].to_numpy(), first_day, n_days)
    reports = [sealed.report for sealed in periods if sealed.report is not None]
    return RunFigures(
        seed=seed,
        first_ms=result.first_ms,
        last_ms=result.last_ms,
        days=tuple(days),
        differences=tuple(differences.reindex(days, fill_value=0.0).astype(float).tolist()),
        begun=tuple(begun_by_day(trades).reindex(days, fill_value=0).astype(int).tolist()),
        profits=tuple((profits / result.starting_balance).tolist()),
        trades=len(trades),
        max_drawdown=statistics_of(trades, profits, result.starting_balance).max_drawdown_ratio,
        instances=tuple(_instance(sealed, trades, classic, seed, timeframe_ms, result.last_ms) for sealed in periods),
        seconds=seconds,
        training_seconds=float(sum(report.seconds for report in reports)),
        timesteps=int(sum(report.timesteps for report in reports)),
    )


def _instance(
    sealed: SealedPeriod, trades: pd.DataFrame, classic: pd.DataFrame, seed: int, timeframe_ms: int, last_ms: int
) -> Instance:
    within, days = entered_within(sealed, trades, timeframe_ms), days_of(sealed, last_ms)
    # Over its days a trade's marked profits sum up to its own.
    difference = float(trades["profit_ratio"][within].sum() - classic["profit_ratio"][within].sum())
    return Instance(
        pair=sealed.pair,
        period=f"{datetime.fromtimestamp(sealed.period.first_ms / 1000, UTC):%Y-%m-%d}",
        seed=seed,
        days=days,
        trades=int(within.sum()),
        difference=difference / days if days > 0 else 0.0,
    )
