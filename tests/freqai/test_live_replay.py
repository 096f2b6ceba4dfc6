"""A backtest of what a bot did, ``--freqai-backtest-live-models``: the bot's own trades again."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import PAIR, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException
from freqtrade.optimize.backtesting import Backtesting
from freqtrade.persistence import Trade
from live_bot import FIVE_MINUTES, LiveBot
from rich.console import Console

from mtfscalper.freqai import live_replay
from mtfscalper.freqai.bot_journal import BotTrade
from mtfscalper.freqai.columns import ACTION_COLUMN, LONG_ENTER_COLUMN
from mtfscalper.freqai.sharing import Writers
from mtfscalper.freqai.trade_differences import Kind

AGENT = {"entry_mode": "agent", "decision_mode": "exact"}
# The bot's trades end by its decisions alone.
NO_STOP: dict[str, Any] = {"stoploss": -0.9, "minimal_roi": {}}


class TradingBot(LiveBot):
    """Enters and leaves at the open of the candle by its strategy's word, as freqtrade does.

    :ivar trades: opened, side and exit candle of each trade
    """

    def step(self, n: int = 1) -> None:
        """Let candles close one by one, and trade on each."""
        for _ in range(n):
            self.next_candle()
            frame = self.analyse()
            self.trade_on(frame)

    def trade_on(self, frame: pd.DataFrame) -> None:
        metadata = frame.iloc[-1]
        rate = float(self._candles["5m"].set_index("date")["open"][metadata["date"] + FIVE_MINUTES])
        exited = False
        for trade in Trade.get_trades_proxy(pair=PAIR, is_open=True):
            with self.clock():
                column = frame.get("exit_short" if trade.is_short else "exit_long")
                leaves = column is not None and column.iloc[-1] == 1
                reason = "exit_signal" if leaves else self.strategy.custom_exit(PAIR, trade, self.now, rate, 0.0)
            if reason:
                trade.is_open, trade.close_rate, trade.exit_reason = False, rate, reason
                trade.close_date = self.now + timedelta(seconds=5)
                Trade.commit()
                exited = True
        for name in ("enter_long", "enter_short"):
            is_free = not exited and not Trade.get_trades_proxy(pair=PAIR, is_open=True)
            if is_free and name in frame and frame[name].iloc[-1] == 1:
                self.open_trade(is_short=name == "enter_short")
        with self.clock():
            self.strategy.bot_loop_start(current_time=self.now)


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TradingBot]:
    Watch(monkeypatch, "decisive", leaves=0.6)

    def make(now: datetime | None = None, **rl_config: Any) -> TradingBot:
        with monkeypatch.context() as patch:
            if now is not None:
                # A restart: the bot's clock goes on.
                patch.setattr(TradingBot, "now", now, raising=False)
            bot = TradingBot(tmp_path, market, monkeypatch, freqai={"rl_config": AGENT | rl_config})
        vars(bot.strategy).update(NO_STOP)
        return bot

    return make


def started(bot: TradingBot) -> TradingBot:
    bot.analyse()
    bot.train()
    bot.analyse()
    return bot


def of_bot(home: Path, market: Path, **rl_config: Any) -> FreqtradeBacktest:
    backtest = FreqtradeBacktest(
        home,
        market,
        timerange=None,
        freqai_backtest_live_models=True,
        freqai={"rl_config": AGENT | rl_config},
    )
    vars(backtest.strategy).update(NO_STOP)
    backtest.run()
    backtest.trades()
    return backtest


def entries_and_exits(trades: list[BotTrade]) -> list[tuple[Any, ...]]:
    def candle(ms: int | None) -> Any:
        return None if ms is None else pd.Timestamp(ms, unit="ms", tz="UTC").floor("5min")

    return [
        (candle(t.opened_ms), t.side, candle(t.closed_ms), t.exit_reason, t.open_rate, t.close_rate) for t in trades
    ]


def bots_trades(bot: TradingBot) -> list[BotTrade]:
    return sorted(map(BotTrade.from_trade, Trade.get_trades_proxy(pair=PAIR)), key=lambda trade: trade.opened_ms)


def backtests_trades(backtest: FreqtradeBacktest) -> list[BotTrade]:
    rows = backtest.results.sort_values("open_date").itertuples()
    return [
        BotTrade(
            row.pair,
            "short" if row.is_short else "long",
            int(row.open_date.timestamp() * 1000),
            row.open_rate,
            None,
            int(row.close_date.timestamp() * 1000),
            row.close_rate,
            row.exit_reason,
        )
        for row in rows
    ]


def report(backtest: FreqtradeBacktest) -> Any:
    return backtest.strategy.freqai._replay._report


def records(home: Path, pattern: str) -> list[Path]:
    return sorted((home / "decisions" / "test").glob(pattern))


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_the_backtest_makes_the_bots_trades_through_a_retraining(
    make_bot: Any, tmp_path: Path, market: Path, told_at_exit: list[Callable[[], None]], mode: str
) -> None:
    bot = started(make_bot(decision_mode=mode))
    bot.step(10)
    bot.train()
    bot.step(10)
    trades = bots_trades(bot)
    bot.model.shutdown()
    assert len(trades) >= 4
    if mode == "exact":
        # The plan of another run of the identifier, by which nothing of the bot's is decided.
        FreqtradeBacktest(tmp_path, market, freqai={"rl_config": AGENT}, timerange="20240907-20240908").run()
    backtest = of_bot(tmp_path, market, decision_mode=mode)
    theirs = backtests_trades(backtest)
    closed = [trade for trade in trades if trade.closed_ms is not None]
    assert entries_and_exits(theirs)[: len(closed)] == entries_and_exits(closed)
    compared = report(backtest).compare(theirs)
    assert len(compared.same) == len(trades)
    assert compared.differences == []
    assert backtest.timerange.startdt == bot_began(bot)
    assert len(told_at_exit) == 1
    if mode == "replay":
        return
    answers = [(row.candle, row.probability, row.leave, row.policy) for row in recorded(tmp_path, "dry_run_*.feather")]
    assert [(row.candle, row.probability, row.leave, row.policy) for row in recorded(tmp_path, "backtest_*")] == answers
    assert len({policy for *_, policy in answers}) == 2

    # Without the record the bot's policies are asked, and say the same.
    for path in records(tmp_path, "dry_run_*.feather"):
        path.unlink()
    by_policies = of_bot(tmp_path, market)
    assert entries_and_exits(backtests_trades(by_policies)) == entries_and_exits(theirs)

    # Without these too, trades are held, and the end says why they differ.
    for folder in [*tmp_path.rglob("sub-train-BTC_172579*"), *tmp_path.rglob("sub-train-BTC_17258*")]:
        shutil.rmtree(folder)
    held = of_bot(tmp_path, market)
    others = backtests_trades(held)
    assert entries_and_exits(others) != entries_and_exits(theirs)
    kinds = {difference.kind for difference in report(held).compare(others).differences}
    assert kinds == {Kind.POLICY_LOST, Kind.FOLLOWS}
    console = Console(file=io.StringIO(), width=160)
    report(held).tell(console, others)
    assert re.search(r"dry-run bot's trades and this backtest's: \d+ the same .*different", console.file.getvalue())
    assert "the policy is no longer kept" in console.file.getvalue()


def recorded(home: Path, pattern: str) -> list[Any]:
    """The rows of the newest file."""
    return list(pd.read_feather(records(home, pattern)[-1]).itertuples())


def bot_began(bot: LiveBot) -> datetime:
    """The first row that the bot decided on."""
    passes = live_replay.BotRecord.from_config(bot.config).journal.passes
    return datetime.fromtimestamp(next(one.row_ms for one in passes if one.policy) / 1000, UTC)


def test_a_strategy_is_given_the_means_and_deviations_that_the_bots_was_given(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch, "decisive", leaves=0.6)
    freqai = {"fit_live_predictions_candles": 3, "rl_config": AGENT}
    bot = started(TradingBot(tmp_path, market, monkeypatch, freqai=freqai))
    bot.step(8)
    bot.model.shutdown()
    names = [f"{LONG_ENTER_COLUMN}_{part}" for part in ("mean", "std")]
    given = bot.model.dd.historic_predictions[PAIR].set_index("date_pred")
    given = given.loc[given["do_predict"] == 1, names]
    assert (given.iloc[-3:] != 0).all(axis=None)
    frame = of_bot(tmp_path, market).frame.set_index("date")
    pd.testing.assert_frame_equal(frame.loc[given.index, names], given, check_names=False, check_index_type=False)


def test_a_candle_that_the_bot_missed_is_no_decision(
    make_bot: Any, tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = started(make_bot())
    bot.step(2)
    # It comes by again when two candles have closed.
    bot.next_candle()
    bot.step(3)
    missed = bot.closed()["date"].iloc[-4]
    # The bot goes on: nobody asks whether the identifier is free.
    monkeypatch.setattr(Writers, "begin", None)
    backtest = of_bot(tmp_path, market)
    row = backtest.frame.set_index("date").loc[missed]
    assert row["do_predict"] == 0
    assert row[ACTION_COLUMN] == 0
    decided = backtest.frame[backtest.frame["do_predict"] == 1]["date"]
    assert len(decided) == 5
    assert {difference.kind for difference in report(backtest).compare(backtests_trades(backtest)).differences} <= {
        Kind.NOT_NOTED
    }


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_without_a_bot_there_is_one_clear_error_before_candles_are_loaded(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(Backtesting, "load_bt_data", None)
    models = tmp_path / "models" / "another"
    models.mkdir(parents=True)
    (models / "historic_predictions.pkl").touch()
    with pytest.raises(OperationalException, match=r"identifier is 'test'.*finds nothing.*\(another\); remedy"):
        of_bot(tmp_path, market, decision_mode=mode)


def test_a_history_without_record_and_policies_decides_nothing_in_exact_mode(
    make_bot: Any, tmp_path: Path, market: Path
) -> None:
    bot = started(make_bot())
    bot.step(2)
    bot.model.shutdown()
    shutil.rmtree(tmp_path / "decisions")
    # As an earlier version left it: the policy that was trained last before each row is asked.
    assert of_bot(tmp_path, market).frame["do_predict"].sum() == 2
    shutil.rmtree(tmp_path / "decisions")
    for folder in tmp_path.rglob("sub-train-*"):
        shutil.rmtree(folder)
    with pytest.raises(OperationalException, match=r"neither a bot's record of decisions .* nor a policy .*remedy"):
        of_bot(tmp_path, market)
    assert of_bot(tmp_path, market, decision_mode="replay").frame["do_predict"].sum() == 2
