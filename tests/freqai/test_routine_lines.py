"""What is printed of a run's log, what only a log file keeps, and what is never left out."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from freqtrade.loggers.ft_rich_handler import FtRichHandler
from rich.console import Console

from mtfscalper.freqai.routine_lines import AtStart, Repeated, leave_out_routine

CONFIG = Path(__file__).parents[2] / "configs" / "config_rl_hybrid.json"


def record(name: str, line: str, level: int = logging.INFO, **extra: bool) -> logging.LogRecord:
    made = logging.LogRecord(name, level, __file__, 1, "%s", (line,), None)
    vars(made).update(extra)
    return made


@pytest.mark.parametrize(
    ("name", "line", "is_printed"),
    [
        ("data.dataprovider", "Loading data for BTC/USDT:USDT 1h from 2024-08-15 to 2024-10-15", False),
        ("data.dataprovider", "Increasing startup_candle_count for freqai on 5m to 9040", False),
        (
            "freqai.data_kitchen",
            "BTC/USDT:USDT: dropped 0 training points due to NaNs in populated dataset 8640.",
            False,
        ),
        ("freqai.data_kitchen", "BTC/USDT:USDT: dropped 10 training points due to NaNs in populated dataset 86.", True),
        ("freqai.data_kitchen", "dropped 5 of 2016 prediction data points due to NaNs.", True),
        (
            "freqai.freqai_interface",
            "Training BTC/USDT:USDT, 1/2 pairs from 2024-09-01 to 2024-10-01, 1/2 trains",
            False,
        ),
        ("freqai.freqai_interface", "Saving backtest model to disk.", False),
        ("freqai.freqai_interface", "No data found for pair BTC/USDT:USDT from from 2024 to 2024.", True),
        ("strategy.hyper", "Strategy Parameter(default): adx_base = 20", False),
        ("strategy.hyper", "Strategy Parameter: adx_base = 25", True),
        ("data.dataprovider_of_somebody", "Loading data for BTC/USDT:USDT 1h from 2024-08-15 to 2024-10-15", True),
    ],
)
def test_what_repeats_for_every_pair_and_period_is_not_printed_and_nothing_else(
    name: str, line: str, is_printed: bool
) -> None:
    assert Repeated().filter(record(f"freqtrade.{name}", line)) == is_printed
    assert Repeated().filter(record(f"freqtrade.{name}", line, logging.WARNING))


@pytest.mark.parametrize(
    ("name", "line", "is_printed"),
    [
        ("configuration.load_config", "Using config: config.json ...", False),
        ("configuration.configuration", "Parameter --timerange detected: 20241001-20241015 ...", False),
        ("configuration.configuration", "Dry run is disabled", True),
        ("configuration.configuration", 'Using DB: "sqlite:///tradesv3.sqlite"', True),
        ("resolvers.strategy_resolver", "Strategy using stoploss: -0.02", False),
        ("exchange.exchange", "Instance is running with dry_run enabled", True),
        ("loggers", "Verbosity set to 0", False),
    ],
)
def test_a_start_does_not_print_the_config_again_but_says_what_it_trades_with(
    name: str, line: str, is_printed: bool
) -> None:
    assert AtStart().filter(record(f"freqtrade.{name}", line)) == is_printed
    assert AtStart().filter(record(f"freqtrade.{name}", line, logging.WARNING))


def test_what_a_display_says_is_not_printed_beside_it() -> None:
    name, line = "mtfscalper.progress.display", "Starting training"
    assert not Repeated().filter(record(name, line, is_displayed=True))
    assert Repeated().filter(record(name, line, is_displayed=False))


@pytest.fixture
def handlers(tmp_path: Path) -> Iterator[list[logging.Handler]]:
    made: list[logging.Handler] = [
        FtRichHandler(console=Console(file=sys.stderr)),
        logging.StreamHandler(),
        logging.FileHandler(tmp_path / "run.log"),
    ]
    before = {handler: list(handler.filters) for handler in logging.root.handlers}
    for handler in made:
        logging.root.addHandler(handler)
    yield made
    for handler in made:
        logging.root.removeHandler(handler)
        handler.close()
    for handler, filters in before.items():
        handler.filters = filters


def test_a_backtest_leaves_lines_out_of_what_is_printed_once_and_of_no_file(handlers: list[logging.Handler]) -> None:
    leave_out_routine()
    leave_out_routine()
    assert [len(handler.filters) for handler in handlers] == [1, 1, 0]


def test_whoever_asks_for_more_gets_it_all() -> None:
    level = logging.root.level
    logging.root.setLevel(logging.DEBUG)
    try:
        assert Repeated().filter(
            record("freqtrade.data.dataprovider", "Loading data for A from 1 to 2", is_displayed=True)
        )
        assert AtStart().filter(record("freqtrade.loggers", "Verbosity set to 1"))
    finally:
        logging.root.setLevel(level)


# As freqtrade sets up its log, of which a test's process keeps its own.
SET_UP = """
import json, logging, sys
logging.getLogger("mtfscalper.early")
from freqtrade.loggers import setup_logging
config = {"verbosity": 0, "logfile": sys.argv[2], "log_config": json.loads(sys.argv[1]), "print_colorized": False}
setup_logging(config)
logging.getLogger("freqtrade.resolvers.strategy_resolver").info("Strategy using stoploss: -0.02")
logging.getLogger("freqtrade.configuration.configuration").info("Dry run is disabled")
logging.getLogger("mtfscalper.early").info("told by a logger made before")
"""


def test_the_config_prints_less_and_its_log_file_has_it_all(tmp_path: Path) -> None:
    log_config, file = json.dumps(json.loads(CONFIG.read_text())["log_config"]), tmp_path / "bot.log"
    # Under pytest freqtrade sets up no log.
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_VERSION"} | {"COLUMNS": "200"}
    command = [sys.executable, "-c", SET_UP, log_config, str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    kept = file.read_text()
    for line, is_printed in (
        ("Strategy using stoploss: -0.02", False),
        ("Dry run is disabled", True),
        ("told by a logger made before", True),
    ):
        assert line in kept
        assert (line in ran.stderr) == is_printed, ran.stderr
