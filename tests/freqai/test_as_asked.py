"""A strategy that does not trade what its policy asks for is refused before anything is trained."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from freqtrade.enums import HyperoptState
from freqtrade.optimize.hyperopt_tools import HyperoptStateContainer
from freqtrade.strategy import DecimalParameter

from mtfscalper.freqai.as_traded import Callbacks, signals_of, why_not_as_asked

CANDLES = pd.DataFrame({"date": pd.date_range("2025-01-01", periods=50, freq="5min", tz="UTC"), "open": 100.0})
AS_HERE = {"enter_long": 1, "exit_long": 2, "enter_short": 3, "exit_short": 4}
# FreqAI's environments with four actions.
FOUR_ACTIONS = {"enter_long": 2, "exit_long": 1, "enter_short": 3, "exit_short": 1}


class _Reads:
    """Sets its signals at numbers of &-action, on what it keeps of the candles."""

    freqai: Any = None
    dp = None

    def __init__(self, numbers: dict[str, int], *, can_short: bool = True, kept: int = 50, own: bool = False) -> None:
        self.can_short = can_short
        self._numbers, self._kept, self._own = numbers, kept, own
        self.runs: list[Any] = []

    def advise_indicators(self, frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        self.runs.append(self.freqai)
        computed: pd.DataFrame = self.freqai.start(frame, metadata, self)
        return computed.iloc[: self._kept]

    def advise_entry(self, frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        own = np.arange(len(frame)) % 7 == 0 if self._own else False
        return frame.assign(**{name: self._at(frame, name) | own for name in ("enter_long", "enter_short")})

    def advise_exit(self, frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        return frame.assign(**{name: self._at(frame, name) for name in ("exit_long", "exit_short")})

    def _at(self, frame: pd.DataFrame, name: str) -> Any:
        return frame["&-action"] == self._numbers.get(name, 99)


def why(*arguments: Any, **options: Any) -> str | None:
    strategy: Any = _Reads(*arguments, **options)
    return why_not_as_asked(strategy, CANDLES, "BTC/USDT", signals_of(strategy, CANDLES, "BTC/USDT"))


@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        (AS_HERE, {}),
        (AS_HERE, {"can_short": False}),
        ({"enter_long": 1, "exit_long": 2}, {}),
        ({"enter_short": 3}, {}),
        ({"enter_long": 1, "exit_long": 3, "enter_short": 3, "exit_short": 1}, {}),
        ({}, {"own": True}),
        ({"exit_long": 2}, {}),
    ],
)
def test_who_enters_where_the_policy_asks_for_it_is_learned(numbers: dict[str, int], options: dict[str, Any]) -> None:
    assert why(numbers, **options) is None


@pytest.mark.parametrize(
    ("numbers", "set_at"),
    [
        (FOUR_ACTIONS, "enter_long at 2;"),
        ({"enter_long": 3, "enter_short": 1}, "enter_short at 1, enter_long at 3;"),
        ({"enter_long": 1, "enter_short": 2}, "enter_short at 2;"),
    ],
)
def test_who_reads_other_numbers_is_told_which_are_the_policys(numbers: dict[str, int], set_at: str) -> None:
    said = why(numbers)
    assert said is not None
    assert f"for BTC/USDT it sets {set_at} accepted: enter_long where &-action is 1" in said
    assert "; remedy: " in said


@pytest.mark.parametrize(("numbers", "runs"), [(AS_HERE, 3), ({"enter_long": 1}, 5), (FOUR_ACTIONS, 5)])
def test_a_strategy_is_run_where_the_policy_leaves_only_if_it_does_not_enter_where_it_should(
    numbers: dict[str, int], runs: int
) -> None:
    strategy: Any = _Reads(numbers)
    signals = signals_of(strategy, CANDLES, "BTC/USDT")
    why_not_as_asked(strategy, CANDLES, "BTC/USDT", signals)
    assert len(strategy.runs) == runs


def test_entries_that_no_policy_asked_for_are_counted() -> None:
    own: Any = _Reads(AS_HERE, own=True)
    assert signals_of(own, CANDLES, "BTC/USDT").unasked == 8
    assert signals_of(_Reads(AS_HERE), CANDLES, "BTC/USDT").unasked == 0  # type: ignore[arg-type]


def test_who_drops_rows_is_told_so() -> None:
    said = why(AS_HERE, kept=40)
    assert said is not None
    assert said.startswith("_Reads gives 40 rows for the 50 candles of BTC/USDT; accepted: one row")


class _Tuned(_Reads):
    """Reads a parameter that hyperopt varies, in its signals and in a callback."""

    timeframe = "5m"

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(AS_HERE)
        self.sure = DecimalParameter(0.1, 0.9, default=0.5, space="sell")
        self.sure.in_space = True
        self._fails = fails

    def advise_exit(self, frame: pd.DataFrame, metadata: dict[str, Any]) -> pd.DataFrame:
        if self._fails:
            raise KeyError("rsi")
        assert self.sure.value == 0.5
        return super().advise_exit(frame, metadata)

    def leverage(self, **asked: Any) -> float:
        return 2 * float(self.sure.value)


def test_what_is_asked_while_hyperopt_works_out_indicators_is_not_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(HyperoptStateContainer, "state", HyperoptState.INDICATORS)
    exchange = SimpleNamespace(get_max_leverage=lambda pair, stake: 10.0)
    strategy: Any = _Tuned()
    signals = signals_of(strategy, CANDLES, "BTC/USDT")
    callbacks = Callbacks(strategy, cast(Any, exchange), "BTC/USDT", "long", CANDLES, signals, 1.0)
    assert set(callbacks.leverages().values) == {1.0}
    assert not caplog.records
    with pytest.raises(KeyError):
        signals_of(cast(Any, _Tuned(fails=True)), CANDLES, "BTC/USDT")
    # What the strategy itself reads in its indicators freqtrade names as before.
    assert strategy.sure.value == 0.5
    assert "All epochs will be evaluated with its static start value" in caplog.text
