"""A bot's funding rates are those of the exchange, for training, for decisions and for a trade's best profit."""

import logging
import shutil
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from freqai_runs import PAIR, Watch
from freqtrade.enums import CandleType
from live_bot import LiveBot, watched

from mtfscalper.freqai import funding as funding_module
from mtfscalper.freqai.decision_record import records_folder
from mtfscalper.freqai.funding import Funding
from mtfscalper.freqai.open_trade import OpenTrade
from mtfscalper.training.job import TrainingJob

# From the bot's start at noon of the 8th.
THIRTY_HOURS = 360
LOOSE: dict[str, Any] = {"check_names": False, "check_freq": False}


@pytest.fixture
def make_bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def make(**rl_config: Any) -> LiveBot:
        Watch(monkeypatch)
        return LiveBot(tmp_path, market, monkeypatch, freqai={"rl_config": {"decision_mode": "exact", **rl_config}})

    return make


def ready(bot: LiveBot) -> LiveBot:
    bot.analyse()
    bot.train()
    bot.analyse()
    return bot


def owed(bot: LiveBot) -> pd.Series:
    """Funding on one unit by date, of everything that has been published by now."""
    rates, marks = (
        bot.published(kind).set_index("date")["open"] for kind in (CandleType.FUNDING_RATE, CandleType.MARK)
    )
    return (rates * marks).dropna()


