"""What becomes of each file of a user directory, one at a time."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from faults.homes import Home
from faults.tally import Group
from faults.warm import WarmServer, WarmServers

KINDS = ("truncated", "emptied", "one bit flipped", "deleted", "a payload")
MARKER = "payload_ran"


class Payload:
    """Leaves a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        # Of the standard library: a process that does not know these tests would run it too.
        return os.mkdir, (str(self.marker),)


class Damage(NamedTuple):
    """One thing that happens to one file.

    :ivar file: relative to the user directory
    :ivar kind: one of ``KINDS``
    :ivar in_place: whether the other names of its data show the damage too; else another file gets the name alone
    :ivar is_elsewhere: whether another name has what was damaged, whole
    """

    file: Path
    kind: str
    in_place: bool
    is_elsewhere: bool

    def __str__(self) -> str:
        return f"{self.file} {self.kind} {'under every name' if self.in_place else 'under this name alone'}"

    def inflict(self, user: Path) -> None:
        """Let it happen.

        :param user: the user directory
        """
        path = user / self.file
        content = damaged(path.read_bytes(), self, user / MARKER)
        if content is None:
            data = path.stat().st_ino
            for name in list(user.rglob("*")) if self.in_place else [path]:
                if name.stat().st_ino == data:
                    name.unlink()
        elif self.in_place:
            path.write_bytes(content)
        else:
            path.unlink()
            path.write_bytes(content)


def damaged(content: bytes, damage: Damage, marker: Path) -> bytes | None:
    """What a file holds afterwards, None if it is gone."""
    match damage.kind:
        case "truncated":
            return content[: len(content) // 2]
        case "emptied":
            return b""
        case "one bit flipped":
            flipped = bytearray(content)
            random = Random(str(damage))
            flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
            return bytes(flipped)
        case "a payload":
            return pickle.dumps(Payload(marker))
    return None


def damages(user: Path, files: Iterable[Path]) -> list[Damage]:
    """Everything that can happen to the files of a user directory, each different thing once.

    :param files: relative to it
    """
    found, known = [], set()
    for file in files:
        stat = (user / file).stat()
        kinds = [kind for kind in KINDS if stat.st_size or kind in ("deleted", "a payload")]
        for kind in kinds:
            # Its data has one content, whichever of its names is damaged.
            if stat.st_ino not in known:
                found.append(Damage(file, kind, in_place=True, is_elsewhere=False))
            if stat.st_nlink > 1:
                found.append(Damage(file, kind, in_place=False, is_elsewhere=True))
        known.add(stat.st_ino)
    return found


class DamagedHomes:
    """For each server a user directory with a finished run, damaged and restored again and again."""

    def __init__(self, warm: WarmServers, homes: Sequence[Home]) -> None:
        """
        :param homes: as many as there are servers, each as it is to be restored
        """
        self._warm, self._homes = warm, homes
        for home in homes:
            home.keep()
        # The same for every home, but for names that hold a hash.
        self._damages = [damages(home.user, home.kept_files()) for home in homes]
        assert len({len(of_home) for of_home in self._damages}) == 1

    def try_each(self, group: Group, wrong: Callable[[WarmServer, Home, Damage], str | None]) -> None:
        """Let everything happen to every file, one at a time.

        :param wrong: what goes wrong in a damaged home, if anything
        """

        def one(server: WarmServer, number: int, at: int) -> str | None:
            home, damage = self._homes[number], self._damages[number][at]
            home.restore()
            damage.inflict(home.user)
            return wrong(server, home, damage) or ("the payload ran" if (home.user / MARKER).exists() else None)

        for damage, reason in zip(self._damages[0], self._warm.map(one, range(len(self._damages[0]))), strict=True):
            group.add(damage, reason)
