"""A bot's journal: a line for each of its passes over a pair, and for each change of a trade, in a file a day.

By it a backtest repeats what the bot did. Each line is appended as it happens, so that a kill loses none; a line that
was cut off is passed over. What is written decides nothing: a bot whose journal cannot be written goes on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from freqtrade.enums import TRADE_MODES
from freqtrade.persistence import LocalTrade, PairLocks, Trade
from sqlalchemy.exc import SQLAlchemyError

from mtfscalper.freqai.candle_clock import milliseconds
from mtfscalper.freqai.decision_record import KEPT_FILES, records_folder

logger = logging.getLogger(__name__)

KINDS = ("dry_run", "live")
_DAY_MS = 86_400_000
_PRICES = ("open", "high", "low", "close")
# Exits that depend on prices within a candle, which the bot was shown every few seconds and a candle does not keep.
PRICE_EXITS = frozenset({"stop_loss", "trailing_stop_loss", "stoploss_on_exchange", "liquidation", "roi"})
# Locks that freqtrade sets for the rest of an exit's candle, whatever the strategy's protections.
_AUTO_LOCK = "Auto lock"
# The reason by which a trade ended that freqtrade forgot.
NOT_FILLED = "not_filled"


class Pass(NamedTuple):
    """A pass of a bot over a pair.

    :ivar at_ms: when it was over, milliseconds since 1970, as the other times
    :ivar row_ms: the last closed candle, on which was decided
    :ivar prices: of that candle, as the bot had them: open, high, low, close
    :ivar columns: what FreqAI gave the strategy for that candle: the policy's columns and ``do_predict``
    :ivar policy: the folder of the policy that decided; empty where none did
    :ivar locks: why the pair might not be entered: the reasons of its locks, and of those of all pairs
    """

    at_ms: int
    pair: str
    row_ms: int
    prices: tuple[float, ...]
    columns: dict[str, float]
    policy: str
    locks: tuple[str, ...]

    def is_late(self, timeframe_ms: int) -> bool:
        """Whether the candle in which the row is traded on was over when the bot had decided."""
        return self.at_ms >= self.row_ms + 2 * timeframe_ms

    @property
    def is_decided(self) -> bool:
        """Whether a policy decided on the row, and it may be traded on."""
        return self.columns.get("do_predict") == 1


def passes_that_count(passes: Iterable[Pass], timeframe_ms: int) -> dict[tuple[str, int], Pass]:
    """Of the passes over each pair's row the one by which the bot traded: one that is restarted comes by again.

    That is the first in time on which a policy decided, else the first in time, else the first.

    :param passes: in the order of time
    :return: by pair and row
    """
    chosen: dict[tuple[str, int], tuple[tuple[bool, bool], Pass]] = {}
    for one in passes:
        in_time = not one.is_late(timeframe_ms)
        rank = in_time, in_time and one.is_decided
        known = chosen.get((one.pair, one.row_ms))
        if known is None or known[0] < rank:
            chosen[one.pair, one.row_ms] = rank, one
    return {key: one for key, (_, one) in chosen.items()}


class BotTrade(NamedTuple):
    """A trade of a bot, as its database had it.

    :ivar opened_ms: when its first order was placed, milliseconds since 1970, as the other times
    :ivar filled_ms: when that was first filled; None while it waits
    :ivar closed_ms: None while it is open, as the close's rate and reason
    """

    pair: str
    side: str
    opened_ms: int
    open_rate: float
    filled_ms: int | None = None
    closed_ms: int | None = None
    close_rate: float | None = None
    exit_reason: str | None = None

    @classmethod
    def from_trade(cls, trade: LocalTrade) -> BotTrade:
        """What freqtrade holds of it."""
        filled, closed = trade.date_entry_fill_utc, trade.close_date_utc
        is_closed = not trade.is_open and closed is not None
        return cls(
            pair=trade.pair,
            side="short" if trade.is_short else "long",
            opened_ms=milliseconds(trade.open_date_utc),
            open_rate=trade.open_rate,
            filled_ms=milliseconds(filled) if filled else None,
            closed_ms=milliseconds(closed) if is_closed and closed else None,
            close_rate=trade.close_rate if is_closed else None,
            exit_reason=trade.exit_reason if is_closed else None,
        )

    @property
    def key(self) -> tuple[str, int, str]:
        """What tells it from other trades."""
        return self.pair, self.opened_ms, self.side


class Journal(NamedTuple):
    """What a bot noted, in the order of time.

    :ivar starts_ms: when it was started, milliseconds since 1970
    :ivar trades: each as it was noted last
    """

    starts_ms: list[int]
    passes: list[Pass]
    trades: list[BotTrade]


class BotJournal:
    """Writes a bot's journal."""

    def __init__(self, folder: Path, kind: str) -> None:
        """
        :param folder: of the identifier's records
        :param kind: ``dry_run`` or ``live``
        """
        self._folder, self._kind = folder, kind
        # By pair: its trades as they were noted last, and up to when.
        self._noted: dict[str, dict[tuple[str, int, str], BotTrade]] = {}
        self._noted_ms: dict[str, int] = {}
        # A bot that was killed has closed trades of which its journal does not know; some are noted twice.
        self._since_ms = max(0, _last_ms(folder, kind) - _DAY_MS)
        self._has_failed = False
        self._has_begun = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BotJournal | None:
        """
        :param config: the freqtrade config, with its run mode
        :return: None for what is no bot
        """
        runmode = config.get("runmode")
        return cls(records_folder(config), str(runmode.value)) if runmode in TRADE_MODES else None

    def note_pass(self, pair: str, frame: pd.DataFrame, policy: str) -> None:
        """Note what a strategy is given for a pair's last candle, and how the pair's trades stand.

        :param frame: with the policy's columns, one row a candle
        :param policy: the folder of the policy that decided; empty where none did
        """
        if frame.empty:
            return
        last, now = frame.iloc[-1], datetime.now(UTC)
        names = [name for name in frame.columns if name.startswith("&") and not name.endswith(("_mean", "_std"))]
        columns = {name: float(last[name]) for name in (*names, "do_predict") if name in frame and pd.notna(last[name])}
        prices = tuple(float(last[name]) for name in _PRICES)
        noted = Pass(milliseconds(now), pair, milliseconds(last["date"]), prices, columns, policy, _locks(pair))
        self._write(now, [{"kind": "pass", **noted._asdict()}])
        self.note_trades(pair)

    def note_trades(self, pair: str) -> None:
        """Note the pair's trades that have changed since they were noted last."""
        if not hasattr(Trade, "session"):
            # FreqAI's hooks may be called without a bot, and its database, around them.
            return
        try:
            self._note_trades(pair)
        except SQLAlchemyError as error:
            # The database may be locked for a moment, or its disk be full: freqtrade says the rest.
            self._tell(error)

    def _note_trades(self, pair: str) -> None:
        now = datetime.now(UTC)
        before = self._noted.get(pair, {})
        # An exchange may say late when it closed a trade, but never before that was opened.
        open_ms = [trade.opened_ms for trade in before.values() if trade.closed_ms is None]
        # Nor after now, whatever a clock said that was ahead.
        since_ms = min([self._noted_ms.get(pair, self._since_ms or milliseconds(now)), milliseconds(now), *open_ms])
        trades = [
            *Trade.get_trades_proxy(pair=pair, is_open=True),
            *Trade.get_trades_proxy(pair=pair, is_open=False, close_date=datetime.fromtimestamp(since_ms / 1000, UTC)),
        ]
        known = {trade.key: trade for trade in map(BotTrade.from_trade, trades)}
        changed = [trade for key, trade in known.items() if before.get(key) != trade]
        # freqtrade forgets a trade whose entry order was not filled in time.
        changed += [
            trade._replace(closed_ms=milliseconds(now), exit_reason=NOT_FILLED)
            for key, trade in before.items()
            if key not in known and trade.closed_ms is None
        ]
        if self._write(now, [{"kind": "trade", **trade._asdict()} for trade in changed]):
            self._noted[pair], self._noted_ms[pair] = known, milliseconds(now)

    def close(self) -> None:
        """Note how the trades of all pairs stand as the bot ends."""
        for pair in list(self._noted):
            self.note_trades(pair)

    def _write(self, now: datetime, lines: list[dict[str, Any]]) -> bool:
        """Write lines, and tell whether they are written."""
        if not self._has_begun:
            lines = [{"kind": "start", "at_ms": milliseconds(now)}, *lines]
        if not lines:
            return True
        try:
            path = self._folder / f"{self._kind}_{now:%Y-%m-%d}.jsonl"
            if not path.exists():
                self._folder.mkdir(parents=True, exist_ok=True)
                for old in _files(self._folder, self._kind)[: 1 - KEPT_FILES[self._kind]]:
                    old.unlink(missing_ok=True)
            with path.open("a") as file:
                # What a kill or a full disk left half written gets a line of its own.
                start = "\n" if (self._has_failed or not self._has_begun) and file.tell() else ""
                file.write(start + "".join(f"{json.dumps(line)}\n" for line in lines))
        except OSError as error:
            self._tell(error)
            return False
        self._has_begun, self._has_failed = True, False
        return True

    def _tell(self, error: Exception) -> None:
        if not self._has_failed:
            logger.warning("The bot's journal cannot be written (%s); the bot goes on.", error)
        self._has_failed = True


