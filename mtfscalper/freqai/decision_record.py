"""The record of a run: a row for each question about an open trade, in a file that pandas reads.

What is recorded decides nothing: a run whose record cannot be written goes on.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import starmap
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from freqtrade.enums import TRADE_MODES, RunMode

from mtfscalper import artefacts
from mtfscalper.freqai.exit_policy import ExitDecision
from mtfscalper.freqai.stray_files import remove_stray_files

logger = logging.getLogger(__name__)

# Rows that wait for the file, in a backtest; a bot writes each down before it acts on it.
BUFFERED_ROWS = 16_384
# Of a kind of run, how many files stay: a backtest has one, a bot one for each day.
KEPT_FILES = {"backtest": 20, "dry_run": 90, "live": 90}
_FOLDER = "decisions"
# In the name of a file: when its first rows were written, UTC.
_BEGUN = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")
_METADATA = b"mtfscalper"
_TIME = pa.timestamp("ms", tz="UTC")
SCHEMA = pa.schema(
    [
        ("pair", pa.string()),
        ("candle", _TIME),
        ("opened", _TIME),
        ("side", pa.string()),
        ("profit", pa.float64()),
        ("best_profit", pa.float64()),
        ("held_candles", pa.int32()),
        ("probability", pa.float64()),
        ("leave", pa.bool_()),
        ("policy", pa.string()),
        ("falls_back", pa.bool_()),
    ]
)

# What a column holds, for whoever reads a record.
COLUMN_MEANINGS = {
    "pair": "As in freqtrade",
    "candle": "The candle that opened, at whose open it was asked and filled; what was decided on is the row before",
    "opened": "When the trade was opened, which names it among the pair's",
    "side": "`long` or `short`",
    "profit": "Ratio to the stake if closed at this open, costs and leverage included",
    "best_profit": "The best such ratio at the opens so far",
    "held_candles": "Since the entry",
    "probability": "Which the policy gave leaving",
    "leave": "The answer: the policy's preference, or what `policy_leaves` made of it; never where the policy has "
    "fallen back",
    "policy": "Which policy answered: for a bot its folder, such as `sub-train-BTC_1728999000`; for a backtest that in "
    "the archive. Earlier versions did not note it",
    "falls_back": "Whether the rules end the policy's trades (`rl_config.fallback`)",
}


class Question(NamedTuple):
    """A question about an open trade and its answer: a row, in the order of :data:`SCHEMA`.

    :ivar candle_ms: the candle that opened, milliseconds since 1970
    :ivar opened_ms: when the trade was opened, as ``candle_ms``
    :ivar side: ``long`` or ``short``
    :ivar profit: see :class:`mtfscalper.freqai.exit_policy.ExitDecision`, as the next three
    :ivar leave: what was answered
    :ivar policy: that answered, by its folder: see :class:`mtfscalper.freqai.exit_policy.ExitPolicy`
    :ivar falls_back: see :class:`mtfscalper.freqai.exit_policy.ExitDecision`
    """

    pair: str
    candle_ms: int
    opened_ms: int
    side: str
    profit: float
    best_profit: float
    held_candles: int
    probability: float
    leave: bool
    policy: str = ""
    falls_back: bool = False

    @property
    def decision(self) -> ExitDecision:
        """The answer as the strategy was given it."""
        return ExitDecision(
            self.leave, self.probability, self.profit, self.best_profit, self.held_candles, self.falls_back
        )


def records_folder(config: Mapping[str, Any]) -> Path:
    """Where the records of an identifier lie.

    :param config: the freqtrade config
    """
    return Path(config["user_data_dir"]) / _FOLDER / str(config["freqai"]["identifier"])


class DecisionRecord:
    """Collects the rows of a run and appends them to its file.

    The file is whole whenever it is looked at: each writing makes it anew beside the old one, and takes its place.
    """

    def __init__(self, folder: Path, kind: str, strategy: str) -> None:
        """
        :param folder: of the identifier's records
        :param kind: of the run, a key of :data:`KEPT_FILES`
        :param strategy: its name
        """
        self._folder, self._kind, self._strategy = folder, kind, strategy
        self._plans: dict[str, str] = {}
        self._forget_run()

    def _forget_run(self) -> None:
        self._rows: list[Question] = []
        self._path: Path | None = None
        self._last_ms = self._end_ms = 0
        self._before: dict[tuple[str, int, int], Question] | None = None
        self._has_failed = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any], strategy: str) -> DecisionRecord | None:
        """
        :param config: the freqtrade config, with its run mode
        :return: None for runs that are no result of the user's: hyperopt's epochs, analyses, and what only looks
        """
        runmode = config.get("runmode")
        if runmode not in (RunMode.BACKTEST, *TRADE_MODES):
            return None
        return cls(records_folder(config), str(runmode.value), strategy)

    def __getstate__(self) -> dict[str, Any]:
        # A copy is another run: it neither repeats these rows nor writes into this file.
        return {name: vars(self)[name] for name in ("_folder", "_kind", "_strategy", "_plans")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _plans=dict(state["_plans"]))
        self._forget_run()

    @property
    def is_bots(self) -> bool:
        """Whether a bot's decisions are recorded, in files by day."""
        return self._kind != RunMode.BACKTEST.value

    def follow(self, pair: str, plan: str) -> None:
        """A backtest of a pair begins, by a plan of this name."""
        self.close()
        self._plans[pair] = plan

    def add(self, question: Question, end_ms: int = 0) -> None:
        """Note a question.

        :param end_ms: the last candle of the backtest's data, milliseconds since 1970
        """
        now_ms = question.candle_ms
        is_other = _day(now_ms) != _day(self._last_ms) if self.is_bots else now_ms < self._last_ms
        if self._last_ms and is_other:
            # The next day of a bot; or the same strategy is backtested again.
            self.flush()
            waiting = self._rows if self.is_bots else []
            self._forget_run()
            # What found no room on the old day goes into the new one's file.
            self._rows = waiting
        self._rows.append(question)
        self._last_ms, self._end_ms = now_ms, end_ms
        if self.is_bots or len(self._rows) >= BUFFERED_ROWS or now_ms >= end_ms:
            self.flush()

    def answered(self, pair: str, opened_ms: int, now_ms: int) -> Question | None:
        """What a bot that ran before this one was told about a trade at a candle, None where it was not asked.

        :param opened_ms: when the trade was opened, milliseconds since 1970
        :param now_ms: the candle
        """
        if self._before is None:
            # Each day and each start began a file. Which of them were written last a directory that was copied, or came
            # out of a backup, does not know: all are looked at, for this candle and whatever comes after it.
            before = (
                row
                for path in self._folder.glob(f"{self._kind}_*.feather")
                for row in _questions(path, since_ms=now_ms)
            )
            self._before = {(row.pair, row.opened_ms, row.candle_ms): row for row in before}
        return self._before.get((pair, opened_ms, now_ms))

    def at_loop(self, now_ms: int) -> None:
        """A candle of a backtest begins, or a loop of a bot.

        :param now_ms: milliseconds since 1970
        """
        if self._rows and (self.is_bots or now_ms >= self._end_ms):
            self.flush()

    def close(self) -> None:
        """Write down what waits; what comes next is another file's."""
        self.flush()
        self._forget_run()

    def flush(self) -> None:
        """Write down what waits."""
        if not self._rows:
            return
        try:
            if self._path is None:
                self._path = self._new_path()
            path, rows = self._path, self._table(self._rows)
            artefacts.write_atomically(path, lambda target: _append(path, rows, target))
        except (OSError, pa.ArrowException) as error:
            if not self._has_failed:
                logger.warning("The record of decisions cannot be written (%s); the run goes on.", error)
            # What was written stays as it is; the rest, if there is room again, goes elsewhere.
            self._path, self._has_failed = None, True
            self._rows = self._rows[-BUFFERED_ROWS // 2 :]
            return
        self._rows, self._has_failed = [], False

    def _table(self, rows: list[Question]) -> pa.Table:
        said = {"kind": self._kind, "strategy": self._strategy, "plans": self._plans}
        schema = SCHEMA.with_metadata({_METADATA: json.dumps(said).encode()})
        columns = zip(zip(*rows, strict=True), schema, strict=True)
        return pa.table([pa.array(values, field.type) for values, field in columns], schema=schema)

    def _new_path(self) -> Path:
        remove_stray_files(self._folder.glob(".*.tmp"))
        files = sorted(self._folder.glob(f"{self._kind}_*.feather"), key=_begun)
        for old in files[: max(0, len(files) + 1 - KEPT_FILES[self._kind])]:
            old.unlink(missing_ok=True)
        stem = f"{self._kind}_{self._strategy}_{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}_{os.getpid()}"
        path, number = self._folder / f"{stem}.feather", 1
        while path.exists():
            number += 1
            path = self._folder / f"{stem}-{number}.feather"
        return path


def newest_decisions(
    folder: Path, pair: str, plan: str, between: tuple[datetime, datetime] | None = None
) -> pd.DataFrame | None:
    """What the last backtest by a plan was asked about a pair's trades; reads, and writes nothing.

    :param folder: of the identifier's records
    :param plan: its name
    :param between: only a record that was begun between these moments; others may have traded by the same plan
    :return: a row for each question, with the columns of :data:`SCHEMA`; None if no such backtest is recorded
    """
    for path in sorted(folder.glob(f"{RunMode.BACKTEST.value}_*.feather"), key=_begun, reverse=True):
        if between is not None and not _begun_between(path, *between):
            continue
        with _told_unreadable(path), pa.OSFile(str(path)) as source:
            reader = pa.ipc.open_file(source)
            said = json.loads((reader.schema.metadata or {}).get(_METADATA, b"{}"))
            if said.get("plans", {}).get(pair) == plan:
                table = reader.read_all()
                frame: pd.DataFrame = table.to_pandas()
                return frame[frame["pair"] == pair].reset_index(drop=True)
    return None


def plans_between(folder: Path, first: datetime, last: datetime) -> dict[str, str]:
    """The plans that backtests decided by, whose record was begun between two moments; reads, and writes nothing.

    :param folder: of the identifier's records
    :return: pair to the name of its plan, of the latest such backtest
    """
    plans: dict[str, str] = {}
    for path in sorted(folder.glob(f"{RunMode.BACKTEST.value}_*.feather"), key=_begun):
        if _begun_between(path, first, last):
            with _told_unreadable(path), pa.OSFile(str(path)) as source:
                said = json.loads((pa.ipc.open_file(source).schema.metadata or {}).get(_METADATA, b"{}"))
                plans.update(said.get("plans", {}))
    return plans


def _begun_between(path: Path, first: datetime, last: datetime) -> bool:
    """Whether a record was begun between two moments, as its name says."""
    begun = _BEGUN.search(path.stem)
    return begun is not None and first <= datetime.strptime(begun[0], "%Y-%m-%d_%H-%M-%S").replace(tzinfo=UTC) <= last


@contextmanager
def _told_unreadable(path: Path) -> Iterator[None]:
    """Pass a record that cannot be read over, with a warning."""
    try:
        yield
    except (OSError, pa.ArrowException, ValueError, TypeError, AttributeError, KeyError) as error:
        logger.warning("%s cannot be read (%s), and is passed over.", path, error)


def bots_decisions(folder: Path, kind: str) -> list[Question]:
    """All that bots were asked about their trades, in the order of time; reads, and writes nothing.

    :param folder: of the identifier's records
    :param kind: ``dry_run`` or ``live``
    :return: earlier versions noted no ``policy``: theirs is empty
    """
    found = [question for path in folder.glob(f"{kind}_*.feather") for question in _questions(path)]
    return sorted(found, key=lambda question: question.candle_ms)


def _questions(path: Path, since_ms: int = 0) -> list[Question]:
    """The questions of a file; none, after a warning, where it cannot be read.

    :param since_ms: only about this candle and later ones, milliseconds since 1970
    """
    questions: list[Question] = []
    with _told_unreadable(path), pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
        table = table.filter(pc.greater_equal(table["candle"].cast(pa.int64()), since_ms))
        # Earlier versions wrote fewer columns; what is missing at the end has a default.
        names = [name for name in SCHEMA.names if name in table.column_names]
        rows = table.select(names).cast(pa.schema([SCHEMA.field(name) for name in names]))
        columns = [(column.cast(pa.int64()) if column.type == _TIME else column).to_pylist() for column in rows.columns]
        questions = list(starmap(Question, zip(*columns, strict=True)))
    return questions


def _begun(path: Path) -> tuple[str, float]:
    """Orders files by when they were begun; those of one second, as many as there may be, by when they were written.

    Not by that alone: who copies a directory writes them all at once, in any order.
    """
    found = _BEGUN.search(path.stem)
    try:
        written = path.stat().st_mtime
    except OSError:
        written = 0.0
    return found[0] if found else "", written


def _append(path: Path, rows: pa.Table, target: Path) -> None:
    """Write a file's rows and further ones into another file, batch by batch."""
    schema = rows.schema
    with pa.ipc.new_file(str(target), schema) as writer:
        if path.is_file():
            # Not mapped into memory: Windows would not let the file be replaced.
            with pa.OSFile(str(path)) as source:
                reader = pa.ipc.open_file(source)
                n_batches = reader.num_record_batches
                for at in range(n_batches):
                    batch = reader.get_batch(at).replace_schema_metadata(schema.metadata)
                    if at == n_batches - 1 and len(batch) + len(rows) <= BUFFERED_ROWS:
                        # A bot's rows come one by one.
                        rows = pa.concat_tables([pa.Table.from_batches([batch]), rows]).combine_chunks()
                    else:
                        writer.write_batch(batch)
        writer.write_table(rows)


def _day(moment_ms: int) -> int:
    return moment_ms // 86_400_000
