"""The candles that an exchange sends to a bot, looked at before freqtrade puts them with those that it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType
from freqtrade.exchange import Exchange, timeframe_to_msecs
from freqtrade.util import dt_now, dt_ts
from pandas import DataFrame

from mtfscalper.freqai.candle_clock import candle_open
from mtfscalper.freqai.live_candles import (
    CLOSE,
    DATE,
    OPEN,
    Rows,
    Sifted,
    as_rows,
    frame_rows,
    sift,
    sift_frame,
)
from mtfscalper.freqai.market_door import guard_markets
from mtfscalper.freqai.owner import Owner

logger = logging.getLogger(__name__)

# Closes that freqtrade has already, by which the first ones of an answer are judged.
_BEFORE = 5
# An exchange may send more than it is asked for, or have no candles of late; freqtrade would fill the whole time since.
_LONGER_THAN_ASKED = 10
# How long a pass waits for a pair's longer candles: a share of the strategy's own, and no longer than this.
_WAITED_SHARE, _WAITED_MOST = 0.2, timedelta(minutes=1)

_Key = tuple[str, str, CandleType]


class CandlesRefusedError(ValueError):
    """The candles at hand cannot be true; freqtrade passes over the pair, and analyses it again in its next loop."""


class CandleDoor:
    """Stands between an exchange and freqtrade's memory of candles, in a bot.

    freqtrade takes whatever an exchange sends, keeps the highest high and the lowest low of all versions of a candle,
    and fills the time from the oldest to the newest one. Here what cannot be true is left out of an answer, so that
    freqtrade asks for it again, and a later version of a candle takes the place of the earlier one.
    """

    def __init__(self, owner: Owner, feature_parameters: Mapping[str, Any]) -> None:
        """
        :param feature_parameters: FreqAI's, which name the other pairs and timeframes that a pass reads
        """
        self._owner = owner
        self._timeframes = feature_parameters["include_timeframes"]
        self._other_pairs = feature_parameters.get("include_corr_pairlist", [])
        self._exchange: Exchange | None = None
        # Frames that have been looked at as a whole: what was there before the door was.
        self._sound: dict[_Key, DataFrame] = {}

    def guard(self, pair: str, data: DataProvider | None) -> None:
        """Let a pass over a pair begin: look at what it is going to read, and from now on at what the exchange sends.

        :param data: the bot's data provider; without one, or an exchange, there is nothing to guard
        :raises CandlesRefusedError: if what is there from before holds what cannot be true, or nothing; freqtrade then
            asks the exchange for the whole of it. For a moment also where a longer candle is not there yet
        """
        exchange = None if data is None else data._exchange
        if exchange is not None:
            self._watch(exchange)
            self._check([pair, *self._other_pairs], exchange)
            self._await_longer(pair, exchange)

    def _watch(self, exchange: Exchange) -> None:
        if exchange is self._exchange:
            return
        self._exchange = exchange
        guard_markets(exchange, self._owner)
        take = exchange._process_ohlcv_df

        def look_and_take(
            pair: str, timeframe: str, c_type: CandleType, ticks: list[Any], cache: bool, *others: Any, **named: Any
        ) -> DataFrame:
            is_traded = cache and c_type in (CandleType.SPOT, CandleType.FUTURES)
            if not is_traded or not ticks:
                return take(pair, timeframe, c_type, ticks, cache, *others, **named)
            frame = take(pair, timeframe, c_type, self._good(exchange, (pair, timeframe, c_type), ticks), True, *others)
            self._sound[pair, timeframe, c_type] = frame
            return frame

        # freqtrade has no hook between an answer and its memory.
        exchange._process_ohlcv_df = look_and_take  # type: ignore[method-assign]

    def _check(self, pairs: Iterable[str], exchange: Exchange) -> None:
        candle_type = exchange._config.get("candle_type_def", CandleType.SPOT)
        for key in ((pair, timeframe, candle_type) for pair in pairs for timeframe in self._timeframes):
            frame = exchange._klines.get(key)
            if frame is None or frame is self._sound.get(key):
                continue
            pair, timeframe, _ = key
            left, found = sift_frame(frame, pair, timeframe, dt_now())
            self._tell(pair, timeframe, found)
            if found.refused or len(left) != len(frame) or frame.empty:
                # Without it freqtrade forgets the frame, and asks for all of it.
                exchange._pairs_last_refresh_time.pop(key, None)
                raise CandlesRefusedError(
                    f"{pair} {timeframe}: {'; '.join(found.refused) or 'no candles'}; accepted: candles that can be "
                    "true; the pair is not analysed until the exchange has sent others, which it is asked for"
                )
            self._sound[key] = frame

    def _await_longer(self, pair: str, exchange: Exchange) -> None:
        """See that a pair's longer candles are there which closed with the last one of the strategy's timeframe.

        They come in answers of their own, of which one may fail; features would be made of the candles before them.

        :raises CandlesRefusedError: if one is missing, for as long as that is worth waiting
        """
        timeframe, kind = exchange._config["timeframe"], exchange._config.get("candle_type_def", CandleType.SPOT)
        frame = exchange._klines.get((pair, timeframe, kind))
        if frame is None or frame.empty:
            return
        length = timedelta(milliseconds=timeframe_to_msecs(timeframe))
        closed_at = frame["date"].iloc[-1].to_pydatetime() + length
        for longer in self._timeframes:
            others = exchange._klines.get((pair, longer, kind))
            if others is None or others.empty:
                continue
            # The last one that had closed by then.
            needed = candle_open(longer, candle_open(longer, closed_at) - timedelta(microseconds=1))
            last = others["date"].iloc[-1]
            if last >= needed:
                continue
            said = (
                f"{pair}: its {longer} candles end at {last}, and that of {needed} closed with the last of {timeframe}"
            )
            if dt_now() < closed_at + min(_WAITED_SHARE * length, _WAITED_MOST):
                raise CandlesRefusedError(f"{said}; the pair is analysed once it is there, or in a moment without it")
            logger.warning("%s; what is decided now goes by the candles before it.", said)

    def _good(self, exchange: Exchange, key: _Key, ticks: list[Any]) -> list[Any]:
        """Those of an answer's candles that can be true."""
        pair, timeframe, candle_type = key
        timeframe_ms, now_ms = timeframe_to_msecs(timeframe), dt_ts()
        n_asked = exchange.ohlcv_candle_limit(timeframe, candle_type) * exchange.required_candle_call_count
        known = exchange._klines.get(key)
        rows = as_rows(ticks)
        before = [] if known is None or known.empty else _closes_before(known, rows)
        found = sift(rows, timeframe_ms, now_ms, now_ms - _LONGER_THAN_ASKED * n_asked * timeframe_ms, before)
        self._tell(pair, timeframe, found)
        if known is not None and not known.empty and len(found.rows):
            exchange._klines[key] = _without(known, found.rows, pair, timeframe)
            if exchange._klines[key].empty:
                del exchange._klines[key]
        if found.is_as_sent:
            return ticks
        # Numbers of NumPy's would do as well; the time must be a whole one.
        return [[int(row[DATE]), *row[OPEN:]] for row in found.rows.tolist()]

    def _tell(self, pair: str, timeframe: str, found: Sifted) -> None:
        name = f"candles {pair} {timeframe}"
        if found.refused:
            self._owner.trouble(
                name,
                f"{pair} {timeframe}: the exchange sent {'; '.join((*found.refused, *found.doubts))}; accepted: "
                "candles that can be true; what is refused counts as missing, and is asked for again; nothing need be "
                "done unless this lasts: then look at the exchange's status and at this machine's clock",
            )
        elif found.doubts:
            self._owner.trouble(name, f"{pair} {timeframe}: the exchange sent {'; '.join(found.doubts)}")
        else:
            self._owner.healed(name, f"{pair} {timeframe}: the candles are sound again.")


