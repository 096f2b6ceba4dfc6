"""Files of a trained period: written whole or not at all, and never reused when anything they stand on changed."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mtfscalper.imports import import_closure, package_modules
from mtfscalper.seals import Seals

logger = logging.getLogger(__name__)

MANIFEST_NAME = "mtfscalper_manifest.json"
REPORT_NAME = "training_report.json"
TERMS_NAME = "trade_terms.json"

# Of a manifest: its seal, and what that is for.
_SEAL = "seal"
_PURPOSE = "manifest"

# Where the code begins that decides what a policy learns and predicts: whatever it imports belongs to it.
_ENTRY = "freqai.model"
# Indicators, scaling, environments, training, and what hands each its numbers.
_LIBRARIES = (
    *("freqtrade", "TA-Lib", "datasieve", "scikit-learn", "gymnasium", "stable-baselines3", "sb3-contrib", "torch"),
    *("numpy", "pandas", "scipy"),
)
# What looks on, runs it elsewhere or serves it candles decides nothing, whoever imports it.
_LOOKS_ON = (
    "cli",
    "monitoring",
    "reporting",
    "offline",
    "search",
    "executors",
    "freqai.views",
    "freqai.decision_record",
    "freqai.bot_journal",
    "freqai.bot_record",
    "freqai.live_replay",
)

# Where the code begins that makes figures of a trial's backtest, and what only shows or serves it.
_MEASURES = "search.trial_run"
_TELLS = ("cli", "monitoring", "offline", "executors")


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


def link(source: Path, target: Path) -> None:
    """Give a file another name, in place of whatever had it; a copy where the file system knows no such thing.

    The two share their data until either is replaced, which is how everything here is written. Where the name has the
    same content already nothing is written: a user directory may be a copy, and read only.
    """
    if target.is_file() and (target.samefile(source) or filecmp.cmp(source, target, shallow=False)):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT):
                raise
            shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Let a run go on where something that it can do without cannot be written.

    :param what: for the warning
    """
    try:
        yield
    except OSError as error:
        logger.warning("%s cannot be written (%s); the run goes on.", what, error)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, atomically."""
    write_atomically(path, lambda target: target.write_bytes(content))


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
    return _hash_of_code(root, _ENTRY, _LOOKS_ON)


def measuring_code_hash(root: Path = Path(__file__).parent) -> str:
    """A short hash of the package's code that says what a trial of a study is worth.

    :param root: the package's folder
    """
    return _hash_of_code(root, _MEASURES, _TELLS)


def _hash_of_code(root: Path, entry: str, outside: Iterable[str]) -> str:
    """A short hash of a module and of whatever it imports but for some."""
    modules = package_modules(root)
    hasher = hashlib.sha256()
    left_out = [f"{root.name}.{name}" for name in outside]
    for name in sorted(import_closure([f"{root.name}.{entry}"], modules, outside=left_out)):
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


def content_name(manifest: Mapping[str, Any]) -> str:
    """A name for what a manifest says, whoever sealed it."""
    return value_hash({name: value for name, value in manifest.items() if name != _SEAL})


def sealed_path(folder: Path, role: str) -> Path:
    """Where a sealed file of a period lies.

    :raises KeyError: if the period's manifest names no such file
    """
    return folder / str((read_manifest(folder) or {"files": {}})["files"][role]["path"])


def is_whole(path: Path, sealed: Mapping[str, str]) -> bool:
    """Whether a file is what a manifest says of it.

    :param sealed: the manifest's entry
    """
    return path.is_file() and file_hash(path) == sealed["sha256"]


def policy_files(folder: Path, name: str) -> dict[str, Path]:
    """The files that FreqAI reads to decide with a policy, by role.

    :param name: FreqAI's, with which their names begin
    """
    names = {
        "model": "model.zip",
        "metadata": "metadata.json",
        "feature_pipeline": "feature_pipeline.pkl",
        "label_pipeline": "label_pipeline.pkl",
    }
    return {role: folder / f"{name}_{file}" for role, file in names.items()}


def write_manifest(
    folder: Path, fingerprint: Mapping[str, Any], files: Mapping[str, Path], seals: Seals, **more: Any
) -> None:
    """Seal the files of a period.

    :param fingerprint: what the files depend on, name to hash
    :param files: role of each file to its path; a file that is not there is left out
    :param seals: of the user directory that the period lies in
    :param more: further JSON values to keep
    """
    sealed = {
        role: {"path": os.path.relpath(path, folder), "sha256": file_hash(path)}
        for role, path in files.items()
        if path.is_file()
    }
    write_sealed_json(folder / MANIFEST_NAME, {"fingerprint": dict(fingerprint), "files": sealed, **more}, seals)


def write_sealed_json(path: Path, manifest: Mapping[str, Any], seals: Seals) -> None:
    """Write a manifest under a seal; one that it has already is replaced."""
    content = {name: value for name, value in manifest.items() if name != _SEAL}
    write_json(path, {**content, _SEAL: seals.seal_value(_PURPOSE, content)})


def why_unsealed(folder: Path, seals: Seals) -> str | None:
    """Why the files of a period must not be unpickled, None if this user directory sealed them or admits them.

    Says nothing about damage, which :func:`why_stale` finds.
    """
    manifest = read_manifest(folder) or {}
    content = {name: value for name, value in manifest.items() if name != _SEAL}
    if manifest and seals.value_holds(_PURPOSE, content, manifest.get(_SEAL)):
        return None
    digest = pickles_digest(folder)
    if digest in seals.trusted:
        return None
    return (
        f"this user directory did not seal it, and a policy or pipeline runs code as it is unpickled; if it is "
        f'yours, freqai.rl_config.trust_models: ["{digest}"] admits it, and `mtfscalper seal` seals it'
    )


def pickles_digest(folder: Path) -> str:
    """A digest of everything in a period's folder that runs code as a policy is loaded, as ``sha256:…``."""
    pickles = sorted(path for pattern in ("*_model.zip", "*_pipeline.pkl") for path in folder.glob(pattern))
    hasher = hashlib.sha256()
    for path in pickles:
        hasher.update(f"{path.name}\0{file_hash(path)}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def move_aside(path: Path, suffix: str = "before-sealing") -> Path:
    """Rename a file or folder that is not used, so that nothing of it is lost.

    :return: where it lies now
    """
    target, number = path.with_name(f"{path.name}.{suffix}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{suffix}-{number}")
    return path.rename(target)


def why_stale(folder: Path, fingerprint: Mapping[str, Any], roles: tuple[str, ...], seals: Seals) -> str | None:
    """Why the files of a period cannot be reused, None if they can.

    :param fingerprint: what the files would have to depend on now
    :param roles: the files asked for
    :param seals: of the user directory that the period lies in
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return "it has no readable manifest"
    unsealed = why_unsealed(folder, seals)
    if unsealed is not None:
        return unsealed
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
