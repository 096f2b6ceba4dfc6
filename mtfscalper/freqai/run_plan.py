"""The plan of a run: which sealed period decides at which candle of a pair, and the candles it was traded on.

A plan has its own file, named by what it says: another run of the identifier writes another plan and changes none.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.exit_policy import TradeTerms
from mtfscalper.freqai.open_trade import PriceHistory
from mtfscalper.freqai.sharing import Readers
from mtfscalper.seals import Seals

logger = logging.getLogger(__name__)

_WRITTEN = "written"


class DecisionsError(RuntimeError):
    """What decides about open trades is missing or is not what it was. Names what, where, accepted, remedy."""


@dataclass(frozen=True)
class PlannedPeriod:
    """Where the policy of a period lies.

    :ivar first_ms: the first row that it decides on
    :ivar stop_ms: the first row that it no longer decides on
    :ivar folder: of its version, relative to the archive
    :ivar falls_back: whether the rules end the policy's trades
    """

    first_ms: int
    stop_ms: int
    folder: str
    falls_back: bool = False


@dataclass(frozen=True)
class RunPlan:
    """The periods of one pair in a run, and the candles they were trained and traded on.

    :ivar history_sha256: of the file that holds those candles
    """

    pair: str
    terms: TradeTerms
    periods: tuple[PlannedPeriod, ...]
    history_sha256: str

    @classmethod
    def read(cls, archive: Archive, pair: str, name: str) -> RunPlan:
        """The plan of a name.

        :raises DecisionsError: if there is none, or it is not what was written
        """
        return cls._from_file(archive.plans(pair) / f"{name}.json", pair)

    @classmethod
    def newest(cls, archive: Archive, pair: str) -> RunPlan:
        """The plan of the run that came last.

        :raises DecisionsError: if there is none, or it is not what was written
        """
        paths = _newest_first(archive, pair)
        if not paths:
            raise DecisionsError(
                f"{pair}: {archive.plans(pair)} holds no plan of a run; accepted: what a backtest leaves there; "
                "remedy: run the backtest"
            )
        return cls._from_file(paths[0], pair)

    @classmethod
    def of_run(cls, archive: Archive, pair: str, ended: datetime) -> RunPlan:
        """The plan of a run that has ended: the newest one that was there by then.

        :raises DecisionsError: if there is none any more, or it is not what was written
        """
        for path in _newest_first(archive, pair):
            written = (_read(path) or {}).get(_WRITTEN)
            if written and datetime.fromisoformat(written) <= ended:
                return cls._from_file(path, pair)
        raise DecisionsError(
            f"{pair}: {archive.plans(pair)} holds no plan from before {ended:%Y-%m-%d %H:%M:%S}; accepted: what that "
            "backtest left there, until later runs took its place; remedy: run the backtest again"
        )

    @classmethod
    def _from_file(cls, path: Path, pair: str) -> RunPlan:
        remedy = "accepted: what a backtest leaves there; remedy: run the backtest again"
        try:
            plan = json.loads(path.read_text())
            whole = artefacts.value_hash(_without_time(plan)) == path.stem
        except FileNotFoundError:
            raise DecisionsError(
                f"{pair}: {path} is missing, so that nothing can decide about its trades; {remedy}"
            ) from None
        except (ValueError, AttributeError) as error:
            raise DecisionsError(f"{pair}: {path} is damaged ({error}); {remedy}") from error
        if not whole:
            raise DecisionsError(f"{pair}: {path} is damaged (its name is not that of its content); {remedy}")
        try:
            periods = tuple(PlannedPeriod(**period) for period in plan["periods"])
            return cls(pair, TradeTerms.from_json(plan["terms"]), periods, plan["history_sha256"])
        except (KeyError, TypeError) as error:
            raise DecisionsError(
                f"{pair}: {path} was written by another version of mtfscalper ({error}); accepted: this "
                "version's; remedy: run the backtest again"
            ) from error

    def history_path(self, archive: Archive) -> Path:
        """The file of the candles."""
        return archive.plans(self.pair) / f"candles_{self.history_sha256[:16]}.npz"

    @property
    def content(self) -> dict[str, Any]:
        """What the plan's file says and its name stands for."""
        return {
            "pair": self.pair,
            "terms": self.terms.as_json(),
            "periods": [asdict(period) for period in self.periods],
            "history_sha256": self.history_sha256,
        }

    @property
    def name(self) -> str:
        """Of the plan's file, made of what it says."""
        # As it will be read back: tuples are lists in JSON.
        return artefacts.value_hash(json.loads(json.dumps(self.content)))


def write_plan(
    archive: Archive, pair: str, terms: TradeTerms, periods: tuple[PlannedPeriod, ...], history: PriceHistory
) -> str:
    """Leave a plan on disk, as the newest.

    :return: its name
    :raises OSError: if it is not there yet and cannot be written
    """
    content = array_bytes(history._asdict())
    plan = RunPlan(pair, terms, periods, hashlib.sha256(content).hexdigest())
    value, name = json.loads(json.dumps(plan.content)), plan.name
    history_path, path = plan.history_path(archive), archive.plans(pair) / f"{name}.json"
    if not (history_path.is_file() and artefacts.file_hash(history_path) == plan.history_sha256):
        artefacts.write_bytes(history_path, content)
    is_known = _without_time(_read(path) or {}) == value
    if is_known and _newest_first(archive, pair)[0] == path:
        return name
    try:
        text = json.dumps(value | {_WRITTEN: datetime.now(UTC).isoformat()}, indent=1)
        artefacts.write_bytes(path, text.encode())
    except OSError:
        # A run that makes nothing new can be had in a folder that is read only.
        if not is_known:
            raise
    return name


def forget_old_plans(archive: Archive, pair: str, kept: int, seals: Seals) -> None:
    """Remove a pair's older plans, and the versions that none of the others refers to.

    Plans that a process trades by stay, and of every period its newest version, which FreqAI's folder shows.

    :param kept: how many of the newest plans stay
    :param seals: of the user directory
    """
    in_use = Readers(archive).plans(pair)
    needed, histories = set(), set()
    for at, path in enumerate(_newest_first(archive, pair)):
        if at >= kept and path.stem not in in_use:
            path.unlink(missing_ok=True)
            continue
        try:
            plan = RunPlan._from_file(path, pair)
        except DecisionsError as error:
            logger.warning("%s Nothing can use it, and it is removed.", error)
            path.unlink(missing_ok=True)
            continue
        needed |= {archive.root / period.folder for period in plan.periods}
        histories.add(plan.history_path(archive))
    for path in archive.plans(pair).glob("*.npz"):
        if path not in histories:
            path.unlink(missing_ok=True)
    for versions in archive.all_versions(pair):
        versions.keep_only(needed, seals)


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays into one file, whole or not at all."""
    artefacts.write_bytes(path, array_bytes(arrays))


def array_bytes(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as one file holds them, which numpy reads as one of its own.

    The same bytes under every release of Python: numpy.savez lets zipfile choose headers, which changed within 3.11.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content, entry = io.BytesIO(), zipfile.ZipInfo(f"{name}.npy")
            np.save(content, np.asarray(array))
            entry.create_system = 3
            archive.writestr(entry, content.getvalue())
    return file.getvalue()


def _newest_first(archive: Archive, pair: str) -> list[Path]:
    return sorted(
        archive.plans(pair).glob("*.json"), key=lambda path: str((_read(path) or {}).get(_WRITTEN, "")), reverse=True
    )


def _read(path: Path) -> dict[str, Any] | None:
    """What a plan's file says, None where it cannot be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _without_time(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name != _WRITTEN}
