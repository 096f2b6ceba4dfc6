"""A bot's trades beside those of the backtest that repeats them: which are the same, and why the others are not."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from math import inf
from typing import NamedTuple

from mtfscalper.freqai.bot_journal import NOT_FILLED, PRICE_EXITS, BotTrade, Journal, Pass, passes_that_count
from mtfscalper.freqai.candle_clock import candle_open_ms

EXITS_BY_HAND = frozenset({"force_exit", "emergency_exit", "force_sell", "emergency_sell"})
SAME_EXIT = {"stoploss_on_exchange": "stop_loss"}
END_OF_BACKTEST = "force_exit"
# Prices as they are written down, and read again.
_PRICE_TOLERANCE = 1e-9
# For so long a candle that one of them did not see, or saw otherwise, is looked for in what its indicators show.
_REMEMBERED_CANDLES = 24


class Kind(StrEnum):
    """Why a trade of the one is not one of the other."""

    FOLLOWS = "one of them was still in another trade, which differs"
    DOWN = "the bot was down"
    LATE = "the candle came late"
    LEFT_OUT = "the bot had no such candle: missing, or left out as faulty"
    REVISED = "the exchange revised the candle"
    NO_CANDLE = "the data have no such candle"
    NOT_FILLED = "the entry order was not filled"
    ENTRY_WAITED = "the entry came a candle or more later"
    EXIT_WAITED = "the exit order waited"
    MAX_OPEN_TRADES = "max_open_trades had been reached"
    LOCKED = "the pair was locked, by a protection or by hand"
    PRICES = "stop or ROI was met on the prices within a candle"
    BY_HAND = "it was closed by hand, or by the exchange"
    POLICY_LOST = "the policy is no longer kept"
    NOT_NOTED = "the bot's journal ends before it"
    UNEXPLAINED = "unexplained"


class Difference(NamedTuple):
    """A trade that is not the same in both.

    :ivar bots: None where the bot did not have it
    :ivar backtests: None where the backtest did not have it
    """

    kind: Kind
    bots: BotTrade | None
    backtests: BotTrade | None

    @property
    def trade(self) -> BotTrade:
        """The bot's, where it had it."""
        trade = self.bots or self.backtests
        assert trade is not None
        return trade


class Comparison(NamedTuple):
    """What became of the trades of both.

    :ivar same: pairs of a bot's trade and the backtest's: same candle of the entry, side, candle and reason of the exit
    :ivar differences: in the order of their entries
    """

    same: list[tuple[BotTrade, BotTrade]]
    differences: list[Difference]

    @property
    def rate_differences(self) -> list[float]:
        """Of the trades that are the same: the distances of their rates, as ratios, in rising order."""
        found = []
        for bots, backtests in self.same:
            found.append(abs(bots.open_rate / backtests.open_rate - 1))
            if bots.close_rate and backtests.close_rate and backtests.exit_reason != END_OF_BACKTEST:
                found.append(abs(bots.close_rate / backtests.close_rate - 1))
        return sorted(found)


class Scene(NamedTuple):
    """What both traded on.

    :ivar candles: of the backtest, by pair and opening time: open, high, low, close
    :ivar leaving: the candles at which the bot decided to leave, by pair, candle of the entry, and side; of a trade
        that is not there no decision is on record
    :ivar lost: pairs and the candles at which a policy would have been asked that is no longer kept
    """

    timeframe_ms: int
    journal: Journal
    candles: Mapping[str, Mapping[int, tuple[float, ...]]]
    leaving: Mapping[tuple[str, int, str], set[int]]
    max_open_trades: float
    lost: frozenset[tuple[str, int]]


def compare(bots: Iterable[BotTrade], backtests: Iterable[BotTrade], scene: Scene) -> Comparison:
    """Put trades side by side, and name each difference.

    :param bots: the bot's trades; those entered outside the backtest's candles are not compared
    :param backtests: the backtest's
    """
    return _Comparer([*bots], [*backtests], scene).compare()


class _Opened(NamedTuple):
    """When trades were open: from the candle of the entry to that of the exit, milliseconds since 1970.

    :ivar entries: pair, candle and side of each
    :ivar first: candles of the entries, in rising order, as of the exits in ``last``
    :ivar by_pair: of each pair, entries in rising order and the latest exit of the trades up to each
    """

    entries: frozenset[tuple[str, int, str]]
    first: list[int]
    last: list[float]
    by_pair: dict[str, tuple[list[int], list[float]]]

    @classmethod
    def of(cls, trades: Iterable[BotTrade], candle_of: Callable[[int], int]) -> _Opened:
        """
        :param candle_of: the candle of a moment
        """
        entries, first, last = set(), [], []
        by_pair: dict[str, tuple[list[int], list[float]]] = {}
        for trade in sorted(trades, key=lambda trade: trade.opened_ms):
            entry_ms = candle_of(trade.opened_ms)
            exit_ms = inf if trade.closed_ms is None else float(candle_of(trade.closed_ms))
            entries.add((trade.pair, entry_ms, trade.side))
            first.append(entry_ms)
            last.append(exit_ms)
            firsts, latest = by_pair.setdefault(trade.pair, ([], []))
            firsts.append(entry_ms)
            latest.append(max(exit_ms, latest[-1]) if latest else exit_ms)
        return cls(frozenset(entries), first, sorted(last), by_pair)

    def is_in_trade(self, pair: str, candle: int) -> bool:
        """Whether a trade of a pair is open during a candle, or ends in it."""
        firsts, latest = self.by_pair.get(pair, ([], []))
        at = bisect_right(firsts, candle)
        return at > 0 and latest[at - 1] >= candle

    def n_open(self, candle: int) -> int:
        """How many trades are open during a candle, or end in it."""
        return bisect_right(self.first, candle) - bisect_left(self.last, candle)


