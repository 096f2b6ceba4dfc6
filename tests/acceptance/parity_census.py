"""Which trades were compared: a count by everything that could make a difference."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from parity_markets import Market

from mtfscalper.trading.trades import ClosedTrade
from mtfscalper.trading.trading_rules import TradingRules

TRAILING_MODES = (
    "none",
    "same distance",
    "positive",
    "positive past an offset",
    "same distance, only past an offset",
    "positive, only past an offset",
)


def trailing_mode(rules: TradingRules) -> str:
    """In the words of :data:`TRAILING_MODES`."""
    if not rules.trailing_stop:
        return TRAILING_MODES[0]
    positive, only = rules.trailing_stop_positive is not None, rules.trailing_only_offset_is_reached
    if only:
        return TRAILING_MODES[5 if positive else 4]
    return TRAILING_MODES[1 if not positive else 3 if rules.trailing_stop_positive_offset else 2]


class Census:
    """Counts of trades by dimension and value."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.runs = self.refused = 0

    @property
    def n_trades(self) -> int:
        return self.counts["exit reason"].total()

    def add(self, trades: Iterable[ClosedTrade], rules: TradingRules, market: Market, source: str, mode: str) -> None:
        first = int(market.tape.dates_ms[0])
        for trade in trades:
            begin, end = ((ms - first) // market.tape.timeframe_ms for ms in (trade.open_ms, trade.close_ms))
            leverage = rules.leverage_short if trade.is_short else rules.leverage_long
            charged = market.tape.funding[begin : end + 1].any()
            self._count("source", source)
            self._count("exit reason", trade.exit_reason)
            self._count("side", "short" if trade.is_short else "long")
            self._count("market", mode)
            self._count("leverage", _band(leverage, (1, 3, 6, 10)))
            self._count("fee %", _band(100 * rules.fee_ratio, (0, 0.05, 0.1, 0.2)))
            self._count("stop %", _band(100 * rules.stoploss_ratio, (1, 5, 20)))
            self._count("trailing", trailing_mode(rules))
            self._count("ROI", f"{len(rules.minimal_roi)} steps" if rules.minimal_roi else "none")
            if any(ratio == -1 for _, ratio in rules.minimal_roi) and trade.exit_reason == "roi":
                self._count("ROI", "left by a table with -1")
            self._count("stake", "the wallet's share" if rules.fixed_stake_ratio is None else "fixed")
            self._count("funding", "charged" if charged else "none")
            self._count("decimals", f"{len(str(int(market.tape.price_scale[begin]))) - 1}")
            self._count("length", _band(float(end - begin), (0, 1, 10, 96)))
            for kind in market.touched(trade.open_ms, trade.close_ms):
                self._count("candles", kind)

    def _count(self, dimension: str, value: str) -> None:
        self.counts[dimension][value] += 1

    def table(self, title: str) -> str:
        lines = [
            f"{title}: {self.n_trades} trades of {self.runs} backtests, "
            f"{self.refused} entries refused in the candle of an exit"
        ]
        for dimension, values in self.counts.items():
            cells = [f"{value} {count}" for value, count in sorted(values.items())]
            lines.append(f"  {dimension:<12}{' | '.join(cells)}")
        return "\n".join(lines)

    def require(self, dimension: str, values: Iterable[str], at_least: int) -> None:
        """
        :raises AssertionError: if a value was met too seldom
        """
        rare = {value: self.counts[dimension][value] for value in values}
        rare = {value: count for value, count in rare.items() if count < at_least}
        assert not rare, f"{dimension}: {rare}, fewer than {at_least}\n{self.table('all')}"


def _band(value: float, bounds: tuple[float, ...]) -> str:
    for low, high in zip((None, *bounds), bounds, strict=False):
        if value <= high:
            return f"{high:g}" if low is None else f"{low:g}–{high:g}"
    return f"over {bounds[-1]:g}"
