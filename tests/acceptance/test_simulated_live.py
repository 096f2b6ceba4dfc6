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

import ccxt
import pandas as pd
import pytest
from shipped import STRATEGIES
from tiny_rl import TINY_BOT_RL

from mtfscalper.offline.account_check import AccountCheck
from mtfscalper.offline.faults import Rule
from mtfscalper.offline.freqtrade_command import offline_config
from mtfscalper.offline.ledger import Fill, Order
from mtfscalper.offline.simulated_money import PLACEHOLDERS
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
HOURS = 6
# When the owner of the disturbed bot closes the position that it does not know of.
CLOSED_AFTER = timedelta(minutes=52)
LEAST_TRADES, LEAST_POLICY_EXITS = 6, 3

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
        "rl_config": TINY_BOT_RL,
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
    :ivar decisions: its record of decisions
    :ivar log: what it said
    :ivar faults: lines about the faults that were served
    :ivar fills: of the exchange
    :ivar placed: orders on the exchange, by number
    :ivar check: its database beside the account, None of a dry run
    """

    trades: pd.DataFrame
    orders: pd.DataFrame
    decisions: pd.DataFrame
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

    def run(self, is_live: bool, rules: Sequence[Rule] = (), owner_closes: datetime | None = None) -> BotRun:
        """Let a bot trade.

        :param owner_closes: when the owner closes by hand what is held of the first pair
        """
        # In one place, for FreqAI writes down whole paths.
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._trained, self._folder)
        home = StageHome(self._folder, is_live)
        with self._running(home, self._start, rules) as (stage, bot):
            if owner_closes is not None:
                assert bot.run_until(owner_closes), home.log.read_text()
                close_by_hand(stage.exchange.url)
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
            pd.concat([pd.read_feather(path) for path in home.decisions.rglob("*.feather")], ignore_index=True),
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
                strategy_path=STRATEGIES,
                freqaimodel="LivelyModel",
                freqaimodel_path=HELPERS,
            )
            bot = stage.start_bot(command, self._scratch, {"OMP_NUM_THREADS": "1"})
            try:
                yield stage, bot
            finally:
                bot.kill()


def close_by_hand(url: str) -> None:
    """What the owner does on the exchange's own page."""
    settings = offline_config(url)["exchange"]["ccxt_config"]
    client = ccxt.binance({**settings, "apiKey": PLACEHOLDERS["key"], "secret": PLACEHOLDERS["secret"]})
    [position] = client.fetch_positions([PAIRS[0]])
    side = "sell" if position["side"] == "long" else "buy"
    client.create_order(PAIRS[0], "market", side, position["contracts"], None, {"reduceOnly": True})


@pytest.fixture(scope="module")
def bots(tmp_path_factory: pytest.TempPathFactory) -> Bots:
    return Bots(tmp_path_factory.mktemp("simulated_live"))


@pytest.fixture(scope="module")
def dry(bots: Bots) -> BotRun:
    return bots.run(is_live=False)


@pytest.fixture(scope="module")
def live(bots: Bots) -> BotRun:
    return bots.run(is_live=True)


def near(moment: pd.Timestamp) -> dict[str, Any]:
    """Ten seconds before a moment and after it: the bot's next pass comes after thirty."""
    return {f"{name}_ms": int(moment.timestamp() * 1000) + by for name, by in (("since", -10_000), ("until", 10_000))}


class Lost(NamedTuple):
    """Orders of the undisturbed live bot whose answers are lost in another run.

    :ivar entry: of the first pair's first trade, carried out
    :ivar exit: of a trade of the second pair, carried out
    :ivar entry_not: of its next one, not carried out
    :ivar exit_not: of the same, not carried out
    """

    entry: pd.Timestamp
    exit: pd.Timestamp
    entry_not: pd.Timestamp
    exit_not: pd.Timestamp


@pytest.fixture(scope="module")
def lost(live: BotRun) -> Lost:
    left = live.trades[(live.trades["pair"] == PAIRS[1]) & (live.trades["exit_reason"] == "rl_exit")]
    # The policy may leave at once: the entry's own candle is no decision.
    first, second = left.iloc[0], left.iloc[1]
    entry = live.trades.loc[live.trades["pair"] == PAIRS[0], "open_date"].iloc[0]
    return Lost(entry, first["close_date"], second["open_date"], second["close_date"])


@pytest.fixture(scope="module")
def disturbed(bots: Bots, lost: Lost) -> BotRun:
    rules = [
        Rule("order_unknown", symbol=SYMBOLS[pair], carried_out=carried_out, times=1, **near(moment))
        for pair, moment, carried_out in (
            (PAIRS[0], lost.entry, True),
            (PAIRS[1], lost.exit, True),
            (PAIRS[1], lost.entry_not, False),
            (PAIRS[1], lost.exit_not, False),
        )
    ]
    return bots.run(is_live=True, rules=rules, owner_closes=lost.entry.to_pydatetime() + CLOSED_AFTER)


def of_pair(run: BotRun, pair: str) -> pd.DataFrame:
    return run.trades[run.trades["pair"] == pair].reset_index(drop=True)


