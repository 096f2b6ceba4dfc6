"""Jobs on their way to another process: candles go through files, which a reader maps and holds in memory once."""

from __future__ import annotations

import io
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle

from mtfscalper.market.tape import MarketTape


class SentTapes:
    """Files of the tapes that jobs refer to: one for each tape, whoever shares it.

    A file is there from the first job that needs it until the last of them has been let go.
    """

    def __init__(self, folder: Path) -> None:
        """
        :param folder: must be there, and be read by whoever gets the jobs
        """
        self._folder = folder
        self._n_written = 0
        # By the identity of a tape, which is kept so that no other takes its place: it, its file, and who needs it.
        self._kept: dict[int, tuple[MarketTape, Path, set[int]]] = {}

    def dumps(self, value: object, owner: object) -> bytes:
        """What :func:`load_sent` makes the value of again.

        :param owner: needs its tapes until it is let go
        """
        buffer = io.BytesIO()
        _Pickler(buffer, self, id(owner)).dump(value)
        return buffer.getvalue()

    def let_go(self, owner: object) -> None:
        """Remove the files that nobody else needs."""
        for key, (_, path, owners) in list(self._kept.items()):
            owners.discard(id(owner))
            if not owners:
                del self._kept[key]
                # Windows keeps a file that is mapped; it goes with its folder.
                with suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def path_of(self, tape: MarketTape, owner: int) -> Path:
        """The file of a tape, written if it is not there."""
        kept = self._kept.get(id(tape))
        if kept is None:
            self._n_written += 1
            path = self._folder / f"{self._n_written}.tape"
            tape.save(path)
            kept = self._kept[id(tape)] = tape, path, set()
        kept[2].add(owner)
        return kept[1]


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, tapes: SentTapes, owner: int) -> None:
        super().__init__(file)
        self._tapes, self._owner = tapes, owner

    def persistent_id(self, value: Any) -> Path | None:
        return self._tapes.path_of(value, self._owner) if isinstance(value, MarketTape) else None


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, path: Any) -> MarketTape:
        return MarketTape.load(path)


def load_sent(sent: bytes) -> Any:
    """What :meth:`SentTapes.dumps` was given.

    :raises mtfscalper.market.tape.TapeError: if a tape's file is missing or damaged
    """
    return _Unpickler(io.BytesIO(sent)).load()