def _closes_before(known: DataFrame, rows: Rows) -> list[float]:
    dates = rows[:, DATE]
    oldest = np.nanmin(dates) if np.isfinite(dates).any() else np.inf
    have = frame_rows(known)
    closes: list[float] = have[have[:, DATE] < oldest, CLOSE][-_BEFORE:].tolist()
    return closes


def _without(known: DataFrame, sent: Rows, pair: str, timeframe: str) -> DataFrame:
    """The candles that an answer does not hold; freqtrade would mix the two versions of the others."""
    have = frame_rows(known)
    places = np.searchsorted(sent[:, DATE], have[:, DATE]).clip(max=len(sent) - 1)
    is_again = sent[places, DATE] == have[:, DATE]
    # The last one sent may be forming.
    differs = (
        is_again & (places < len(sent) - 1) & (sent[places, OPEN:] != have[:, OPEN:])[:, : CLOSE - OPEN + 1].any(axis=1)
    )
    if differs.any():
        logger.warning(
            "%s %s: %d closed candle(s), the newest of %s, came late or have been revised by the exchange; what was "
            "decided on them stands, and what follows goes by the new ones.",
            pair,
            timeframe,
            int(differs.sum()),
            known["date"].iloc[int(np.flatnonzero(differs)[-1])],
        )
    others: DataFrame = known[~is_again].reset_index(drop=True)
    return others
