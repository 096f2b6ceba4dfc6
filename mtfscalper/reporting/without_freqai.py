"""The strategy without FreqAI on the run's candles: its own entries, exits and slots, by freqtrade's backtester."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd
from freqtrade.data.history import get_timerange
from freqtrade.exchange import Exchange, timeframe_to_msecs
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy

from mtfscalper.reporting.reliving import ExitSignals
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.strategy_columns import (
    LoadedBacktest,
    exit_signals,
    loaded_backtest,
    one_line,
    without_freqai,
)
from mtfscalper.reporting.trades import trades_of_freqtrade


class WithoutFreqai(NamedTuple):
    """What a strategy does without FreqAI.

    :ivar signals: its exit signals on the candles of the run, by pair
    :ivar classic: the trades of its entries and slots, ended by stop, ROI, longest duration and its callbacks
    :ivar own: the same with its exit signals
    """

    signals: dict[str, ExitSignals]
    classic: pd.DataFrame
    own: pd.DataFrame


class NotRun(NamedTuple):
    """Why there is nothing to say of a strategy without FreqAI.

    :ivar reason: one sentence
    """

    reason: str


def strategy_of_run(result: RunResult) -> IStrategy | NotRun:
    """The strategy as its file is now, without FreqAI."""
    config = without_freqai(result)
    try:
        strategy: IStrategy = StrategyResolver.load_strategy(config)
    except Exception as error:
        # Of the user's code: it may raise anything.
        return NotRun(f"{result.strategy} cannot be loaded: {one_line(error)}")
    return strategy


def run_without_freqai(result: RunResult, exchange: Exchange) -> WithoutFreqai | NotRun:
    """Backtest the strategy without FreqAI, twice: with its exit signals and without them.

    :param exchange: with a market for each of the run's pairs
    """
    try:
        with loaded_backtest(result, exchange) as loaded:
            return _run(result, loaded)
    except Exception as error:
        # Of the user's code: it may raise anything.
        return NotRun(f"{result.strategy} does not run without FreqAI: {one_line(error)}")


def _run(result: RunResult, loaded: LoadedBacktest) -> WithoutFreqai:
    strategy = loaded.strategy
    frames = strategy.advise_all_indicators(loaded.candles)
    advised = {pair: strategy.ft_advise_signals(frame.copy(), {"pair": pair}) for pair, frame in frames.items()}
    inside = {pair: frame[frame["date"] >= loaded.timerange.startdt] for pair, frame in advised.items()}
    signals = {pair: exit_signals(result, frame) for pair, frame in inside.items()}
    first, last = get_timerange(inside)

    def trades() -> pd.DataFrame:
        # A backtest uses its frames up.
        processed = {pair: frame.copy() for pair, frame in frames.items()}
        found = loaded.backtesting.backtest(processed=processed, start_date=first, end_date=last)["results"]
        return trades_of_freqtrade(found, timeframe_to_msecs(result.timeframe))

    own = trades()

    def no_exit_signals(dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        return dataframe

    strategy.populate_exit_trend = no_exit_signals  # type: ignore[method-assign]
    return WithoutFreqai(signals, trades(), own)
