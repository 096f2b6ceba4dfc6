"""Why a trade is not the one that training assumed: told from the trade itself, whatever the strategy is.

A trade that was made stands beside the same entry, re-lived by the rules with the decisions of its policy. What is
found first in the time of the trade is its cause.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from mtfscalper.freqai.bot_journal import PRICE_EXITS
from mtfscalper.freqai.policy_exits import POLICY_REASON
from mtfscalper.freqai.trade_differences import END_OF_BACKTEST, EXITS_BY_HAND, SAME_EXIT, Kind
from mtfscalper.reporting.origin import moment
from mtfscalper.trading.account import EXIT_REASON_NAMES, ExitReason

EXIT_SIGNAL, MAX_DURATION, STOP_LOSS, ROI, TRAILING_STOP = (
    EXIT_REASON_NAMES[reason]
    for reason in (
        ExitReason.EXIT_SIGNAL,
        ExitReason.MAX_DURATION,
        ExitReason.STOP_LOSS,
        ExitReason.ROI,
        ExitReason.TRAILING_STOP_LOSS,
    )
)
_STOPS = {STOP_LOSS, TRAILING_STOP}
# Reasons of freqtrade's own; every other one is a word of the strategy's.
_FREQTRADES = {*PRICE_EXITS, *EXITS_BY_HAND, EXIT_SIGNAL, END_OF_BACKTEST}
# Rates and ratios as they are written down and read again.
EXACT = 1e-8
# freqtrade rounds profits to eight decimals, and a stake may be small.
_PROFIT_TOLERANCE = 1e-6


class Cause(StrEnum):
    """What made a trade differ."""

    # Of the entry.
    REFUSED = "refused entry"
    SLOT = "slot"
    PROTECTION = "protection"
    NO_STAKE = "stake"
    NOT_FILLED = "entry not filled"
    MISSED_ENTRY = "entry at a missed candle"
    OWN_ENTRY = "entry of the strategy's own"
    LATE_FILL = "late fill"
    ENTRY_PRICE = "custom entry price"
    SLIPPAGE = "slippage"
    LEVERAGE = "leverage"
    POSITION = "position adjusted"
    # Of the decisions.
    MISSED = "missed candle"
    STALE = "stale model"
    # Of the exit.
    OTHER_SETTINGS = "other settings than in training"
    STOP = "custom stop"
    ROI = "custom ROI"
    TAKE_PROFIT = "take-profit"
    OWN_EXIT = "custom exit"
    OWN_SIGNAL = "exit signal of the strategy's own"
    EXIT_REFUSED = "late or refused exit"
    EXIT_PRICE = "custom exit price"
    NOT_DECIDED = "exit that its policy did not decide"
    COSTS = "fees or funding"
    # As the backtest of a bot names them.
    BY_HAND = Kind.BY_HAND.value
    PRICES = Kind.PRICES.value
    UNEXPLAINED = Kind.UNEXPLAINED.value


class Seen(NamedTuple):
    """A trade that was made. Moments are milliseconds since 1970.

    :ivar opened_ms: when it was opened
    :ivar entry_ms: the candle of that
    :ivar filled_ms: the candle in which its first order was filled
    :ivar market_rate: the open of the candle of the entry
    :ivar exit_ms: the candle of its exit; None while it is open
    :ivar profit_ratio: share of the stake; None while it is open
    :ivar initial_stop: rate at which its stop lay first, as ``last_stop``; 0 where that is not known
    :ivar adjusted_ms: when its size was changed on the way; None where it was not
    """

    pair: str
    side: str
    opened_ms: int
    entry_ms: int
    filled_ms: int
    open_rate: float
    market_rate: float
    exit_ms: int | None
    close_rate: float
    reason: str
    profit_ratio: float | None
    initial_stop: float
    last_stop: float
    adjusted_ms: int | None
    leverage: float

    @property
    def words(self) -> str:
        """What names it."""
        return f"{self.pair} {self.side} of {moment(self.opened_ms)}"

    @property
    def stop_moved(self) -> bool:
        """Whether its stop lay elsewhere in the end than at first."""
        return abs(self.last_stop - self.initial_stop) > EXACT * abs(self.initial_stop)


class Expected(NamedTuple):
    """The same entry, re-lived.

    :ivar exit_ms: the candle of its exit, milliseconds since 1970
    :ivar leaves: whether the policy left it
    """

    exit_ms: int
    close_rate: float
    reason: str
    profit_ratio: float
    leaves: bool


class Decided(NamedTuple):
    """What is known of the decisions about a trade.

    :ivar leave_after: candles after its entry at which its policy left; a large number where it did not
    :ivar known: whether the decisions are known at all
    :ivar missed_ms: the first candle at which nobody was asked; None where there is none
    :ivar stale_ms: the first candle at which another policy than that of its period decided, or an expired one
    :ivar stale: in words
    """

    leave_after: int
    known: bool
    missed_ms: int | None = None
    stale_ms: int | None = None
    stale: str = ""


class Departure(NamedTuple):
    """Where a trade departs from what training assumed.

    :ivar at_ms: the first candle that differs
    """

    cause: Cause
    at_ms: int
    expected: str
    seen: str


class Limits(NamedTuple):
    """What counts as equal.

    :ivar rates: how far a rate may lie from the one expected, as a ratio
    :ivar is_bot: whether a bot made the trades, whose stops see prices within a candle
    :ivar policy_reason: freqtrade's reason of a trade that the policy left
    """

    rates: float = EXACT
    is_bot: bool = False
    policy_reason: str = POLICY_REASON


def departure(
    seen: Seen, expected: Expected, decided: Decided, limits: Limits, leverage: float | None = None
) -> Departure | None:
    """Where a trade departs, and why; None where it is the trade that training assumed.

    :param leverage: that its policy was trained for; None where that is not one number
    """
    found = [
        one
        for one in (
            _of_entry(seen, limits, leverage),
            _of_position(seen),
            _of_decisions(seen, decided),
            _of_exit(seen, expected, limits),
        )
        if one is not None
    ]
    return min(found, key=lambda one: one.at_ms, default=None)


def ends_alike(seen: Seen, expected: Expected, limits: Limits) -> bool:
    """Whether a trade ends as it does re-lived: candle, rate, reason and profit."""
    if seen.exit_ms is None:
        return expected.reason == END_OF_BACKTEST
    if seen.exit_ms != expected.exit_ms or not _near(seen.close_rate, expected.close_rate, limits):
        return False
    return _same_reason(seen, expected, limits) and not _costs_differ(seen, expected, limits)


def _of_entry(seen: Seen, limits: Limits, leverage: float | None) -> Departure | None:
    at, expected = seen.entry_ms, f"filled at {seen.market_rate:g} as the candle opens"
    if seen.filled_ms > seen.entry_ms:
        return Departure(Cause.LATE_FILL, at, expected, f"filled at {seen.open_rate:g}, {moment(seen.filled_ms)}")
    if not _near(seen.open_rate, seen.market_rate, limits):
        cause = Cause.SLIPPAGE if limits.is_bot else Cause.ENTRY_PRICE
        bps = 1e4 * (seen.open_rate / seen.market_rate - 1)
        return Departure(cause, at, expected, f"filled at {seen.open_rate:g} ({bps:+.1f} bps)")
    if leverage is not None and abs(seen.leverage - leverage) > EXACT:
        return Departure(Cause.LEVERAGE, at, f"leverage {leverage:g}", f"leverage {seen.leverage:g}")
    return None


def _of_position(seen: Seen) -> Departure | None:
    if seen.adjusted_ms is None:
        return None
    return Departure(Cause.POSITION, seen.adjusted_ms, "one entry and one exit", "further orders changed its size")


def _of_decisions(seen: Seen, decided: Decided) -> Departure | None:
    if decided.stale_ms is not None and decided.stale_ms <= (decided.missed_ms or decided.stale_ms):
        return Departure(Cause.STALE, decided.stale_ms, "the policy of that period", decided.stale)
    if decided.missed_ms is not None:
        return Departure(Cause.MISSED, decided.missed_ms, "the policy is asked", "nobody was asked")
    return None


def _of_exit(seen: Seen, expected: Expected, limits: Limits) -> Departure | None:
    if ends_alike(seen, expected, limits):
        return None
    cause = _why_exit(seen, expected, limits)
    if seen.exit_ms is None:
        return Departure(cause, expected.exit_ms, _ending(expected, limits), "still open")
    at = min(seen.exit_ms, expected.exit_ms)
    if cause is Cause.COSTS:
        wanted, had = (f"profit {100 * (ratio or 0.0):.5f} %" for ratio in (expected.profit_ratio, seen.profit_ratio))
        return Departure(cause, at, wanted, had)
    wanted = f"held on at {moment(at)}" if seen.exit_ms < expected.exit_ms else _ending(expected, limits)
    return Departure(cause, at, wanted, f"{seen.reason} at {seen.close_rate:g}, {moment(seen.exit_ms)}")


def _ending(expected: Expected, limits: Limits) -> str:
    reason = limits.policy_reason if expected.leaves else expected.reason
    return f"{reason} at {expected.close_rate:g}, {moment(expected.exit_ms)}"


def _why_exit(seen: Seen, expected: Expected, limits: Limits) -> Cause:
    reason = SAME_EXIT.get(seen.reason, seen.reason)
    at_open = expected.leaves or expected.reason in (EXIT_SIGNAL, MAX_DURATION)
    if seen.exit_ms == expected.exit_ms and at_open and reason in {*PRICE_EXITS, END_OF_BACKTEST}:
        # What was to happen at the open did not, and what the candle brought later did.
        return Cause.EXIT_REFUSED
    if reason in EXITS_BY_HAND:
        return Cause.BY_HAND if limits.is_bot or reason != END_OF_BACKTEST else Cause.UNEXPLAINED
    if seen.exit_ms is None or seen.exit_ms > expected.exit_ms:
        return _why_later(seen, expected, limits)
    if seen.exit_ms == expected.exit_ms and _same_reason(seen, expected, limits):
        if _near(seen.close_rate, expected.close_rate, limits):
            return Cause.COSTS
        if reason == STOP_LOSS and seen.stop_moved:
            return Cause.STOP
        return Cause.SLIPPAGE if limits.is_bot else Cause.EXIT_PRICE
    if reason in _STOPS:
        return Cause.PRICES if limits.is_bot and not seen.stop_moved else Cause.STOP
    if reason == ROI:
        return Cause.PRICES if limits.is_bot else Cause.ROI
    if reason in PRICE_EXITS:
        return Cause.PRICES if limits.is_bot else Cause.UNEXPLAINED
    if reason == limits.policy_reason:
        return Cause.NOT_DECIDED
    if reason == EXIT_SIGNAL:
        return Cause.OWN_SIGNAL
    if reason == MAX_DURATION:
        return Cause.OTHER_SETTINGS
    return Cause.TAKE_PROFIT if (seen.profit_ratio or 0.0) > 0 else Cause.OWN_EXIT


def _why_later(seen: Seen, expected: Expected, limits: Limits) -> Cause:
    """Why an exit that was expected did not happen then."""
    if limits.is_bot and expected.reason in PRICE_EXITS and not seen.stop_moved:
        return Cause.PRICES
    if expected.reason in _STOPS and seen.stop_moved:
        return Cause.STOP
    if expected.reason == ROI:
        return Cause.ROI
    return Cause.EXIT_REFUSED


def _same_reason(seen: Seen, expected: Expected, limits: Limits) -> bool:
    reason = SAME_EXIT.get(seen.reason, seen.reason)
    wanted = limits.policy_reason if expected.leaves else expected.reason
    # A strategy that asks by hand has words of its own for what the policy and the duration end.
    by_hand = (expected.leaves or expected.reason == MAX_DURATION) and reason not in _FREQTRADES
    return reason == wanted or by_hand


def _costs_differ(seen: Seen, expected: Expected, limits: Limits) -> bool:
    # A bot's funding may be known late, and its rates are its own.
    return (
        not limits.is_bot
        and seen.profit_ratio is not None
        and abs(seen.profit_ratio - expected.profit_ratio) > _PROFIT_TOLERANCE
    )


def _near(rate: float, other: float, limits: Limits) -> bool:
    return abs(rate - other) <= limits.rates * abs(other)
