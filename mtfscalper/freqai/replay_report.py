"""What a backtest of a bot's decisions says at its end: how many trades are the bot's, and why the others are not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from typing import Any

import pandas as pd
from freqtrade.exchange import timeframe_to_msecs
from freqtrade.persistence import LocalTrade
from pandas import DataFrame
from rich import box
from rich.console import Console
from rich.table import Table

from mtfscalper.freqai.bot_journal import BotTrade
from mtfscalper.freqai.bot_record import BotRecord
from mtfscalper.freqai.trade_differences import Comparison, Difference, Scene, compare

_EXAMPLES = 3
_PRICES = ["open", "high", "low", "close"]


class ReplayReport:
    """Compares the trades of a backtest with those of the bot that it repeats.

    :ivar lost: pairs and the candles at which a policy would have been asked that is no longer kept
    """

    def __init__(self, record: BotRecord, config: Mapping[str, Any]) -> None:
        """
        :param record: the bot's
        :param config: the freqtrade config of the backtest
        """
        self._record, self._config = record, config
        self._frames: dict[str, DataFrame] = {}
        self.lost: set[tuple[str, int]] = set()

    def take(self, pair: str, frame: DataFrame) -> None:
        """Note the candles that the backtest trades a pair on.

        :param frame: one row a candle
        """
        self._frames[pair] = frame[["date", *_PRICES]]

    def last_candle_ms(self, pair: str) -> int:
        """The last candle that the backtest has of a pair, milliseconds since 1970; 0 where it has none."""
        dates = self._frames[pair]["date"]
        return int(dates.iloc[-1].timestamp() * 1000) if len(dates) else 0

    def compare(self, backtests: list[BotTrade]) -> Comparison:
        """The trades of both.

        :param backtests: the backtest's
        """
        timeframe_ms = timeframe_to_msecs(self._config["timeframe"])
        candles = {pair: _by_date(frame) for pair, frame in self._frames.items()}
        slots = self._config.get("max_open_trades", -1)
        return compare(
            self._record.journal.trades,
            backtests,
            Scene(
                timeframe_ms,
                self._record.journal,
                candles,
                self._record.leaving,
                float("inf") if slots < 0 else slots,
                frozenset(self.lost),
            ),
        )

    def tell_of_process(self) -> None:
        """Print what became of the trades of freqtrade's last backtest in this process."""
        if self._frames and not self._config.get("strategy_list"):
            self.tell(Console(), [BotTrade.from_trade(trade) for trade in LocalTrade.bt_trades])

    def tell(self, console: Console, backtests: list[BotTrade]) -> None:
        """Print what became of the trades.

        :param backtests: the backtest's
        """
        kind = self._record.kind.replace("_", "-")
        if not self._record.journal.passes:
            console.print(
                f"The {kind} bot left no journal (an earlier version's did not), so that its trades are not compared "
                "with these."
            )
            return
        compared = self.compare(backtests)
        console.print(_summary(kind, compared))
        for pair in sorted({trade.pair for trade in self._record.journal.trades} - set(self._frames)):
            n = sum(trade.pair == pair for trade in self._record.journal.trades)
            console.print(f"{n} trades of the bot are not compared: {pair} is not in this backtest's pair list.")
        if compared.differences:
            console.print(_table(compared.differences))


def _by_date(frame: DataFrame) -> dict[int, tuple[float, ...]]:
    dates_ms = pd.DatetimeIndex(frame["date"]).as_unit("ms").astype("int64").tolist()
    return dict(zip(dates_ms, frame[_PRICES].itertuples(index=False, name=None), strict=True))


def _summary(kind: str, compared: Comparison) -> str:
    n_same, n_others = len(compared.same), len(compared.differences)
    text = (
        f"The {kind} bot's trades and this backtest's: {n_same} the same (pair, side, candles and reason of the exit)"
    )
    apart = [1e4 * ratio for ratio in compared.rate_differences]
    if apart:
        text += f", their rates {median(apart):.1f} bps apart in the median, {apart[-1]:.1f} at most"
    return f"{text}; {n_others} different."


def _table(differences: list[Difference]) -> Table:
    by_kind: dict[str, list[Difference]] = defaultdict(list)
    for difference in differences:
        by_kind[difference.kind].append(difference)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("why", max_width=36)
    table.add_column("trades", justify="right")
    table.add_column("first ones", overflow="fold")
    for kind, found in sorted(by_kind.items(), key=lambda item: -len(item[1])):
        table.add_row(kind, str(len(found)), "\n".join(map(_words, found[:_EXAMPLES])))
    return table


def _words(difference: Difference) -> str:
    trade, bots, backtests = difference.trade, difference.bots, difference.backtests
    words = f"{trade.pair} {trade.side} {_time(trade.opened_ms)}: "
    if bots is None:
        return words + "the backtest's alone"
    if backtests is None:
        return words + "the bot's alone"
    return words + f"bot {_exit(bots)}, backtest {_exit(backtests)}"


def _exit(trade: BotTrade) -> str:
    return f"{trade.exit_reason} {_time(trade.closed_ms)}" if trade.closed_ms is not None else "still open"


def _time(moment_ms: int) -> str:
    return f"{datetime.fromtimestamp(moment_ms / 1000, UTC):%Y-%m-%d %H:%M}"
