"""What a dry-run bot did: counted from its log, its database and its record of decisions."""

import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from mtfscalper.offline.bot_database import read_table
from mtfscalper.offline.stage import StageHome

_LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - [\w.]+ - (WARNING|ERROR|CRITICAL) - ")
_TRAINING = "Starting training"
_TRAINED = "Done training"
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_COLUMNS = ["is_open", "is_short", "open_date", "close_date", "exit_reason", "close_profit_abs"]


class BotSummary(NamedTuple):
    """Counts of one bot.

    :ivar trainings: begun and done
    :ivar decisions: candles of open trades that the policy decided, and how often it said to leave
    :ivar entries: by side
    :ivar exits: by reason
    :ivar profit: of the closed trades, in stake currency
    :ivar open_trades: trades that are open
    :ivar log: lines of the log by level, and tracebacks
    """

    trainings: tuple[int, int]
    decisions: tuple[int, int]
    entries: Counter[str]
    exits: Counter[str]
    profit: float
    open_trades: int
    log: Counter[str]

    @classmethod
    def of(cls, home: StageHome, since: datetime = _BEGINNING, log_from: int = 0) -> "BotSummary":
        """Count what a bot left in a stage's user directory; what is not there counts as nothing.

        :param since: only from this moment on: a user directory may hold earlier runs
        :param log_from: where its part of the log begins, in bytes
        """
        log, begun, done = _read_log(home.log, log_from)
        trades = read_table(home.database, "trades", _COLUMNS)
        for name in ("open_date", "close_date"):
            trades[name] = pd.to_datetime(trades[name], utc=True, format="ISO8601")
        closed = trades[(trades["is_open"] == 0) & (trades["close_date"] >= since)]
        kind = "live" if home.is_live else "dry_run"
        records = [pd.read_feather(path, ["candle", "leave"]) for path in home.decisions.rglob(f"{kind}_*.feather")]
        asked = [record.loc[record["candle"] >= since, "leave"] for record in records]
        return cls(
            (begun, done),
            (sum(map(len, asked)), int(sum(answers.sum() for answers in asked))),
            Counter("short" if short else "long" for short in trades.loc[trades["open_date"] >= since, "is_short"]),
            Counter(closed["exit_reason"]),
            float(closed["close_profit_abs"].sum()),
            int((trades["is_open"] == 1).sum()),
            log,
        )

    def table(self, title: str, faults: Counter[str]) -> Table:
        """The counts as a table.

        :param title: what stands above it
        :param faults: that the exchange has served, by kind
        """
        table = Table(title=title, title_justify="left", show_header=False)
        rows = {
            "trainings": f"{self.trainings[1]} done, {self.trainings[0]} begun",
            "decisions": f"{self.decisions[0]} candles of open trades, {self.decisions[1]} of them to leave",
            "entries": _counted(self.entries),
            "exits": _counted(self.exits),
            "open trades": str(self.open_trades),
            "profit": f"{self.profit:+.2f} in stake currency, of closed trades",
            "faults served": _counted(faults),
            "log": _counted(self.log),
        }
        for name, text in rows.items():
            table.add_row(name, text)
        return table


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def _read_log(path: Path, start: int) -> tuple[Counter[str], int, int]:
    levels: Counter[str] = Counter()
    begun = done = 0
    if path.exists():
        with path.open("rb") as lines:
            lines.seek(start)
            for line in (text.decode("utf-8", "replace") for text in lines):
                if level := _LEVEL.match(line):
                    levels[f"{level[1].lower()}s"] += 1
                elif line.startswith("Traceback"):
                    levels["tracebacks"] += 1
                begun += _TRAINING in line
                done += _TRAINED in line
    return levels, begun, done
