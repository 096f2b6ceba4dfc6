"""What a backtest leaves out of its log, and what it never does."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from mtfscalper.freqai.routine_lines import leave_out_routine

LOGGERS = (
    "freqtrade.data.dataprovider",
    "freqtrade.freqai.data_kitchen",
    "freqtrade.freqai.freqai_interface",
    "freqtrade.strategy.hyper",
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = {name: list(logging.getLogger(name).filters) for name in LOGGERS}
    yield
    for name, filters in before.items():
        logging.getLogger(name).filters = filters


@pytest.mark.parametrize(
    ("name", "line", "is_shown"),
    [
        (LOGGERS[0], "Loading data for BTC/USDT:USDT 1h from 2024-08-15 08:00:00 to 2024-10-15 00:00:00", False),
        (LOGGERS[0], "Increasing startup_candle_count for freqai on 5m to 9040", False),
        (LOGGERS[1], "BTC/USDT:USDT: dropped 0 training points due to NaNs in populated dataset 8640.", False),
        (LOGGERS[1], "BTC/USDT:USDT: dropped 10 training points due to NaNs in populated dataset 8640.", True),
        (LOGGERS[1], "dropped 5 of 2016 prediction data points due to NaNs.", True),
        (LOGGERS[2], "Training BTC/USDT:USDT, 1/2 pairs from 2024-09-01 00:00:00 to 2024-10-01, 1/2 trains", False),
        (LOGGERS[2], "Saving backtest model to disk.", False),
        (LOGGERS[2], "No data found for pair BTC/USDT:USDT from from 2024 to 2024.", True),
        (LOGGERS[3], "Strategy Parameter(default): adx_base = 20", False),
        (LOGGERS[3], "Strategy Parameter: adx_base = 25", True),
    ],
)
def test_what_repeats_for_every_pair_and_period_is_left_out_and_nothing_else(
    name: str, line: str, is_shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    leave_out_routine()
    leave_out_routine()
    assert len(logging.getLogger(name).filters) == 1
    with caplog.at_level(logging.INFO):
        logging.getLogger(name).info("%s", line)
        logging.getLogger(name).warning("%s", line)
    levels = [record.levelno for record in caplog.records]
    assert levels == ([logging.INFO] if is_shown else []) + [logging.WARNING]


def test_whoever_asks_for_more_gets_it_all() -> None:
    level = logging.root.level
    logging.root.setLevel(logging.DEBUG)
    try:
        leave_out_routine()
    finally:
        logging.root.setLevel(level)
    assert not any(logging.getLogger(name).filters for name in LOGGERS)
