"""A dry run decides as a backtest does: ``freqtrade trade`` on a simulated clock, then ``freqtrade backtesting``.

The bot trades a replayed market for some hours of its own time, with a policy that it has trained itself. A backtest of
the same day is then given that policy, and both are compared candle by candle: what was decided flat, what was decided
about every trade that the bot had, and when each was left.
"""

from __future__ import annotations

import json
import os
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from freqtrade.configuration import Configuration
from freqtrade.data.btanalysis import load_backtest_data
from freqtrade.enums import RunMode
from freqtrade.persistence import LocalTrade
from freqtrade.resolvers import StrategyResolver
from freqtrade_command import output_of
from shipped import STRATEGIES
from tiny_rl import TINY_BOT_RL

from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.run_plan import RunPlan
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import Option, freqtrade_command, write_overlay
from mtfscalper.offline.stage import Stage, StageHome
from mtfscalper.offline.synthetic import write_market
from mtfscalper.strategy import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    LONG_ENTER_COLUMN,
    LONG_SIGNAL,
    SHORT_ENTER_COLUMN,
    SHORT_SIGNAL,
    TradeDecisions,
)

ROOT = Path(__file__).parents[2]
HELPERS = Path(__file__).parent / "dry_run"
PAIR = "BTC/USDT:USDT"
FIVE_MINUTES = pd.Timedelta(minutes=5)

# Some minutes pass before the bot decides: freqtrade starts, candles are downloaded, a policy is trained. No funding
# falls due in the hours after, about which a bot knows less than a backtest: only the rates from before its start.
START = datetime(2024, 10, 15, 8, 30, tzinfo=UTC)
N_CANDLES = 60
# freqtrade's exit status after Ctrl-C.
INTERRUPTED = 130
# What the run has to show at the least, so that nothing passes vacuously.
LEAST_TRADES, LEAST_EXITS, LEAST_DECISIONS = 4, 3, 15
TICK = 0.1
PROBABILITIES = [LONG_ENTER_COLUMN, SHORT_ENTER_COLUMN, EXIT_COLUMN]

OVERLAY: dict[str, Any] = {
    "max_open_trades": 1,
    "exchange": {"pair_whitelist": [PAIR]},
    # Of the simulated clock.
    "internals": {"process_throttle_secs": 15},
    "freqai": {
        "identifier": "dry_run",
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
    pytest.mark.skipif(os.name == "nt", reason="the bot is stopped by the signal of Ctrl-C, which Windows cannot send"),
]


class BotRun(NamedTuple):
    """What a bot has left.

    :ivar rows: the last row of each analysis with a policy, by date, and ``at``, when it was analysed
    :ivar features: what the policy saw of each, shape (n_rows, n_features)
    :ivar answers: about trades: when it was ``asked``, in which ``candle``, when the ``trade`` was opened, and the
        ``answer``, an ExitDecision as a dictionary or None
    :ivar trades: its database's, in the order of their entries
    """

    rows: pd.DataFrame
    features: np.ndarray
    answers: pd.DataFrame
    trades: pd.DataFrame


class Run(NamedTuple):
    """A bot's run and a backtest's.

    :ivar frame: the backtest's columns, by date
    :ivar features: what the policy saw of its rows, by date
    :ivar home: its user directory
    :ivar configs: its configuration files
    """

    bot: BotRun
    frame: pd.DataFrame
    features: pd.DataFrame
    home: Path
    configs: list[Path]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    scratch = tmp_path_factory.mktemp("dry_run")
    market = scratch / "market"
    # Before the bot's day lie the weeks that it asks for.
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 10, 17, tzinfo=UTC), pairs=[PAIR])
    bot = run_bot(scratch, market)
    return backtest(scratch, market, bot)


def run_bot(scratch: Path, market: Path) -> BotRun:
    """Let a bot trade until it has decided on enough candles, then stop it by Ctrl-C."""
    lines = scratch / "lines.jsonl"
    config = scratch / "bot.json"
    config.write_text(json.dumps(OVERLAY))
    with Stage(StageHome(scratch / "bot"), market, START, speed=None) as stage:
        configs = [ROOT / "configs" / "config_rl_hybrid.json", config]
        command = stage.command([*configs, stage.write_config(configs, [PAIR], {})], **code_of("LivelyModel"))
        bot = stage.start_bot(command, scratch, surroundings() | {"RECORDED_LINES": str(lines)})
        try:
            # Until the policy is trained, a candle or two pass.
            assert bot.run_until(START + (N_CANDLES + 6) * FIVE_MINUTES), stage.home.log.read_text()
            assert bot.stop() == INTERRUPTED, stage.home.log.read_text()
        finally:
            bot.kill()
        assert "Traceback" not in stage.home.log.read_text()
        return read_run(lines, stage.home.database)


