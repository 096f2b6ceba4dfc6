"""Where sealed files are kept beside FreqAI's own folder, so that no later run and no analysis takes them away.

FreqAI gives a period one place on disk. Every run of the identifier writes there, whatever its settings, and
freqtrade's analyses delete all of it. What a run has sealed therefore gets a second name in a folder of its own, which
nobody writes to again: a *version* of the period. Both names are hard links to the same data, so a version takes no
space.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from freqtrade.enums import RunMode

from mtfscalper import artefacts
from mtfscalper.seals import Seals

_FOLDER = ".sealed"
_ANALYSES = ".analyses"


class Archive(NamedTuple):
    """The kept files of one identifier.

    :ivar identifier: ``freqai.identifier``
    :ivar root: the folder that everything lies in
    :ivar locks: the folder of lock files, the same for analyses and runs
    :ivar is_analysis: whether it is that of freqtrade's analyses, whose runs are no results of the user
    """

    identifier: str
    root: Path
    locks: Path
    is_analysis: bool = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Archive:
        """
        :param config: the freqtrade config, with its run mode
        """
        models, identifier = Path(config["user_data_dir"]) / "models", str(config["freqai"]["identifier"])
        runs = kept_folder(models, identifier)
        # freqtrade's lookahead-analysis and recursive-analysis, from the command line and from FreqUI.
        is_analysis = config.get("runmode") == RunMode.UTIL_NO_EXCHANGE
        return cls(
            identifier, models / _FOLDER / _ANALYSES / identifier if is_analysis else runs, runs / "locks", is_analysis
        )

    @property
    def in_use(self) -> Path:
        """The folder in which processes note the plans that they read."""
        return self.root / "in_use"

    @property
    def bot(self) -> Path:
        """The folder of a bot's policies and bookkeeping, under the names that they have in FreqAI's folder."""
        return self.root / "bot"

    def plans(self, pair: str) -> Path:
        """The folder of a pair's plans."""
        return self.root / "plans" / _stem(pair)

    def trainings(self, pair: str) -> Path:
        """The folder of a pair's finished trainings whose periods are not sealed yet."""
        return self.all_trainings / _stem(pair)

    @property
    def all_trainings(self) -> Path:
        """The folder of those of all pairs."""
        return self.root / "trainings"

    @property
    def frames(self) -> Path:
        """The folder of the frames that runs have yet to come to."""
        return self.root / "frames"

    def versions(self, pair: str, period: str) -> Versions:
        """The versions of one period.

        :param period: FreqAI's name for its model
        """
        return Versions(self._periods(pair) / period, is_reused=not self.is_analysis)

    def in_freqais_folder(self, version: Path) -> list[Path]:
        """Where the files of a version may lie under the names that FreqAI gave them.

        :param version: its folder
        """
        # cb_btc_1725494400 lies in sub-train-BTC_1725494400.
        models, period = self.root.parents[1] / self.identifier, version.parent.name.rsplit("_", 1)[1]
        return [] if self.is_analysis else list(models.glob(f"sub-train-*_{period}"))

    def all_versions(self, pair: str) -> list[Versions]:
        """The versions of each of a pair's periods."""
        return [self.versions(pair, folder.name) for folder in self._periods(pair).glob("*")]

    def _periods(self, pair: str) -> Path:
        return self.root / "periods" / _stem(pair)


def kept_folder(models: Path, identifier: str) -> Path:
    """Where the kept files of an identifier's runs lie.

    :param models: ``user_data/models``
    """
    return models / _FOLDER / identifier


class Versions:
    """The sealed versions of one period."""

    def __init__(self, folder: Path, *, is_reused: bool = True) -> None:
        """
        :param folder: with a folder for each version, named by what it holds
        :param is_reused: whether later runs use them; those of an analysis must train all the same
        """
        self.folder, self._is_reused = folder, is_reused

    def to_reuse(self) -> list[Path]:
        """The folders of the versions that a run may use, the newest first."""
        return self.newest_first() if self._is_reused else []

    def newest_first(self) -> list[Path]:
        """The folders of the versions."""
        found = [path for path in self.folder.glob("*") if not path.name.startswith(".")]
        return sorted(found, key=lambda path: (artefacts.read_manifest(path) or {}).get("written", ""), reverse=True)

    def add(self, source: Path) -> Path:
        """Keep the sealed files of a folder under further names.

        :param source: the folder, with a manifest; what that names lies in it
        :return: the folder of the version
        """
        manifest = artefacts.read_manifest(source)
        assert manifest is not None, source
        version = self.folder / artefacts.content_name(manifest)
        target = version if version.exists() else version.with_name(f".{version.name}.{os.getpid()}.tmp")
        _link_whole(manifest, source, target)
        # Last: without it a version is none.
        artefacts.link(source / artefacts.MANIFEST_NAME, target / artefacts.MANIFEST_NAME)
        if target != version:
            target.rename(version)
        return version

    def mend(self, folder: Path) -> bool:
        """Give a folder back what is missing or damaged in it, where its version has it whole.

        :param folder: with a manifest; without one nothing is done
        :return: whether anything was
        """
        manifest = artefacts.read_manifest(folder)
        return manifest is not None and _link_whole(manifest, self.folder / artefacts.content_name(manifest), folder)

    def keep_only(self, needed: set[Path], seals: Seals) -> None:
        """Remove versions that nothing refers to, and what a writer that was killed left.

        The newest one that a run may use stays, and so does what another key sealed: it may be sealed again.

        :param needed: versions to keep, of this and of other periods
        :param seals: of the user directory
        """
        manifests = {path: artefacts.read_manifest(path) for path in self.newest_first()}
        unsealed = {path for path in manifests if artefacts.why_unsealed(path, seals) is not None}
        newest = [path for path in manifests if path not in unsealed][: 1 if self._is_reused else 0]
        foreign = {path for path in unsealed if manifests[path] is not None}
        for path in set(self.folder.glob("*")) - needed - foreign - set(newest):
            shutil.rmtree(path)


def _link_whole(manifest: Mapping[str, Any], source: Path, target: Path) -> bool:
    """Link the files that are what a manifest says to where they are not.

    What is lost in both stays lost: whoever asks for it finds it stale.

    :return: whether any was
    """
    linked = False
    for sealed in manifest["files"].values():
        # A name and no path: nothing outside the two folders is read or written.
        name = Path(sealed["path"]).name
        if not artefacts.is_whole(target / name, sealed) and artefacts.is_whole(source / name, sealed):
            artefacts.link(source / name, target / name)
            linked = True
    return linked


def why_not_that_version(version: Path, roles: tuple[str, ...], seals: Seals, folder: Path | None = None) -> str | None:
    """Why the files of a version cannot be used, None if they are those that it was named for.

    :param roles: the files asked for
    :param folder: where they lie, the version's own by default
    """
    folder = folder or version
    stale = artefacts.why_stale(folder, {}, roles, seals)
    if stale is not None:
        return stale
    manifest = artefacts.read_manifest(folder) or {}
    return None if artefacts.content_name(manifest) == version.name else "its manifest is that of another version"


def _stem(pair: str) -> str:
    return re.sub(r"\W", "_", pair)
