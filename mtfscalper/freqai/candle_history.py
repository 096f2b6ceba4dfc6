"""The candles that a bot trains on: those on disk when it started, and those that came since."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from freqtrade.configuration import TimeRange
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.freqai.data_drawer import FreqaiDataDrawer
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen
from freqtrade.freqai.utils import get_required_data_timerange
from freqtrade.strategy import IStrategy
from freqtrade.util import dt_now, dt_ts
from pandas import DataFrame

from mtfscalper.freqai.live_candles import COLUMNS, filled, sift_frame
from mtfscalper.freqai.owner import Owner

logger = logging.getLogger(__name__)

# After an answer that did not come.
_ASK_AGAIN_AFTER = timedelta(hours=1)


class CandleHistory:
    """Keeps FreqAI's candles in memory (``historic_data``) joined to those that freqtrade has, by their time.

    FreqAI appends by position: what does not fit, such as one candle of 1970 or a pause longer than freqtrade's memory,
    stops every later analysis, and a revised candle is never taken over.

    :ivar since: from when on trainings need candles, None where nobody has said so
    """

    def __init__(self) -> None:
        self.since: pd.Timestamp | None = None
        self._owner: Owner | None = None
        # Pairs whose candles begin later than a training asked for.
        self._short: set[str] = set()
        # From when on candles are missing that the exchange did not send, by pair and timeframe, and when to ask again.
        self._missing: dict[tuple[str, str], tuple[pd.Timestamp, datetime]] = {}

    def report_to(self, owner: Owner) -> None:
        """Tell a bot's owner of what is wrong."""
        self._owner = owner

    def sift(self, historic: dict[str, dict[str, DataFrame]]) -> None:
        """Leave out what cannot be true among the candles that were on disk.

        :param historic: by pair and timeframe; changed in place
        """
        for pair, by_timeframe in historic.items():
            for timeframe, frame in by_timeframe.items():
                if frame.empty:
                    continue
                by_timeframe[timeframe], found = sift_frame(frame, pair, timeframe, dt_now())
                if found.refused:
                    logger.warning(
                        "%s %s on disk: %s; accepted: candles that can be true; they count as missing; remedy: delete "
                        "the file and start again, which downloads it",
                        pair,
                        timeframe,
                        "; ".join(found.refused),
                    )

    def update(
        self,
        historic: dict[str, dict[str, DataFrame]],
        pairs: list[str],
        timeframes: list[str],
        data: DataProvider,
    ) -> None:
        """Take over what freqtrade has of each pair now.

        :param historic: by pair and timeframe; changed in place
        """
        for pair in pairs:
            for timeframe in timeframes:
                frame = data.get_pair_dataframe(pair, timeframe)
                if frame.empty:
                    continue
                have = historic.setdefault(pair, {}).get(timeframe)
                if have is None or have.empty:
                    # Of a pair that joined the list, or whose download failed as the bot started.
                    have = frame.iloc[:0]
                    self._missing[pair, timeframe] = self._start(historic, timeframe, frame), dt_now()
                if _ends_with(have, frame) and (pair, timeframe) not in self._missing:
                    continue
                frame, _ = sift_frame(frame, pair, timeframe, dt_now())
                if frame.empty:
                    continue
                historic[pair][timeframe] = self._joined(have, frame, pair, timeframe, data)

    def _joined(self, have: DataFrame, frame: DataFrame, pair: str, timeframe: str, data: DataProvider) -> DataFrame:
        """The candles of a history, and those that freqtrade has, which replace it where both have one."""
        length, key = pd.Timedelta(milliseconds=timeframe_to_msecs(timeframe)), (pair, timeframe)
        now = dt_now()
        if not have.empty and have["date"].iloc[-1] + length < frame["date"].iloc[0] and key not in self._missing:
            self._missing[key] = have["date"].iloc[-1] + length, now
        if key not in self._missing:
            return join(have, frame)
        not_before = self._missing[key][1]
        # A clock that was set back since does not make it wait.
        if not not_before - _ASK_AGAIN_AFTER <= now < not_before:
            have = self._completed(have, pair, timeframe, data)
        return filled(join(have, frame), pair, timeframe)

    def _completed(self, have: DataFrame, pair: str, timeframe: str, data: DataProvider) -> DataFrame:
        """A history with the candles that are missing at its end, if the exchange sends them."""
        key, name = (pair, timeframe), f"history {pair} {timeframe}"
        since, now = self._missing[key][0], dt_now()
        exchange = data._exchange
        assert exchange is not None
        kind = exchange._config.get("candle_type_def", CandleType.SPOT)
        try:
            came: DataFrame = exchange.get_historic_ohlcv(pair, timeframe, dt_ts(since.to_pydatetime()), kind)
        except Exception as error:
            # Whatever ccxt and freqtrade raise, a bot goes on with the candles that it has.
            logger.debug("%s %s: candles from %s on:", pair, timeframe, since, exc_info=True)
            self._missing[key] = since, now + _ASK_AGAIN_AFTER
            why = f"{type(error).__name__}: {error}"
            if self._owner is not None:
                self._owner.trouble(
                    name,
                    f"{pair} {timeframe}: candles from {since} on are missing for trainings, and the exchange did not "
                    f"send them ({why}); they are filled flat meanwhile, and asked for every hour",
                    pair,
                )
            return have
        came, _ = sift_frame(came, pair, timeframe, now)
        del self._missing[key]
        if self._owner is not None:
            self._owner.healed(name, f"{pair} {timeframe}: the candles missing for trainings have come.")
        logger.info("%s %s: %d candles from %s on were fetched for trainings.", pair, timeframe, len(came), since)
        # What was filled flat meanwhile gives way.
        return join(have[have["date"] < since], came) if len(came) else have

    def _start(self, historic: dict[str, dict[str, DataFrame]], timeframe: str, frame: DataFrame) -> pd.Timestamp:
        """From when on trainings need candles, or other pairs have some."""
        others: list[pd.Timestamp] = [
            known[timeframe]["date"].iloc[0] for known in historic.values() if len(known.get(timeframe, ()))
        ]
        needed = [] if self.since is None else [self.since]
        first: pd.Timestamp = min([*others, *needed, frame["date"].iloc[0]])
        return first

    def tell_if_short(self, pair: str, timeframe: str, frame: DataFrame, asked: datetime) -> None:
        """Say once that a pair's candles begin later than a training asks for: it learns from fewer days then.

        :param timeframe: the strategy's, of which the frame is
        :param asked: from when on the training asks for candles
        """
        length = pd.Timedelta(milliseconds=timeframe_to_msecs(timeframe))
        first = frame["date"].min()
        if pair in self._short or not first > asked + length:
            return
        self._short.add(pair)
        logger.warning(
            "%s: its candles begin at %s, and freqai.train_period_days asks for those from %s on: trainings learn from "
            "fewer days until it has lived so long; remedy, unless the pair was listed then: `freqtrade download-data "
            "--prepend` for the time before, and start again",
            pair,
            first,
            asked,
        )


