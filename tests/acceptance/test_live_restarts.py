"""``freqtrade trade`` killed with an open trade, and started again: as it was, and with other settings."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from faults.bots import DONE_TRAINING, FIVE_MINUTES, Bot, running_bot
from faults.homes import MARKET, PAIR, Home

from mtfscalper.offline.synthetic import write_market

pytestmark = pytest.mark.acceptance

# Before hours with many signals, each of which is a trade.
START = datetime(2024, 9, 7, 23, 45, 30, tzinfo=UTC)
# A policy that has learned nothing seldom leaves, and is asked at every candle.
SETTINGS = {
    "live_retrain_hours": 24,
    "rl_config": {"entry_mode": "classic", "decision_mode": "exact", "initial_exit_probability": 0.001},
}
N_CANDLES = 4


@pytest.fixture
def home(tmp_path: Path) -> Home:
    datadir = tmp_path / "market"
    write_market(datadir, start=MARKET[0], stop=MARKET[1], pairs=[PAIR])
    # Each bot stands beside an exchange of its own.
    return Home(tmp_path / "home", datadir, url="")


def open_trades(database: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return connection.execute("select pair, open_date from trades where is_open = 1").fetchall()


def kill(bot: Bot) -> None:
    os.killpg(bot.process.process.pid, signal.SIGKILL)
    bot.process.end()


def until_a_trade_is_open(bot: Bot, database: Path) -> None:
    """Let candles close until a trade stands open."""
    for _ in range(60):
        bot.decide(1)
        if open_trades(database):
            return
    raise AssertionError(f"no trade is opened: {bot.process.output}")


def asked(home: Home) -> pd.DataFrame:
    files = sorted((home.user / "decisions").rglob("dry_run_*.feather"), key=lambda path: path.stat().st_mtime)
    return pd.concat(map(pd.read_feather, files), ignore_index=True)


def test_killed_with_an_open_trade_every_candle_of_it_is_asked_once(home: Home) -> None:
    database = home.new("sqlite")
    with running_bot(home, START, SETTINGS, database=database) as bot:
        until_a_trade_is_open(bot, database)
        bot.decide(N_CANDLES)
        now = bot.clock.now()
        kill(bot)
    assert open_trades(database)
    before = asked(home)
    assert len(before) >= N_CANDLES - 1
    # Started again within the same candle, and for some candles after it.
    with running_bot(home, now, SETTINGS, database=database) as again:
        for _ in range(N_CANDLES):
            assert again.next_frame()["do_predict"].iloc[-1] == 1
            again.clock.next_candle()
        again.next_frame()
        again.stop()
        output = again.process.output
    assert "Traceback" not in output
    assert DONE_TRAINING not in output
    both = asked(home)
    assert not both.duplicated(["pair", "opened", "candle"]).any()
    _, of_trade = max(both.groupby("opened"), key=lambda group: len(group[1]))
    assert len(of_trade) >= len(before) + N_CANDLES - 1
    assert (of_trade["candle"].diff().dropna() == FIVE_MINUTES).all()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"conv_width": 3}, "freqai.conv_width is 3 and was"),
        ({"rl_config": {"net_arch": [24]}}, "freqai.rl_config.net_arch is [24] and was"),
    ],
    ids=["lookback", "network"],
)
def test_started_again_with_other_settings_the_old_policy_decides_about_its_trade_until_a_new_one_is_trained(
    home: Home, changed: dict[str, object], words: str
) -> None:
    database = home.new("sqlite")
    with running_bot(home, START, SETTINGS, database=database) as bot:
        until_a_trade_is_open(bot, database)
        bot.decide(2)
        now = bot.clock.now()
        kill(bot)
    n_before = len(asked(home))
    rl_config = {**SETTINGS["rl_config"], **changed.get("rl_config", {})}  # type: ignore[dict-item]
    with running_bot(
        home, now + FIVE_MINUTES, {**SETTINGS, **changed, "rl_config": rl_config}, database=database
    ) as bot:
        frame = bot.next_frame()
        assert frame["do_predict"].iloc[-1] == 0
        bot.await_output(DONE_TRAINING)
        bot.decide(3)
        bot.stop()
        output = bot.process.output
    assert "Traceback" not in output
    [line] = [line for line in output.splitlines() if "was trained with something else" in line and "WARNING" in line]
    assert words in line
    assert re.search(r"the policy of 20\S+ \S+ UTC decides", output)
    both = asked(home)
    assert len(both) > n_before
    assert not both.duplicated(["pair", "opened", "candle"]).any()