def backtest(scratch: Path, market: Path, bot: BotRun) -> Run:
    """A backtest of the bot's day by the bot's policy."""
    home = scratch / "backtest"
    home.mkdir()
    [bots_model] = (scratch / "bot" / "models" / "dry_run").glob("sub-train-*")
    configs = [scratch / "backtest.json", scratch / "backtest_exchange.json"]
    configs[0].write_text(json.dumps(OVERLAY | {"bots_model": str(bots_model)}))
    with ReplayExchange(market) as exchange:
        write_overlay(configs[1], exchange.url, {})
        day = f"{START:%Y%m%d}-{START + timedelta(days=1):%Y%m%d}"
        command = freqtrade_command(
            "backtesting",
            [ROOT / "configs" / "config_rl_hybrid.json", *configs],
            userdir=home,
            datadir=market,
            timerange=day,
            no_color=True,
            **code_of("BotsModel"),
        )
        recorded = {"RECORDED_FRAME": str(scratch / "frame.feather")}
        (scratch / "backtest.log").write_text(output_of(command, scratch, surroundings() | recorded))
    [rows] = home.glob("models/dry_run/sub-train-*/*_decisions.npz")
    with np.load(rows) as arrays:
        features = pd.DataFrame(arrays["features"], index=pd.to_datetime(arrays["dates_ms"], unit="ms", utc=True))
    return Run(bot, by_date(pd.read_feather(scratch / "frame.feather")), features, home, configs)


def code_of(model: str) -> dict[str, Option]:
    """The options by which ``trade`` and ``backtesting`` find strategy and model."""
    return {
        "strategy": "RecordingStrategy",
        "strategy_path": HELPERS,
        "freqaimodel": model,
        "freqaimodel_path": HELPERS,
    }


def surroundings() -> dict[str, str]:
    """The environment of both: where the project's strategy is, and one thread."""
    imported = [str(STRATEGIES), *filter(None, [os.environ.get("PYTHONPATH")])]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(imported), "OMP_NUM_THREADS": "1"}


# ---------------------------------------------------------------------- what was written


def lines_of(path: Path) -> list[dict[str, Any]]:
    # The last line may be half written.
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def decided(path: Path) -> list[dict[str, Any]]:
    """Analysed rows on which a policy decided."""
    return [line for line in lines_of(path) if line.get("features")]