def has_journal(folder: Path, kind: str) -> bool:
    """Whether a bot has noted anything."""
    return bool(_files(folder, kind))


def read_journal(folder: Path, kind: str) -> Journal:
    """What a bot noted; empty where there is nothing.

    :param folder: of the identifier's records
    :param kind: ``dry_run`` or ``live``
    """
    days = [_read(path) for path in _files(folder, kind)]
    trades = {trade.key: trade for day in days for trade in day.trades}
    return Journal(
        [start for day in days for start in day.starts_ms],
        [noted for day in days for noted in day.passes],
        sorted(trades.values(), key=lambda trade: trade.opened_ms),
    )


def _read(path: Path) -> Journal:
    """A day's file, with each change of a trade."""
    day, n_unread = Journal([], [], []), 0
    for text in path.read_bytes().splitlines():
        if not text:
            continue
        try:
            line = json.loads(text)
            noted = line.pop("kind")
            if noted == "start":
                day.starts_ms.append(int(line["at_ms"]))
            elif noted == "pass":
                prices, locks = tuple(line.pop("prices")), tuple(line.pop("locks"))
                day.passes.append(Pass(prices=prices, locks=locks, **line))
            else:
                day.trades.append(BotTrade(**line))
        except (ValueError, KeyError, TypeError, AttributeError):
            # A kill or a power cut in the midst of a line.
            n_unread += 1
    if n_unread:
        logger.warning("%s: %d lines are damaged, and are passed over.", path, n_unread)
    return day


def _files(folder: Path, kind: str) -> list[Path]:
    """The journal's files, the oldest first: their names are their days."""
    return sorted(folder.glob(f"{kind}_????-??-??.jsonl"))


def _last_ms(folder: Path, kind: str) -> int:
    """When a pass was noted last, milliseconds since 1970; 0 where none was."""
    for path in reversed(_files(folder, kind)):
        passes = _read(path).passes
        if passes:
            return passes[-1].at_ms
    return 0


def _locks(pair: str) -> tuple[str, ...]:
    try:
        locks = [*PairLocks.get_pair_locks(pair), *PairLocks.get_pair_locks("*")]
    except (AttributeError, SQLAlchemyError):
        # Without a bot around the hooks there is no database; with one it may be locked for a moment.
        return ()
    return tuple(sorted({str(lock.reason) for lock in locks if lock.reason != _AUTO_LOCK}))
