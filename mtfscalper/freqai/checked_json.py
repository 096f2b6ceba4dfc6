"""FreqAI's JSON files, written whole with a checksum and a second copy, and read only if they are what was written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mtfscalper import artefacts

logger = logging.getLogger(__name__)

# Beside what FreqAI keeps in the file.
_CHECKSUM = "mtfscalper_sha256"


def read(path: Path, kept: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """A file or its copy, None where neither is what was written; a line says so unless there never was one.

    :param kept: a further name of the file, elsewhere
    :param is_valid: whether a value has the shape of such a file's
    """
    copy = _copy_of(path)
    for candidate in (path, copy, kept):
        value = _read_one(candidate, is_valid)
        if value is not None:
            if candidate != path:
                shown = candidate.name if candidate.parent == path.parent else str(candidate)
                logger.warning("%s is missing or damaged; restored from %s.", path, shown)
            return value
    if path.exists() or copy.exists():
        logger.warning("%s is damaged, and its second copy too: it is made anew.", path)
    return None


def write(path: Path, kept: Path, value: dict[str, Any]) -> None:
    """Write a value, its copy, and the further name.

    :raises OSError: if one cannot be written
    """
    for target in (path, _copy_of(path)):
        artefacts.write_json(target, {**value, _CHECKSUM: artefacts.value_hash(value)})
    artefacts.link(path, kept)


def _read_one(path: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes()) if path.exists() else None
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    checksum = value.pop(_CHECKSUM, None)
    # Without one it was written by FreqAI alone. No seal is asked for: it runs nothing, and the policies that it names
    # have seals of their own.
    is_whole = checksum is None or checksum == artefacts.value_hash(value)
    return value if is_whole and is_valid(value) else None


def _copy_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.backup{path.suffix}")