class HistoryDrawer(FreqaiDataDrawer):
    """FreqAI's data drawer, whose candles in memory are joined by their time.

    :ivar candles: what joins them
    """

    def __init__(self, full_path: Path, config: dict[str, Any]) -> None:
        """
        :param full_path: the identifier's folder
        """
        self.candles = CandleHistory()
        super().__init__(full_path, config)

    def load_all_pair_histories(self, timerange: TimeRange, dk: FreqaiDataKitchen) -> None:
        """The candles on disk, as a bot starts."""
        self.candles.since = pd.Timestamp(get_required_data_timerange(self.config).startts, unit="s", tz="UTC")
        with self.history_lock:
            super().load_all_pair_histories(timerange, dk)
            self.candles.sift(self.historic_data)

    def update_historic_data(self, strategy: IStrategy, dk: FreqaiDataKitchen) -> None:
        """The candles that have come since."""
        timeframes = self.freqai_info["feature_parameters"]["include_timeframes"]
        with self.history_lock:
            self.candles.update(self.historic_data, dk.all_pairs, timeframes, strategy.dp)
            self.current_candle = self.historic_data[dk.pair][self.config["timeframe"]].iloc[-1]["date"]

    def tell_if_short(self, pair: str, asked: datetime) -> None:
        """See :meth:`CandleHistory.tell_if_short`."""
        timeframe = self.config["timeframe"]
        frame = self.historic_data.get(pair, {}).get(timeframe)
        if frame is not None:
            self.candles.tell_if_short(pair, timeframe, frame, asked)


def join(have: DataFrame, frame: DataFrame) -> DataFrame:
    """The candles before a frame, and the frame.

    :param have: in rising order, as ``frame``; its dates' resolution stays: pandas makes objects of two kinds
    """
    if have.empty:
        return frame.reset_index(drop=True)
    if frame.empty:
        return have
    frame = frame[[name for name in have.columns if name in frame.columns]]
    frame = frame.assign(date=frame["date"].astype(have["date"].dtype))
    earlier: DataFrame = have[have["date"] < frame["date"].iloc[0]]
    return pd.concat([earlier, frame], ignore_index=True)


def _ends_with(have: DataFrame, frame: DataFrame) -> bool:
    """Whether a history's last candles are those of a frame."""
    n = len(frame)
    last = have.iloc[-n:]
    return len(last) == n and all(bool((last[name].array == frame[name].array).all()) for name in COLUMNS)
