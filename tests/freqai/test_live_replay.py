"""A backtest of what a bot did, ``--freqai-backtest-live-models``: the bot's own trades again."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import PAIR, FreqtradeBacktest, Watch
from freqtrade.persistence import Trade
from live_bot import FIVE_MINUTES, LiveBot

from mtfscalper.freqai import live_replay
from mtfscalper.freqai.bot_journal import BotTrade

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


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_the_backtest_makes_the_bots_trades_through_a_retraining(
    make_bot: Any, tmp_path: Path, market: Path, mode: str
) -> None:
    bot = started(make_bot(decision_mode=mode))
    bot.step(14)
    bot.train()
    bot.step(14)
    trades = bots_trades(bot)
    bot.model.shutdown()
    assert len(trades) >= 4
    policies = {one.policy for one in live_replay.BotRecord.from_config(bot.config).journal.passes}
    assert len(policies - {""}) == 2
    backtest = of_bot(tmp_path, market, decision_mode=mode)
    theirs = backtests_trades(backtest)
    n_closed = sum(trade.closed_ms is not None for trade in trades)
    assert entries_and_exits(theirs)[:n_closed] == entries_and_exits(trades)[:n_closed]
    compared = report(backtest).compare(theirs)
    assert len(compared.same) == len(trades)
    assert compared.differences == []
