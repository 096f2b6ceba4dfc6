"""The candles that an exchange sends to a bot, looked at before freqtrade puts them with those that it has."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

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
# How long a pass waits for the other candles of its features: a share of the strategy's own, and no longer than this.
_WAITED_SHARE, _WAITED_MOST = 0.2, timedelta(minutes=1)

_Key = tuple[str, str, CandleType]


class _Away(NamedTuple):
    """Candles that stay away.

    :ivar last: the last one that is there
    :ivar closed_at: when the last candle that was decided on without them closed
    :ivar n_without: candles that were decided on without them
    """

    last: datetime
    closed_at: datetime
    n_without: int


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
        # What was waited for in vain, and has not come yet.
        self._away: dict[_Key, _Away] = {}
        # The last candles of the correlated pairs at the last pass.
        self._seen: list[datetime] = []

    def guard(self, pair: str, data: DataProvider | None) -> bool:
        """Let a pass over a pair begin: look at what it is going to read, and from now on at what the exchange sends.

        :param data: the bot's data provider; without one, or an exchange, there is nothing to guard
        :raises CandlesRefusedError: if what is there from before holds what cannot be true, or nothing; freqtrade then
            asks the exchange for the whole of it. For a moment also where another candle that the features are made of
            is not there yet: a longer one, or one of a correlated pair
        :return: whether candles of the correlated pairs have come since the last pass
        """
        exchange = None if data is None else data._exchange
        if exchange is None:
            return False
        self._watch(exchange)
        self._check([pair, *self._other_pairs], exchange)
        self._await_others(pair, exchange)
        before, self._seen = self._seen, self._last_dates(exchange)
        return self._seen != before

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

    def _await_others(self, pair: str, exchange: Exchange) -> None:
        """See that the other candles that a pair's features are made of are there: of its longer timeframes, and of the
        correlated pairs, as far as they closed with the last one of the strategy's timeframe or before.

        They come in answers of their own, of which one may fail; features would be made of the candles before them.

        :raises CandlesRefusedError: if one is missing, for as long as that is worth waiting
        """
        timeframe, kind = exchange._config["timeframe"], exchange._config.get("candle_type_def", CandleType.SPOT)
        frame = exchange._klines.get((pair, timeframe, kind))
        if frame is None or frame.empty:
            return
        length = timedelta(milliseconds=timeframe_to_msecs(timeframe))
        closed_at = frame["date"].iloc[-1].to_pydatetime() + length
        may_wait = dt_now() < closed_at + min(_WAITED_SHARE * length, _WAITED_MOST)
        for key in self._read_with(pair, kind):
            others = exchange._klines.get(key)
            if others is None or others.empty:
                continue
            # The last one that had closed by then.
            its = key[1]
            needed = candle_open(its, candle_open(its, closed_at) - timedelta(microseconds=1))
            last = others["date"].iloc[-1].to_pydatetime()
            if last >= needed:
                self._tell_here(key)
                continue
            away = self._away.get(key)
            said = (
                f"{key[0]}: its {its} candles end at {last}, and that of {needed} closed with the last of {timeframe} "
                "or before"
            )
            # Once one was waited for in vain, and none has come since, each further wait would only be lost.
            if may_wait and (away is None or away.last != last):
                raise CandlesRefusedError(f"{said}; {pair} is analysed once it is there, or in a moment without it")
            self._tell_away(key, said, _Away(last, closed_at, 1))

    def _read_with(self, pair: str, kind: CandleType) -> list[_Key]:
        """The candles that a pair's features are made of."""
        pairs = dict.fromkeys([pair, *self._other_pairs])
        return [(other, timeframe, kind) for other in pairs for timeframe in self._timeframes]

    def _last_dates(self, exchange: Exchange) -> list[datetime]:
        """The last candles of the correlated pairs that are there."""
        kind = exchange._config.get("candle_type_def", CandleType.SPOT)
        frames = [exchange._klines.get((pair, name, kind)) for pair in self._other_pairs for name in self._timeframes]
        return [frame["date"].iloc[-1] for frame in frames if frame is not None and not frame.empty]

    def _tell_away(self, key: _Key, said: str, away: _Away) -> None:
        """Tell once that candles stay away, and count those that are decided on without them."""
        before = self._away.get(key)
        if before is not None:
            # Several pairs may be decided on without them, and each of them again.
            away = away._replace(n_without=before.n_without + (before.closed_at != away.closed_at))
        self._away[key] = away
        self._owner.trouble(
            _away_trouble(key),
            f"{said}; what is decided goes by the candles before it until they come, and this is told once",
            key[0],
        )

    def _tell_here(self, key: _Key) -> None:
        away = self._away.pop(key, None)
        if away is not None:
            pair, timeframe, _ = key
            n = away.n_without
            self._owner.healed(
                _away_trouble(key),
                f"{pair}: its {timeframe} candles have come; {n} candle{'s were' if n != 1 else ' was'} decided on "
                "without them.",
            )

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
                pair,
            )
        elif found.doubts:
            self._owner.trouble(name, f"{pair} {timeframe}: the exchange sent {'; '.join(found.doubts)}", pair)
        else:
            self._owner.healed(name, f"{pair} {timeframe}: the candles are sound again.")


def _away_trouble(key: _Key) -> str:
    """The name of candles staying away that features are made of."""
    return f"late candles {key[0]} {key[1]}"


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
