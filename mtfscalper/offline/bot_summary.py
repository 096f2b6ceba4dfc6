"""What a dry-run bot did: counted from its log, its database and its record of decisions."""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from rich.table import Table

from mtfscalper.offline.bot_database import read_table
from mtfscalper.offline.stage import StageHome

_LEVEL = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - [\w.]+ - (WARNING|ERROR|CRITICAL) - ")
_TRAINING = "Starting training"
_TRAINED = "Done training"


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
    def of(cls, home: StageHome) -> "BotSummary":
        """Count what lies in a stage's user directory; what is not there counts as nothing."""
        log, begun, done = _read_log(home.log)
        trades = read_table(home.database, "trades", ["is_open", "is_short", "exit_reason", "close_profit_abs"])
        closed = trades[trades["is_open"] == 0]
        asked = [pd.read_feather(path, columns=["leave"])["leave"] for path in home.decisions.rglob("*.feather")]
        return cls(
            (begun, done),
            (sum(map(len, asked)), int(sum(answers.sum() for answers in asked))),
            Counter("short" if short else "long" for short in trades["is_short"]),
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


def _read_log(path: Path) -> tuple[Counter[str], int, int]:
    levels: Counter[str] = Counter()
    begun = done = 0
    if path.exists():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if level := _LEVEL.match(line):
                    levels[f"{level[1].lower()}s"] += 1
                elif line.startswith("Traceback"):
                    levels["tracebacks"] += 1
                begun += _TRAINING in line
                done += _TRAINED in line
    return levels, begun, done
