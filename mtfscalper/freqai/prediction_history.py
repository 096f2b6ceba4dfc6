"""What a bot decided, candle by candle: kept in memory as FreqAI keeps it, and on disk as soon as it is decided.

FreqAI fills the candles that a bot missed with zeros, which look like decisions. Here a candle that nobody decided on
has no row: its columns are NaN in the strategy's frame, and ``do_predict`` is 0.

A clock may be wrong: what was decided on candles that by it are yet to come waits aside, and is lost to nobody.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import pandas as pd
from pandas import DataFrame

from mtfscalper import artefacts
from mtfscalper.freqai.sealing import HISTORY_NAMES, HISTORY_PURPOSE
from mtfscalper.seals import Seals

logger = logging.getLogger(__name__)

DATE = "date_pred"
DO_PREDICT = "do_predict"
JOURNAL_NAME = "prediction_journal.txt"
_PURPOSE = "prediction"
# As FreqAI writes dates.
_DTYPE = "datetime64[ms, UTC]"


# ---------------------------------------------------------------------- frames


def tidied(pair: str, rows: DataFrame) -> DataFrame:
    """The rows of a history with one row a candle, in the order of their dates, which are in UTC.

    What cannot be is left out, and one line says so: rows without a date, and further rows of a candle.

    :param rows: as FreqAI or another version of this package wrote them
    :return: a new frame
    """
    if DATE not in rows.columns:
        return rows
    dates = pd.to_datetime(rows[DATE], utc=True, errors="coerce", format="mixed" if _is_text(rows[DATE]) else None)
    rows = rows.assign(**{DATE: dates.dt.as_unit("ms")}).infer_objects()
    undated = rows[DATE].isna()
    kept = _in_order(rows[~undated])
    twice = kept[DATE].duplicated(keep="last")
    counts = {"have no date": int(undated.sum()), "repeat a candle": int(twice.sum())}
    if any(counts.values()):
        reasons = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
        logger.warning("%s: of %d rows of its history %s: they are left out.", pair, len(rows), reasons)
    return kept[~twice].reset_index(drop=True)


def _in_order(rows: DataFrame) -> DataFrame:
    """Rows in the order of their dates; of two of a candle the decision comes after what filled its place."""
    if DO_PREDICT not in rows.columns:
        return rows.sort_values(DATE, kind="stable")
    rows = rows.assign(_decided=rows[DO_PREDICT].fillna(0) != 0).sort_values([DATE, "_decided"], kind="stable")
    return rows.drop(columns="_decided")


def _together(rows: DataFrame | None, others: DataFrame) -> DataFrame:
    """Two parts of a history, which may have candles in common."""
    if rows is None or rows.empty:
        return others
    both = _in_order(pd.concat([rows, others], ignore_index=True))
    return both[~both[DATE].duplicated(keep="last")].reset_index(drop=True)


def joined(frame: DataFrame, history: DataFrame) -> DataFrame:
    """A strategy's frame with what was decided on each of its candles, found by its date in UTC.

    :param frame: ``date`` and whatever the strategy has; columns of predictions in it are replaced
    :param history: one row a candle, as :func:`tidied` makes it
    :return: a new frame of the same rows; NaN where nobody decided, and ``do_predict`` 0
    """
    dates = pd.DatetimeIndex(pd.to_datetime(frame["date"], utc=True)).as_unit("ms")
    found = history.set_index(pd.DatetimeIndex(history[DATE])).reindex(dates)
    found.index = frame.index
    if DO_PREDICT in found.columns:
        found[DO_PREDICT] = found[DO_PREDICT].fillna(0)
    kept = frame[[name for name in frame.columns if not name.startswith("&") and name not in found.columns]]
    return pd.concat([kept, found], axis=1)


def with_row(history: DataFrame, row: Mapping[str, Any]) -> DataFrame:
    """A history with a further candle, whatever columns either has.

    :param row: with its date; of a candle after all others
    :return: a new frame: what is read elsewhere meanwhile is not changed
    """
    added = DataFrame([row]).astype({DATE: _DTYPE})
    return pd.concat([history, added], ignore_index=True) if len(history) else added


def _is_text(dates: pd.Series) -> bool:
    return bool(pd.api.types.is_string_dtype(dates.dtype))


# ---------------------------------------------------------------------- the journal


class PredictionJournal:
    """The decisions since the history was last written: a sealed line each, on disk before it is acted on.

    A history of months takes a while to write. A line cut off by a power cut fails its seal, and is left out.

    :ivar path: the file
    """

    def __init__(self, path: Path, seals: Seals) -> None:
        """
        :param path: of the file, which need not exist yet
        :param seals: of the user directory
        """
        self.path, self._seals = path, seals
        self._lock = threading.Lock()

    def append(self, pair: str, row: Mapping[str, Any]) -> None:
        """Note a decision.

        :param row: its columns, numbers all but the date
        :raises OSError: if it cannot be written
        """
        plain = {name: float(value) for name, value in row.items() if name != DATE}
        moment = int(pd.Timestamp(row[DATE]).timestamp() * 1000)
        said = json.dumps([pair, moment, artefacts.plain_json(plain)])
        line = f"{said}\t{self._seals.seal(_PURPOSE, said.encode())}\n"
        with self._lock, self.path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    # After a line that was cut off.
                    line = f"\n{line}"
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> Iterable[tuple[str, dict[str, Any]]]:
        """Pair and columns of each decision, in their order; what is not whole is left out, and one line says so."""
        lines = [line for line in self._content().split(b"\n") if line.strip()]
        whole = [said for line in lines if (said := self._said(line)) is not None]
        if len(whole) < len(lines):
            logger.warning(
                "%s: %d of %d lines are cut off or were not sealed here, and are not read: their candles count as not "
                "decided.",
                self.path,
                len(lines) - len(whole),
                len(lines),
            )
        for pair, moment, values in whole:
            numbers = {name: float("nan") if value is None else value for name, value in values.items()}
            yield pair, {**numbers, DATE: pd.Timestamp(moment, unit="ms", tz="UTC")}

    def size(self) -> int:
        """Bytes of the decisions noted so far."""
        with self._lock:
            return len(self._content())

    def forget(self, size: int) -> None:
        """Forget the first decisions: they stand in the history now.

        :param size: what :meth:`size` was when they were taken
        :raises OSError: if it cannot be written
        """
        with self._lock:
            later = self._content()[size:]
            if size or later:
                artefacts.write_bytes(self.path, later)

    def _content(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""

    def _said(self, line: bytes) -> tuple[str, int, dict[str, Any]] | None:
        said, _, seal = line.rpartition(b"\t")
        if not self._seals.holds(_PURPOSE, said, seal.decode(errors="replace")):
            return None
        pair, moment, values = json.loads(said)
        return pair, moment, values


# ---------------------------------------------------------------------- the file


class PredictionHistory:
    """A bot's history on disk: FreqAI's file with a second copy, a third name elsewhere, and the journal since.

    :ivar path: FreqAI's file, which stock FreqAI can read
    """

    def __init__(self, folder: Path, kept: Path, seals: Seals) -> None:
        """
        :param folder: of the identifier
        :param kept: the third name of the file
        :param seals: of the user directory
        """
        self.path, self._second, self._kept, self._seals = (*(folder / name for name in HISTORY_NAMES), kept, seals)
        self._folder = folder
        # The trading loop writes at a pair's first pass, the training thread after each training.
        self._lock = threading.Lock()
        # What is of candles yet to come, and what it is held in while it moves: by pair.
        self._later: dict[str, DataFrame] = {}
        self._settling = threading.Lock()
        self.journal = PredictionJournal(folder / JOURNAL_NAME, seals)

    def read(self) -> dict[str, DataFrame]:
        """What was decided before, by pair, if this user directory sealed it: a pickle runs code as it is read."""
        frames = self._read_file()
        for pair, row in self.journal.rows():
            history = frames.get(pair, DataFrame())
            # What is in the file already was written while the journal was not yet cut.
            if history.empty or DATE not in history.columns or not (history[DATE] == row[DATE]).any():
                frames[pair] = with_row(history, row)
        tidy = {pair: tidied(pair, rows) for pair, rows in frames.items()}
        read = {pair: rows for pair, rows in tidy.items() if DATE in rows.columns and len(rows)}
        self.settle(read, pd.Timestamp.now("UTC"))
        return {pair: rows for pair, rows in read.items() if len(rows)}

    def settle(self, frames: dict[str, DataFrame], now: pd.Timestamp) -> None:
        """Let histories end now: set aside what is of candles yet to come, and put back what has come meanwhile.

        :param frames: by pair; whose history changes is replaced
        """
        with self._settling:
            for pair in [pair for pair, rows in self._later.items() if (rows[DATE] <= now).any()]:
                frames[pair] = _together(frames.get(pair), self._later.pop(pair))
            for pair, rows in frames.items():
                if len(rows) and rows[DATE].iloc[-1] > now:
                    is_later = rows[DATE] > now
                    self._later[pair] = _together(self._later.get(pair), rows[is_later].reset_index(drop=True))
                    frames[pair] = rows[~is_later].reset_index(drop=True)

    @property
    def later(self) -> dict[str, pd.DatetimeIndex]:
        """The candles, by pair, of what waits aside: by the clock they are yet to come."""
        with self._settling:
            return {pair: pd.DatetimeIndex(rows[DATE]) for pair, rows in self._later.items()}

    def write(self, frames: Mapping[str, DataFrame]) -> None:
        """Write all that was decided. Frames that change meanwhile are replaced, as :func:`with_row` does it.

        :raises OSError: if it cannot be written; what stood there before is whole
        """
        with self._lock:
            self._write(frames)

    def _write(self, frames: Mapping[str, DataFrame]) -> None:
        # In this order: what is noted later than the journal's size may be in the frames too, and does no harm there.
        size = self.journal.size()
        with self._settling:
            frames, later = dict(frames), dict(self._later)
        frames |= {pair: _together(frames.get(pair), rows) for pair, rows in later.items()}
        pickled = cloudpickle.dumps(frames, protocol=cloudpickle.DEFAULT_PROTOCOL)
        content = self._seals.append(HISTORY_PURPOSE, pickled)
        for path in (self.path, self._second):
            if path.is_file() and self._seals.content(HISTORY_PURPOSE, path.read_bytes()) is None:
                artefacts.move_aside(path)
            artefacts.write_bytes(path, content)
        artefacts.link(self.path, self._kept)
        self.journal.forget(size)

    def _read_file(self) -> dict[str, DataFrame]:
        for path in (self.path, self._second, self._kept):
            frames = self._unpickled(path)
            if frames is not None:
                if path != self.path:
                    shown = path.name if path.parent == self._folder else str(path)
                    logger.warning("%s is missing or damaged; restored from %s.", self.path, shown)
                return dict(frames)
        if self.path.is_file() or self._second.is_file():
            logger.warning(
                "%s was not sealed by this user directory, or is damaged, and is not read: a history runs code as it "
                "is unpickled. The bot begins a new one and leaves this one aside; if it is yours, `mtfscalper seal "
                "%s` seals it.",
                self.path,
                self._folder,
            )
        return {}

    def _unpickled(self, path: Path) -> Any:
        """A sealed history, None where a file holds none."""
        if not path.is_file():
            return None
        content = self._seals.content(HISTORY_PURPOSE, path.read_bytes())
        if content is None:
            return None
        try:
            return cloudpickle.loads(content)
        except Exception as error:
            # Sealed here, yet by libraries whose objects those of now cannot read: pickle names no common error.
            logger.warning("%s cannot be unpickled (%s: %s).", path, type(error).__name__, error)
            return None
