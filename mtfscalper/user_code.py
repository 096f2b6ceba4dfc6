"""A user's own code, named in the config as ``module:name`` and found in the user directory.

A file of the user directory cannot be imported in a worker process or on another machine: its code is sent by value.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle

# What a config names, ``module:name``.
IMPORT_PATH = r"^(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)$"
# Set on modules of a user directory that were imported here.
_MARK = "__imported_for_mtfscalper__"


class UserCodeError(ValueError):
    """Code that a config names cannot be used. Names key, value, what is accepted and the remedy."""


@dataclass(frozen=True)
class UserCode:
    """A function or class of the user's; pickled with its code, not by its name.

    :ivar name: as the config names it, ``module:name``
    :ivar source_sha256: of the files that its code stands in; two are equal where names and files are
    """

    name: str
    source_sha256: str
    value: Any = field(compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.name, self.source_sha256, cloudpickle.dumps(self.value))


def _unpacked(name: str, source_sha256: str, value: bytes) -> UserCode:
    return UserCode(name, source_sha256, cloudpickle.loads(value))


def forget_user_code() -> None:
    """Let the next :func:`load_user_code` import files as they are then: a bot lives longer than an edit of them."""
    for name in cloudpickle.list_registry_pickle_by_value():
        if getattr(sys.modules.get(name), _MARK, False):
            del sys.modules[name]
    importlib.invalidate_caches()


def load_user_code(name: str, user_data: Path, key: str) -> UserCode:
    """Import what a config names: from the user directory or its ``freqaimodels``, else from an installed package.

    :param name: ``module:name``
    :param user_data: freqtrade's ``user_data_dir``
    :param key: of the config, for the message of an error
    :raises UserCodeError: if there is no such module or name, or the module fails
    """
    module_name, _, attribute = name.partition(":")
    folders = [user_data.resolve(), user_data.resolve() / "freqaimodels"]
    try:
        module = _imported(module_name, folders)
    except Exception as error:
        raise UserCodeError(
            f"{key} names {name!r}, and importing {module_name} fails ({type(error).__name__}: {error}); accepted: a "
            f"module that lies in {folders[0]} or its freqaimodels, or is installed; remedy: correct the name or the "
            "module"
        ) from error
    if not callable(getattr(module, attribute, None)):
        raise UserCodeError(
            f"{key} names {name!r}, and {module.__file__} defines no function or class {attribute}; accepted: a name "
            "that the module defines; remedy: correct the name"
        )
    needed = list(_modules_in(module, folders[0]))
    for one in needed:
        setattr(one, _MARK, True)
        cloudpickle.register_pickle_by_value(one)
    return UserCode(name, _hash_of_sources(needed or [module]), getattr(module, attribute))


def _imported(module_name: str, folders: list[Path]) -> ModuleType:
    before = list(sys.path)
    sys.path[:0] = map(str, folders)
    try:
        module = importlib.import_module(module_name)
    finally:
        sys.path[:] = before
    for folder in folders:
        file = folder.joinpath(*module_name.split(".")).with_suffix(".py")
        if file.is_file() and not _lies_in(module, folder):
            raise ImportError(f"{module.__file__} has the same name; rename {file}")
    return module


def _modules_in(module: ModuleType, folder: Path) -> Iterable[ModuleType]:
    """The module and those it uses, as far as they lie in a folder."""
    found: dict[str, ModuleType] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current.__name__ in found or not _lies_in(current, folder):
            continue
        found[current.__name__] = current
        for value in list(vars(current).values()):
            used = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            if used is not None:
                waiting.append(used)
    return found.values()


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


def _hash_of_sources(modules: Iterable[ModuleType]) -> str:
    hasher = hashlib.sha256()
    for module in sorted(modules, key=lambda module: module.__name__):
        hasher.update(module.__name__.encode() + b"\0" + Path(str(module.__file__)).read_bytes())
    return hasher.hexdigest()
