"""A dry-run bot in this process: its clock, its exchange's candles and its training are moved by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import time_machine
from freqai_runs import PAIR, STRATEGY, configuration, loosen_signals
from freqtrade.configuration import validate_config_consistency
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, RunMode
from freqtrade.exceptions import TemporaryError
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.persistence import Trade, enable_database_use, init_db
from freqtrade.plugins.pairlistmanager import PairListManager
from freqtrade.resolvers import StrategyResolver

from mtfscalper.freqai.model import MtfScalperFreqaiModel

FIRST_START = datetime(2024, 9, 8, 12, 0, 3, tzinfo=UTC)
FIVE_MINUTES = timedelta(minutes=5)
LENGTHS = {"5m": FIVE_MINUTES, "15m": timedelta(minutes=15), "1h": timedelta(hours=1)}
PUBLISHED = {
    CandleType.FUNDING_RATE: "BTC_USDT_USDT-1h-funding_rate.feather",
    CandleType.MARK: "BTC_USDT_USDT-1h-mark.feather",
}
# The bot sees as many candles as Binance sends at once.
MOST_CANDLES = 999


class LiveBot:
    """What ``freqtrade trade`` does for one pair, one candle at a time.

    :ivar now: the bot's time, a little after a candle has closed
    :ivar requests: pairs and kinds of the candles that the exchange was asked for
    :ivar is_answered: whether it answers
    """

    def __init__(
        self, home: Path, market: Path, monkeypatch: pytest.MonkeyPatch, now: datetime = FIRST_START, **overlay: Any
    ) -> None:
        self._clock_runs = False
        self.now = now
        self._candles = {
            timeframe: pd.read_feather(market / "futures" / f"BTC_USDT_USDT-{timeframe}-futures.feather")
            for timeframe in LENGTHS
        }
        # On disk lies what a bot downloads when it starts.
        datadir = home / "data"
        shutil.copytree(market, datadir, dirs_exist_ok=True)
        for timeframe in LENGTHS:
            self.closed(timeframe).to_feather(datadir / "futures" / f"BTC_USDT_USDT-{timeframe}-futures.feather")
        self._published = {kind: pd.read_feather(datadir / "futures" / name) for kind, name in PUBLISHED.items()}
        for kind, name in PUBLISHED.items():
            self.published(kind).to_feather(datadir / "futures" / name)
        monkeypatch.setattr("freqtrade.freqai.utils.download_all_data_for_training", lambda *_: None)
        self.config, self.exchange = configuration(home, datadir, RunMode.DRY_RUN, **overlay)
        self.requests: list[tuple[str, str]] = []
        self.is_answered = True
        monkeypatch.setattr(self.exchange, "_async_get_candle_history", self._answer)
        self.strategy = StrategyResolver.load_strategy(self.config)
        validate_config_consistency(self.config)
        pairlists = PairListManager(self.exchange, self.config)
        pairlists.refresh_pairlist()
        self.strategy.dp = DataProvider(self.config, self.exchange, pairlists)
        with self.clock():
            self.strategy.ft_bot_start()
        if self.strategy.get_strategy_name() == STRATEGY:
            loosen_signals(self.strategy)
        # Trainings are started by hand, not by FreqAI's thread.
        self.model.scanning = True
        # A backtest before may have switched it off.
        enable_database_use()
        init_db("sqlite://")

    @property
    def model(self) -> MtfScalperFreqaiModel:
        model = self.strategy.freqai
        assert isinstance(model, MtfScalperFreqaiModel)
        return model

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Let the bot's time be the process's; the outermost of several decides."""
        if self._clock_runs:
            yield
            return
        self._clock_runs = True
        try:
            with time_machine.travel(self.now, tick=True):
                yield
        finally:
            self._clock_runs = False

    async def _answer(
        self, pair: str, timeframe: str, candle_type: CandleType, since_ms: int | None = None
    ) -> tuple[str, str, CandleType, list[Any], bool]:
        """What the exchange answers to a request for funding rates or mark candles."""
        self.requests.append((pair, str(candle_type)))
        if not self.is_answered:
            raise TemporaryError("no answer")
        rows = self.published(candle_type)
        times = rows["date"].dt.as_unit("ms").astype("int64")
        # A rate is one number, a candle is five.
        columns = ["open"] if candle_type == CandleType.FUNDING_RATE else ["open", "high", "low", "close", "volume"]
        values = rows[columns].to_numpy().tolist()
        found = [[time, *row] for time, row in zip(times, values, strict=True) if time >= (since_ms or 0)]
        return pair, timeframe, candle_type, found, True

    def published(self, kind: CandleType) -> pd.DataFrame:
        """Funding rates, and mark candles from their open on, up to now."""
        rows = self._published[kind]
        return rows[rows["date"] <= self.now].reset_index(drop=True)

    def closed(self, timeframe: str = "5m") -> pd.DataFrame:
        """Candles that have closed by now."""
        candles = self._candles[timeframe]
        return candles[candles["date"] + LENGTHS[timeframe] <= self.now].reset_index(drop=True)

    def analyse(self) -> pd.DataFrame:
        """One pass of the bot over its pair: indicators, predictions, entry and exit signals."""
        for timeframe in LENGTHS:
            key = (PAIR, timeframe, CandleType.FUTURES)
            self.exchange._klines[key] = self.closed(timeframe).tail(MOST_CANDLES).reset_index(drop=True)
        with self.clock():
            metadata = {"pair": PAIR}
            frame = self.exchange._klines[(PAIR, "5m", CandleType.FUTURES)].copy()
            return self.strategy.ft_advise_signals(self.strategy.advise_indicators(frame, metadata), metadata)

    def next_candle(self, n: int = 1) -> None:
        """Let candles close."""
        self.now += n * FIVE_MINUTES

    def train(self) -> None:
        """What FreqAI's training thread does when a model is due."""
        with self.clock():
            kitchen = FreqaiDataKitchen(self.config, True, PAIR)
            _, timerange, load_timerange = kitchen.check_if_new_training_required(0)
            kitchen.set_paths(PAIR, timerange.stopts)
            self.model.extract_data_and_train_model(timerange, PAIR, self.strategy, kitchen, load_timerange)

    def whole_frame(self) -> tuple[pd.DataFrame, FreqaiDataKitchen]:
        """The whole frame with its features, and a kitchen with the pipeline of the model in use."""
        with self.clock():
            kitchen = FreqaiDataKitchen(self.config, True, PAIR)
            self.model.dd.load_data(PAIR, kitchen)
            frame = self.exchange._klines[(PAIR, "5m", CandleType.FUTURES)].copy()
            frame = kitchen.use_strategy_to_populate_indicators(self.strategy, prediction_dataframe=frame, pair=PAIR)
            kitchen.find_labels(frame)
        return frame, kitchen

    def predict_whole(self, frame: pd.DataFrame, kitchen: FreqaiDataKitchen, policy: Any = None) -> pd.DataFrame:
        """Predictions on a whole frame at once, which a bot asks for on its first pass only.

        :param policy: a model; the one in use by default
        """
        self.model.model = policy or self.model.dd.model_dictionary[PAIR]
        columns, _ = self.model.predict(frame.copy(), kitchen)
        self.model.model = None
        return columns

    def open_trade(self, *, is_short: bool = False, candles_ago: int = 0, seconds: int = 7, **values: Any) -> Trade:
        """Note a trade opened a few candles ago, at the open of its candle.

        :param candles_ago: 0 for the candle that is forming
        :param values: fields of the trade; by default one unit without leverage and funding
        """
        opened = pd.Timestamp(self.now).floor("5min") - candles_ago * FIVE_MINUTES
        candles = self._candles["5m"]
        rate = float(candles.loc[candles["date"] == opened, "open"].iloc[0])
        trade = Trade(
            pair=PAIR,
            base_currency="BTC",
            stake_currency="USDT",
            stake_amount=rate,
            open_rate=rate,
            open_date=(opened + timedelta(seconds=seconds)).to_pydatetime(),
            fee_open=0.0005,
            fee_close=0.0005,
            exchange="binance",
            is_open=True,
            is_short=is_short,
            **{"amount": 1.0, "leverage": 1.0, "funding_fees": 0.0, **values},
        )
        Trade.session.add(trade)
        Trade.commit()
        return trade


def watched(monkeypatch: pytest.MonkeyPatch, target: Any, name: str) -> list[tuple[tuple[Any, ...], Any]]:
    """Fills with the arguments and results of a function's calls."""
    calls: list[tuple[tuple[Any, ...], Any]] = []
    real: Callable[..., Any] = getattr(target, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        result = real(*arguments, **keywords)
        calls.append((arguments, result))
        return result

    monkeypatch.setattr(target, name, call)
    return calls
