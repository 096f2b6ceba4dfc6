"""What a run would fail at late, or never end with, stops the freqtrade command at its start, in one message."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shipped import shipped_options

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import CONFIGS, freqtrade_command, write_overlay
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
CASE = ROOT.parent / "shared" / "cases" / "11-pair-listed-later"
CANDLES = ROOT.parent / "shared" / "data" / "binance"

pytestmark = pytest.mark.acceptance

Backtest = Callable[..., tuple[int, str]]


def outcome_of(command: list[str]) -> tuple[int, str]:
    """Exit status and output of a command."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "1000", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def backtest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backtest]:
    """Run ``freqtrade backtesting`` of the demo under a change of its section freqai."""
    scratch = tmp_path_factory.mktemp("late")
    write_market(scratch / "data")
    (scratch / "user").mkdir()
    with ReplayExchange(scratch / "data") as exchange:

        def run(freqai: dict[str, Any], datadir: Path = scratch / "data", **options: str) -> tuple[int, str]:
            overlay = write_overlay(
                scratch / "overlay.json", exchange.url, {"freqai": {"identifier": "late", **freqai}}
            )
            return outcome_of(
                freqtrade_command(
                    "backtesting",
                    [*(ROOT / config for config in CONFIGS), overlay],
                    **{"timerange": "20241001-20241008", **options},
                    no_color=True,
                    userdir=scratch / "user",
                    datadir=datadir,
                    **shipped_options(),
                )
            )

        yield run


def assert_refused(outcome: tuple[int, str], message: str) -> None:
    status, output = outcome
    assert message in output
    assert status != 0
    assert "Traceback" not in output
    assert "Starting training" not in output


@pytest.mark.parametrize(
    ("freqai", "message"),
    [
        ({"backtest_period_days": 0}, "freqai.backtest_period_days is 0; accepted: number in (0, 36500]"),
        ({"backtest_period_days": 0.00001}, "freqai.backtest_period_days is 1e-05, shorter than a candle of 5m"),
        (
            {"rl_config": {"model_reward_parameters": {"equity_weight": 1e300}}},
            "freqai.rl_config.model_reward_parameters.equity_weight is 1e+300; accepted: number in [-100000, 100000]",
        ),
        ({"data_split_parameters": {"test_sise": 0.1}}, "data_split_parameters.test_sise is 0.1, an unknown key"),
        ({"conv_width": 10_000}, "freqai.conv_width is 10000, with which a training needs 11114 candles"),
    ],
)
def test_a_setting_that_would_fail_late_is_refused_before_candles_are_loaded(
    backtest: Backtest, freqai: dict[str, Any], message: str
) -> None:
    outcome = backtest(freqai)
    assert_refused(outcome, message)
    assert "Loading data from" not in outcome[1]


@pytest.mark.parametrize(
    ("freqai", "message"),
    [
        ({"rl_config": {"n_steps": 10**9}}, "freqai.rl_config.n_steps is 1000000000, with which"),
        ({"rl_config": {"net_arch": [10**7]}}, "freqai.rl_config.net_arch is [10000000]"),
        ({"rl_config": {"device": "cuda:99"}}, "freqai.rl_config.device is 'cuda:99', and torch finds"),
    ],
)
def test_what_this_machine_cannot_do_is_refused_before_anything_is_trained(
    backtest: Backtest, freqai: dict[str, Any], message: str
) -> None:
    assert_refused(backtest(freqai), message)


def test_a_missing_file_of_a_timeframe_is_named_before_the_first_training(backtest: Backtest, tmp_path: Path) -> None:
    write_market(tmp_path / "data")
    path = tmp_path / "data" / "futures" / "ETH_USDT_USDT-15m-futures.feather"
    path.unlink()
    outcome = backtest({}, datadir=tmp_path / "data")
    assert_refused(outcome, f"{path} (ETH/USDT:USDT, 15m) is missing; accepted: candles of every timeframe")
    assert "freqtrade download-data --config <your config> --timeframes 5m 15m 1h --timerange 2024" in outcome[1]


def test_too_little_history_is_said_before_the_first_training(backtest: Backtest) -> None:
    outcome = backtest({}, timerange="20240816-20240818")
    assert_refused(outcome, "Too little history: BTC/USDT:USDT from 2024-08-15 00:00")


@pytest.mark.skipif(not CASE.is_dir() or not CANDLES.is_dir(), reason="needs the shared cases and real candles")
def test_a_pair_listed_inside_the_range_and_a_delisted_one_stop_nobody(tmp_path: Path) -> None:
    datadir, user = tmp_path / "data", tmp_path / "user"
    subprocess.run([sys.executable, CASE / "make_data.py", CANDLES, datadir], check=True)
    user.mkdir()
    with ReplayExchange(datadir) as exchange:
        command = freqtrade_command(
            "backtesting",
            [CASE / "config.json", write_overlay(tmp_path / "overlay.json", exchange.url, {})],
            pairs=("BTC/USDT:USDT", "XRP/USDT:USDT", "ETH/USDT:USDT"),
            timerange="20250201-20250205",
            userdir=user,
            datadir=datadir,
            strategy_path=CASE,
            strategy="ReadsActions",
            freqaimodel="MtfScalperRLModel",
            freqaimodel_path=ROOT / "user_data" / "freqaimodels",
            no_color=True,
        )
        status, output = outcome_of(command)
    assert status == 0, output
    assert "Traceback" not in output
    warnings = [line for line in output.splitlines() if "decides nothing (do_predict 0)" in line]
    assert len(warnings) == 2, warnings
    assert "XRP/USDT:USDT decides nothing (do_predict 0) in 1 of 2 periods" in output
    assert "2025-02-01 00:00 to 2025-02-04 00:00 (0 candles to train on, 4 needed)" in output
    assert "ETH/USDT:USDT decides nothing (do_predict 0) in 1 of 2 periods" in output
    assert "2025-02-04 00:00 to 2025-02-05 00:00 (no candle to decide on)" in output
    trained = [line for line in output.splitlines() if "Done training" in line]
    assert [sum(pair in line for line in trained) for pair in ("BTC", "XRP", "ETH")] == [2, 1, 1]
    assert "BACKTESTING REPORT" in output