def test_a_retrain_thirty_hours_later_knows_all_fundings(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tapes = []
    real = TrainingJob.run

    def run(job: TrainingJob, *arguments: Any) -> Any:
        tapes.append((job.train, job.evaluation))
        return real(job, *arguments)

    bot = make_bot()
    monkeypatch.setattr(TrainingJob, "run", run)
    # No pass of the bot asks before the training does.
    monkeypatch.setattr(Funding, "refresh_unwatched", lambda self, pair: None)
    bot.analyse()
    bot.train()
    bot.next_candle(THIRTY_HOURS)
    bot.analyse()
    bot.train()
    first, again = ({**due_on(train), **due_on(evaluation)} for train, evaluation in tapes)
    known = owed(bot)
    for seen in (first, again):
        expected = known[(known.index >= min(seen)) & (known.index <= max(seen))]
        due = {date: value for date, value in seen.items() if value}
        assert due == pytest.approx(expected.to_dict())
    # 16:00 of the 8th, 0:00, 8:00 and 16:00 of the 9th came while the bot ran; the first training ended before them.
    assert len([date for date, value in again.items() if value and date not in first]) == 4


def due_on(tape: Any) -> dict[pd.Timestamp, float]:
    dates = pd.to_datetime(tape.dates_ms, unit="ms", utc=True)
    return dict(zip(dates, tape.funding.tolist(), strict=True))


def test_a_decision_and_a_best_profit_thirty_hours_later_know_all_fundings(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bot = ready(make_bot())
    accounts = watched(monkeypatch, OpenTrade, "at")
    bot.next_candle(THIRTY_HOURS)
    trade = bot.open_trade(candles_ago=THIRTY_HOURS - 12)
    bot.analyse()
    assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
    [((_, history, *_), (account, _))] = accounts
    opened = pd.Timestamp(trade.open_date_utc).floor("5min")
    known = owed(bot)
    dates = pd.to_datetime(history.dates_ms, unit="ms", utc=True)
    due = pd.Series(history.funding, dates)
    pd.testing.assert_series_equal(due[due != 0], known[known.index >= dates[0]], **LOOSE)
    assert (known.index > opened).sum() == 4
    # The profit at each open since, less the funding until then; at the last close what freqtrade says it was, nothing.
    closed = bot.closed()
    since = closed[closed["date"] > opened].set_index("date")["open"]
    paid = known[known.index >= opened].cumsum().shift(fill_value=0.0)
    until = pd.Series(
        [known[(known.index >= opened) & (known.index < date)].sum() for date in since.index], since.index
    )
    assert until.iloc[-1] == pytest.approx(paid.iloc[-1] + known.iloc[-1])
    entry = trade.open_rate * 1.0005
    ratios = (since * 0.9995 - until) / entry - 1
    final = closed["close"].iloc[-1] * 0.9995 / entry - 1
    best = max(ratios.max(), final, trade.open_rate * 0.9995 / entry - 1)
    assert account.best_profit == pytest.approx(best, abs=1e-12)
    # Without the fundings it would be another.
    assert max((since * 0.9995 / entry - 1).max(), final) - best > 1e-5


def test_rates_are_asked_for_once_in_a_funding_interval(make_bot: Any) -> None:
    bot = ready(make_bot())
    assert bot.requests == []
    times = []
    for _ in range(THIRTY_HOURS):
        bot.next_candle()
        before = len(bot.requests)
        with bot.clock():
            bot.model.traded.source.funding.refresh([PAIR])
        if len(bot.requests) > before:
            times.append(f"{bot.now:%d %H:%M}")
    # A minute after they are due, of which the first look is at the next candle: rates and mark prices.
    assert times == ["08 16:05", "09 00:05", "09 08:05", "09 16:05"]
    assert sorted(bot.requests) == sorted([(PAIR, "funding_rate"), (PAIR, "mark")] * 4)


def test_an_exchange_that_does_not_answer_leaves_the_rates_and_is_told_of_once(
    make_bot: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bot = ready(make_bot())
    funding = bot.model.traded.source.funding
    known = owed(bot)
    bot.is_answered = False
    asked = 0
    with caplog.at_level(logging.INFO, "mtfscalper"):
        for _ in range(120):
            bot.next_candle()
            before = len(bot.requests)
            with bot.clock():
                funding.refresh([PAIR])
            asked += len(bot.requests) > before
        pd.testing.assert_series_equal(
            funding._known(PAIR), known[known.index >= funding._known(PAIR).index[0]], **LOOSE
        )
        # Ten hours, of which six without the rate of 16:00: at 16:05, and after 10, 20, 40, 80 and 160 minutes.
        assert asked == 6
        assert told(caplog) == [f"{PAIR}: no new funding rates (the exchange did not answer)"]
        bot.is_answered = True
        bot.next_candle(100)
        with bot.clock():
            funding.refresh([PAIR])
    assert told(caplog)[1:] == [f"{PAIR}: funding rates are known again, up to 2024-09-09 00:00:00+00:00."]
    pd.testing.assert_series_equal(funding._known(PAIR).tail(3), owed(bot).tail(3), **LOOSE)


def test_a_clock_that_was_ahead_keeps_nobody_from_asking_again(make_bot: Any) -> None:
    bot = ready(make_bot())
    funding, now = bot.model.traded.source.funding, bot.now
    bot.is_answered, bot.now = False, now + timedelta(days=400)
    with bot.clock():
        funding.refresh([PAIR])
    n_asked = len(bot.requests)
    assert n_asked > 0
    # Back at noon; the next rate is due at 16:00.
    bot.is_answered, bot.now = True, now + timedelta(hours=5)
    with bot.clock():
        funding.refresh([PAIR])
    assert len(bot.requests) > n_asked
    assert funding._known(PAIR).index[-1] == pd.Timestamp("2024-09-08 16:00", tz="UTC")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage().partition(";")[0] for record in caplog.records if "funding rates" in record.getMessage()
    ]


def test_a_rate_that_is_published_late_changes_the_best_profit_of_a_trade_that_was_followed_without_it(
    make_bot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def best_profit(late: bool) -> float:
        bot = ready(make_bot())
        # By its record another bot would answer as the first one did.
        shutil.rmtree(records_folder(bot.config), ignore_errors=True)
        accounts = watched(monkeypatch, OpenTrade, "at")
        # So large that whoever receives it has his best profit after it.
        bot._published[CandleType.FUNDING_RATE]["open"] = 0.05
        bot.next_candle(46)
        trade = bot.open_trade(is_short=True, candles_ago=1)
        bot.is_answered = not late
        for _ in range(6):
            bot.next_candle()
            bot.analyse()
            assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
        bot.is_answered = True
        bot.next_candle(6)
        bot.analyse()
        assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
        assert [any(history.funding[-5:]) for (_, history, *_), _ in accounts[:-1]] == [False] * 2 + [not late] * 4
        return accounts[-1][1][0].best_profit

    in_time, late = best_profit(False), best_profit(True)
    assert late == in_time > 0.04


def test_a_bot_without_rates_on_disk_asks_for_those_of_its_training(make_bot: Any) -> None:
    bot = make_bot()
    (Path(bot.config["datadir"]) / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather").unlink()
    ready(bot)
    due = bot.model.traded.source.funding.due(PAIR, bot.closed()["date"].tail(300))
    assert np.count_nonzero(due) == 3
    assert len(bot.requests) == 2


def test_a_bot_without_any_rates_says_so_and_goes_on_without(make_bot: Any, caplog: pytest.LogCaptureFixture) -> None:
    bot = make_bot()
    (Path(bot.config["datadir"]) / "futures" / "BTC_USDT_USDT-1h-funding_rate.feather").unlink()
    bot.is_answered = False
    ready(bot)
    assert f"{PAIR}: no funding rates on disk; training and predictions leave funding out" in caplog.text
    assert f"{PAIR}: no new funding rates (the exchange did not answer)" in caplog.text
    bot.next_candle()
    assert bot.analyse()["do_predict"].iloc[-1] == 1


def test_a_thread_of_the_bot_asks_so_that_no_decision_waits(make_bot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bot = ready(make_bot())
    funding = bot.model.traded.source.funding
    monkeypatch.setattr(funding_module, "_LOOK_SECONDS", 2.0)
    bot.next_candle(60)
    askers = []
    real = Funding._ask

    def ask(*arguments: Any) -> None:
        askers.append(threading.current_thread().name)
        real(*arguments)

    monkeypatch.setattr(Funding, "_ask", ask)
    stop = threading.Event()
    with bot.clock():
        thread = funding.start_watching(stop)
        # What a pass would do by itself is left to the thread, which alone waits for the answer.
        bot.analyse()
        deadline = threading.Event()
        for _ in range(2400):
            if bot.requests or deadline.wait(0.05):
                break
    stop.set()
    thread.join(120)
    assert not thread.is_alive()
    assert askers == ["funding rates"]
    assert len(bot.requests) == 2
    assert funding._known(PAIR).index[-1] == pd.Timestamp("2024-09-08 16:00", tz="UTC")
