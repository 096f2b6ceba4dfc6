"""``mtfscalper train`` by its command line: the backtest after it trains nothing, and makes the trades of serial."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from freqtrade.data.btanalysis import load_backtest_data
from shipped import shipped_options
from test_commands import CONFIG, MARKET, TIMERANGE, TRAINING, Freqtrade

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.synthetic import write_market

PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]

pytestmark = pytest.mark.acceptance


class Home(Freqtrade):
    """A user directory, and what is run in it."""

    def __init__(self, home: Path, url: str, data: Path) -> None:
        super().__init__(home, url)
        self.data = data
        values = json.loads(self.overlay.read_text())
        values["exchange"]["pair_whitelist"] = PAIRS
        # Of two threads the sums' last bits are others than of one.
        values["freqai"]["rl_config"] |= {"threads_per_job": 1, "cpu_count": 1}
        self.overlay.write_text(json.dumps(values))

    def train(self, *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "mtfscalper.cli", "train", *options, "--config", str(CONFIG)]
        words += ["--config", str(self.overlay), "--userdir", str(self.user), "--datadir", str(self.data)]
        words += ["--timerange", TIMERANGE]
        for name, value in shipped_options().items():
            words += [f"--{name.replace('_', '-')}", value]
        return subprocess.run(words, cwd=self.home, capture_output=True, text=True, check=False, timeout=900)

    def backtest(self) -> tuple[str, pd.DataFrame]:
        output = self.with_policy("backtesting", datadir=self.data, export="trades", cache="none")
        [result] = (self.user / "backtest_results").glob("*.zip")
        return output, load_backtest_data(result)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    data = tmp_path_factory.mktemp("data")
    write_market(data, start=MARKET[0], stop=MARKET[1], pairs=PAIRS)
    with ReplayExchange(data) as exchange:
        yield data, exchange.url


def seen(output: str) -> str:
    return re.sub(r"\s+", " ", output)


def test_what_it_trained_side_by_side_is_traded_as_what_a_backtest_trains_in_turn(
    tmp_path: Path, served: tuple[Path, str]
) -> None:
    data, url = served
    home = Home(tmp_path / "train", url, data)
    before = home.models()
    planned = home.train("--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "4 policies to train, 0 reusable" in seen(planned.stdout)
    assert home.models() == before
    trained = home.train("--workers", "2")
    assert trained.returncode == 0, trained.stderr
    assert "4 policies trained" in seen(trained.stdout)
    assert "0 policies to train, 4 reusable" in seen(home.train("--dry-run").stdout)
    output, trades = home.backtest()
    assert TRAINING not in output
    in_turn = Home(tmp_path / "in turn", url, data)
    output, usual = in_turn.backtest()
    assert output.count(TRAINING) == 4
    assert len(usual) > 10
    pd.testing.assert_frame_equal(trades, usual)


def test_a_run_that_cannot_begin_ends_with_status_2(tmp_path: Path, served: tuple[Path, str]) -> None:
    home = Home(tmp_path, served[1], served[0])
    values = json.loads(home.overlay.read_text())
    values["freqai"]["rl_config"]["batch_size"] = -1
    home.overlay.write_text(json.dumps(values))
    ran = home.train("--dry-run")
    assert ran.returncode == 2
    assert "batch_size is -1" in seen(ran.stderr)