class _Comparer:
    def __init__(self, bots: list[BotTrade], backtests: list[BotTrade], scene: Scene) -> None:
        self._scene = scene
        self._unfilled = {self._key(trade) for trade in bots if trade.exit_reason == NOT_FILLED}
        self._bots = [trade for trade in bots if trade.exit_reason != NOT_FILLED]
        self._backtests = backtests
        self._of_bot, self._of_backtest = (_Opened.of(trades, self._candle) for trades in (self._bots, backtests))
        self._bounds = {pair: (min(known), max(known)) for pair, known in scene.candles.items() if known}
        self._passes = passes_that_count(scene.journal.passes, scene.timeframe_ms)
        self._passed_ms: dict[str, list[int]] = defaultdict(list)
        for one in scene.journal.passes:
            self._passed_ms[one.pair].append(one.at_ms)
        self._last_row: dict[str, int] = defaultdict(int)
        for pair, row in self._passes:
            self._last_row[pair] = max(self._last_row[pair], row)

    def compare(self) -> Comparison:
        theirs = {self._key(trade): trade for trade in self._backtests}
        same, differences = [], []
        for bots in filter(self._is_within, self._bots):
            backtests = theirs.pop(self._key(bots), None)
            if backtests is None:
                differences.append(Difference(self._why_bots_alone(bots), bots, None))
            elif self._leave_alike(bots, backtests):
                same.append((bots, backtests))
            else:
                differences.append(Difference(self._why_left_otherwise(bots, backtests), bots, backtests))
        differences += [Difference(self._why_backtests_alone(trade), None, trade) for trade in theirs.values()]
        return Comparison(same, sorted(differences, key=lambda found: found.trade.opened_ms))

    def _is_within(self, trade: BotTrade) -> bool:
        """Whether the backtest might have entered a trade: nothing is entered in its last candle."""
        dates = self._bounds.get(trade.pair)
        return dates is not None and dates[0] <= self._candle(trade.opened_ms) < dates[1]

    # ------------------------------------------------------------------ the same or not

    def _candle(self, moment_ms: int) -> int:
        return candle_open_ms(self._scene.timeframe_ms, moment_ms)

    def _key(self, trade: BotTrade) -> tuple[str, int, str]:
        return trade.pair, self._candle(trade.opened_ms), trade.side

    def _exit_candle(self, trade: BotTrade) -> int | None:
        return None if trade.closed_ms is None else self._candle(trade.closed_ms)

    def _leave_alike(self, bots: BotTrade, backtests: BotTrade) -> bool:
        bots_exit, backtests_exit = self._exit_candle(bots), self._exit_candle(backtests)
        if backtests.exit_reason == END_OF_BACKTEST and backtests_exit is not None:
            # A backtest closes what is open as its data end.
            return bots_exit is None or bots_exit >= backtests_exit
        reasons = {SAME_EXIT.get(str(trade.exit_reason), trade.exit_reason) for trade in (bots, backtests)}
        return bots_exit == backtests_exit and len(reasons) == 1

    # ------------------------------------------------------------------ why not

    def _why_bots_alone(self, trade: BotTrade) -> Kind:
        pair, candle, _ = self._key(trade)
        row = candle - self._scene.timeframe_ms
        if self._of_backtest.is_in_trade(pair, candle):
            return Kind.FOLLOWS
        known = self._scene.candles.get(pair, {})
        if candle not in known or row not in known:
            return Kind.NO_CANDLE
        seen = self._passes.get((pair, row))
        if seen is None or self._is_late(seen):
            return Kind.LATE
        if self._is_revised(seen):
            return Kind.REVISED
        if self._of_backtest.n_open(candle) >= self._scene.max_open_trades:
            return Kind.MAX_OPEN_TRADES
        if self._entered_nearby(self._of_backtest, trade):
            return Kind.ENTRY_WAITED
        return Kind.UNEXPLAINED

    def _why_backtests_alone(self, trade: BotTrade) -> Kind:
        pair, candle, _ = self._key(trade)
        if self._of_bot.is_in_trade(pair, candle):
            return Kind.FOLLOWS
        if self._key(trade) in self._unfilled:
            return Kind.NOT_FILLED
        seen = self._passes.get((pair, candle - self._scene.timeframe_ms))
        if seen is None:
            return self._why_not_passed(pair, candle)
        if self._is_late(seen):
            return Kind.LATE
        if seen.locks:
            return Kind.LOCKED
        if self._of_bot.n_open(candle) >= self._scene.max_open_trades:
            return Kind.MAX_OPEN_TRADES
        if self._was_down(pair, seen.at_ms, candle + self._scene.timeframe_ms):
            return Kind.DOWN
        if self._is_revised(seen):
            return Kind.REVISED
        if self._entered_nearby(self._of_bot, trade):
            return Kind.ENTRY_WAITED
        return Kind.NOT_NOTED if self._is_after_journal(pair, candle) else Kind.UNEXPLAINED

    def _why_left_otherwise(self, bots: BotTrade, backtests: BotTrade) -> Kind:
        if bots.exit_reason in EXITS_BY_HAND:
            return Kind.BY_HAND
        bots_exit, backtests_exit = self._exit_candle(bots), self._exit_candle(backtests)
        assert backtests_exit is not None
        timeframe_ms = self._scene.timeframe_ms
        if bots_exit is None or bots_exit > backtests_exit:
            if self._was_down(bots.pair, backtests_exit, backtests_exit + timeframe_ms):
                return Kind.DOWN
            decided = self._scene.leaving.get(self._key(bots), set())
            if backtests_exit in decided:
                return Kind.EXIT_WAITED
            seen = self._passes.get((bots.pair, backtests_exit - timeframe_ms))
            if seen is not None and self._is_late(seen):
                return Kind.LATE
        first_ms = self._candle(bots.opened_ms)
        if any((bots.pair, candle) in self._scene.lost for candle in range(first_ms, backtests_exit + 1, timeframe_ms)):
            return Kind.POLICY_LOST
        if {bots.exit_reason, backtests.exit_reason} & PRICE_EXITS:
            return Kind.PRICES
        if bots_exit is None and self._is_after_journal(bots.pair, backtests_exit):
            return Kind.NOT_NOTED
        return self._why_seen_otherwise(bots, backtests_exit if bots_exit is None else min(bots_exit, backtests_exit))

    def _why_seen_otherwise(self, bots: BotTrade, exit_ms: int) -> Kind:
        """Why a policy decides otherwise than it did for the bot, whose answers are lost."""
        pair, entry_ms, _ = key = self._key(bots)
        if key in self._scene.leaving:
            return Kind.UNEXPLAINED
        timeframe_ms = self._scene.timeframe_ms
        for row in range(exit_ms - timeframe_ms, entry_ms - _REMEMBERED_CANDLES * timeframe_ms - 1, -timeframe_ms):
            seen = self._passes.get((pair, row))
            if seen is not None and self._is_revised(seen):
                return Kind.REVISED
            # What closed while it was down it has seen since.
            if seen is None and self._why_not_passed(pair, row + timeframe_ms) is Kind.LEFT_OUT:
                return Kind.LEFT_OUT
        return Kind.UNEXPLAINED

    def _is_after_journal(self, pair: str, candle: int) -> bool:
        """Whether a candle opened after the bot's last pass over a pair, at which it noted how its trades stood."""
        return candle > self._last_row[pair]

    def _why_not_passed(self, pair: str, candle: int) -> Kind:
        """Why the bot did not decide at a candle on the row before."""
        return Kind.DOWN if self._was_down(pair, candle, candle + self._scene.timeframe_ms) else Kind.LEFT_OUT

    def _was_down(self, pair: str, first_ms: int, last_ms: int) -> bool:
        """Whether the bot was down within a span: it was started before it passed over the pair again."""
        passed = self._passed_ms.get(pair, [])
        before = passed[at - 1] if (at := bisect_right(passed, first_ms)) else 0
        after = passed[at] if (at := bisect_left(passed, last_ms)) < len(passed) else None
        if after is None:
            # The end of the journal: nothing was noted after the span.
            return not passed or passed[-1] < first_ms
        return any(before < start <= after for start in self._scene.journal.starts_ms)

    def _is_late(self, seen: Pass) -> bool:
        return seen.is_late(self._scene.timeframe_ms)

    def _is_revised(self, seen: Pass) -> bool:
        now = self._scene.candles.get(seen.pair, {}).get(seen.row_ms)
        return now is not None and any(
            abs(then - price) > _PRICE_TOLERANCE * abs(price) for then, price in zip(seen.prices, now, strict=True)
        )

    def _entered_nearby(self, others: _Opened, trade: BotTrade) -> bool:
        """Whether the others entered the same side of the pair in the candle before or after."""
        pair, candle, side = self._key(trade)
        return any((pair, candle + way * self._scene.timeframe_ms, side) in others.entries for way in (-1, 1))
