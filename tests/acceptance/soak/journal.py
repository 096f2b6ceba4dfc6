"""What a soak has seen so far: kept in files, so that an interrupted one goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

_KEY = ["pair", "opened", "candle"]


class Journal:
    """Events, samples and decisions, each in a file of its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.events_file, self.samples_file = folder / "events.jsonl", folder / "samples.jsonl"
        self._decisions_file = folder / "decisions.feather"

    def event(self, kind: str, moment: datetime, **more: Any) -> None:
        """Note what happened: ``start``, ``kill``, ``stop``, ``ended`` (by itself), ``done``."""
        _append(self.events_file, {"kind": kind, "time": moment.isoformat(), **more})

    def sample(self, moment: datetime, **figures: float) -> None:
        """Note what a bot needs at a moment."""
        _append(self.samples_file, {"time": moment.isoformat(), **figures})

    @property
    def events(self) -> list[dict[str, Any]]:
        """All events, in their order."""
        return [line | {"time": datetime.fromisoformat(line["time"])} for line in _lines(self.events_file)]

    @property
    def samples(self) -> pd.DataFrame:
        """All samples, a row each."""
        frame = pd.DataFrame(list(_lines(self.samples_file)))
        return frame.assign(time=pd.to_datetime(frame["time"], utc=True, format="ISO8601")) if len(frame) else frame

    def gather(self, records: Path) -> pd.DataFrame:
        """The decisions of all bots so far; a bot's own record keeps ninety files.

        :param records: the folder of the bot's record
        :return: a row for each file and question, so that a question asked by two bots is there twice
        """
        parts = [pd.read_feather(path).assign(file=path.name) for path in sorted(records.rglob("*.feather"))]
        if self._decisions_file.exists():
            parts.insert(0, pd.read_feather(self._decisions_file))
        if not parts:
            return pd.DataFrame(columns=[*_KEY, "file"])
        # A file is gathered again as it grows; within a file every row counts.
        every = pd.concat([part.assign(n=part.groupby([*_KEY, "file"]).cumcount()) for part in parts])
        every = every.drop_duplicates([*_KEY, "file", "n"]).drop(columns="n").reset_index(drop=True)
        every.to_feather(self._decisions_file)
        return every


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            # The last one of an interrupted soak may be half written.
            if line.endswith("\n"):
                yield json.loads(line)
