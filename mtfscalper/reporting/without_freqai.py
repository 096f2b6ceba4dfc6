"""The strategy without FreqAI on the run's candles: its own entries, exits and slots, by freqtrade's backtester."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.data.history import get_timerange
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange, timeframe_to_msecs, timeframe_to_seconds
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.resolvers import StrategyResolver
from freqtrade.strategy import IStrategy

from mtfscalper.reporting.offline_exchange import config_of_run, quiet_freqtrade
from mtfscalper.reporting.reliving import ExitSignals
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.trades import trades_of_freqtrade

_DAY_SECONDS = 86_400


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
    config = _without_freqai(result)
    try:
        strategy: IStrategy = StrategyResolver.load_strategy(config)
    except Exception as error:
        # Of the user's code: it may raise anything.
        return NotRun(f"{result.strategy} cannot be loaded: {_one_line(error)}")
    return strategy


def run_without_freqai(result: RunResult, exchange: Exchange) -> WithoutFreqai | NotRun:
    """Backtest the strategy without FreqAI, twice: with its exit signals and without them.

    :param exchange: with a market for each of the run's pairs
    """
    try:
        with quiet_freqtrade():
            backtesting = Backtesting(_without_freqai(result), exchange, progress_callback=lambda _: None)
            try:
                return _run(result, backtesting)
            finally:
                Backtesting.cleanup()  # type: ignore[no-untyped-call]
    except Exception as error:
        return NotRun(f"{result.strategy} does not run without FreqAI: {_one_line(error)}")


def _run(result: RunResult, backtesting: Backtesting) -> WithoutFreqai:
    # The run had loaded the candles of its trainings: indicators begin where they began there.
    days = float(result.freqai.get("train_period_days", 0))
    backtesting.required_startup += int(days * _DAY_SECONDS / timeframe_to_seconds(result.timeframe))
    candles, timerange = backtesting.load_bt_data()
    [strategy] = backtesting.strategylist
    backtesting._set_strategy(strategy)
    frames = strategy.advise_all_indicators(candles)
    advised = {pair: strategy.ft_advise_signals(frame.copy(), {"pair": pair}) for pair, frame in frames.items()}
    inside = {pair: frame[frame["date"] >= timerange.startdt] for pair, frame in advised.items()}
    signals = {pair: _signals(result, frame) for pair, frame in inside.items()}
    first, last = get_timerange(inside)

    def trades() -> pd.DataFrame:
        # A backtest uses its frames up.
        processed = {pair: frame.copy() for pair, frame in frames.items()}
        found = backtesting.backtest(processed=processed, start_date=first, end_date=last)["results"]
        return trades_of_freqtrade(found, timeframe_to_msecs(result.timeframe))

    own = trades()

    def no_exit_signals(dataframe: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        return dataframe

    strategy.populate_exit_trend = no_exit_signals  # type: ignore[method-assign]
    return WithoutFreqai(signals, trades(), own)


def _signals(result: RunResult, frame: pd.DataFrame) -> ExitSignals:
    """The exit signals of a strategy's frame, on the candles from the run's first to its last."""
    dates_ms = pd.DatetimeIndex(frame["date"]).as_unit("ms").astype("int64")
    inside = frame[(dates_ms >= result.first_ms) & (dates_ms <= result.last_ms)]

    def column(name: str) -> Any:
        return inside[name].fillna(0).to_numpy() == 1 if name in inside else np.zeros(len(inside), dtype=bool)

    # Beside an entry of its own side freqtrade lets no exit signal count.
    return ExitSignals(*(column(f"exit_{side}") & ~column(f"enter_{side}") for side in ("long", "short")))


def _without_freqai(result: RunResult) -> dict[str, Any]:
    section = {**(result.config.get("freqai") or {}), "enabled": False}
    return config_of_run(result, freqai=section, runmode=RunMode.BACKTEST)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