def by_date(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(date=pd.to_datetime(frame["date"], utc=True).dt.as_unit("ms")).set_index("date")


def read_run(lines: Path, database: Path) -> BotRun:
    analysed = decided(lines)
    rows = by_date(pd.DataFrame([line["row"] | {"at": pd.Timestamp(line["at"])} for line in analysed]))
    answers = pd.DataFrame([line for line in lines_of(lines) if "asked" in line])
    for name in ("asked", "trade"):
        answers[name] = pd.to_datetime(answers[name], utc=True, format="ISO8601").dt.as_unit("ms")
    answers["candle"] = answers["asked"].dt.floor(FIVE_MINUTES)
    with sqlite3.connect(database) as connection:
        trades = pd.read_sql("SELECT * FROM trades ORDER BY open_date", connection)
    for name in ("open_date", "close_date"):
        trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601").dt.as_unit("ms")
    return BotRun(rows, np.array([line["features"] for line in analysed], dtype=np.float32), answers, trades)


# ---------------------------------------------------------------------- comparison


@pytest.fixture(scope="module")
def asked(run: Run) -> pd.DataFrame:
    """The bot's trades, candle by candle: what the bot decided, and what a backtest's decisions say of the same trade.

    The columns are those of an ExitDecision, each twice, ``_bot`` for the bot's; ``trade`` is the number of the trade.
    """
    arguments = {
        "config": [str(ROOT / "configs" / "config_rl_hybrid.json"), *map(str, run.configs)],
        "user_data_dir": str(run.home),
        "strategy": "MtfScalper_RL_Hybrid",
        "strategy_path": str(STRATEGIES),
    }
    config = Configuration(arguments, RunMode.BACKTEST).get_config()
    decisions = TradeDecisions(config, StrategyResolver.load_strategy(config))
    decisions.follow(PAIR, RunPlan.newest(Archive.from_config(config), PAIR).name)
    found = []
    for number, trade in enumerate(run.bot.trades.itertuples()):
        true_trade = LocalTrade(
            id=number,
            pair=PAIR,
            open_date=trade.open_date.to_pydatetime(),
            open_rate=trade.open_rate,
            is_short=bool(trade.is_short),
            leverage=trade.leverage,
            amount=trade.amount,
            stake_amount=trade.stake_amount,
            fee_open=trade.fee_open,
            fee_close=trade.fee_close,
        )
        answers = run.bot.answers[run.bot.answers["trade"] == trade.open_date]
        for candle in candles_in(trade, run.bot.rows.index[-1]):
            opens = run.frame["open"][candle]
            expected = decisions.decide(true_trade, candle.to_pydatetime(), opens)
            # Nothing is answered before the candle has been analysed, and the same as often as it is asked after.
            given = answers.loc[(answers["candle"] == candle) & answers["answer"].notna(), "answer"].tolist()
            assert all(answer == given[0] for answer in given)
            row = {"trade": number, "candle": candle, "asked": len(given)}
            row |= {f"{name}_bot": value for name, value in (given[0] if given else {}).items()}
            found.append(row | (expected._asdict() if expected else {}))
    return pd.DataFrame(found)


def candles_in(trade: Any, last: pd.Timestamp) -> pd.DatetimeIndex:
    """Those that opened while the bot held a trade, without the one of its entry.

    :param last: the last candle that the bot has surely finished
    """
    until = last if pd.isna(trade.close_date) else trade.close_date.floor(FIVE_MINUTES)
    return pd.date_range(trade.open_date.floor(FIVE_MINUTES) + FIVE_MINUTES, until, freq=FIVE_MINUTES)


def difference(ours: Any, theirs: Any) -> float:
    return float(np.abs(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)).max())


def test_the_bot_decides_flat_as_a_backtest_does(run: Run) -> None:
    bot, backtest = run.bot.rows, run.frame.loc[run.bot.rows.index]
    assert len(bot) > N_CANDLES
    # It has kept up: no candle was left out.
    assert (np.diff(bot.index) == FIVE_MINUTES).all()
    features = difference(run.bot.features, run.features.loc[bot.index])
    probabilities = difference(bot[PROBABILITIES], backtest[PROBABILITIES])
    print(
        f"\n{len(bot)} candles decided flat, {bot.index[0]:%H:%M} to {bot.index[-1]:%H:%M}, actions "
        f"{bot[ACTION_COLUMN].value_counts().to_dict()}; largest differences: scaled features {features:.1e}, "
        f"probabilities {probabilities:.1e}"
    )
    assert features <= 1e-4
    assert probabilities <= 1e-4
    for name in (LONG_SIGNAL, SHORT_SIGNAL, ACTION_COLUMN):
        assert bot[name].tolist() == backtest[name].tolist()
    # FreqAI marks the first candle of a bot as not predicted.
    assert bot["do_predict"].tolist() == [0] + [1] * (len(bot) - 1)
    for name in ("enter_long", "enter_short"):
        assert bot[name].tolist()[1:] == backtest[name].tolist()[1:]
    assert bot[ACTION_COLUMN].nunique() > 1


def test_the_bot_enters_where_the_backtests_columns_say_so(run: Run) -> None:
    trades = run.bot.trades
    entered = {
        trade.open_date.floor(FIVE_MINUTES): "enter_short" if trade.is_short else "enter_long"
        for trade in trades.itertuples()
    }
    # No candle with two entries.
    assert len(entered) == len(trades) >= LEAST_TRADES
    # Until the exchange has the candle that has just closed, freqtrade holds on to the row before.
    for trade in trades.itertuples():
        assert trade.open_date >= run.bot.rows["at"][trade.open_date.floor(FIVE_MINUTES) - FIVE_MINUTES]
    # The candle after a row is decided on; held, and the one of an exit, it is not free.
    busy = {candle for trade in trades.itertuples() for candle in candles_in(trade, run.bot.rows.index[-1])}
    expected = {}
    for candle in run.bot.rows.index[2:]:
        row = run.frame.loc[candle - FIVE_MINUTES]
        for name in ("enter_long", "enter_short"):
            if row[name] and candle not in busy:
                expected[candle] = name
    print(f"\n{len(entered)} entries, {list(entered.values()).count('enter_short')} of them short")
    assert {candle: side for candle, side in entered.items() if candle <= run.bot.rows.index[-1]} == expected


