"""Candles of every kind, synthetic and real, that trades are compared on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from builders import TIMEFRAME_MS, make_tape
from freqtrade.data.btanalysis.historic_precision import get_tick_size_over_time
from freqtrade.data.converter import ohlcv_fill_up_missing_data
from freqtrade.exchange import Exchange

from mtfscalper.market.lookback import gap_free_segments
from mtfscalper.market.tape import PRICE_COLUMNS, MarketTape, price_scale

REAL_DATA = Path(os.environ.get("MTFSCALPER_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
PAIRS = ("BTC", "ETH", "SOL", "XRP")
PRICES = list(PRICE_COLUMNS)

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Market:
    """Candles for freqtrade and the same on a tape.

    :ivar candles: date, open, high, low, close, volume; gap-free
    :ivar funding: date, open_mark and open_fund as freqtrade's ``futures_data`` has them, None for none
    :ivar ticks: tick by month, as freqtrade reads them off all the candles that these were cut from
    :ivar kinds: where the candles are of a kind worth counting
    """

    candles: pd.DataFrame
    tape: MarketTape
    funding: pd.DataFrame | None
    ticks: pd.Series[float]
    kinds: dict[str, Mask] = field(default_factory=dict)

    def touched(self, open_ms: int, close_ms: int) -> Iterator[str]:
        """The kinds of candle that a trade was open in."""
        first, last = ((ms - int(self.tape.dates_ms[0])) // TIMEFRAME_MS for ms in (open_ms, close_ms))
        return (kind for kind, mask in self.kinds.items() if mask[first : last + 1].any())


@dataclass(frozen=True)
class History:
    """All candles of a pair, gaps included: what freqtrade reads the months' decimals off.

    :ivar candles: date, open, high, low, close, volume
    :ivar funding: date, open_mark and open_fund, None for none
    """

    candles: pd.DataFrame
    funding: pd.DataFrame | None = None
    kinds: dict[str, Mask] = field(default_factory=dict)
    exchange_scale: float = 1e8

    @cached_property
    def scale(self) -> npt.NDArray[np.float64]:
        return price_scale(self.candles, self.exchange_scale)

    @cached_property
    def ticks(self) -> pd.Series[float]:
        return get_tick_size_over_time(self.candles.copy())

    def market(
        self, start: int = 0, stop: int | None = None, signals: tuple[Any, Any] = (False, False), features: Any = None
    ) -> Market:
        """Rows [start, stop) on a tape, with their funding as ``mtfscalper.freqai.candles`` charges it."""
        rows = slice(start, len(self.candles) if stop is None else stop)
        candles = self.candles.iloc[rows].reset_index(drop=True)
        frame = candles.assign(price_scale=self.scale[rows])
        if self.funding is not None:
            due = (self.funding["open_fund"] * self.funding["open_mark"]).set_axis(self.funding["date"])
            frame["funding"] = due.reindex(frame["date"]).fillna(0.0).to_numpy()
        kinds = {kind: mask[rows] for kind, mask in self.kinds.items()}
        return Market(candles, make_tape(frame, *signals, features), self.funding, self.ticks, kinds)


@dataclass(frozen=True)
class Recipe:
    """How synthetic candles are made.

    :ivar n: candles, before some go missing
    :ivar decimals: of the prices; ``later_decimals`` from the end of the month on
    :ivar digits: significant digits of a price: how many ticks it is worth
    :ivar events: kinds of candle strewn in
    :ivar funding_hours: hours between funding times, None for no funding
    """

    seed: int
    n: int
    decimals: int
    later_decimals: int
    digits: int
    volatility: float
    events: frozenset[str]
    funding_hours: int | None


EVENTS = ("jump", "flash crash", "flat", "zero volume", "filled gap", "missing candles")


def synthetic_history(recipe: Recipe, exchange_scale: float) -> History:
    """A random market across the end of a month."""
    random = np.random.default_rng(recipe.seed)
    candles, kinds = _with_events(random, recipe, _walk(random, recipe))
    month = candles["date"].dt.month.to_numpy()
    decimals = np.where(month == month[0], recipe.decimals, recipe.later_decimals)
    for places in set(decimals.tolist()):
        rows = decimals == places
        candles.loc[rows, PRICES] = candles.loc[rows, PRICES].round(places)
    kinds["whole prices"] = decimals == 0
    kinds["month end"] = np.append(month[1:] != month[:-1], False)
    funding = _funding(random, recipe, candles)
    missing = np.zeros(recipe.n, dtype=bool)
    if "missing candles" in recipe.events:
        for start in random.integers(20, recipe.n, 4):
            missing[start : start + random.integers(1, 15)] = True
        kinds["beside missing candles"] = np.roll(missing, 1) | np.roll(missing, -1)
    candles = candles[~missing].reset_index(drop=True)
    return History(candles, funding, {kind: mask[~missing] for kind, mask in kinds.items()}, exchange_scale)


def gap_free(history: History) -> list[Market]:
    """The runs of candles between those that are missing, as an environment plays them."""
    dates_ms = history.candles["date"].dt.as_unit("ms").astype("int64").to_numpy()
    return [
        history.market(start, stop) for start, stop in gap_free_segments(dates_ms, TIMEFRAME_MS) if stop - start > 5
    ]


def _walk(random: np.random.Generator, recipe: Recipe) -> pd.DataFrame:
    """A random walk across the end of a month, with wicks."""
    n, volatility = recipe.n, recipe.volatility
    rate = random.uniform(1.5, 9.0) * 10.0 ** (recipe.digits - 1 - recipe.decimals)
    moves = np.cumsum(random.normal(0, volatility, n))
    # No wandering off: a price of few digits would end below one tick.
    close = rate * np.exp(moves - np.linspace(0, moves[-1], n))
    jumps = random.random(n) < (0.1 if "jump" in recipe.events else 0.0)
    opens = np.append(rate, close[:-1]) * np.exp(np.where(jumps, random.normal(0, 4 * volatility, n), 0.0))
    high = np.maximum(opens, close) * (1 + 0.7 * abs(random.normal(0, volatility, n)))
    low = np.minimum(opens, close) * (1 - 0.7 * abs(random.normal(0, volatility, n)))
    start = pd.Timestamp("2024-02-01", tz="UTC") - pd.Timedelta(minutes=5 * int(random.integers(1, n)))
    return pd.DataFrame(
        {
            "date": pd.date_range(start, periods=n, freq="5min"),
            "open": opens,
            "high": high,
            "low": low,
            "close": close,
            "volume": 1.0,
            "jump": jumps,
        }
    )


def _with_events(
    random: np.random.Generator, recipe: Recipe, candles: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Mask]]:
    n = len(candles)
    kinds: dict[str, Mask] = {"jump": candles.pop("jump").to_numpy()}

    def somewhere(share: float, length: int) -> Mask:
        starts = np.flatnonzero(random.random(n) < share)
        return np.isin(np.arange(n), (starts[:, None] + np.arange(length)).ravel())

    if "flash crash" in recipe.events:
        kinds["flash crash"] = crashed = somewhere(0.02, 1)
        candles.loc[crashed, "low"] *= 1 - random.uniform(0.03, 0.5, crashed.sum())
        crashed_up = crashed & (random.random(n) < 0.5)
        candles.loc[crashed_up, "high"] *= 1 + random.uniform(0.03, 0.5, crashed_up.sum())
    if "flat" in recipe.events:
        kinds["flat"] = flat = somewhere(0.02, int(random.integers(1, 6)))
        candles.loc[flat, PRICES] = np.repeat(candles.loc[flat, ["open"]].to_numpy(), len(PRICES), axis=1)
    if "zero volume" in recipe.events:
        kinds["zero volume"] = idle = somewhere(0.03, 2)
        candles.loc[idle, "volume"] = 0.0
    if "filled gap" in recipe.events:
        kinds["filled gap"] = gone = somewhere(0.02, int(random.integers(1, 10)))
        gone[[0, -1]] = False
        # What freqtrade makes of missing candles when it loads them.
        candles = ohlcv_fill_up_missing_data(candles[~gone].reset_index(drop=True), "5m", "BTC/USDT:USDT")
        assert len(candles) == n
    return candles, kinds


def _funding(random: np.random.Generator, recipe: Recipe, candles: pd.DataFrame) -> pd.DataFrame | None:
    if recipe.funding_hours is None:
        return None
    times = candles[(candles["date"].dt.minute == 0) & (candles["date"].dt.hour % recipe.funding_hours == 0)]
    return pd.DataFrame(
        {
            "date": times["date"],
            "open_mark": times["open"] * (1 + random.normal(0, 0.0005, len(times))),
            "open_fund": random.normal(0.0001, 0.001, len(times)),
        }
    ).reset_index(drop=True)


@dataclass(frozen=True)
class RealPair:
    """Everything on disk about one pair."""

    name: str
    history: History

    @property
    def candles(self) -> pd.DataFrame:
        return self.history.candles

    def widest(self, n: int) -> npt.NDArray[np.int64]:
        """Positions of the ``n`` widest candles, no two in the same two hours."""
        spans = (self.candles["high"] - self.candles["low"]) / self.candles["open"]
        found: list[int] = []
        for position in np.argsort(-spans.to_numpy()):
            if all(abs(position - other) > 24 for other in found):
                found.append(int(position))
            if len(found) == n:
                break
        return np.array(found)

    def month_ends(self) -> npt.NDArray[np.int64]:
        month = self.candles["date"].dt.month.to_numpy()
        return np.flatnonzero(month[1:] != month[:-1])


def real_pair(name: str, exchange: Exchange) -> RealPair | None:
    """A pair's candles, and its funding as freqtrade puts rates and mark prices together."""
    found = sorted(REAL_DATA.rglob(f"{name}_USDT_USDT-5m-futures.feather"))
    if not found:
        return None
    folder = found[0].parent
    rates, marks = (
        pd.read_feather(folder / f"{name}_USDT_USDT-1h-{kind}.feather") for kind in ("funding_rate", "mark")
    )
    return RealPair(name, History(pd.read_feather(found[0]), exchange.combine_funding_and_mark(rates, marks)))
