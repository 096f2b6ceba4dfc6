"""Jobs on their way to another process: each of their candles goes once, however many jobs refer to it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle

from mtfscalper.market.tape import MarketTape

Place = TypeVar("Place")


class SharedTapes(Generic[Place]):
    """Where the tapes lie that jobs refer to: each in one place, whoever shares it.

    A tape is there from the first job that needs it until the last of them has been let go.
    """

    def __init__(self, put: Callable[[MarketTape], Place], remove: Callable[[Place], None]) -> None:
        """
        :param put: puts a tape somewhere
        :param remove: what was put there
        """
        self._put, self._remove = put, remove
        # By the identity of a tape, which is kept so that no other takes its place: it, its place, and who needs it.
        self._kept: dict[int, tuple[MarketTape, Place, set[int]]] = {}

    def place_of(self, tape: MarketTape, owner: object) -> Place:
        """Where a tape lies; it is put there if it is nowhere.

        :param owner: needs it until it is let go
        """
        kept = self._kept.get(id(tape))
        if kept is None:
            kept = self._kept[id(tape)] = tape, self._put(tape), set()
        kept[2].add(id(owner))
        return kept[1]

    def let_go(self, owner: object) -> None:
        """Remove the tapes that nobody else needs."""
        for key, (_, place, owners) in list(self._kept.items()):
            owners.discard(id(owner))
            if not owners:
                del self._kept[key]
                self._remove(place)


class TapeFiles(SharedTapes[Path]):
    """Files of tapes, which a reader maps and holds in memory once."""

    def __init__(self, folder: Path) -> None:
        """
        :param folder: must be there, and be read by whoever gets the jobs
        """
        super().__init__(self._save, lambda path: path.unlink(missing_ok=True))
        self._folder, self._n_written = folder, 0

    def dumps(self, value: object, owner: object) -> bytes:
        """What :func:`load_sent` makes the value of again.

        :param owner: needs its tapes until it is let go
        """
        return dumps_without_tapes(value, lambda tape: self.place_of(tape, owner))

    def _save(self, tape: MarketTape) -> Path:
        self._n_written += 1
        path = self._folder / f"{self._n_written}.tape"
        tape.save(path)
        return path


def load_sent(sent: bytes) -> Any:
    """What :meth:`TapeFiles.dumps` was given.

    :raises mtfscalper.market.tape.TapeError: if a tape's file is missing or damaged
    """
    return loads_with_tapes(sent, MarketTape.load)


def dumps_without_tapes(value: object, place_of: Callable[[MarketTape], Any]) -> bytes:
    """Pickle a value that refers to tapes, without them.

    :param place_of: says what is pickled in place of a tape
    """
    buffer = io.BytesIO()
    _Pickler(buffer, place_of).dump(value)
    return buffer.getvalue()


def loads_with_tapes(sent: bytes, tape_at: Callable[[Any], MarketTape]) -> Any:
    """What :func:`dumps_without_tapes` was given.

    :param tape_at: finds a tape by what was pickled in its place
    """
    return _Unpickler(io.BytesIO(sent), tape_at).load()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, place_of: Callable[[MarketTape], Any]) -> None:
        super().__init__(file)
        self._place_of = place_of

    def persistent_id(self, value: Any) -> Any:
        return self._place_of(value) if isinstance(value, MarketTape) else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, tape_at: Callable[[Any], MarketTape]) -> None:
        super().__init__(file)
        self._tape_at = tape_at

    def persistent_load(self, place: Any) -> MarketTape:
        return self._tape_at(place)
