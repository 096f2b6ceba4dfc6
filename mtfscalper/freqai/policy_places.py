"""Where a bot's policies lie, and which pair each is of.

FreqAI names their folders by the base currency alone: those of BTC/USDT and of BTC/USDC lie among each other. Only the
manifest, which is sealed, says whose a policy is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.seals import Seals

# FreqAI's names: the base currency, and when the policy was trained.
_FOLDER = re.compile(r"^sub-train-(.+)_(\d+)$")


class PolicyName(NamedTuple):
    """How FreqAI calls a policy.

    :ivar folder: it lies in
    :ivar stem: its files' names begin with
    """

    folder: Path
    stem: str

    @property
    def trained_timestamp(self) -> int:
        """When it was trained, seconds since 1970."""
        return int(self.stem.rpartition("_")[2])

    @property
    def base_currency(self) -> str:
        """What FreqAI names its folder by."""
        return self.folder.name.removeprefix("sub-train-").rpartition("_")[0]


class PolicyPlaces:
    """The folders of a bot's policies, in FreqAI's place and under the second names that are kept beside it.

    Nothing is remembered: a bot trains and removes policies while it is asked.
    """

    def __init__(self, full_path: Path, archive: Archive, seals: Seals) -> None:
        """
        :param full_path: the identifier's folder
        :param archive: of the identifier
        :param seals: of the user directory
        """
        self._full_path, self._kept, self._seals = full_path, archive.bot, seals

    def folders(self, name: str) -> list[Path]:
        """Where a policy lies, FreqAI's place first; nowhere if it is no longer kept.

        :param name: of its folder
        """
        return [place / name for place in (self._full_path, self._kept) if (place / name).is_dir()]

    def names(self) -> Iterator[PolicyName]:
        """Every policy's name, in FreqAI's place, whether or not it is whole, the one trained last first."""
        found = {
            path.name: match
            for place in (self._full_path, self._kept)
            for path in place.glob("sub-train-*")
            if (match := _FOLDER.match(path.name)) and path.is_dir()
        }
        for folder, match in sorted(found.items(), key=lambda item: int(item[1][2]), reverse=True):
            yield PolicyName(self._full_path / folder, f"cb_{match[1].lower()}_{match[2]}")

    def pair_of(self, name: PolicyName) -> str | None:
        """The pair that a policy was sealed for, None where none was."""
        for folder in (name.folder, self._kept / name.folder.name):
            if artefacts.why_unsealed(folder, self._seals) is None:
                pair = (artefacts.read_manifest(folder) or {}).get("pair")
                if isinstance(pair, str):
                    return pair
        return None

    def by_pair(self) -> dict[str, list[PolicyName]]:
        """The policies that were sealed for each pair, the one trained last first."""
        found: dict[str, list[PolicyName]] = {}
        for name in self.names():
            pair = self.pair_of(name)
            if pair is not None:
                found.setdefault(pair, []).append(name)
        return found
