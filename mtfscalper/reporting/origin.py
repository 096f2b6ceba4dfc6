"""Where a result comes from: settings, versions, data, run times, and the one command that makes it again."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mtfscalper import __version__, artefacts
from mtfscalper.machine import usable_processors
from mtfscalper.market.tape import MarketTape
from mtfscalper.offline import DEMO_TIMERANGE
from mtfscalper.offline.demo import IDENTIFIER
from mtfscalper.reporting.policies import RunPolicies
from mtfscalper.reporting.run_result import RunResult

_TRADED = (
    *("strategy_name", "freqaimodel", "freqai_identifier", "timeframe", "timeframe_detail", "timerange"),
    *("trading_mode", "margin_mode", "stake_currency", "stake_amount", "starting_balance", "max_open_trades_setting"),
    *("stoploss", "minimal_roi", "trailing_stop", "trailing_stop_positive", "trailing_stop_positive_offset"),
    *("trailing_only_offset_is_reached", "use_exit_signal", "exit_profit_only", "enable_protections"),
)
_FREQAI = ("train_period_days", "backtest_period_days", "conv_width", "continual_learning", "data_split_parameters")


class Origin(NamedTuple):
    """Where a result comes from.

    :ivar settings: in force when it was made, by name
    :ivar rl_config: of the model, as the config has it
    :ivar seed: of the training; None for a run without this project's model
    :ivar versions: of what is installed now, by package
    :ivar data: the candles of the run, by pair: first, last, how many
    :ivar times: seconds of the backtest and of its trainings, and when it was made
    :ivar machine: the one that this report is made on
    :ivar command: makes the result again
    """

    settings: dict[str, Any]
    rl_config: dict[str, Any]
    seed: int | None
    versions: dict[str, str]
    data: dict[str, dict[str, Any]]
    times: dict[str, Any]
    machine: dict[str, Any]
    command: str


def origin_of(result: RunResult, tapes: Mapping[str, MarketTape], policies: RunPolicies, fee_ratio: float) -> Origin:
    """Gather where a result comes from.

    :param fee_ratio: of each side
    """
    freqai, stats = result.freqai, result.stats
    rl_config = dict(freqai.get("rl_config", {}))
    settings = {name: stats[name] for name in _TRADED if stats.get(name) not in (None, "")}
    settings |= {"pairs": result.pairs, "fee_ratio": fee_ratio}
    settings |= {f"freqai.{name}": freqai[name] for name in _FREQAI if name in freqai}
    reports = [period.report for period in policies.periods if period.report is not None]
    began, ended = result.ran_ms
    return Origin(
        settings=artefacts.plain_json(settings),
        rl_config=artefacts.plain_json(rl_config),
        seed=rl_config.get("seed") if policies.plans else None,
        versions=_versions(),
        data={
            pair: {"first": moment(tape.dates_ms[0]), "last": moment(tape.dates_ms[-1]), "candles": len(tape)}
            for pair, tape in tapes.items()
        },
        times={
            "made": moment(ended),
            "backtest_seconds": (ended - began) / 1000,
            "training_seconds": sum(report.seconds for report in reports),
            "trainings": len(reports),
            "timesteps": sum(report.timesteps for report in reports),
        },
        machine={
            "system": f"{platform.system()} {platform.release()}",
            "processor": platform.machine(),
            "processors": usable_processors(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
        command=command_of(result),
    )


def moment(ms: float) -> str:
    """A time in milliseconds since 1970 for people, UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def command_of(result: RunResult) -> str:
    """The shell command that makes a result again."""
    stats, config = result.stats, result.config
    if str(config.get("freqai", {}).get("identifier", "")).startswith(IDENTIFIER) and stats.get("freqaimodel"):
        # Its exchange ran for as long as the demo.
        options = ["--pairs", *result.pairs]
        if stats.get("timerange") != DEMO_TIMERANGE:
            options += ["--datadir", str(result.datadir), "--timerange", str(stats.get("timerange"))]
        return shlex.join(["mtfscalper", "demo", *options])
    options = ["--strategy", result.strategy, "--datadir", str(result.datadir), "--cache", "none"]
    if stats.get("freqaimodel"):
        options += ["--freqaimodel", str(stats["freqaimodel"])]
    if stats.get("timerange"):
        options += ["--timerange", str(stats["timerange"])]
    files = [Path(str(file)) for file in reversed(config.get("config_files", []))]
    if files and all(file.is_file() for file in files):
        configs = [part for file in files for part in ("--config", os.path.relpath(file))]
        return shlex.join(["freqtrade", "backtesting", *configs, *options])
    # The configuration files have moved; freqtrade kept what they said.
    inner = f"{result.path.stem}_config.json"
    extract = shlex.join(["unzip", "-p", str(result.path), inner])
    again = shlex.join(["freqtrade", "backtesting", "--config", "config_of_run.json", *options])
    return f"{extract} > config_of_run.json && {again}"


def _versions() -> dict[str, str]:
    found = {"mtfscalper": __version__, "python": platform.python_version()} | artefacts.library_versions()
    for name in ("freqtrade", "arch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
