"""A strategy without FreqAI in freqtrade's own backtester, over a run's candles, and the signals of its columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange, timeframe_to_seconds
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.strategy import IStrategy

from mtfscalper.reporting.offline_exchange import config_of_run
from mtfscalper.reporting.quiet import quiet_freqtrade
from mtfscalper.reporting.reliving import ExitSignals
from mtfscalper.reporting.run_result import DAY_SECONDS, RunResult

_Flags = npt.NDArray[np.bool_]


class LoadedBacktest(NamedTuple):
    """freqtrade's backtester, ready to run.

    :ivar candles: by pair, with those of the run's trainings before the run
    :ivar timerange: of the run
    """

    backtesting: Backtesting
    strategy: IStrategy
    candles: dict[str, pd.DataFrame]
    timerange: TimeRange


def without_freqai(result: RunResult) -> dict[str, Any]:
    """The config of a run with FreqAI turned off."""
    section = {**(result.config.get("freqai") or {}), "enabled": False}
    return config_of_run(result, freqai=section, runmode=RunMode.BACKTEST)


@contextmanager
def loaded_backtest(result: RunResult, exchange: Exchange) -> Iterator[LoadedBacktest]:
    """Load the strategy, as its file is now, and the run's candles into a backtester, quietly.

    :param exchange: with a market for each of the run's pairs
    """
    with quiet_freqtrade():
        backtesting = Backtesting(without_freqai(result), exchange, progress_callback=lambda _: None)
        try:
            # The run had loaded the candles of its trainings: indicators begin where they began there.
            days = float(result.freqai.get("train_period_days", 0))
            backtesting.required_startup += int(days * DAY_SECONDS / timeframe_to_seconds(result.timeframe))
            candles, timerange = backtesting.load_bt_data()
            [strategy] = backtesting.strategylist
            backtesting._set_strategy(strategy)
            yield LoadedBacktest(backtesting, strategy, candles, timerange)
        finally:
            Backtesting.cleanup()  # type: ignore[no-untyped-call]


def within_run(result: RunResult, dates: pd.Series[pd.Timestamp]) -> _Flags:
    """Which rows of a frame are candles from the run's first to its last, shape (n_rows,)."""
    dates_ms = pd.DatetimeIndex(dates).as_unit("ms").astype("int64")
    return np.asarray((dates_ms >= result.first_ms) & (dates_ms <= result.last_ms))


def flagged(frame: pd.DataFrame, name: str) -> _Flags:
    """Where a column of signals is set, shape (n_rows,); nowhere if there is none."""
    return np.asarray(frame[name].fillna(0) == 1) if name in frame else np.zeros(len(frame), dtype=bool)


def exit_signals(result: RunResult, advised: pd.DataFrame) -> ExitSignals:
    """The exit signals of a strategy's frame that count, on the candles of the run.

    :param advised: with the signals of the strategy
    """
    inside = within_run(result, advised["date"])
    # Beside an entry of its own side freqtrade lets no exit signal count.
    return ExitSignals(
        *((flagged(advised, f"exit_{side}") & ~flagged(advised, f"enter_{side}"))[inside] for side in ("long", "short"))
    )


def one_line(error: Exception) -> str:
    """An error of the user's code in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
