"""A dry run equals its backtest: ``freqtrade trade --dry-run``, then ``backtesting --freqai-backtest-live-models``.

The bot trades two pairs of a replayed market through retrainings, a funding time, faults of the exchange and a kill,
after which it stays down for a while. The backtest repeats what it did from what it left behind. Every trade is the
same in both, or named.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from freqtrade.data.btanalysis import load_backtest_data
from freqtrade_command import output_of
from shipped import STRATEGIES
from tiny_rl import TINY_BOT_RL

from mtfscalper.freqai.bot_journal import Journal, read_journal
from mtfscalper.freqai.trade_differences import Kind
from mtfscalper.offline.faults import Rule
from mtfscalper.offline.freqtrade_command import freqtrade_command
from mtfscalper.offline.stage import Stage, StagedBot, StageHome
from mtfscalper.offline.synthetic import write_market

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent / "dry_run"
PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
CANDLE = timedelta(minutes=5)
# Funding falls due at 16:00.
START = datetime(2024, 10, 15, 13, 30, tzinfo=UTC)
# Whatever is open then is held over it.
KILLED, DOWN = START + timedelta(hours=2, minutes=12), timedelta(minutes=29)
STOP = START + timedelta(hours=4, minutes=32)
FUNDING = datetime(2024, 10, 15, 16, tzinfo=UTC)
MISSING = START + timedelta(hours=3)
LEAST_TRADES, LEAST_SAME_BY_POLICIES, LEAST_POLICIES, MOST_DIFFERENT = 8, 5, 3, 3
# Of the table of differences.
REASON_WIDTH = 38
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
        # All are kept, for the backtest without the record.
        "purge_old_models": 20,
        "activate_tensorboard": False,
        "rl_config": TINY_BOT_RL,
    },
}
FAULTS = (
    Rule("missing", symbol="BTCUSDT", since_ms=int(MISSING.timestamp() * 1000), times=1, path="klines"),
    Rule("revised", symbol="ETHUSDT", since_ms=int(MISSING.timestamp() * 1000), times=1, path="klines"),
    Rule("http_503", rate=0.02),
)

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.name == "nt", reason="the bot is killed as a group, which Windows has not"),
]


class Backtest(NamedTuple):
    """A backtest of what the bot did.

    :ivar trades: in the order of their entries
    :ivar output: what it printed
    """

    trades: pd.DataFrame
    output: str

    @property
    def counts(self) -> tuple[int, int]:
        """How many trades it says are the same, and how many not."""
        found = re.search(r"backtest's: (\d+) the same .*; (\d+) different", self.output)
        assert found is not None, self.output
        return int(found[1]), int(found[2])

    @property
    def reasons(self) -> set[Kind]:
        """Why trades are different, as it says."""
        table = self.output[self.output.rindex(" different.") :].splitlines()[1:]
        # Of its first column, which wraps.
        words = " ".join(line[:REASON_WIDTH].strip() for line in table)
        return {kind for kind in Kind if kind in " ".join(words.split())}


class Runs(NamedTuple):
    """What a bot and the backtests of it have left.

    :ivar trades: of the bot's database, in the order of their entries
    :ivar by_record: the backtest by the bot's record of decisions
    :ivar by_policies: the backtest without that record: the bot's policies are asked
    """

    home: StageHome
    trades: pd.DataFrame
    journal: Journal
    by_record: Backtest
    by_policies: Backtest


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    scratch = tmp_path_factory.mktemp("audit")
    market, home = scratch / "market", StageHome(scratch / "home")
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 10, 17, tzinfo=UTC), pairs=PAIRS)
    config = scratch / "config.json"
    config.write_text(json.dumps(OVERLAY))
    configs = [ROOT / "configs" / "config_rl_hybrid.json", config]
    named: dict[str, Any] = {
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": STRATEGIES,
        "freqaimodel": "LivelyModel",
        "freqaimodel_path": HELPERS,
    }
    with Stage(home, market, START, None, FAULTS, seed=1) as stage:
        overlay = stage.write_config(configs, PAIRS, {})
        command = stage.command([*configs, overlay], **named)
        with running(stage, command, scratch) as bot:
            moment = KILLED
            assert bot.run_until(moment), home.log.read_text()
            while not trades_of(home)["close_date"].isna().any():
                # Killed in a trade.
                moment += CANDLE
                assert bot.run_until(moment), home.log.read_text()
        stage.clock.jump_to(moment + DOWN)
        with running(stage, command, scratch) as bot:
            assert bot.run_until(STOP), home.log.read_text()
            bot.stop()
        backtesting = freqtrade_command(
            "backtesting",
            [*configs, overlay],
            userdir=home.folder,
            datadir=market,
            no_color=True,
            freqai_backtest_live_models=True,
            enable_protections=True,
            cache="none",
            **named,
        )
        by_record = backtest(backtesting, home, scratch)
        for path in (home.decisions / "audited").glob("dry_run_*.feather"):
            path.unlink()
        by_policies = backtest(backtesting, home, scratch)
    journal = read_journal(home.decisions / "audited", "dry_run")
    return Runs(home, trades_of(home), journal, by_record, by_policies)


@contextmanager
def running(stage: Stage, command: list[str], cwd: Path) -> Iterator[StagedBot]:
    """A bot that is killed in the end, if it still runs."""
    bot = stage.start_bot(command, cwd, {"OMP_NUM_THREADS": "1"})
    try:
        yield bot
    finally:
        bot.kill()


def trades_of(home: StageHome) -> pd.DataFrame:
    with sqlite3.connect(home.database) as connection:
        trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date, pair", connection)
    for name in ("open_date", "close_date"):
        trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601")
    return trades


def backtest(command: list[str], home: StageHome, cwd: Path) -> Backtest:
    output = output_of(command, cwd)
    return Backtest(load_backtest_data(home.folder / "backtest_results").sort_values(["open_date", "pair"]), output)


def entries(trades: pd.DataFrame) -> pd.DataFrame:
    """Trades by pair, candle of the entry, and side."""
    keys = [trades["pair"], trades["open_date"].dt.floor("5min"), trades["is_short"].astype(bool)]
    return trades.set_index(pd.MultiIndex.from_arrays(keys))


def test_the_bot_was_retrained_killed_and_kept_from_candles(runs: Runs) -> None:
    for pair in PAIRS:
        policies = {one.policy for one in runs.journal.passes if one.pair == pair} - {""}
        assert len(policies) >= LEAST_POLICIES
    _, back_ms = runs.journal.starts_ms
    back = pd.Timestamp(back_ms, unit="ms", tz="UTC")
    trades = runs.trades
    held = (trades["open_date"] < back - DOWN) & ~(trades["close_date"] <= back - DOWN)
    over_funding = (trades["open_date"] < FUNDING) & ~(trades["close_date"] <= FUNDING)
    faults = Counter(json.loads(line)["kind"] for line in runs.home.faults.read_text().splitlines())
    print(
        f"\n{len(trades)} trades, {int(held.sum())} of them held while the bot was down until {back:%H:%M}, "
        f"{int(over_funding.sum())} over the funding time; faults {dict(faults)}"
    )
    assert held.any()
    assert over_funding.any()
    assert {"missing", "revised", "http_503"} <= set(faults)
    # The candle that never came was not decided on.
    missing_ms = int(MISSING.timestamp() * 1000)
    assert not any(one.pair == PAIRS[0] and one.row_ms == missing_ms for one in runs.journal.passes)
    assert len(trades) >= LEAST_TRADES


def test_the_backtest_makes_the_bots_trades_or_names_the_difference(runs: Runs) -> None:
    bots, theirs = entries(runs.trades), entries(runs.by_record.trades)
    both = bots.index.intersection(theirs.index)
    same, apart = 0, []
    for key in both:
        bot, other = bots.loc[key], theirs.loc[key]
        if pd.isna(bot["close_date"]):
            same += other["exit_reason"] == "force_exit"
            continue
        exits = other["close_date"] == bot["close_date"].floor("5min") and other["exit_reason"] == bot["exit_reason"]
        same += exits
        if exits:
            apart += [bot[name] / other[name] - 1 for name in ("open_rate", "close_rate")]
    n_same, n_different = runs.by_record.counts
    print(f"\n{n_same} the same, {n_different} different; rates at most {1e4 * np.abs(apart).max():.2f} bps apart")
    # What it says of itself is so.
    assert n_same == same >= LEAST_TRADES
    assert len(bots.index.union(theirs.index)) == n_same + n_different
    assert "unexplained" not in runs.by_record.output
    assert n_different <= MOST_DIFFERENT
    assert 1e4 * np.abs(apart).max() <= RATES_APART_BPS


def test_without_the_record_the_bots_policies_decide_the_same(runs: Runs) -> None:
    n_same, n_different = runs.by_policies.counts
    print(f"\n{n_same} the same, {n_different} different")
    assert "no longer kept" not in runs.by_policies.output
    # While the bot was down it decided nothing, and its policies do; they see the candle that never came to it. What
    # follows from that is another trade too.
    assert "unexplained" not in runs.by_policies.output
    assert n_same >= LEAST_SAME_BY_POLICIES
    assert runs.by_policies.reasons <= {Kind.DOWN, Kind.LEFT_OUT, Kind.REVISED, Kind.FOLLOWS}
    assert (n_different > 0) == bool(runs.by_policies.reasons)
