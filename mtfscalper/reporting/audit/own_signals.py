"""The entry and exit signals of a strategy's own columns, where no policy's stand for them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from freqtrade.enums import RunMode
from freqtrade.exchange import Exchange, timeframe_to_msecs, timeframe_to_seconds
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.as_traded import signals_of
from mtfscalper.reporting.audit.entries import Signals
from mtfscalper.reporting.offline_exchange import config_of_run, quiet_freqtrade
from mtfscalper.reporting.reliving import ExitSignals
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.without_freqai import NotRun

_DAY_SECONDS = 86_400


class OwnSignals(NamedTuple):
    """A strategy's own signals, by pair.

    :ivar exits: on the candles of the run
    :ivar entries: empty where a policy enters
    """

    exits: dict[str, ExitSignals]
    entries: dict[str, Signals]


def own_signals(result: RunResult, exchange: Exchange) -> OwnSignals | NotRun:
    """Let the strategy, as its file is now, make its columns on the run's candles.

    Where FreqAI took part, those are its own signals that come whatever the policy says.

    :param exchange: with a market for each of the run's pairs
    """
    section = {**(result.config.get("freqai") or {}), "enabled": False}
    config = config_of_run(result, freqai=section, runmode=RunMode.BACKTEST)
    try:
        with quiet_freqtrade():
            backtesting = Backtesting(config, exchange, progress_callback=lambda _: None)
            try:
                days = float(result.freqai.get("train_period_days", 0))
                backtesting.required_startup += int(days * _DAY_SECONDS / timeframe_to_seconds(result.timeframe))
                candles, _ = backtesting.load_bt_data()
                [strategy] = backtesting.strategylist
                backtesting._set_strategy(strategy)
                return _beside_policy(result, strategy, candles) if result.freqai else _alone(result, strategy, candles)
            finally:
                Backtesting.cleanup()  # type: ignore[no-untyped-call]
    except Exception as error:
        # Of the user's code: it may raise anything.
        return NotRun(f"{result.strategy} does not run here: {type(error).__name__}: {' '.join(str(error).split())}")


def _alone(result: RunResult, strategy: IStrategy, candles: dict[str, pd.DataFrame]) -> OwnSignals:
    exits, entries = {}, {}
    for pair, frame in strategy.advise_all_indicators(candles).items():
        advised = strategy.ft_advise_signals(frame.copy(), {"pair": pair})
        inside = _inside(result, advised["date"])
        long, short = (_flag(advised, f"enter_{side}") for side in ("long", "short"))
        leave_long, leave_short = (_flag(advised, f"exit_{side}") for side in ("long", "short"))
        exits[pair] = ExitSignals((leave_long & ~long)[inside], (leave_short & ~short)[inside])
        # freqtrade enters neither beside an exit signal of the side nor where both sides are signalled.
        rows = pd.DatetimeIndex(advised["date"]).as_unit("ms").astype("int64") + timeframe_to_msecs(result.timeframe)
        both = long & short
        sides = {
            int(row): side
            for side, enters in (("long", long & ~leave_long & ~both), ("short", short & ~leave_short & ~both))
            for row in rows[enters]
        }
        entries[pair] = Signals(sides, frozenset(rows.tolist()))
    return OwnSignals(exits, entries)


def _beside_policy(result: RunResult, strategy: IStrategy, candles: dict[str, pd.DataFrame]) -> OwnSignals:
    # As training asked it: with columns of FreqAI's that enter everywhere, and nowhere.
    strategy.config["freqai"] = {**strategy.config["freqai"], "enabled": True}
    exits = {}
    for pair, frame in candles.items():
        signals = signals_of(strategy, frame, pair)
        inside = _inside(result, frame["date"])
        exits[pair] = ExitSignals(signals.long.exit[inside], signals.short.exit[inside])
    return OwnSignals(exits, {})


def _inside(result: RunResult, dates: pd.Series[pd.Timestamp]) -> Any:
    dates_ms = pd.DatetimeIndex(dates).as_unit("ms").astype("int64")
    return np.asarray((dates_ms >= result.first_ms) & (dates_ms <= result.last_ms))


def _flag(frame: pd.DataFrame, name: str) -> Any:
    return np.asarray(frame[name].fillna(0) == 1) if name in frame else np.zeros(len(frame), dtype=bool)
