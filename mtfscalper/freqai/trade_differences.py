"""A bot's trades beside those of the backtest that repeats them: which are the same, and why the others are not."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from mtfscalper.freqai.bot_journal import NOT_FILLED, PRICE_EXITS, BotTrade, Journal, Pass
from mtfscalper.freqai.candle_clock import candle_open_ms

EXITS_BY_HAND = frozenset({"force_exit", "emergency_exit", "force_sell", "emergency_sell"})
SAME_EXIT = {"stoploss_on_exchange": "stop_loss"}
END_OF_BACKTEST = "force_exit"
# Prices as they are written down, and read again.
_PRICE_TOLERANCE = 1e-9


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
    :ivar leaving: the candles at which the bot decided to leave, by pair, candle of the entry, and side
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


class _Comparer:
    def __init__(self, bots: list[BotTrade], backtests: list[BotTrade], scene: Scene) -> None:
        self._scene = scene
        self._unfilled = {self._key(trade) for trade in bots if trade.exit_reason == NOT_FILLED}
        self._bots = [trade for trade in bots if trade.exit_reason != NOT_FILLED]
        self._backtests = backtests
        self._bounds = {pair: (min(known), max(known)) for pair, known in scene.candles.items() if known}
        # Of several passes over a candle the first: a bot that is restarted comes by again.
        self._passes: dict[tuple[str, int], Pass] = {}
        for one in scene.journal.passes:
            self._passes.setdefault((one.pair, one.row_ms), one)
        self._passed_ms: dict[str, list[int]] = defaultdict(list)
        for one in scene.journal.passes:
            self._passed_ms[one.pair].append(one.at_ms)

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
        if self._is_in_trade(self._backtests, pair, candle):
            return Kind.FOLLOWS
        known = self._scene.candles.get(pair, {})
        if candle not in known or row not in known:
            return Kind.NO_CANDLE
        seen = self._passes.get((pair, row))
        if seen is None or self._is_late(seen):
            return Kind.LATE
        if self._is_revised(seen):
            return Kind.REVISED
        if self._n_open(self._backtests, candle) >= self._scene.max_open_trades:
            return Kind.MAX_OPEN_TRADES
        if self._entered_nearby(self._backtests, trade):
            return Kind.ENTRY_WAITED
        return Kind.UNEXPLAINED

    def _why_backtests_alone(self, trade: BotTrade) -> Kind:
        pair, candle, _ = self._key(trade)
        if self._is_in_trade(self._bots, pair, candle):
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
        if self._n_open(self._bots, candle) >= self._scene.max_open_trades:
            return Kind.MAX_OPEN_TRADES
        if self._was_down(pair, seen.at_ms, candle + self._scene.timeframe_ms):
            return Kind.DOWN
        if self._is_revised(seen):
            return Kind.REVISED
        if self._entered_nearby(self._bots, trade):
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
        return Kind.UNEXPLAINED

    def _is_after_journal(self, pair: str, candle: int) -> bool:
        """Whether a candle opened after the bot's last pass over a pair, at which it noted how its trades stood."""
        return candle > max((row for known, row in self._passes if known == pair), default=0)

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
        """Whether the candle in which a row is traded on was over when the bot had decided."""
        return seen.at_ms >= seen.row_ms + 2 * self._scene.timeframe_ms

    def _is_revised(self, seen: Pass) -> bool:
        now = self._scene.candles.get(seen.pair, {}).get(seen.row_ms)
        return now is not None and any(
            abs(then - price) > _PRICE_TOLERANCE * abs(price) for then, price in zip(seen.prices, now, strict=True)
        )

    def _is_open(self, trade: BotTrade, candle: int) -> bool:
        """Whether a trade is open during a candle, or ends in it."""
        exit_candle = self._exit_candle(trade)
        return self._candle(trade.opened_ms) <= candle and (exit_candle is None or candle <= exit_candle)

    def _is_in_trade(self, trades: Sequence[BotTrade], pair: str, candle: int) -> bool:
        return any(trade.pair == pair and self._is_open(trade, candle) for trade in trades)

    def _n_open(self, trades: Sequence[BotTrade], candle: int) -> int:
        return sum(self._is_open(trade, candle) for trade in trades)

    def _entered_nearby(self, trades: Sequence[BotTrade], trade: BotTrade) -> bool:
        """Whether the others entered the same side of the pair in the candle before or after."""
        pair, candle, side = self._key(trade)
        near = (candle - self._scene.timeframe_ms, candle + self._scene.timeframe_ms)
        return any(self._key(other) in {(pair, at, side) for at in near} for other in trades)
