"""FreqAI's own machinery in this process, on a synthetic market and without a network."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR
from freqtrade.optimize.backtesting import Backtesting

from mtfscalper.freqai import live_replay
from mtfscalper.offline.synthetic import write_market


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine days of candles, with mark prices and funding rates."""
    datadir = tmp_path_factory.mktemp("market")
    start, stop = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 10, tzinfo=UTC)
    write_market(datadir, start=start, stop=stop, pairs=(PAIR, OTHER_PAIR))
    # Ten times the usual, so that no difference hides in a rounding.
    rates = datadir / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather"
    frame = pd.read_feather(rates)
    frame.assign(open=frame["open"] * 10).to_feather(rates)
    return datadir


@pytest.fixture(autouse=True)
def told_at_exit(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What backtests of a bot's decisions would print as the process ends."""
    functions: list[Callable[[], None]] = []
    monkeypatch.setattr(live_replay, "atexit", SimpleNamespace(register=functions.append))
    return functions


@pytest.fixture(autouse=True)
def _give_freqtrade_its_database_back() -> Iterator[None]:
    yield
    Backtesting.cleanup()
