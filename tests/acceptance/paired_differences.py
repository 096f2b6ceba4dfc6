"""Paired daily differences of a strategy's classic entries on a market: other exits less the classic ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from shipped import STRATEGIES, shipped_options

from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import (
    MAIN_CONFIG,
    freqtrade_command,
    run_freqtrade,
    write_overlay,
)
from mtfscalper.reporting.daily import DAY_MS, daily_profits
from mtfscalper.reporting.offline_exchange import config_of_run, fee_of_run, offline_exchange
from mtfscalper.reporting.quiet import quiet_freqtrade
from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.run_candles import tapes_of_run
from mtfscalper.reporting.run_result import Asked, RunResult
from mtfscalper.reporting.run_rules import rules_of_run
from mtfscalper.reporting.trades import trades_of_freqtrade
from mtfscalper.reporting.without_freqai import strategy_of_run

ROOT = Path(__file__).parents[2]
SEED = 7


class Differences(NamedTuple):
    """Of the days on which any trade was held.

    :ivar sums: over all trades, in shares of their stakes, shape (n_days,)
    :ivar counts: trades that began, shape (n_days,)
    """

    sums: np.ndarray
    counts: np.ndarray


def backtest_without_freqai(datadir: Path, home: Path, timerange: str, pairs: list[str]) -> Path:
    """Run the real command with the project's strategy and without FreqAI.

    :param home: becomes freqtrade's user directory
    :return: the folder of its export
    """
    with ReplayExchange(datadir, 0) as exchange:
        sections = {"freqai": {"enabled": False}, "max_open_trades": len(pairs), "user_data_dir": str(home)}
        overlay = write_overlay(home / "overlay.json", exchange.url, sections)
        options = {name: value for name, value in shipped_options().items() if name.startswith("strategy")}
        command = freqtrade_command(
            "backtesting",
            (MAIN_CONFIG, Path("configs/offline.json"), overlay),
            datadir=datadir,
            pairs=pairs,
            timerange=timerange,
            cache="none",
            **options,
        )
        assert run_freqtrade(command, ROOT) == 0
    return home / "backtest_results"


def differences_on(datadir: Path, home: Path) -> dict[str, Differences]:
    """Backtest on all that a data directory has but its first ten days, and take the differences."""
    store = CandleStore(datadir)
    pairs = [pair for pair, timeframes in store.timeframes.items() if "5m" in timeframes][:4]
    opened = store.finest(pairs[0]).open_ms
    first, last = (np.datetime64(int(ms), "ms").astype("datetime64[D]") for ms in (opened[0], opened[-1]))
    timerange = "-".join(str(day).replace("-", "") for day in (first + 10, last))
    return differences_of(backtest_without_freqai(datadir, home, timerange, pairs), datadir)


def differences_of(results: Path, datadir: Path) -> dict[str, Differences]:
    """The differences of an export's entries: by its own exits, and by random ones of the same holding times.

    Of all entries, of so few of them, taken at random, that one begins on a day, and of all of them with one in twenty
    left so, as by a policy that seldom acts.
    """
    result = RunResult.read(Asked(result=results, datadir=datadir))
    config = config_of_run(result) | {"strategy_path": str(STRATEGIES)}
    with quiet_freqtrade():
        tapes = tapes_of_run(result, config, offline_exchange(config, result.pairs))
    strategy = strategy_of_run(result)
    rules = rules_of_run(result, fee_of_run(result), {}, strategy).by_pair
    own = trades_of_freqtrade(result.trades, 300_000)
    random = np.random.default_rng(SEED)
    held = np.maximum(random.permutation(own["held_candles"].to_numpy()), 1)
    n = len(own)
    few, seldom, all_of = random.random(n) < result.n_days / n, random.random(n) < 1 / 20, np.full(n, True)
    at_random, classic = relive(own, tapes, rules, leave_after=held), relive(own, tapes, rules)
    ends = {
        "own exits, all entries": (own, all_of),
        "own exits, one entry a day": (own, few),
        "random exits, all entries": (at_random, all_of),
        "random exits, one entry a day": (at_random, few),
        "random exits of one entry in twenty": (classic.where(~pd.Series(seldom), at_random), all_of),
    }
    found = {}
    for name, (trades, which) in ends.items():
        marked, of_classic = (
            daily_profits(of[which], tapes, rules).groupby("day")["profit_ratio"].sum() for of in (trades, classic)
        )
        differences = marked.sub(of_classic, fill_value=0.0).sort_index()
        began = (own["open_ms"][which] // DAY_MS).value_counts().reindex(differences.index, fill_value=0)
        found[name] = Differences(differences.to_numpy(), began.to_numpy(dtype=np.float64))
    return found
