"""The candles that a bot trains on are joined by their time, and complete themselves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import time_machine
from freqai_runs import PAIR, Watch
from freqtrade.exceptions import TemporaryError
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from live_bot import MOST_CANDLES, LiveBot

from mtfscalper.freqai.candle_history import CandleHistory, join
from mtfscalper.freqai.owner import Owner

FIRST = pd.Timestamp("2024-09-01", tz="UTC")
FIVE_MINUTES = pd.Timedelta(minutes=5)
ETH = "ETH/USDT:USDT"


def candles(start: int, stop: int, price: float = 100.0, unit: str = "us") -> pd.DataFrame:
    dates = pd.DatetimeIndex([FIRST + FIVE_MINUTES * k for k in range(start, stop)]).as_unit(unit)  # type: ignore[arg-type]
    rates = dict.fromkeys(("open", "high", "low", "close"), price)
    return pd.DataFrame({"date": dates, **rates, "volume": 1.0 + dates.minute / 60})


class Market:
    """A data provider, and its exchange.

    :ivar frame: what freqtrade has of a pair
    :ivar asked: since when the exchange was asked for candles
    """

    def __init__(self) -> None:
        self.frame = candles(0, 0)
        self.asked: list[pd.Timestamp] = []
        self.is_answered = True
        self._exchange: Any = SimpleNamespace(_config={}, get_historic_ohlcv=self._history)

    def get_pair_dataframe(self, pair: str, timeframe: str) -> pd.DataFrame:
        return self.frame.copy()

    def _history(self, pair: str, timeframe: str, since_ms: int, kind: Any) -> pd.DataFrame:
        since = pd.Timestamp(since_ms, unit="ms", tz="UTC")
        self.asked.append(since)
        if not self.is_answered:
            raise TemporaryError("no answer")
        everything = candles(0, self.stop, 50.0)
        return everything[everything["date"] >= since].reset_index(drop=True)

    @property
    def stop(self) -> int:
        return int((self.frame["date"].iloc[-1] - FIRST) / FIVE_MINUTES) + 1


@pytest.fixture
def feed() -> Market:
    return Market()


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(datetime.fromisoformat("2024-09-20T00:00:00+00:00"), tick=False) as traveller:
        yield traveller


def updated(history: CandleHistory, have: pd.DataFrame, feed: Market) -> pd.DataFrame:
    historic = {PAIR: {"5m": have}}
    history.update(historic, [PAIR], ["5m"], feed)  # type: ignore[arg-type]
    return historic[PAIR]["5m"]


def is_whole(frame: pd.DataFrame, start: int, stop: int) -> bool:
    return list(frame["date"]) == list(candles(start, stop)["date"])


def test_new_candles_are_joined_by_their_time_whatever_the_resolution_of_the_dates(feed: Market) -> None:
    for unit in ("ms", "us", "ns"):
        feed.frame = candles(90, 103)
        joined = updated(CandleHistory(), candles(0, 100, unit=unit), feed)
        assert joined["date"].dtype == f"datetime64[{unit}, UTC]"
        assert is_whole(joined, 0, 103)
    assert feed.asked == []


def test_a_revised_candle_is_taken_over_though_none_is_new(feed: Market) -> None:
    feed.frame = candles(90, 100)
    feed.frame.loc[4, "close"] = 101.0
    joined = updated(CandleHistory(), candles(0, 100), feed)
    assert joined.loc[94, "close"] == 101.0
    assert is_whole(joined, 0, 100)


def test_nothing_is_copied_where_nothing_is_new(feed: Market) -> None:
    have = candles(0, 100)
    feed.frame = candles(90, 100)
    assert updated(CandleHistory(), have, feed) is have


def test_a_candle_of_1970_joins_nothing_and_stops_nothing(feed: Market) -> None:
    """FreqAI would append it, and say for ever that its history is older than what the exchange sends."""
    history, have = CandleHistory(), candles(0, 100)
    feed.frame = candles(0, 1).assign(date=pd.DatetimeIndex(["1970-01-01"], tz="UTC").as_unit("us"))
    assert updated(history, have, feed) is have
    feed.frame = candles(95, 105)
    assert is_whole(updated(history, have, feed), 0, 105)


def test_candles_that_freqtrade_no_longer_has_are_fetched(feed: Market, caplog: pytest.LogCaptureFixture) -> None:
    feed.frame = candles(200, 210)
    joined = updated(CandleHistory(), candles(0, 100), feed)
    assert is_whole(joined, 0, 210)
    assert feed.asked == [FIRST + 100 * FIVE_MINUTES]
    # Those between are the exchange's, and no flat ones.
    assert set(joined["close"].iloc[100:200]) == {50.0}
    assert joined["volume"].min() > 0


def test_where_they_cannot_be_fetched_they_are_filled_told_and_asked_for_later(
    feed: Market, clock: time_machine.Traveller
) -> None:
    history, owner = CandleHistory(), Owner()
    history.report_to(owner)
    feed.frame, feed.is_answered = candles(200, 210), False
    have = updated(history, candles(0, 100), feed)
    assert is_whole(have, 0, 210)
    assert not have["volume"].iloc[100:200].any()
    assert "candles from 2024-09-01 08:20:00+00:00 on are missing for trainings" in owner.troubles[f"history {PAIR} 5m"]
    feed.frame, feed.is_answered = candles(201, 211), True
    have = updated(history, have, feed)
    assert len(feed.asked) == 1
    clock.shift(timedelta(hours=1))
    feed.frame = candles(202, 212)
    have = updated(history, have, feed)
    assert len(feed.asked) == 2
    assert is_whole(have, 0, 212)
    assert have["volume"].min() > 0
    assert owner.troubles == {}


def test_a_clock_that_was_ahead_keeps_nobody_from_asking_again(feed: Market, clock: time_machine.Traveller) -> None:
    history = CandleHistory()
    feed.frame, feed.is_answered = candles(200, 210), False
    clock.shift(timedelta(days=400))
    have = updated(history, candles(0, 100), feed)
    clock.shift(timedelta(days=-400))
    feed.frame, feed.is_answered = candles(201, 211), True
    have = updated(history, have, feed)
    assert len(feed.asked) == 2
    assert is_whole(have, 0, 211)
    assert have["volume"].min() > 0


def test_a_pair_that_comes_later_gets_a_history_as_long_as_the_others(feed: Market) -> None:
    """FreqAI loads histories once, and knows no pair that a pairlist adds afterwards."""
    historic = {ETH: {"5m": candles(0, 100)}}
    feed.frame = candles(90, 103)
    CandleHistory().update(historic, [PAIR], ["5m"], feed)  # type: ignore[arg-type]
    assert is_whole(historic[PAIR]["5m"], 0, 103)


def test_a_pair_without_candles_on_disk_gets_a_history_as_long_as_a_training_needs(feed: Market) -> None:
    """The exchange did not answer as the bot downloaded; FreqAI would train on freqtrade's last few hundred candles."""
    historic = {PAIR: {"5m": candles(0, 0)}}
    feed.frame, feed.is_answered = candles(90, 103), False
    history = CandleHistory()
    history.since = FIRST
    history.update(historic, [PAIR], ["5m"], feed)  # type: ignore[arg-type]
    assert feed.asked == [FIRST]
    feed.frame, feed.is_answered = candles(91, 104), True
    with time_machine.travel(datetime.fromisoformat("2024-09-20T01:00:01+00:00"), tick=False):
        history.update(historic, [PAIR], ["5m"], feed)  # type: ignore[arg-type]
    assert is_whole(historic[PAIR]["5m"], 0, 104)
    # Neither the beginning of the others' histories nor freqtrade's own decides alone.
    other = {PAIR: {"5m": candles(0, 0)}, ETH: {"5m": candles(5, 100)}}
    CandleHistory().update(other, [PAIR], ["5m"], feed)  # type: ignore[arg-type]
    assert is_whole(other[PAIR]["5m"], 5, 104)


