"""What a strategy says of its own trades, asked as freqtrade's backtester asks: leverage, stakes, entries, exits.

Tags, entries and exits stand in columns that a strategy makes after FreqAI, from the policy's. So it is run on columns
that enter long everywhere, enter short everywhere, do nothing, and leave everywhere: what they have in common does not
depend on a policy.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from freqtrade.data.dataprovider import DataProvider
from freqtrade.enums import CandleType, HyperoptState, RunMode
from freqtrade.exceptions import InvalidOrderException, OperationalException
from freqtrade.exchange import Exchange
from freqtrade.optimize.hyperopt_tools import HyperoptStateContainer
from freqtrade.strategy import IStrategy
from pandas import DataFrame

from mtfscalper.freqai.columns import (
    ACTION_COLUMN,
    EXIT_COLUMN,
    FALLBACK_COLUMN,
    KNOWN_COLUMNS,
    LONG_ENTER_COLUMN,
    SHORT_ENTER_COLUMN,
)
from mtfscalper.freqai.stake_limits import BACKTESTS_STOP, StakeLimits
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trading_rules import RulesError

logger = logging.getLogger(__name__)

# Candles at which a callback is asked first, evenly spread.
_SAMPLE = 64
# Which is asked at every candle where that takes no longer, or where it does not answer the same in the sample.
_CHEAP_SECONDS = 5.0

# What is asked of a strategy at one candle. The answer is the user's: it may be anything.
_Question = Callable[[IStrategy], Any]

Historic = Mapping[str, Mapping[str, DataFrame]]


class Side(NamedTuple):
    """What holds for the entries of one side, candle by candle; arrays of shape (n_candles,).

    :ivar gate: whether the strategy would enter after the row, if the policy said so
    :ivar exit: whether the strategy's own signal after the row closes a trade, whatever the policy says
    :ivar tags: of an entry at the candle's open, None where there is none
    """

    gate: npt.NDArray[np.bool_]
    exit: npt.NDArray[np.bool_]
    tags: list[str | None]


class Signals(NamedTuple):
    """A strategy's columns for each side, and the frames that they stand in.

    :ivar frames: what the strategy's callbacks see of a pair as they are asked about an entry, by side
    :ivar doubled: rows on which an entry and an own exit of one side meet
    :ivar exits_vary: whether there are exits that depend on what the policy would enter
    :ivar unasked: rows on which the strategy enters though the policy would not
    :ivar elsewhere: of sides that are never entered where the policy would, where they are: ``enter_long at 2``
    """

    long: Side
    short: Side
    frames: Mapping[str, DataFrame]
    doubled: int
    exits_vary: bool
    unasked: int
    elsewhere: Sequence[str]


class _Everywhere:
    """Stands for the FreqAI model: the same decision at every candle."""

    def __init__(self, action: Action) -> None:
        self._action = action

    def start(self, dataframe: DataFrame, metadata: dict[str, Any], strategy: IStrategy) -> DataFrame:
        """FreqAI's columns."""
        leaves = self._action in (Action.LONG_EXIT, Action.SHORT_EXIT)
        values = {
            ACTION_COLUMN: float(self._action),
            LONG_ENTER_COLUMN: float(self._action == Action.LONG_ENTER),
            SHORT_ENTER_COLUMN: float(self._action == Action.SHORT_ENTER),
            EXIT_COLUMN: float(leaves),
            FALLBACK_COLUMN: 0.0,
        }
        assert set(values) == set(KNOWN_COLUMNS)
        more = {f"{name}{suffix}": 0.0 for name in values for suffix in ("_mean", "_std")}
        own = dataframe[[name for name in dataframe.columns if not name.startswith(("%", "&"))]]
        return own.assign(**values, **more, do_predict=1, DI_values=0.0)


