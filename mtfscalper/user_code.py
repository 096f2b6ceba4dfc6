"""A user's own code, named in the config as ``module:name`` and found in the user directory.

A file of the user directory cannot be imported in a worker process or on another machine: its code is sent by value.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle


class UserCodeError(ValueError):
    """Code that a config names cannot be used. Names what, where it was looked for, accepted and remedy."""


@dataclass(frozen=True)
class UserCode:
    """A function or class of the user's; pickled with its code, not by its name.

    :ivar name: as the config names it, ``module:name``
    :ivar source_sha256: of the files that its code stands in
    """

    name: str
    value: Any
    source_sha256: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.name, cloudpickle.dumps(self.value), self.source_sha256)


def _unpacked(name: str, value: bytes, source_sha256: str) -> UserCode:
    return UserCode(name, cloudpickle.loads(value), source_sha256)


def load_user_code(name: str, folder: Path) -> UserCode:
    """Import what a config names: from the user directory, else from an installed package.

    :param name: ``module:name``
    :param folder: the user directory
    :raises UserCodeError: if there is no such module or name, or the module fails
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = _import_afresh(module_name, folder.resolve())
    except Exception as error:
        raise UserCodeError(
            f"{name}: importing {module_name} fails ({type(error).__name__}: {error}); accepted: a module that lies in "
            f"{folder} or is installed; remedy: correct the name or the module"
        ) from error
    if not callable(getattr(module, attribute, None)):
        raise UserCodeError(
            f"{name}: {module.__file__} has no function or class {attribute}; accepted: module:name of one that it "
            "defines; remedy: correct the name"
        )
    of_user = list(_modules_in(module, folder.resolve()))
    for needed in of_user:
        cloudpickle.register_pickle_by_value(needed)
    return UserCode(name, getattr(module, attribute), _hash_of_sources(of_user or [module]))


def _import_afresh(module_name: str, folder: Path) -> ModuleType:
    """Import a module as its files are now: a bot lives longer than an edit of them."""
    # Those of another user directory too, under whose names a module of this one may lie.
    before = cloudpickle.list_registry_pickle_by_value()
    for loaded in [name for name, module in sys.modules.items() if name in before or _lies_in(module, folder)]:
        del sys.modules[loaded]
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        module = importlib.import_module(module_name)
    finally:
        sys.path.remove(str(folder))
    own_file = folder.joinpath(*module_name.split(".")).with_suffix(".py")
    if own_file.is_file() and not _lies_in(module, folder):
        raise ImportError(f"{module.__file__} has the same name and was imported before; rename {own_file}")
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
    if file is None:
        return False
    path = Path(file).resolve()
    return path.is_relative_to(folder) and "site-packages" not in path.parts


def _hash_of_sources(modules: Iterable[ModuleType]) -> str:
    hasher = hashlib.sha256()
    for module in sorted(modules, key=lambda module: module.__name__):
        hasher.update(module.__name__.encode() + b"\0" + Path(str(module.__file__)).read_bytes())
    return hasher.hexdigest()