def test_what_cannot_be_true_on_disk_counts_as_missing(caplog: pytest.LogCaptureFixture) -> None:
    spoiled = candles(0, 50)
    spoiled.loc[20, ["open", "high", "low", "close"]] = 1e8
    historic = {PAIR: {"5m": spoiled, "1h": candles(0, 0)}}
    CandleHistory().sift(historic)
    assert is_whole(historic[PAIR]["5m"], 0, 50)
    assert historic[PAIR]["5m"]["close"].max() == 100.0
    assert f"{PAIR} 5m on disk: 1 candle ten times off" in caplog.text
    assert "delete the file" in caplog.text


def test_joining_nothing_changes_nothing() -> None:
    have = candles(0, 5)
    assert join(have, candles(0, 0)) is have
    assert is_whole(join(candles(0, 0), have), 0, 5)


def test_a_bot_whose_history_ended_long_ago_goes_on_and_trains(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch)
    with time_machine.travel(bot.now):
        bot.analyse()
    historic = bot.model.dd.historic_data[PAIR]
    whole = historic["5m"]
    historic["5m"] = whole.iloc[: -MOST_CANDLES - 50]
    monkeypatch.setattr(bot.exchange, "get_historic_ohlcv", lambda *_: bot.closed())
    bot.next_candle()
    with bot.clock():
        kitchen = FreqaiDataKitchen(bot.config, True, PAIR)
        bot.analyse()
        bot.model.dd.update_historic_data(bot.strategy, kitchen)
    joined = bot.model.dd.historic_data[PAIR]["5m"]
    assert joined["date"].diff().iloc[1:].eq(FIVE_MINUTES).all()
    assert len(joined) == len(whole) + 1
    bot.train()
    assert PAIR in bot.model.dd.model_dictionary


def test_a_training_on_fewer_days_than_it_asks_for_is_told_once(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """freqtrade downloads nothing that lies before what is on disk, whatever train_period_days has become."""
    Watch(monkeypatch)
    bot = LiveBot(tmp_path, market, monkeypatch)
    bot.analyse()
    assert bot.model.dd.candles.since is not None
    assert bot.model.dd.candles.since < pd.Timestamp(bot.now) - pd.Timedelta(days=2)
    bot.train()
    assert "its candles begin at" not in caplog.text
    historic = bot.model.dd.historic_data[PAIR]
    historic["5m"] = historic["5m"].tail(400)
    for _ in range(2):
        bot.next_candle()
        bot.train()
    first = historic["5m"]["date"].iloc[0]
    assert caplog.text.count(f"{PAIR}: its candles begin at {first}, and freqai.train_period_days asks for those") == 1
