"""A strategy is asked for the frame of another pair, or it is said why it cannot be."""

from __future__ import annotations

from threading import Lock
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.asked_pairs import NotAskedError, ask

CANDLES = pd.DataFrame(
    {"date": pd.date_range("2024-09-01", periods=3, freq="5min", tz="UTC")}
    | {name: [1.25, 2.0, 3.0] for name in ("open", "high", "low", "close")}
)
FIRST = CANDLES


class Plain(IStrategy):
    """A strategy that needs nothing of freqtrade's."""

    timeframe = "5m"
    notes: dict[str, Any] = {"of": {"class": []}}  # noqa: RUF012  # As users write it.

    def __init__(self) -> None:
        self.config = {}
        self.dp = cast(Any, SimpleNamespace(get_pair_dataframe=lambda pair, timeframe: CANDLES.copy()))
        self._ft_informative = []
        self.freqai = cast(Any, SimpleNamespace(start=None))
        self.own: list[str] = []

    def _if_enabled_populate_trades(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        dataframe["twice"] = 2 * dataframe["close"]
        return self.freqai.start(dataframe, metadata, self)

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe


class Raising(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        raise KeyError("no such pair")


class WithoutFreqai(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe


class WrongPair(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return self.freqai.start(dataframe, {"pair": "A/B"}, self)


class Catching(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        try:
            return super().populate_indicators(dataframe, metadata)
        except:  # noqa: E722
            return dataframe


class NotesInClass(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        self.notes["of"]["class"].append(metadata["pair"])
        return super().populate_indicators(dataframe, metadata)


class NotesInSelf(Plain):
    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        self.last = dataframe
        return super().populate_indicators(dataframe, metadata)


class Uncopyable(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.locks = [Lock()]


def test_the_frame_is_what_the_strategy_would_hand_over_for_the_pair() -> None:
    strategy = Plain()
    asked = ask(strategy, "C/D", FIRST)
    assert asked.frame["twice"].tolist() == [2.5, 4.0, 6.0]
    assert asked.strategy is not strategy
    assert strategy.freqai.start is None


def test_candles_have_the_columns_that_freqtrades_backtester_leaves() -> None:
    asked = ask(Plain(), "C/D", FIRST.assign(max_count=np.nan))
    assert asked.frame["max_count"].max() == 2
    assert "max_count" not in ask(Plain(), "C/D", FIRST).frame


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Raising, "raises KeyError: 'no such pair'"),
        (WithoutFreqai, "it never calls freqai.start"),
        (WrongPair, "hands over the frame of A/B"),
        (Catching, "it never calls freqai.start"),
        (NotesInClass, "keeps something in notes"),
        (NotesInSelf, "keeps something in last"),
        (Uncopyable, "its locks cannot be copied"),
    ],
)
def test_a_strategy_that_cannot_be_asked_is_left_as_it_was(kind: type[Plain], why: str) -> None:
    strategy = kind()
    with pytest.raises(NotAskedError, match=why):
        ask(strategy, "C/D", FIRST)
    assert Plain.notes == {"of": {"class": []}}
    assert not hasattr(strategy, "last")
