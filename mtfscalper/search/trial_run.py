"""One real backtest of a trial: freqtrade's own, in this process, judged by the report's functions."""

from __future__ import annotations

import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from freqtrade.exceptions import OperationalException
from freqtrade.exchange import Exchange, timeframe_to_msecs
from freqtrade.optimize.optimize_reports import generate_backtest_stats

from mtfscalper.freqai.backtester import checked_model, loaded_backtester
from mtfscalper.reporting.loaded_run import load_run
from mtfscalper.reporting.offline_exchange import fee_of_run
from mtfscalper.reporting.policies import policies_of
from mtfscalper.reporting.reliving import relive
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.run_rules import rules_of_run
from mtfscalper.reporting.trades import trades_of_freqtrade
from mtfscalper.search.errors import StudyError
from mtfscalper.search.run_figures import Run, figures_of


def run_backtest(
    config: dict[str, Any],
    seed: int,
    *,
    timerange: str,
    datadir: Path,
    identifier: str,
    exchange: Exchange | None = None,
) -> Run:
    """Train what is missing and backtest, as ``freqtrade backtesting`` does, and judge the trades.

    :param config: freqtrade's for a backtest, as loaded; it is left as it is
    :param seed: of the trainings
    :param timerange: as freqtrade writes it
    :param datadir: where the candles lie
    :param identifier: of FreqAI, under which policies are kept
    :param exchange: None lets freqtrade connect to the config's
    :raises StudyError: if something of the run is missing by which it is judged
    """
    began = time.perf_counter()
    asked = config_of_run(config, seed, timerange=timerange, datadir=datadir, identifier=identifier)
    result = _backtested(asked, exchange)
    policies = policies_of(result)
    if missing := [pair for pair in result.pairs if pair not in policies.plans]:
        raise StudyError(
            f"the policies of {', '.join(missing)} cannot be found: {'; '.join(policies.missing)}; accepted: a "
            "backtest that seals them; remedy: look into the log of the run"
        )
    loaded = load_run(result, policies)
    timeframe_ms = timeframe_to_msecs(result.timeframe)
    trades = trades_of_freqtrade(result.trades, timeframe_ms)
    rules = rules_of_run(result, fee_of_run(result), policies.plans, loaded.strategy).by_pair
    classic = relive(trades, loaded.tapes, rules)
    figures = figures_of(
        result,
        trades,
        classic,
        loaded.tapes,
        rules,
        policies.periods,
        seed=seed,
        timeframe_ms=timeframe_ms,
        seconds=time.perf_counter() - began,
    )
    return Run(figures, trades, classic, loaded.tapes, rules)


def config_of_run(
    config: dict[str, Any], seed: int, *, timerange: str, datadir: Path, identifier: str
) -> dict[str, Any]:
    """The config of one run of a trial.

    :param config: freqtrade's for a backtest, as loaded; it is left as it is
    """
    asked = deepcopy(config)
    for section in (asked, asked.get("original_config")):
        if section is not None:
            section["freqai"]["identifier"] = identifier
            section["freqai"].setdefault("rl_config", {})["seed"] = seed
    return {
        **asked,
        "timerange": timerange,
        "datadir": datadir,
        "export": "none",
        "backtest_cache": "none",
    }


def _backtested(config: dict[str, Any], exchange: Exchange | None) -> RunResult:
    """Run freqtrade's backtest, and give what its export would say."""
    with loaded_backtester(config, exchange, quiet=True) as (backtesting, candles, timerange):
        if len(backtesting.strategylist) != 1:
            raise OperationalException(
                f"{len(backtesting.strategylist)} strategies are asked for; accepted: one; remedy: name it with "
                "--strategy"
            )
        [strategy] = backtesting.strategylist
        checked_model(backtesting, strategy)
        first, last = backtesting.backtest_one_strategy(strategy, candles, timerange)
        told = generate_backtest_stats(candles, backtesting.all_bt_content, min_date=first, max_date=last)
        name = strategy.get_strategy_name()
        trades = backtesting.all_bt_content[name]["results"]
    stats = {key: value for key, value in told["strategy"][name].items() if key != "trades"}
    written = deepcopy(config["original_config"])
    if config.get("strategy_path"):
        written["strategy_path"] = str(config["strategy_path"])
    user_data = Path(config["user_data_dir"])
    return RunResult(
        user_data / "backtest_results", name, stats, written, trades.copy(), user_data, Path(config["datadir"])
    )
