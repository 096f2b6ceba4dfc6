"""The folders of a bot's policies: sealed as they are written, checked before they are read, and removed in time."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtfscalper import artefacts
from mtfscalper.files_read import FILES_READ, under, why_changed
from mtfscalper.freqai.fallback import judged_in
from mtfscalper.freqai.policy_places import PolicyName, PolicyPlaces
from mtfscalper.freqai.trained_with import TRAINED_WITH
from mtfscalper.freqai.training_folder import Origin, trained_terms

logger = logging.getLogger(__name__)

# Where purge_old_models is true.
_FREQAIS_KEPT = 2


class PolicyFolders(PolicyPlaces):
    """What a bot does with the folders of its policies."""

    def named(self, entry: Mapping[str, Any]) -> PolicyName | None:
        """The policy that FreqAI's dictionary names for a pair, None where it names none.

        :param entry: the pair's, of whose path only the name counts: a user directory may have moved, and nothing
            outside it is asked for
        """
        if not entry["model_filename"]:
            return None
        return PolicyName(self._full_path / Path(entry["data_path"]).name, Path(entry["model_filename"]).name)

    def seal(
        self, name: PolicyName, pair: str, trained_with: Mapping[str, Any], files_read: Mapping[str, str] | None = None
    ) -> None:
        """Seal what FreqAI has written of a policy, and give it second names.

        :param trained_with: see :mod:`mtfscalper.freqai.trained_with`
        :param files_read: in its training, see :mod:`mtfscalper.files_read`; None where nobody knows
        :raises OSError: if something cannot be written
        """
        folder = name.folder
        files = artefacts.policy_files(*name)
        files |= {other: folder / other for other in (artefacts.REPORT_NAME, artefacts.TERMS_NAME)}
        files = {role: path for role, path in files.items() if path.is_file()}
        for path in files.values():
            # FreqAI leaves it to the system when its files reach the disk; a power cut would leave them empty.
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        more = {"pair": pair, TRAINED_WITH: dict(trained_with), FILES_READ: under(files_read or {}, self._user_dir)}
        artefacts.write_manifest(folder, {}, files, self._seals, **more)
        for path in (*files.values(), folder / artefacts.MANIFEST_NAME):
            artefacts.link(path, self._kept / folder.name / path.name)

    def origin(self, name: PolicyName, *, stands_in: bool = False) -> Origin:
        """What a folder says of a policy that may be loaded."""
        manifest = artefacts.read_manifest(name.folder) or {}
        trained_with = manifest.get(TRAINED_WITH)
        return Origin(
            trained_terms(name.folder),
            trained_with if isinstance(trained_with, dict) else {},
            from_disk=True,
            stands_in=stands_in,
            judged=judged_in(name.folder),
            files_changed=why_changed(manifest.get(FILES_READ, {}), self._user_dir),
        )

    @property
    def _user_dir(self) -> Path:
        return self._seals.key_path.parent

    def why_refused(self, name: PolicyName, pair: str) -> str | None:
        """Why a policy must not be loaded for a pair, None if it may.

        It is put back first where its second names are whole.
        """
        refused = self._put_back(name)
        if refused is None and (sealed_for := self.pair_of(name)) not in (None, pair):
            return f"it is the policy of {sealed_for}"
        return refused

    def _put_back(self, name: PolicyName) -> str | None:
        """
        :return: why the policy is not whole all the same
        """
        refused = self._why_refused(name)
        kept = self._kept / name.folder.name
        if refused is None or self._why_refused(name._replace(folder=kept)) is not None:
            return refused
        # freqtrade's analyses delete the identifier's folder.
        aside = f" What lay there now lies in {artefacts.move_aside(name.folder)}." if name.folder.is_dir() else ""
        for path in kept.iterdir():
            artefacts.link(path, name.folder / path.name)
        logger.warning("%s: %s; put back from %s.%s", name.folder, refused, kept, aside)
        return self._why_refused(name)

    def must_not_be_loaded(self, name: PolicyName) -> bool:
        """Whether there is a folder whose files are damaged or not ours, which are in the way."""
        return name.folder.is_dir() and self._why_refused(name) is not None

    def _why_refused(self, name: PolicyName) -> str | None:
        folder, stem = name
        if not folder.is_dir():
            return "it is missing"
        unsealed = artefacts.why_unsealed(folder, self._seals)
        if unsealed is not None:
            return unsealed
        roles = artefacts.policy_files(folder, stem)
        missing = next((f"{path.name} is missing" for path in roles.values() if not path.is_file()), None)
        manifest = artefacts.read_manifest(folder)
        # Without a manifest, but admitted by its digest.
        if missing is not None or manifest is None:
            return missing
        if artefacts.TERMS_NAME in manifest["files"]:
            roles[artefacts.TERMS_NAME] = folder / artefacts.TERMS_NAME
        stale = artefacts.why_stale(folder, {}, tuple(roles), self._seals)
        if stale is None and any(artefacts.sealed_path(folder, role) != path for role, path in roles.items()):
            return f"its manifest is that of another policy than {stem}"
        return stale

    def others(self, pair: str, without: PolicyName | None) -> Iterator[PolicyName]:
        """Other policies that were sealed for a pair and are whole, the one trained last first.

        :param without: what is not one of them
        """
        for name in self.names():
            is_other = without is None or name.folder.name != without.folder.name
            if is_other and self.pair_of(name) == pair and self.why_refused(name, pair) is None:
                yield name

    def purge(self, keep: bool | int, in_use: Mapping[str, Mapping[str, Any]]) -> None:
        """Remove older policies as ``purge_old_models`` says.

        Of each base currency that many stay, by when they were trained. Whatever is their number and age, what decides
        now stays, and of each pair the last sound one beside it.

        :param keep: FreqAI's ``purge_old_models``: how many; true for two, false or 0 to remove none
        :param in_use: FreqAI's dictionary
        """
        if not keep:
            return
        deciding = {pair: name.folder.name for pair, entry in in_use.items() if (name := self.named(entry))}
        needed, spared, of_coin = set(deciding.values()), set[str | None](), dict[str, int]()
        names = list(self.names())
        for name in names:
            folder, coin = name.folder.name, name.base_currency
            of_coin[coin] = of_coin.get(coin, 0) + 1
            pair = self.pair_of(name)
            if of_coin[coin] <= (_FREQAIS_KEPT if keep is True else keep):
                needed.add(folder)
            if pair is not None and folder != deciding.get(pair) and pair not in spared:
                needed.add(folder)
                spared.add(pair)
        for folder in {name.folder.name for name in names} - needed:
            for path in self.folders(folder):
                shutil.rmtree(path)
