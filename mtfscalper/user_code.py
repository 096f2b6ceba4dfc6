"""A user's own code, named in the config as ``module:name`` and found in the user directory.

A file of the user directory cannot be imported in a worker process or on another machine: its code is sent by value.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import cloudpickle

from mtfscalper.files_read import library_folders
from mtfscalper.user_values import values_sha256, words_in

# What a config names, ``module:name``.
IMPORT_PATH = r"^(?P<module>[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)$"
# Set on modules of a user directory that were imported here.
_MARK = "__imported_for_mtfscalper__"
_class_hashes: WeakKeyDictionary[type, str] = WeakKeyDictionary()


class UserCodeError(ValueError):
    """Code that a config names cannot be used. Names key, value, what is accepted and the remedy."""


@dataclass(frozen=True)
class UserCode:
    """A function or class of the user's; pickled with its code, not by its name.

    :ivar name: as the config names it, ``module:name``
    :ivar source_sha256: of the files that its code stands in
    :ivar values_sha256: of what these took up as they were imported; two are equal where names and both hashes are
    """

    name: str
    source_sha256: str
    value: Any = field(compare=False, repr=False)
    values_sha256: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpacked, (self.name, self.source_sha256, cloudpickle.dumps(self.value), self.values_sha256)


def class_sources_sha256(kind: type) -> str:
    """A hash of the files that a class, its parents and what they use stand in, as far as they are not installed.

    What these files took up as they were imported belongs to it, see :mod:`mtfscalper.user_values`.

    :param kind: also one whose module freqtrade loaded from a file without making it known to Python
    """
    if kind not in _class_hashes:
        own = _own_modules(_modules_of(kind, kind))
        # Once: what a training leaves in the module's own tables is not what the next pair's is made from.
        _class_hashes[kind] = hashlib.sha256((_hash_of(_files_of(own)) + _values_of(own)).encode()).hexdigest()
    return _class_hashes[kind]


def files_used(*found: Any) -> dict[str, Path]:
    """The files that classes and functions, classes' parents and what they use stand in, by module.

    :param found: see :func:`class_sources_sha256`
    :return: of modules that are not installed
    """
    modules: list[ModuleType] = []
    for each in found:
        modules += _modules_of(each, each) if isinstance(each, type) else [sys.modules[each.__module__]]
    return _files_of(_own_modules(modules))


def class_code(kind: type, found: type) -> UserCode:
    """A class that the user wrote, with the files that it stands in and uses.

    :param kind: may be nested in ``found``, or imported by its module
    :param found: the class that freqtrade found
    """
    modules = _modules_of(kind, found)
    for module in modules:
        for used in _modules_used(module, lambda one: not _is_installed(one)):
            if sys.modules.get(used.__name__) is used:
                cloudpickle.register_pickle_by_value(used)
    # An installed one is found everywhere, but an update of its package changes it.
    installed = [one for one in modules if _is_installed(one) and not _is_counted_by_version(one)]
    own = _own_modules(modules)
    source_sha256 = _hash_of(_files_of(own) | _files(installed))
    return UserCode(f"{kind.__module__}:{kind.__qualname__}", source_sha256, kind, _values_of(own))


def words_said(kind: type, found: type) -> set[str]:
    """Every string in the user's files that a class stands in and uses: the keys that it reads of a config among them.

    :param kind: see :func:`class_code`, as ``found``
    """
    files = _files_of(_own_modules(_modules_of(kind, found))).values()
    codes = (compile(file.read_bytes(), str(file), "exec") for file in files if file.suffix == ".py")
    return {word for code in codes for word in words_in(code)}


def _modules_of(kind: type, found: type) -> list[ModuleType]:
    """The modules that a class and its parents stand in.

    :param found: the class that freqtrade found, in whose module the others of that name stand
    """
    # freqtrade's resolver keeps a module out of Python's list, and notes the file on the class.
    unlisted = ModuleType(found.__module__) if "__file__" in vars(found) else None
    modules = []
    for each in kind.__mro__:
        if unlisted is None or each.__module__ != unlisted.__name__:
            modules.append(sys.modules[each.__module__])
            continue
        # By way of its functions, of which it may have none.
        setattr(unlisted, each.__name__, each)
        for value in vars(each).values():
            function = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
            vars(unlisted).update(getattr(function, "__globals__", {}))
    if unlisted is not None and any(each.__module__ == unlisted.__name__ for each in kind.__mro__):
        unlisted.__file__ = vars(found)["__file__"]
        modules.append(unlisted)
    return modules


def _unpacked(name: str, source_sha256: str, value: bytes, values_sha256: str) -> UserCode:
    return UserCode(name, source_sha256, cloudpickle.loads(value), values_sha256)


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
    needed = list(_modules_used(module, lambda one: _lies_in(one, folders[0])))
    for one in needed:
        setattr(one, _MARK, True)
        cloudpickle.register_pickle_by_value(one)
    if not callable(getattr(module, attribute, None)):
        raise UserCodeError(
            f"{key} names {name!r}, and {module.__file__} defines no function or class {attribute}; accepted: a name "
            "that the module defines; remedy: correct the name"
        )
    # Code on Python's path that is not installed may be edited as well.
    own = _own_modules([module])
    source_sha256 = _hash_of(_files(needed or [module]) | _files_of(own))
    return UserCode(name, source_sha256, getattr(module, attribute), _values_of(own))


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


def _modules_used(module: ModuleType, belongs: Callable[[ModuleType], bool]) -> Iterable[ModuleType]:
    """The module and those it uses, as far as they belong."""
    found: dict[str, ModuleType] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current.__name__ in found or not belongs(current):
            continue
        found[current.__name__] = current
        for value in list(vars(current).values()):
            used = value if isinstance(value, ModuleType) else sys.modules.get(getattr(value, "__module__", None) or "")
            if used is not None:
                waiting.append(used)
        # A number does not tell where it was imported from.
        waiting += [sys.modules[name] for name in _imported_names(current) if name in sys.modules]
    return found.values()


def _lies_in(module: ModuleType, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).resolve().is_relative_to(folder)


def _imported_names(module: ModuleType) -> Iterable[str]:
    """Names of modules, and of what is imported from them, as a module's source has them."""
    return _names_of_imports(Path(str(module.__file__)), module.__package__ or module.__name__.rpartition(".")[0])