def signals_of(strategy: IStrategy, candles: DataFrame, pair: str, historic: Historic | None = None) -> Signals:
    """Run a strategy on a pair's candles as if a policy entered, or left, everywhere.

    :param candles: ``date``, open, high, low, close, volume; one row a candle
    :param historic: candles by pair and timeframe that the strategy's data provider is to give, where a bot's own
        are too few
    :raises Exception: whatever the strategy raises
    """
    runs = {
        action: _run(strategy, candles, pair, action, historic)
        for action in (Action.LONG_ENTER, Action.SHORT_ENTER, Action.NEUTRAL)
    }
    sides = {}
    doubled, exits_vary = 0, False
    for name, action in (("long", Action.LONG_ENTER), ("short", Action.SHORT_ENTER)):
        entering = runs[action]
        of_runs = [_flag(frame, f"exit_{name}") for frame in runs.values()]
        exits = np.logical_and.reduce(of_runs)
        exits_vary |= bool((np.logical_or.reduce(of_runs) & ~exits).any())
        gate = _flag(entering, f"enter_{name}")
        doubled += int((gate & exits).sum())
        tags = entering["enter_tag"].shift(1) if "enter_tag" in entering else pd.Series([None] * len(entering))
        sides[name] = Side(gate, exits, [tag if isinstance(tag, str) else None for tag in tags])
    frames = {"long": runs[Action.LONG_ENTER], "short": runs[Action.SHORT_ENTER]}
    traded = ("long", "short") if strategy.can_short else ("long",)
    unasked = {side: _flag(runs[Action.NEUTRAL], f"enter_{side}") for side in traded}
    elsewhere = []
    if never := [side for side in traded if not sides[side].gate.any()]:
        for action in (Action.LONG_EXIT, Action.SHORT_EXIT):
            runs[action] = _run(strategy, candles, pair, action, historic)
        elsewhere = [
            f"enter_{side} at {int(action)}"
            for action in sorted(runs)
            for side in never
            if (_flag(runs[action], f"enter_{side}") & ~unasked[side]).any()
        ]
    n_unasked = int(np.logical_or.reduce(list(unasked.values())).sum())
    return Signals(sides["long"], sides["short"], frames, doubled, exits_vary, n_unasked, elsewhere)


def why_not_as_asked(strategy: IStrategy, candles: DataFrame, pair: str, signals: Signals) -> str | None:
    """Why trades of a strategy cannot be what its policy asks for, None if they can.

    A strategy that never enters a side where the policy asks for it may read other numbers than the policy's, such as
    those of FreqAI's environment with four actions. One that trades one side alone, or enters nothing in these
    candles, is none of these: whether a training can begin shows when its candles are known.

    :param signals: of the same candles
    :return: what, where, what is accepted and the remedy
    """
    name = type(strategy).__name__
    if len(signals.long.gate) != len(candles):
        return (
            f"{name} gives {len(signals.long.gate)} rows for the {len(candles)} candles of {pair}; accepted: one row "
            "for each candle; remedy: drop none in populate_indicators, populate_entry_trend and populate_exit_trend "
            "(dropna, an inner merge), for freqtrade refuses such a frame"
        )
    if not signals.elsewhere:
        return None
    return (
        f"{name} reads {ACTION_COLUMN} by other numbers than the policy's: for {pair} it sets "
        f"{', '.join(signals.elsewhere)}; accepted: enter_long where {ACTION_COLUMN} is 1, exit_long at 2, enter_short "
        "at 3, exit_short at 4, whatever environment a reward of yours inherits from; remedy: compare with these "
        "numbers in populate_entry_trend and populate_exit_trend"
    )


def _run(strategy: IStrategy, candles: DataFrame, pair: str, action: Action, historic: Historic | None) -> DataFrame:
    # A copy: a bot's own analysis runs meanwhile, and asks its FreqAI model.
    asked = copy.copy(strategy)
    asked.freqai = cast(Any, _Everywhere(action))
    asked.dp = cast(DataProvider, _own_provider(strategy, historic))
    metadata = {"pair": pair}
    with _beside_indicators():
        frame = asked.advise_indicators(candles.copy(), metadata)
        return asked.advise_exit(asked.advise_entry(frame, metadata), metadata)


@contextmanager
def _beside_indicators() -> Iterator[None]:
    """Ask a strategy while hyperopt works out its indicators, of which what is asked is no part.

    freqtrade would warn of every parameter that is read meanwhile, that no epoch could vary it.
    """
    state = HyperoptStateContainer.state
    if state == HyperoptState.INDICATORS:
        HyperoptStateContainer.set_state(HyperoptState.DATALOAD)
    try:
        yield
    finally:
        HyperoptStateContainer.set_state(state)


