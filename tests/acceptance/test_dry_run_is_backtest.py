"""A dry run equals its backtest: ``freqtrade trade --dry-run``, then ``backtesting --freqai-backtest-live-models``.

The bot trades two pairs of a replayed market through retrainings, a funding time, faults of the exchange and a kill,
after which it stays down for a while. The backtest repeats what it did from what it left behind. Every trade is the same
in both, or named.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from freqtrade.data.btanalysis import load_backtest_data
from freqtrade_command import output_of

from mtfscalper.freqai.bot_journal import BotTrade, Journal, read_journal
from mtfscalper.freqai.decision_record import bots_decisions
from mtfscalper.offline.faults import Rule
from mtfscalper.offline.freqtrade_command import freqtrade_command
from mtfscalper.offline.stage import Stage, StageHome
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent / "dry_run"
PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
CANDLE = timedelta(minutes=5)
# Funding falls due at 16:00.
START = datetime(2024, 10, 15, 13, 30, tzinfo=UTC)
KILLED, BACK = START + timedelta(hours=1, minutes=52), START + timedelta(hours=2, minutes=21)
STOP = START + timedelta(hours=4, minutes=32)
FUNDING = datetime(2024, 10, 15, 16, tzinfo=UTC)
MISSING = START + timedelta(hours=3)
LEAST_TRADES, LEAST_POLICIES = 20, 3
# Of a synthetic market, whose candles join: the book is around the close before, the backtest fills at the open.
RATES_APART_BPS = 1.0

OVERLAY: dict[str, Any] = {
    "max_open_trades": 2,
    "internals": {"process_throttle_secs": 15},
    "freqai": {
        "identifier": "audited",
        "train_period_days": 2,
        "backtest_period_days": 1,
        "live_retrain_hours": 1,
        "activate_tensorboard": False,
        "rl_config": {
            "train_cycles": 1,
            "n_envs": 2,
            "n_steps": 64,
            "batch_size": 32,
            "n_epochs": 1,
            "net_arch": [16],
            "vec_env": "dummy",
            "cpu_count": 1,
            "interop_threads": 1,
            "device": "cpu",
            "progress_bar": False,
            "entry_mode": "agent",
            "decision_mode": "exact",
        },
    },
}
FAULTS = (
    Rule("missing", symbol="BTCUSDT", since_ms=int(MISSING.timestamp() * 1000), count=1, path="klines"),
    Rule("revised", symbol="ETHUSDT", since_ms=int(MISSING.timestamp() * 1000), count=1, path="klines"),
    Rule("http_503", rate=0.02),
)

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(os.name == "nt", reason="the bot is killed as a group, which Windows has not"),
]


class Runs(NamedTuple):
    """What a bot and the backtest of it have left.

    :ivar trades: of the bot's database, in the order of their entries
    :ivar backtests: the backtest's, in the same order
    :ivar journal: the bot's
    :ivar output: what the backtest printed
    """

    home: Path
    trades: pd.DataFrame
    backtests: pd.DataFrame
    journal: Journal
    output: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    scratch = tmp_path_factory.mktemp("audit")
    market, home = scratch / "market", StageHome(scratch / "home")
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 10, 17, tzinfo=UTC), pairs=PAIRS)
    config = scratch / "config.json"
    config.write_text(json.dumps(OVERLAY))
    configs = [ROOT / "configs" / "config_rl_hybrid.json", config]
    named = {
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": ROOT / "strategies",
        "freqaimodel": "LivelyModel",
        "freqaimodel_path": HELPERS,
    }
    with Stage(home, market, START, None, FAULTS, seed=1) as stage:
        overlay = stage.write_config(configs, PAIRS, {})
        command = stage.command([*configs, overlay], **named)
        bot = stage.start_bot(command, scratch, {"OMP_NUM_THREADS": "1"})
        assert bot.run_until(KILLED), home.log.read_text()
        bot.kill()
        stage.clock.jump_to(BACK)
        bot = stage.start_bot(command, scratch, {"OMP_NUM_THREADS": "1"})
        assert bot.run_until(STOP), home.log.read_text()
        bot.stop()
        output = output_of(
            freqtrade_command(
                "backtesting",
                [*configs, overlay],
                userdir=home.folder,
                datadir=market,
                no_color=True,
                freqai_backtest_live_models=True,
                enable_protections=True,
                **named,
            ),
            scratch,
        )
        (scratch / "backtest.log").write_text(output)
    with sqlite3.connect(home.database) as connection:
        trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date, pair", connection)
    for name in ("open_date", "close_date"):
        trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601")
    backtests = load_backtest_data(home.folder / "backtest_results").sort_values(["open_date", "pair"])
    journal = read_journal(home.folder / "decisions" / "audited", "dry_run")
    return Runs(home.folder, trades, backtests, journal, output)


def test_print(runs: Runs) -> None:
    print(
        runs.trades[
            ["pair", "open_date", "is_short", "open_rate", "close_date", "close_rate", "exit_reason"]
        ].to_string()
    )
    print(
        runs.backtests[
            ["pair", "open_date", "is_short", "open_rate", "close_date", "close_rate", "exit_reason"]
        ].to_string()
    )
    print(runs.output[-6000:])
    assert 0