def _names_of_imports(file: Path, package: str) -> Iterable[str]:
    """
    :param package: that the file belongs to, "" for none
    """
    for node in ast.walk(ast.parse(file.read_bytes() if file.suffix == ".py" else b"")):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from (name, *(f"{name}.{alias.name}" for alias in node.names))


def _is_installed(module: ModuleType) -> bool:
    """Whether a module belongs to Python, to an installed package or to this one, which are found everywhere."""
    file = getattr(module, "__file__", None)
    # Its container and its setup script leave freqtrade in the clone that it was installed from.
    if module.__name__.partition(".")[0] == "freqtrade":
        return True
    return file is None or _lies_installed(Path(file))


def _lies_installed(file: Path) -> bool:
    places = (*library_folders(), Path(__file__).parent)
    return any(file.resolve().is_relative_to(place.resolve()) for place in places)


def _is_counted_by_version(module: ModuleType) -> bool:
    """Whether a module changes with Python, or with a library whose version a fingerprint holds."""
    return module.__name__.partition(".")[0] in ("freqtrade", "gymnasium") or getattr(module, "__file__", None) is None


def _own_modules(modules: Iterable[ModuleType]) -> list[ModuleType]:
    """Modules and those they use, as far as they are not installed."""
    used: dict[str, ModuleType] = {}
    for module in modules:
        used |= {one.__name__: one for one in _modules_used(module, lambda each: not _is_installed(each))}
    return list(used.values())


def _files(modules: Iterable[ModuleType]) -> dict[str, Path]:
    return {module.__name__: Path(str(module.__file__)) for module in modules}


def _files_of(own: Sequence[ModuleType]) -> dict[str, Path]:
    """The files of the user's modules, and of those that their functions will import once they run."""
    files, waiting = _files(own), [name for module in own for name in _imported_names(module)]
    while waiting:
        name = waiting.pop()
        file = None if name in sys.modules or name in files else _file_to_import(name)
        if file is not None and not _lies_installed(file):
            files[name] = file
            waiting += _names_of_imports(file, name.rpartition(".")[0])
    return files


def _file_to_import(name: str) -> Path | None:
    """The file of a module that is not imported yet, None for what is none, or cannot be found so."""
    parent = name.rpartition(".")[0]
    if parent and parent not in sys.modules:
        return None
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


def _hash_of(files: Mapping[str, Path]) -> str:
    hasher = hashlib.sha256()
    for name, path in sorted(files.items()):
        hasher.update(name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()


def _values_of(own: Sequence[ModuleType]) -> str:
    files = _files(own).values()
    return values_sha256(own, [file.read_bytes() for file in files if file.suffix == ".py"])
