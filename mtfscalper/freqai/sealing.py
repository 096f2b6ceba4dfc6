"""Seals for what was made elsewhere: models and predictions moved between machines of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mtfscalper import artefacts
from mtfscalper.seals import Seals, without_seal

HISTORY_PURPOSE = "historic predictions"
HISTORY_NAMES = ("historic_predictions.pkl", "historic_predictions.backup.pkl")


class SealingError(RuntimeError):
    """What was named cannot be sealed. Names what, where, accepted, remedy."""


def unsealed_history(folder: Path, seals: Seals) -> Path | None:
    """A bot's predictions that this user directory did not seal, None where there are none such.

    :param folder: of the identifier
    """
    for path in (folder / name for name in HISTORY_NAMES):
        if path.is_file() and seals.content(HISTORY_PURPOSE, path.read_bytes()) is None:
            return path
    return None


def user_directory(folder: Path) -> Path:
    """The user directory that a folder of models lies in: the one over ``models``.

    :raises SealingError: if it lies in none
    """
    for parent in folder.resolve().parents:
        if parent.name == "models":
            return parent.parent
    raise SealingError(
        f"{folder} lies in no user directory; accepted: user_data/models/<identifier>, or a period's folder in it; "
        "remedy: move it there, or name the user directory with --userdir"
    )


def seal_folder(folder: Path, seals: Seals) -> Iterator[str]:
    """Seal every policy of an identifier or of one period, and what a bot kept beside them.

    :param folder: of the identifier, or of one period
    :return: the name of each thing, once it is sealed
    :raises SealingError: if there is nothing to seal, or a file is not what its manifest says
    """
    zips = sorted([*folder.glob("*_model.zip"), *folder.glob("sub-train-*/*_model.zip")])
    histories = [path for name in HISTORY_NAMES if (path := folder / name).is_file()]
    if not zips and not histories:
        raise SealingError(
            f"{folder} holds nothing to seal; accepted: the folder of an identifier or of one of its periods, with a "
            "policy (…_model.zip) in it; remedy: name such a folder"
        )
    for path in zips:
        _seal_policy(path, seals)
        yield str(path.parent)
    for path in histories:
        artefacts.write_bytes(path, seals.append(HISTORY_PURPOSE, without_seal(path.read_bytes())))
        yield str(path)


def _seal_policy(zip_path: Path, seals: Seals) -> None:
    folder = zip_path.parent
    manifest = artefacts.read_manifest(folder)
    if manifest is None:
        files = artefacts.policy_files(folder, zip_path.name.removesuffix("_model.zip"))
        artefacts.write_manifest(folder, {}, files, seals)
        return
    for sealed in manifest["files"].values():
        path = folder / sealed["path"]
        if path.is_file() and artefacts.file_hash(path) != sealed["sha256"]:
            raise SealingError(
                f"{path} is not the file that its manifest names; accepted: files as they were sealed; remedy: copy "
                f"the folder again, or remove {folder / artefacts.MANIFEST_NAME} to seal what is there"
            )
    artefacts.write_sealed_json(folder / artefacts.MANIFEST_NAME, manifest, seals)
