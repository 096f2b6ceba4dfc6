"""Files of a trained period: written whole or not at all, and never reused when anything they stand on changed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mtfscalper.imports import import_closure, package_modules

MANIFEST_NAME = "mtfscalper_manifest.json"
REPORT_NAME = "training_report.json"
TERMS_NAME = "trade_terms.json"

# Where the code begins that decides what a policy learns and predicts: whatever it imports belongs to it.
_ENTRY = "freqai.model"
# Indicators, scaling, environments, training, and what hands each its numbers.
_LIBRARIES = (
    *("freqtrade", "TA-Lib", "datasieve", "scikit-learn", "gymnasium", "stable-baselines3", "sb3-contrib", "torch"),
    *("numpy", "pandas", "scipy"),
)
# What looks on, runs it elsewhere or serves it candles decides nothing, whoever imports it.
_LOOKS_ON = ("cli", "monitoring", "reporting", "offline", "search", "executors", "freqai.views")


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under a temporary name, flush it to disk, then rename it.

    :param write: writes the file at the path it is given
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, atomically."""
    write_atomically(path, lambda target: target.write_text(json.dumps(value, indent=1, allow_nan=False)))


def plain_json(value: Any) -> Any:
    """A value as JSON can hold it: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    return value


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """A short hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_hash(root: Path = Path(__file__).parent) -> str:
    """A short hash of the package's code that decides what a policy learns and predicts.

    :param root: the package's folder
    """
    modules = package_modules(root)
    outside = [f"{root.name}.{name}" for name in _LOOKS_ON]
    hasher = hashlib.sha256()
    for name in sorted(import_closure([f"{root.name}.{_ENTRY}"], modules, outside=outside)):
        hasher.update(name.encode() + b"\0" + modules[name].read_bytes())
    return hasher.hexdigest()[:16]


def library_versions() -> dict[str, str]:
    """Versions of the libraries a result depends on."""
    return {name: version(name) for name in _LIBRARIES}


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a period, None where there is none that can be read."""
    path = folder / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    whole = isinstance(manifest, dict) and all(
        isinstance(manifest.get(name), dict) for name in ("fingerprint", "files")
    )
    return manifest if whole else None


def sealed_path(folder: Path, role: str) -> Path:
    """Where a sealed file of a period lies.

    :raises KeyError: if the period's manifest names no such file
    """
    return folder / str((read_manifest(folder) or {"files": {}})["files"][role]["path"])


def write_manifest(folder: Path, fingerprint: Mapping[str, Any], files: Mapping[str, Path], **more: Any) -> None:
    """Seal the files of a period.

    :param fingerprint: what the files depend on, name to hash
    :param files: role of each file to its path; a file that is not there is left out
    :param more: further JSON values to keep
    """
    sealed = {
        role: {"path": os.path.relpath(path, folder), "sha256": file_hash(path)}
        for role, path in files.items()
        if path.is_file()
    }
    write_json(folder / MANIFEST_NAME, {"fingerprint": dict(fingerprint), "files": sealed, **more})


def why_stale(folder: Path, fingerprint: Mapping[str, Any], roles: tuple[str, ...]) -> str | None:
    """Why the files of a period cannot be reused, None if they can.

    :param fingerprint: what the files would have to depend on now
    :param roles: the files asked for
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return "it has no readable manifest"
    had = manifest["fingerprint"]
    changed = [name for name in fingerprint if had.get(name) != fingerprint[name]]
    if changed:
        return f"changed since: {', '.join(changed)}"
    for role in roles:
        sealed = manifest["files"].get(role)
        if sealed is None:
            return f"it holds no {role}"
        path = folder / sealed["path"]
        if not path.is_file():
            return f"{path.name} is missing"
        if file_hash(path) != sealed["sha256"]:
            return f"{path.name} is damaged (its hash differs from the manifest's)"
    return None