def _own_provider(strategy: IStrategy, historic: Historic | None) -> DataProvider | None:
    """A data provider with frames of its own, so that what is asked leaves no trace; None where there is none."""
    # As its hooks may be called, without a data provider.
    given = cast("DataProvider | None", getattr(strategy, "dp", None))
    if given is None:
        return None
    provider = copy.copy(given)
    provider._DataProvider__cached_pairs = {}  # type: ignore[attr-defined]
    provider._DataProvider__slice_index = {}  # type: ignore[attr-defined]
    if historic is not None:
        real = provider.get_pair_dataframe

        def get_pair_dataframe(pair: str, timeframe: str | None = None, candle_type: str = "") -> DataFrame:
            known = historic.get(pair, {}).get(timeframe or provider._config["timeframe"])
            return real(pair, timeframe, candle_type) if known is None or candle_type else known.copy()

        provider.get_pair_dataframe = get_pair_dataframe  # type: ignore[method-assign]
    return provider


def _flag(frame: DataFrame, name: str) -> npt.NDArray[np.bool_]:
    if name not in frame:
        return np.zeros(len(frame), dtype=bool)
    return np.asarray(frame[name].to_numpy(dtype=np.float64, na_value=0.0) == 1)


# ---------------------------------------------------------------------- callbacks


class Asked(NamedTuple):
    """What a callback answered for the entries of one side.

    :ivar values: at the open of each candle, float64, shape (n_candles,)
    :ivar failures: how often it raised, and freqtrade goes on with its default
    :ivar failure: what it raised first
    :ivar is_sample: whether it was asked at a sample of the candles alone, and answered the same at all of them
    """

    values: npt.NDArray[np.float64]
    failures: int
    failure: Exception | None
    is_sample: bool


