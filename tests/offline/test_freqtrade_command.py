"""The freqtrade command line, the configuration that sends freqtrade to the loopback exchange, and its run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import ccxt
import psutil
import pytest
from freqtrade.commands import Arguments

from mtfscalper.offline import DEFAULT_PORT
from mtfscalper.offline.exchange import LOOPBACK
from mtfscalper.offline.freqtrade_command import (
    MAIN_CONFIG,
    Option,
    as_typed,
    freqtrade_command,
    offline_config,
    project_options,
    running,
    write_overlay,
)

ROOT = Path(__file__).parents[2]
URL = "http://127.0.0.1:1"


def test_configurations_keep_their_order_and_options_get_freqtrades_names() -> None:
    command = freqtrade_command(
        "hyperopt",
        [Path("first.json"), Path("second.json")],
        pairs=("BTC/USDT:USDT", "ETH/USDT:USDT"),
        timerange="20241001-",
        no_color=True,
        strategy_path=Path("mine"),
        spaces=["roi", "stoploss"],
        epochs=1,
    )
    assert command == [
        *(sys.executable, "-m", "freqtrade", "hyperopt", "--no-color", "--strategy-path", "mine"),
        *("--spaces", "roi", "stoploss", "--epochs", "1", "--config", "first.json", "--config", "second.json"),
        *("--pairs", "BTC/USDT:USDT", "ETH/USDT:USDT", "--timerange", "20241001-"),
    ]


@pytest.mark.parametrize(
    ("subcommand", "options", "understood"),
    [
        ("backtesting", {"pairs": ["A/B:B", "C/B:B"]}, {"backtest_cache": "none", "pairs": ["A/B:B", "C/B:B"]}),
        ("trade", {"dry_run": True, "db_url": "sqlite://"}, {"dry_run": True, "db_url": "sqlite://"}),
        ("recursive-analysis", {"startup_candle": ("50", "200")}, {"startup_candle": ["50", "200"]}),
        ("hyperopt", {"job_workers": 2, "disable_param_export": True}, {"hyperopt_jobs": 2}),
    ],
)
def test_freqtrade_understands_the_command(
    subcommand: str, options: dict[str, Option], understood: dict[str, object]
) -> None:
    command = freqtrade_command(subcommand, [ROOT / MAIN_CONFIG], **project_options(ROOT), **options)
    parsed = Arguments(command[3:]).get_parsed_arg()
    assert parsed["strategy"] == "MtfScalper_RL_Hybrid"
    assert (ROOT / parsed["strategy_path"] / f"{parsed['strategy']}.py").is_file()
    assert parsed | understood == parsed


def test_a_command_is_shown_as_a_user_types_it() -> None:
    command = freqtrade_command("trade", [], datadir=Path("my candles"))
    assert as_typed(command) == "freqtrade trade --datadir 'my candles'"


def test_an_overlay_sends_freqtrade_to_the_exchange_and_holds_what_is_the_runs_own(tmp_path: Path) -> None:
    path = write_overlay(tmp_path / "overlay.json", URL, {"freqai": {"identifier": "mine"}})
    assert path == tmp_path / "overlay.json"
    assert json.loads(path.read_text()) == offline_config(URL) | {"freqai": {"identifier": "mine"}}


def test_every_address_of_ccxt_leads_to_the_loopback_exchange() -> None:
    addresses = offline_config(URL)["exchange"]["ccxt_config"]["urls"]["api"]
    assert set(addresses) == set(ccxt.binance().urls["api"])
    assert {urlsplit(address).netloc for address in addresses.values()} == {"127.0.0.1:1"}
    assert urlsplit(addresses["fapiPublic"]).path == "/fapi/v1"


def test_offline_config_on_disk_is_the_generated_one() -> None:
    stored = json.loads((ROOT / "configs" / "offline.json").read_text(encoding="utf-8"))
    assert stored == offline_config(f"http://{LOOPBACK}:{DEFAULT_PORT}")


@pytest.fixture
def typed_input() -> Iterator[None]:
    """Something to read for whoever inherits this process's input."""
    reader, writer = os.pipe()
    os.write(writer, b"typed")
    os.close(writer)
    kept = os.dup(0)
    os.dup2(reader, 0)
    yield
    os.dup2(kept, 0)
    os.close(kept)
    os.close(reader)


def test_a_watched_command_writes_to_its_log_and_has_no_input(tmp_path: Path, typed_input: None) -> None:
    program = "import sys; print(repr(sys.stdin.read())); print('error', file=sys.stderr)"
    with (tmp_path / "log").open("wb") as log, running([sys.executable, "-uc", program], tmp_path, log) as process:
        assert process.wait(120) == 0
    assert (tmp_path / "log").read_text().splitlines() == ["''", "error"]


def test_a_command_ends_with_its_block_even_after_an_exception(tmp_path: Path) -> None:
    waiting = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(RuntimeError, match="inside"), running(waiting, tmp_path) as process:
        raise RuntimeError("inside")
    assert process.returncode is not None


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_stops_freqtrade_and_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    waiting = (
        "import os, pathlib, time\n"
        "pathlib.Path('starting').write_text(str(os.getpid()))\n"
        "pathlib.Path('starting').rename('running')\n"
        "time.sleep(60)"
    )
    # SIGINT by hand, since a test runner in the background may have passed on SIG_IGN.
    program = (
        "import signal, sys, pathlib\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from mtfscalper import cli\n"
        "from mtfscalper.offline import freqtrade_command\n"
        "cli.let_termination_clean_up()\n"
        "ends = freqtrade_command._ends_within\n"
        "freqtrade_command._ends_within = lambda process, seconds: ends(process, seconds / 10)\n"
        f"command = [sys.executable, '-c', {waiting!r}]\n"
        f"sys.exit(freqtrade_command.run_freqtrade(command, pathlib.Path({str(tmp_path)!r})))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (tmp_path / "running").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(120) == 130
    assert not psutil.pid_exists(int((tmp_path / "running").read_text()))