def test_the_bot_decides_about_its_trades_as_a_backtest_does(run: Run, asked: pd.DataFrame) -> None:
    unasked = asked[asked["asked"] == 0]
    for row in unasked.itertuples():
        # The stop or ROI came first, on the price at which the candle before had closed.
        trade = run.bot.trades.iloc[row.trade]
        assert trade.close_date.floor(FIVE_MINUTES) == row.candle
        assert trade.exit_reason != "rl_exit"
    both = asked[asked["asked"] > 0]
    measured = {name: difference(both[f"{name}_bot"], both[name]) for name in ("probability", "profit", "best_profit")}
    print(
        f"\n{len(both)} candles in {both['trade'].nunique()} trades decided about, {int(both['leave'].sum())} times to "
        f"leave; the bot was asked {int(both['asked'].sum())} times; largest differences: "
        + ", ".join(f"{name} {value:.1e}" for name, value in measured.items())
    )
    assert len(both) >= LEAST_DECISIONS
    for name in ("leave", "held_candles"):
        assert both[f"{name}_bot"].tolist() == both[name].tolist()
    assert max(measured.values()) <= 1e-4


def test_the_bot_leaves_at_the_candle_of_the_decision(run: Run, asked: pd.DataFrame) -> None:
    left = 0
    for number, trade in enumerate(run.bot.trades.itertuples()):
        of_trade = asked[(asked["trade"] == number) & (asked["asked"] > 0)]
        leaving = of_trade.loc[of_trade["leave"].astype(bool), "candle"].tolist()
        if pd.notna(trade.close_date) and trade.exit_reason == "rl_exit":
            left += 1
            assert leaving == [trade.close_date.floor(FIVE_MINUTES)]
        else:
            assert leaving == []
    print(f"\n{left} of {len(run.bot.trades)} trades left by the policy")
    assert left >= LEAST_EXITS


def test_the_bots_record_has_each_of_its_decisions(run: Run) -> None:
    files = sorted((run.home.parent / "bot" / "decisions" / "dry_run").glob("dry_run_*.feather"))
    record = pd.concat([pd.read_feather(path) for path in files], ignore_index=True)
    answers = run.bot.answers[run.bot.answers["answer"].notna()].drop_duplicates(["trade", "candle"])
    assert len(record) == len(answers) >= LEAST_DECISIONS
    assert record["candle"].tolist() == answers["candle"].tolist()
    for name in ("probability", "leave", "held_candles", "profit", "best_profit"):
        assert record[name].tolist() == [answer[name] for answer in answers["answer"]]
    # What was said of an exit stands beside it in the database.
    with sqlite3.connect(run.home.parent / "bot" / "tradesv3.dryrun.sqlite") as connection:
        noted = pd.read_sql("SELECT * FROM trade_custom_data WHERE cd_key = 'rl_exit_probability'", connection)
    exits = run.bot.trades[run.bot.trades["exit_reason"] == "rl_exit"]
    assert len(exits) >= LEAST_EXITS
    assert set(exits["id"]) <= set(noted["ft_trade_id"])
    assert set(noted["cd_value"].astype(float)) == set(record.loc[record["leave"], "probability"])


def test_the_trades_are_the_backtests(run: Run) -> None:
    """Of the backtest's own trades, those that it entered where the bot did."""
    theirs = load_backtest_data(run.home / "backtest_results").set_index("open_date")
    same = 0
    ticks = []
    for trade in run.bot.trades[run.bot.trades["close_date"].notna()].itertuples():
        entry = trade.open_date.floor(FIVE_MINUTES)
        if entry not in theirs.index or theirs["is_short"][entry] != trade.is_short:
            # One of the two was still in another trade.
            continue
        other = theirs.loc[entry]
        if not all(reason == "rl_exit" for reason in (trade.exit_reason, other["exit_reason"])):
            # Within a candle a backtest meets stop and ROI, the bot only on the prices that it is shown.
            continue
        assert other["close_date"] == trade.close_date.floor(FIVE_MINUTES)
        ticks += [trade.open_rate - other["open_rate"], trade.close_rate - other["close_rate"]]
        same += 1
    print(f"\n{same} trades are the backtest's own, their rates within {np.abs(ticks).max() / TICK:.0f} ticks")
    assert same >= LEAST_EXITS
    # The bot fills in the book, a tick wide, the backtest at the candle's open.
    assert np.abs(ticks).max() <= 1.5 * TICK
