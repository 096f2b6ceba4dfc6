"""A bot whose exchange sends candles that cannot be true: nothing is decided on them, and it heals when they do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, Watch
from freqtrade.enums import CandleType
from live_bot import FIVE_MINUTES, LENGTHS, MOST_CANDLES, LiveBot

from mtfscalper.freqai.columns import ACTION_COLUMN

NAME = f"candles {PAIR} 5m"
Ticks = list[list[Any]]


class SentBot(LiveBot):
    """A bot whose candles come through freqtrade's own requests.

    :ivar spoil: changes the exchange's answers, five-minute candles alone
    :ivar late: timeframes of which the candle that closed last is not there yet
    """

    spoil: Callable[[Ticks], Ticks] | None = None
    late: tuple[str, ...] = ()

    def __init__(self, *arguments: Any, **overlay: Any) -> None:
        super().__init__(*arguments, **overlay)
        # freqtrade notes it as it checks an exchange.
        self.exchange._startup_candle_count = self.strategy.startup_candle_count

    async def _answer(
        self, pair: str, timeframe: str, candle_type: CandleType, since_ms: int | None = None
    ) -> tuple[str, str, CandleType, list[Any], bool]:
        if candle_type != CandleType.FUTURES:
            return await super()._answer(pair, timeframe, candle_type, since_ms)
        opened = self._candles[timeframe]
        rows = opened[opened["date"] <= self.now].tail(MOST_CANDLES)
        times = rows["date"].dt.as_unit("ms").astype("int64")
        values = rows[["open", "high", "low", "close", "volume"]].to_numpy().tolist()
        ticks = [[time, *row] for time, row in zip(times, values, strict=True)]
        if self.spoil is not None and timeframe == "5m":
            ticks = self.spoil(ticks)
        if timeframe in self.late:
            ticks = [*ticks[:-2], ticks[-1]]
        return pair, timeframe, candle_type, ticks, True

    def loop(self) -> pd.DataFrame:
        """What a loop of freqtrade does with candles: it asks for what is due, and analyses what is new.

        :return: what the last analysis made
        """
        assert self.strategy.dp is not None
        with self.clock():
            self.strategy.dp.refresh([(PAIR, timeframe, CandleType.FUTURES) for timeframe in LENGTHS])
            self.strategy.analyze([PAIR])
            return self.strategy.dp.get_analyzed_dataframe(PAIR, "5m")[0]

    def analyse(self) -> pd.DataFrame:
        return self.loop()

    def candles(self) -> pd.DataFrame:
        """What freqtrade has."""
        return self.exchange._klines[PAIR, "5m", CandleType.FUTURES]

    @property
    def troubles(self) -> dict[str, str]:
        return self.model._owner.troubles


@pytest.fixture
def bot(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> SentBot:
    Watch(monkeypatch)
    freqai = {"rl_config": {"decision_mode": "exact", "entry_mode": "agent"}}
    return SentBot(tmp_path, market, monkeypatch, freqai=freqai)


def ready(bot: SentBot) -> SentBot:
    bot.loop()
    bot.train()
    bot.next_candle()
    bot.loop()
    bot.next_candle()
    assert decided(bot.loop(), bot)
    assert bot.troubles == {}
    return bot


def decided(frame: pd.DataFrame, bot: SentBot) -> bool:
    """Whether the last analysis decided on the candle that closed last."""
    last = frame.iloc[-1]
    return bool(last["do_predict"] == 1 and last["date"] == bot.closed()["date"].iloc[-1])


def spoiled(at: int, *values: float | None) -> Callable[[Ticks], Ticks]:
    """Another candle in place of one; -1 is the one that is forming, -2 the last that has closed."""

    def spoil(ticks: Ticks) -> Ticks:
        time, *prices = ticks[at]
        ticks[at] = list(values) if len(values) == 6 else [time, *values, *prices[len(values) :]]
        return ticks

    return spoil


REFUSED: dict[str, Callable[[Ticks], Ticks]] = {
    "high below low": spoiled(-2, 100.0, 90.0, 110.0, 100.0),
    "a million times": spoiled(-2, 6e10, 6e10, 6e10, 6e10),
    "zero": spoiled(-2, 0.0, 0.0, 0.0, 0.0),
    "negative": spoiled(-2, -1.0, -1.0, -1.0, -1.0),
    "not a number": spoiled(-2, None, None, None, None),
    "of 1970": spoiled(-2, 1, 2.0, 3.0, 1.0, 2.0, 1.0),
    "half a JSON text": lambda ticks: [[1, None, None, None, None, None] for _ in ticks],
}


def test_a_bad_last_candle_is_not_decided_on_until_it_is_sent_right(bot: SentBot) -> None:
    ready(bot)
    trade = bot.open_trade(candles_ago=1)
    for kind, spoil in REFUSED.items():
        before = bot.candles().copy()
        bot.next_candle()
        bot.spoil = spoil
        frame = bot.loop()
        assert not decided(frame, bot), kind
        assert frame["date"].iloc[-1] == before["date"].iloc[-1]
        assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is None
        assert list(bot.troubles) == [NAME]
        # In the same candle, without a restart, and about the open trade too.
        bot.spoil = None
        bot.now += FIVE_MINUTES / 10
        assert decided(bot.loop(), bot), kind
        assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
        assert bot.troubles == {}
        bot.now -= FIVE_MINUTES / 10
        sent, closed = (frame.tail(500).reset_index(drop=True) for frame in (bot.candles(), bot.closed()))
        pd.testing.assert_frame_equal(sent, closed, check_dtype=False)


@pytest.mark.parametrize("kind", ["a million times", "half a JSON text"])
def test_a_bot_that_starts_on_bad_candles_begins_once_they_are_right(bot: SentBot, kind: str) -> None:
    bot.spoil = REFUSED[kind]
    frame = bot.loop()
    assert frame.empty
    assert list(bot.troubles) == [NAME]
    bot.spoil = None
    bot.next_candle()
    bot.loop()
    ready(bot)
    history = bot.model.dd.historic_data[PAIR]["5m"]
    assert history["date"].diff().iloc[1:].eq(FIVE_MINUTES).all()
    assert history["date"].iloc[-1] == bot.closed()["date"].iloc[-1]


def test_candles_of_the_future_are_refused_and_those_before_them_decided_on(bot: SentBot) -> None:
    ready(bot)
    bot.next_candle()
    bot.spoil = lambda ticks: [*ticks, [ticks[-1][0] + 3_600_000, *ticks[-1][1:]]]
    assert decided(bot.loop(), bot)
    assert "1 candle of the future" in bot.troubles[NAME]
    assert "this machine's clock" in bot.troubles[NAME]


def test_a_bad_candle_that_stays_is_missing_and_filled_as_in_a_backtest(bot: SentBot) -> None:
    ready(bot)
    date = bot.closed()["date"].iloc[-1]
    bot.next_candle()
    time = int(date.timestamp() * 1000)
    bot.spoil = lambda ticks: [[t[0], -1.0, *t[2:]] if t[0] == time else t for t in ticks]
    # It came right before: what came then stays.
    assert decided(bot.loop(), bot)
    assert bot.candles().set_index("date").loc[date, "open"] > 0
    del bot.exchange._klines[PAIR, "5m", CandleType.FUTURES]
    bot.next_candle()
    assert decided(bot.loop(), bot)
    row = bot.candles().set_index("date").loc[date]
    assert row["volume"] == 0
    assert row["high"] == row["low"] == bot.candles().set_index("date").loc[date - FIVE_MINUTES, "close"]
    assert NAME in bot.troubles


def test_a_later_version_of_a_candle_takes_the_place_of_the_first(
    bot: SentBot, caplog: pytest.LogCaptureFixture
) -> None:
    """freqtrade would keep the highest high and the lowest low of both, for as long as it has the candle."""
    ready(bot)
    bot.next_candle()
    date = bot.closed()["date"].iloc[-1]
    time, true = int(date.timestamp() * 1000), bot.closed().set_index("date").loc[date]
    bot.spoil = lambda ticks: [
        [t[0], t[1], t[2] * 1.1, t[3] * 0.9, t[4] * 1.05, t[5]] if t[0] == time else t for t in ticks
    ]
    assert decided(bot.loop(), bot)
    assert bot.candles()["high"].iloc[-1] == pytest.approx(true["high"] * 1.1)
    made = bot.model.dd.historic_predictions[PAIR].iloc[-1][ACTION_COLUMN]
    bot.spoil = None
    bot.next_candle()
    assert decided(bot.loop(), bot)
    for frame in (bot.candles(), bot.model.dd.historic_data[PAIR]["5m"]):
        assert frame.set_index("date").loc[date, ["open", "high", "low", "close"]].tolist() == true.iloc[:4].tolist()
    assert f"1 closed candle(s), the newest of {date}, came late or have been revised" in caplog.text
    # What was decided stands.
    predictions = bot.model.dd.historic_predictions[PAIR]
    assert predictions[ACTION_COLUMN][pd.to_datetime(predictions["date_pred"]) == date].tolist() == [made]


def test_missing_candles_are_filled_told_and_replaced_when_they_come(bot: SentBot) -> None:
    ready(bot)
    bot.next_candle(3)
    bot.spoil = lambda ticks: ticks[:-3] + ticks[-2:]
    assert decided(bot.loop(), bot)
    assert "1 candle missing" in bot.troubles[NAME]
    late = bot.closed()["date"].iloc[-2]
    assert bot.candles().set_index("date").loc[late, "volume"] == 0
    bot.spoil = None
    bot.next_candle()
    assert decided(bot.loop(), bot)
    assert bot.troubles == {}
    assert bot.candles().set_index("date").loc[late, "volume"] > 0
    assert bot.model.dd.historic_data[PAIR]["5m"].set_index("date").loc[late, "volume"] > 0


def test_a_pass_waits_a_moment_for_the_longer_candles_that_closed_with_the_last_one(
    bot: SentBot, caplog: pytest.LogCaptureFixture
) -> None:
    """Without them its features would be those of a quarter of an hour ago, and nothing would show it."""
    ready(bot)
    assert bot.now.minute % 15 == 10
    bot.next_candle()
    bot.late = ("15m",)
    trade = bot.open_trade(candles_ago=1)
    assert not decided(bot.loop(), bot)
    assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is None
    bot.late = ()
    bot.now += FIVE_MINUTES / 10
    assert decided(bot.loop(), bot)
    assert bot.strategy.trade_decisions.decide(trade, bot.now, 1.0) is not None
    assert bot.troubles == {}
    # Not for ever: a pair without decisions would be worse.
    bot.now -= FIVE_MINUTES / 10
    bot.next_candle(3)
    bot.late = ("15m",)
    assert not decided(bot.loop(), bot)
    bot.now += FIVE_MINUTES / 4
    assert decided(bot.loop(), bot)
    assert f"late candles {PAIR} 15m" in bot.troubles
    assert caplog.text.count("what is decided goes by the candles before it") == 1


def test_candles_that_stay_away_are_told_and_waited_for_once_and_counted_when_they_come(
    bot: SentBot, caplog: pytest.LogCaptureFixture
) -> None:
    ready(bot)
    bot.next_candle()
    bot.late = ("15m",)
    bot.now += FIVE_MINUTES / 4
    assert decided(bot.loop(), bot)
    bot.now -= FIVE_MINUTES / 4
    for _ in range(2):
        bot.next_candle()
        # None has come since: nothing is waited for.
        assert decided(bot.loop(), bot)
    assert caplog.text.count("what is decided goes by the candles before it") == 1
    bot.late = ()
    bot.next_candle()
    assert decided(bot.loop(), bot)
    assert bot.troubles == {}
    assert f"{PAIR}: its 15m candles have come; 3 candles were decided on without them." in caplog.text
    # The next one that is late is waited for again.
    bot.next_candle(3)
    bot.late = ("15m",)
    assert not decided(bot.loop(), bot)


class CorrelatedBot(SentBot):
    """A bot whose features are made of another pair's candles too.

    :ivar late_others: timeframes of which the other pair's candle that closed last is not there yet
    :ivar others: the other pair's candles, by timeframe
    """

    late_others: tuple[str, ...] = ()
    others: dict[str, pd.DataFrame]

    def loop(self) -> pd.DataFrame:
        for timeframe, length in LENGTHS.items():
            candles = self.others[timeframe]
            closed = candles[candles["date"] + length <= self.now].tail(MOST_CANDLES)
            if timeframe in self.late_others:
                closed = closed.iloc[:-1]
            self.exchange._klines[OTHER_PAIR, timeframe, CandleType.FUTURES] = closed.reset_index(drop=True)
        return super().loop()


@pytest.fixture
def correlated(tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch) -> CorrelatedBot:
    Watch(monkeypatch)
    freqai = {
        "rl_config": {"decision_mode": "exact", "entry_mode": "agent"},
        "feature_parameters": {"include_corr_pairlist": [OTHER_PAIR]},
    }
    bot = CorrelatedBot(tmp_path, market, monkeypatch, freqai=freqai)
    bot.others = {
        timeframe: pd.read_feather(market / "futures" / f"ETH_USDT_USDT-{timeframe}-futures.feather")
        for timeframe in LENGTHS
    }
    return bot


@pytest.mark.parametrize("timeframe", ["5m", "15m"])
def test_a_pass_waits_a_moment_for_the_candles_of_correlated_pairs(
    correlated: CorrelatedBot, caplog: pytest.LogCaptureFixture, timeframe: str
) -> None:
    """The features of the newest candle would be made of an older one of theirs, and nothing would show it."""
    bot = ready(correlated)
    bot.next_candle()
    bot.late_others = (timeframe,)
    assert not decided(bot.loop(), bot)
    assert f"{OTHER_PAIR}: its {timeframe} candles end at" in caplog.text
    bot.late_others = ()
    bot.now += FIVE_MINUTES / 10
    assert decided(bot.loop(), bot)
    assert bot.troubles == {}
    bot.now -= FIVE_MINUTES / 10
    bot.next_candle(3)
    bot.late_others = (timeframe,)
    bot.now += FIVE_MINUTES / 4
    assert decided(bot.loop(), bot)
    assert list(bot.troubles) == [f"late candles {OTHER_PAIR} {timeframe}"]


def test_features_of_correlated_pairs_are_made_again_once_their_candles_have_come(correlated: CorrelatedBot) -> None:
    """FreqAI keeps them for the other pairs of the candle, which would get those of before in silence."""
    bot = ready(correlated)
    made: list[str] = []
    real = bot.strategy.feature_engineering_expand_basic

    def expand(frame: pd.DataFrame, metadata: dict[str, Any], **named: Any) -> pd.DataFrame:
        made.append(metadata["pair"])
        result: pd.DataFrame = real(frame, metadata=metadata, **named)
        return result

    bot.strategy.feature_engineering_expand_basic = expand  # type: ignore[method-assign]
    bot.next_candle()
    bot.late_others = ("5m",)
    bot.now += FIVE_MINUTES / 4
    assert decided(bot.loop(), bot)
    n_made = made.count(OTHER_PAIR)
    assert n_made
    # The next pair of the list, for which a pass over the same one stands here.
    again = bot.strategy._IStrategy__last_candle_seen_per_pair  # type: ignore[attr-defined]
    again.clear()
    bot.loop()
    assert made.count(OTHER_PAIR) == n_made
    bot.late_others = ()
    again.clear()
    bot.loop()
    assert made.count(OTHER_PAIR) == 2 * n_made


def test_the_owner_is_told_once_however_often_it_is_met(bot: SentBot) -> None:
    ready(bot)
    sent: list[str] = []
    bot.model._owner._send = sent.append  # type: ignore[method-assign]
    bot.spoil = spoiled(-2, None, None, None, None)
    for _ in range(4):
        bot.next_candle()
        bot.loop()
    bot.spoil = None
    bot.next_candle()
    bot.loop()
    assert len(sent) == 2
    assert "without all numbers" in sent[0]
    assert "sound again" in sent[1]