def undecided(run: BotRun) -> list[tuple[str, pd.Timestamp]]:
    """Candles of open trades about which the policy was not asked exactly once, but for those that a stop ended."""
    asked = run.decisions.groupby(["pair", "opened", "candle"]).size()
    wrong = []
    for trade in run.trades.itertuples():
        opened, is_open = trade.open_date.floor(CANDLE), pd.isna(trade.close_date)
        # The bot may have been ended before it came to the last one.
        last = opened + CANDLE * 1000 if is_open else trade.close_date.floor(CANDLE)
        last = min(last, run.decisions["candle"].max())
        for candle in pd.date_range(opened + CANDLE, last, freq=CANDLE):
            times = int(asked.get((trade.pair, trade.open_date, candle), 0))
            ended = candle == last and not is_open and trade.exit_reason not in ("rl_exit", "sold_on_exchange")
            if times != 1 and not (ended and times == 0):
                wrong.append((trade.pair, candle))
    return wrong


def test_the_live_bot_makes_the_trades_of_a_dry_run(dry: BotRun, live: BotRun) -> None:
    names = ["pair", "is_short", "open_date", "close_date", "exit_reason", "is_open"]
    print(f"\n{live.trades[[*names, 'open_rate', 'close_rate', 'amount', 'funding_fees', 'close_profit_abs']]}")
    assert len(live.trades) >= LEAST_TRADES
    assert (live.trades["exit_reason"] == "rl_exit").sum() >= LEAST_POLICY_EXITS
    assert set(live.trades["pair"]) == set(PAIRS)
    pd.testing.assert_frame_equal(live.trades[names], dry.trades[names])
    ticks = live.trades["pair"].map(TICKS)
    for name in ("open_rate", "close_rate"):
        assert ((live.trades[name] - dry.trades[name]).abs().fillna(0) <= 1.01 * ticks).all()
    assert live.trades["amount"].tolist() == dry.trades["amount"].tolist()
    # What the exchange booked, and what freqtrade reckons from rates and mark prices.
    assert (live.trades["funding_fees"].abs() > 0).any()
    for name in ("funding_fees", "close_profit_abs"):
        assert live.trades[name].fillna(0).tolist() == pytest.approx(dry.trades[name].fillna(0).tolist(), abs=0.05)


def test_the_database_says_what_the_exchange_filled(live: BotRun) -> None:
    assert live.check is not None
    assert live.check.differences == ()
    assert live.check.fills == len(live.fills) == (live.orders["filled"] > 0).sum() >= 2 * LEAST_TRADES - 2
    assert "Traceback" not in live.log
    assert undecided(live) == []


def test_an_entry_that_was_carried_out_is_not_made_again(disturbed: BotRun, lost: Lost) -> None:
    assert f"{PAIRS[0]}: the exchange holds a" in disturbed.log
    trades = of_pair(disturbed, PAIRS[0])
    # Until its owner had closed the position, nothing; then it traded again.
    assert (trades["open_date"] > lost.entry + CLOSED_AFTER).all()
    assert len(trades) >= 1
    assert "the position that no trade knew of is gone" in disturbed.log
    assert disturbed.check is not None
    theirs, own = disturbed.check.positions[PAIRS[0]]
    assert theirs == own


def test_an_exit_that_was_carried_out_is_found_again(live: BotRun, disturbed: BotRun, lost: Lost) -> None:
    trades = of_pair(disturbed, PAIRS[1])
    undisturbed = of_pair(live, PAIRS[1])
    [found] = trades.index[trades["exit_reason"] == "sold_on_exchange"]
    assert trades["close_date"][found] == lost.exit
    assert trades["open_date"][found] == undisturbed["open_date"][found]
    for name in ("open_rate", "close_rate", "close_profit_abs"):
        assert trades[name][found] == pytest.approx(undisturbed[name][found])


def test_what_was_not_carried_out_is_done_at_the_next_pass(live: BotRun, disturbed: BotRun, lost: Lost) -> None:
    trades = of_pair(disturbed, PAIRS[1]).set_index("open_date")
    later = timedelta(seconds=OVERLAY["internals"]["process_throttle_secs"])
    assert lost.entry_not + later in trades.index
    trade = trades.loc[lost.entry_not + later]
    assert (trade["close_date"], trade["exit_reason"]) == (lost.exit_not + later, "rl_exit")


def test_no_pair_is_stuck_no_decision_is_missing_and_what_differs_is_named(disturbed: BotRun, lost: Lost) -> None:
    assert disturbed.check is not None
    assert [line["kind"] for line in disturbed.faults] == ["order_unknown"] * 4
    assert undecided(disturbed) == []
    # The position that nobody knew of and its end, and what they have cost.
    entry, closed, wallet = disturbed.check.differences
    print(f"\n{entry}\n{closed}\n{wallet}")
    assert "the bot knows nothing of it" in entry
    assert "the bot knows nothing of it" in closed
    assert wallet.startswith("the wallet has")
    last = disturbed.trades["open_date"].groupby(disturbed.trades["pair"]).max()
    assert last[PAIRS[0]] > lost.entry + CLOSED_AFTER
    assert last[PAIRS[1]] > lost.exit_not
