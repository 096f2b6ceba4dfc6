"""freqtrade's live mode with simulated money: the trades of a dry run, and what becomes of orders of unknown fate.

A bot trains a policy for each of two pairs. From there three bots go on over the same hours with the same policies: a
dry run, a live one, and a live one that is not told what became of some of its orders.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from mtfscalper.freqai.bot_journal import Journal, read_journal
from mtfscalper.offline.account_check import AccountCheck
from mtfscalper.offline.faults import Rule
from mtfscalper.offline.ledger import Fill, Order
from mtfscalper.offline.stage import Stage, StagedBot, StageHome
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent / "dry_run"
PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
SYMBOLS = {"BTC/USDT:USDT": "BTCUSDT", "ETH/USDT:USDT": "ETHUSDT"}
# Of the synthetic market's prices.
TICKS = {"BTC/USDT:USDT": 0.1, "ETH/USDT:USDT": 0.01}
CANDLE = timedelta(minutes=5)
# Funding falls due at 16:00.
START = datetime(2024, 10, 15, 13, 30, tzinfo=UTC)
HOURS = 3.5
LEAST_TRADES, LEAST_POLICY_EXITS = 8, 4

OVERLAY: dict[str, Any] = {
    "max_open_trades": 2,
    # A share would follow the profit of trades before.
    "stake_amount": 3000,
    "internals": {"process_throttle_secs": 30},
    "freqai": {
        "identifier": "simulated",
        "train_period_days": 2,
        "backtest_period_days": 1,
        # One policy serves throughout.
        "live_retrain_hours": 1000,
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

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(os.name == "nt", reason="the bot is stopped as a group, which Windows has not"),
]


class BotRun(NamedTuple):
    """What a bot has left.

    :ivar trades: of its database, in the order of their entries
    :ivar orders: of its database
    :ivar journal: its record of passes and answers
    :ivar log: what it said
    :ivar faults: lines about the faults that were served
    :ivar fills: of the exchange
    :ivar placed: orders on the exchange, by number
    :ivar check: its database beside the account, None of a dry run
    """

    trades: pd.DataFrame
    orders: pd.DataFrame
    journal: Journal
    log: str
    faults: list[dict[str, str]]
    fills: list[Fill]
    placed: dict[int, Order]
    check: AccountCheck | None


class Bots:
    """Bots that all go on from where one has trained."""

    def __init__(self, scratch: Path) -> None:
        self._scratch, self._folder = scratch, scratch / "home"
        self._market, self._trained = scratch / "market", scratch / "trained"
        write_market(
            self._market, start=datetime(2024, 9, 20, tzinfo=UTC), stop=datetime(2024, 10, 16, tzinfo=UTC), pairs=PAIRS
        )
        self._config = scratch / "config.json"
        self._config.write_text(json.dumps(OVERLAY))
        self._start = self._train()

    def _train(self) -> datetime:
        """Let a bot train both pairs, and keep what it leaves but for its trades.

        :return: when it had trained
        """
        home, moment = StageHome(self._folder), START
        with self._running(home, START) as (stage, bot):
            while home.log.read_text().count("Done training") < len(PAIRS):
                moment += CANDLE
                assert bot.run_until(moment), home.log.read_text()
            bot.stop()
            moment = stage.clock.now()
        for name in ("logs", "decisions"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        for path in self._folder.glob("tradesv3*"):
            path.unlink()
        self._folder.rename(self._trained)
        return moment

    def run(self, is_live: bool, rules: Sequence[Rule] = ()) -> BotRun:
        """Let a bot trade."""
        # In one place, for FreqAI writes down whole paths.
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._trained, self._folder)
        home = StageHome(self._folder, is_live)
        with self._running(home, self._start, rules) as (stage, bot):
            assert bot.run_until(self._start + timedelta(hours=HOURS)), home.log.read_text()
            bot.stop()
            check = stage.check_account() if is_live else None
            account = stage.account
        with sqlite3.connect(home.database) as connection:
            trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date, pair", connection)
            orders = pd.read_sql("SELECT * FROM orders ORDER BY id", connection)
        for name in ("open_date", "close_date"):
            trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601")
        return BotRun(
            trades,
            orders,
            read_journal(home.decisions / "simulated", "live" if is_live else "dry_run"),
            home.log.read_text(),
            [json.loads(line) for line in home.faults.read_text().splitlines()] if home.faults.exists() else [],
            account.fills,
            account.orders,
            check,
        )

    @contextmanager
    def _running(
        self, home: StageHome, start: datetime, rules: Sequence[Rule] = ()
    ) -> Iterator[tuple[Stage, StagedBot]]:
        configs = [ROOT / "configs" / "config_rl_hybrid.json", self._config]
        with Stage(home, self._market, start, None, tuple(rules)) as stage:
            command = stage.command(
                [*configs, stage.write_config(configs, PAIRS, {})],
                strategy="MtfScalper_RL_Hybrid",
                strategy_path=ROOT / "strategies",
                freqaimodel="LivelyModel",
                freqaimodel_path=HELPERS,
            )
            bot = stage.start_bot(command, self._scratch, {"OMP_NUM_THREADS": "1"})
            try:
                yield stage, bot
            finally:
                bot.kill()


@pytest.fixture(scope="module")
def bots(tmp_path_factory: pytest.TempPathFactory) -> Bots:
    return Bots(tmp_path_factory.mktemp("simulated_live"))


@pytest.fixture(scope="module")
def dry(bots: Bots) -> BotRun:
    return bots.run(is_live=False)


@pytest.fixture(scope="module")
def live(bots: Bots) -> BotRun:
    return bots.run(is_live=True)
