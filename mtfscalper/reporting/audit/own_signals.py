"""The entry and exit signals of a strategy's own columns, where no policy's stand for them."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
from freqtrade.exchange import Exchange, timeframe_to_msecs
from freqtrade.strategy import IStrategy

from mtfscalper.freqai.as_traded import signals_of
from mtfscalper.reporting.audit.entries import Signals
from mtfscalper.reporting.reliving import ExitSignals
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.strategy_columns import exit_signals, flagged, loaded_backtest, one_line, within_run
from mtfscalper.reporting.without_freqai import NotRun


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
    try:
        with loaded_backtest(result, exchange) as loaded:
            return (_beside_policy if result.freqai else _alone)(result, loaded.strategy, loaded.candles)
    except Exception as error:
        # Of the user's code: it may raise anything.
        return NotRun(f"{result.strategy} does not run here: {one_line(error)}")


def _alone(result: RunResult, strategy: IStrategy, candles: dict[str, pd.DataFrame]) -> OwnSignals:
    exits, entries = {}, {}
    for pair, frame in strategy.advise_all_indicators(candles).items():
        advised = strategy.ft_advise_signals(frame.copy(), {"pair": pair})
        exits[pair] = exit_signals(result, advised)
        long, short, leave_long, leave_short = (
            flagged(advised, name) for name in ("enter_long", "enter_short", "exit_long", "exit_short")
        )
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
        inside = within_run(result, frame["date"])
        exits[pair] = ExitSignals(signals.long.exit[inside], signals.short.exit[inside])
    return OwnSignals(exits, {})