class Callbacks:
    """A strategy's callbacks about entries of one pair and side, asked candle by candle.

    :ivar limits: of the exchange, for a stake
    """

    def __init__(
        self,
        strategy: IStrategy,
        exchange: Exchange,
        pair: str,
        side: str,
        candles: DataFrame,
        signals: Signals | None,
        stake: float,
        stop_ratio: float = BACKTESTS_STOP,
    ) -> None:
        """
        :param candles: ``date`` and open
        :param signals: None where the strategy could not be run for them: there are no tags and no frame then
        :param stake: what an entry stakes, in stake currency
        :param stop_ratio: the loss that the smallest stake allows for, negative
        """
        self.limits = StakeLimits(exchange, pair, stop_ratio)
        self._strategy, self._exchange, self._pair, self._side, self._stake = strategy, exchange, pair, side, stake
        self._dates = [date.to_pydatetime() for date in candles["date"]]
        self._opens = candles["open"].tolist()
        of_side: Side | None = None if signals is None else getattr(signals, side)
        self._tags = [None] * len(self._opens) if of_side is None else of_side.tags
        self._frame = None if signals is None else signals.frames[side]

    @property
    def largest_leverage(self) -> float:
        """The largest leverage for the stake.

        :raises RulesError: if the exchange has none
        """
        try:
            return float(self._exchange.get_max_leverage(self._pair, self._stake))
        except (InvalidOrderException, OperationalException) as error:
            raise RulesError(
                f"{self._pair}: a stake of {self._stake:g} cannot be leveraged ({error}); accepted: a stake within the "
                "exchange's tiers; remedy: lower stake_amount or dry_run_wallet, or raise max_open_trades"
            ) from error

    def leverages(self) -> Asked:
        """``leverage()`` at every candle, within what the exchange gives.

        :raises RulesError: if it answers with no number where an entry may be made
        """
        largest = self.largest_leverage

        def question(at: int) -> _Question:
            def ask(strategy: IStrategy) -> Any:
                return strategy.leverage(
                    pair=self._pair,
                    current_time=self._dates[at],
                    current_rate=self._opens[at],
                    proposed_leverage=1.0,
                    max_leverage=largest,
                    side=self._side,
                    entry_tag=self._tags[at],
                )

            return ask

        return self._everywhere("leverage", question, lambda answer: min(max(answer, 1.0), largest), 1.0)

    def stakes(self, leverages: npt.NDArray[np.float64], available: float) -> Asked:
        """``custom_stake_amount()`` at every candle, over what it is proposed.

        :param leverages: of the entries
        :param available: stake currency that an entry may stake at most
        :raises RulesError: if the exchange has no limits for a stake, or as :meth:`leverages`
        """

        def question(at: int) -> _Question:
            rate, leverage = self._opens[at], float(leverages[at])
            least, most = self.limits.least_and_most(rate, leverage)

            def ask(strategy: IStrategy) -> Any:
                return strategy.custom_stake_amount(
                    pair=self._pair,
                    current_time=self._dates[at],
                    current_rate=rate,
                    proposed_stake=self._stake,
                    min_stake=least,
                    max_stake=min(available, most),
                    leverage=leverage,
                    entry_tag=self._tags[at],
                    side=self._side,
                )

            return ask

        def bounded(answer: Any) -> Any:
            return max(answer or 0.0, 0.0) / self._stake

        return self._everywhere("custom_stake_amount", question, bounded, 1.0)

    def _everywhere(
        self, name: str, question: Callable[[int], _Question], bounded: Callable[[Any], Any], default: float
    ) -> Asked:
        """Ask at every candle.

        :param question: makes what is asked at a candle; what it raises itself is not the strategy's fault
        :param bounded: what freqtrade makes of an answer, by its own comparisons
        :raises RulesError: if an answer is no number; before the first that is one, indicators are not there yet
        """
        n = len(self._opens)
        if getattr(type(self._strategy), name) is getattr(IStrategy, name):
            return Asked(np.full(n, default), 0, None, False)
        failures: list[Exception] = []
        values = np.full(n, np.nan)
        no_numbers: dict[int, Any] = {}
        with _beside_indicators(), self._frames_up_to() as (strategy, see):

            def answer(at: int) -> None:
                see(at)
                ask = question(at)
                try:
                    answered = ask(strategy)
                except Exception as error:
                    # As freqtrade does, which logs it and goes on.
                    failures.append(error)
                    values[at] = default
                    return
                value = _number(bounded, answered)
                if value is None:
                    no_numbers[at] = answered
                values[at] = default if value is None else value

            # Nothing is entered at the first candle, which has no row before it.
            first = min(1, n - 1)
            sample = np.unique(np.linspace(first, n - 1, min(n, _SAMPLE)).astype(int)).tolist()
            started = time.perf_counter()
            for at in sample:
                answer(at)
            each = (time.perf_counter() - started) / len(sample)
            same = not no_numbers and len(set(values[sample].tolist())) == 1
            if same and each * n > _CHEAP_SECONDS:
                return Asked(np.full(n, values[sample[0]]), len(failures), next(iter(failures), None), True)
            for at in (np.flatnonzero(np.isnan(values[first:])) + first).tolist():
                answer(at)
            values[0] = values[first]
        self._check_numbers(name, no_numbers, range(first, n))
        return Asked(values, len(failures), next(iter(failures), None), False)

    def _check_numbers(self, name: str, no_numbers: Mapping[int, Any], asked: range) -> None:
        """Refuse answers on which freqtrade would fail, or trade what nobody can name.

        :param no_numbers: answers that are none, by candle
        :raises RulesError: if they are more than those before the first number
        """
        first = next((at for at in asked if at not in no_numbers), asked.start)
        late = [at for at in sorted(no_numbers) if at >= first]
        if late:
            default = "1.0 for no leverage" if name == "leverage" else "proposed_stake"
            raise RulesError(
                f"{name} of {type(self._strategy).__name__} answers {no_numbers[late[0]]!r} at "
                f"{self._dates[late[0]]:%Y-%m-%d %H:%M}, the first of {len(late)} such candles, asked about a "
                f"{self._side}; accepted: a number at every candle; remedy: return one in every case, such as {default}"
            )

    @contextmanager
    def _frames_up_to(self) -> Iterator[tuple[IStrategy, Callable[[int], None]]]:
        """A strategy whose data provider shows the pair's analysed candles, and a way to say up to which."""
        strategy = copy.copy(self._strategy)
        provider = _own_provider(self._strategy, None)
        if provider is None:
            yield strategy, lambda at: None
            return
        # As in a backtest: a bot's provider would show all of them.
        provider._config = {**provider._config, "runmode": RunMode.BACKTEST}
        strategy.dp = provider
        if self._frame is not None:
            kind = provider._config.get("candle_type_def", CandleType.SPOT)
            provider._set_cached_df(self._pair, self._strategy.timeframe, self._frame, kind)
        # The row before a candle is the last one that has closed at its open.
        yield strategy, lambda at: provider._set_dataframe_max_index(self._pair, at)


def _number(bounded: Callable[[Any], Any], answer: Any) -> float | None:
    """An answer within its bounds, None where it is no number."""
    try:
        value = float(bounded(answer))
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else value
