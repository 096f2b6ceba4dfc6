"""The frames of other pairs, asked of a strategy before freqtrade's backtest comes to them.

freqtrade lets a strategy compute its indicators pair after pair, and the strategy hands each frame to FreqAI in the
middle of that. To know all frames at the first of these moments, copies of the strategy are asked for the other pairs,
on the candles that freqtrade will give them, up to the point where they hand over their frames.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, cast

from freqtrade.data.btanalysis.historic_precision import get_tick_size_over_time
from freqtrade.strategy import IStrategy
from pandas import DataFrame

# What a strategy may keep between two calls, and a copy must not share with it.
_CONTAINERS = (dict, list, set)
# A column that freqtrade's backtester leaves in its candles.
_COUNTED = "max_count"
# Attributes that belong to freqtrade: they are the same for all pairs, or change for reasons of their own.
_FREQTRADES = {"config", "dp", "wallets", "freqai", "lock", "freqai_info"}


class NotAskedError(Exception):
    """A strategy cannot be asked for the frame of another pair; says why."""


class AskedPair(NamedTuple):
    """A pair's frame, and the strategy that made it.

    :ivar strategy: a copy, of whose state nothing reaches the strategy that trades
    :ivar frame: as it would be handed to FreqAI
    """

    strategy: IStrategy
    frame: DataFrame


class _Noted(BaseException):
    """Ends a strategy's indicators where they hand their frame over. No strategy means to catch it."""

    def __init__(self, frame: DataFrame, pair: str) -> None:
        super().__init__(pair)
        self.frame, self.pair = frame, pair


class _Notes:
    """Stands for the FreqAI model in a strategy that is asked."""

    def start(self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy) -> DataFrame:
        """Note the frame, and go no further."""
        raise _Noted(dataframe, str(metadata["pair"]))


def ask(strategy: IStrategy, pair: str, first: DataFrame) -> AskedPair:
    """Ask a strategy for the frame that it would hand to FreqAI for a pair.

    :param strategy: with its data provider, whose candles of the pair are those that freqtrade's backtest loads
    :param first: the frame that it handed over for the first pair
    :raises NotAskedError: if it cannot be asked
    """
    asked = copy_of(strategy)
    asked.freqai = cast(Any, _Notes())
    before = State(asked)
    candles = strategy.dp.get_pair_dataframe(pair, strategy.timeframe)
    if _COUNTED in first:
        # freqtrade's backtester counts the decimals of prices in columns that it leaves there, and a strategy sees.
        get_tick_size_over_time(candles)
    try:
        asked.advise_indicators(candles, {"pair": pair})
    except _Noted as noted:
        if noted.pair != pair:
            raise NotAskedError(f"asked for {pair}, it hands over the frame of {noted.pair}") from None
        frame = noted.frame
    except Exception as error:
        raise NotAskedError(f"asked for {pair}, it raises {type(error).__name__}: {error}") from error
    else:
        raise NotAskedError(f"asked for {pair}, it never calls freqai.start")
    before.check_same(asked)
    return AskedPair(asked, frame)


def copy_of(strategy: IStrategy) -> IStrategy:
    """A copy of a strategy with containers of its own, its class's too: what it notes in them stays there.

    :raises NotAskedError: if one of them cannot be copied
    """
    copied = copy.copy(strategy)
    for name, value in {**_of_class(strategy), **vars(strategy)}.items():
        if name in _FREQTRADES or not isinstance(value, _CONTAINERS):
            continue
        try:
            setattr(copied, name, copy.deepcopy(value))
        except Exception as error:
            raise NotAskedError(f"its {name} cannot be copied ({type(error).__name__}: {error})") from error
    return copied


class State:
    """What a strategy keeps from one call to the next, as far as it shows: its attributes, and what its containers
    hold, down to things that are no containers."""

    def __init__(self, strategy: IStrategy) -> None:
        self._before = dict(_kept(strategy))

    def check_same(self, strategy: IStrategy) -> None:
        """
        :raises NotAskedError: if the strategy keeps something else now
        """
        after = dict(_kept(strategy))
        for name in self._before.keys() | after.keys():
            if not _same(self._before.get(name), after.get(name)):
                raise NotAskedError(f"it keeps something in {name} as its indicators are computed")


def _of_class(strategy: IStrategy) -> Mapping[str, Any]:
    """Attributes of the user's classes, the nearest first in force."""
    classes = type(strategy).__mro__
    own = classes[: classes.index(IStrategy)]
    return {name: value for kind in reversed(own) for name, value in vars(kind).items() if not name.startswith("__")}


def _kept(strategy: IStrategy) -> Iterator[tuple[str, Any]]:
    for name, value in {**_of_class(strategy), **vars(strategy)}.items():
        if name not in _FREQTRADES:
            yield name, _inside(value)


def _inside(value: Any) -> Any:
    """A value as it can be compared later: containers by what they hold, other things by which they are."""
    if isinstance(value, dict):
        return {key: _inside(item) for key, item in value.items()}
    if isinstance(value, set):
        return frozenset(value)
    if isinstance(value, list | tuple):
        return [_inside(item) for item in value]
    return _Thing(value)


class _Thing:
    """Something that is compared by which it is, and plain values by what they are."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def same(self, other: _Thing) -> bool:
        if isinstance(self._value, str | int | float | bytes | None):
            return type(self._value) is type(other._value) and self._value == other._value
        return self._value is other._value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, _Thing) and isinstance(other, _Thing):
        return one.same(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)
