"""The other backtests of a strategy on the same days: whoever shows the best of several must say so."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from freqtrade.data.btanalysis import get_backtest_resultlist, load_backtest_stats
from freqtrade.exceptions import OperationalException
from freqtrade.ft_types import BacktestHistoryEntryType

from mtfscalper.reporting.run_result import DAY_MS, RunResult
from mtfscalper.reporting.sharpe import annual_sharpe

logger = logging.getLogger(__name__)

# The newest ones: reading each takes a moment.
_MOST = 200


def sharpes_of_trials(result: RunResult) -> list[float]:
    """Annual Sharpe ratios of the closed trades of all different backtests of a run's strategy on any of its days.

    Exports in the same folder count; the same settings twice are one trial.

    :return: that of the run itself first
    """
    own = _sharpe(result.stats)
    try:
        listed = get_backtest_resultlist(result.path.parent)
    except (OSError, OperationalException) as error:
        logger.warning("The other results in %s cannot be listed (%s): no trial is counted.", result.path.parent, error)
        return [own]
    found = {_run_id(result, listed): own}
    for entry in listed[:_MOST]:
        overlaps = (
            entry["strategy"] == result.strategy
            and entry["timeframe"] == result.timeframe
            and int(entry["backtest_start_ts"] or 0) * 1000 < result.last_ms
            and int(entry["backtest_end_ts"] or 0) * 1000 > result.first_ms
        )
        if not overlaps or entry["run_id"] in found:
            continue
        path = result.path.parent / f"{entry['filename'].removesuffix('.meta')}{result.path.suffix}"
        try:
            stats: Mapping[str, Any] = load_backtest_stats(path)["strategy"][result.strategy]
        except (OSError, ValueError, KeyError) as error:
            logger.warning("%s cannot be read (%s): it is not counted as a trial.", path, error)
            continue
        found[entry["run_id"]] = _sharpe(stats)
    return list(found.values())


def _run_id(result: RunResult, listed: Sequence[BacktestHistoryEntryType]) -> str:
    for entry in listed:
        if entry["filename"].removesuffix(".meta") == result.path.stem and entry["strategy"] == result.strategy:
            return entry["run_id"]
    return result.path.stem


def _sharpe(stats: Mapping[str, Any]) -> float:
    first, last = (int(stats[f"backtest_{name}_ts"]) // DAY_MS for name in ("start", "end"))
    daily = np.zeros(last - first + 1)
    for date, profit in stats.get("daily_profit", ()):
        at = int(np.datetime64(date, "D").astype(int)) - first
        if 0 <= at < len(daily):
            daily[at] += profit
    return annual_sharpe(daily / float(stats["starting_balance"]))
