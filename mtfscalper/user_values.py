"""The values that a user's code has taken up as it was imported: from a JSON file, a table, the environment.

They decide what is learned as the code does, and stand in no source. Only what the code reads later counts, so that a
note of the time or a logger changes nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

_PLAIN = (type(None), bool, int, float, complex, bytes, str)


def values_sha256(modules: Sequence[ModuleType], sources: Iterable[bytes]) -> str:
    """A hash of what modules of the user's hold in globals, class attributes, defaults and closures.

    A value counts where functions of these modules name it. Folders do not count, for a user directory may move, and
    neither does what Python cannot take apart, such as a lock.

    :param modules: of the user's
    :param sources: of them, in Python
    """
    named = set[str]()
    for source in sources:
        # What a module names outside its functions it has used by now.
        inside = [each for each in compile(source, "<module>", "exec").co_consts if isinstance(each, CodeType)]
        # Those that are only strings too, as getattr has them.
        named.update(*map(names_in, inside), *map(words_in, inside))
    folders = {str(path) for module in modules for path in _folders_of(module)}
    values = _Values(frozenset(module.__name__ for module in modules), sorted(folders, key=len, reverse=True))
    hasher = hashlib.sha256()
    for module in sorted(modules, key=lambda each: each.__name__):
        held = {
            name: value for name, value in sorted(vars(module).items()) if name in named or _stands_in(value, module)
        }
        hasher.update(module.__name__.encode() + values.of_names(held))
    return hasher.hexdigest()


def codes_inside(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and of every function inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes_inside(constant)


def names_in(code: CodeType) -> set[str]:
    """The names of globals and attributes in a function and in those inside it."""
    return {name for each in codes_inside(code) for name in each.co_names}


def words_in(code: CodeType) -> set[str]:
    """The strings in code and in the functions inside it, as they stand there."""
    words, ahead = set[str](), list(code.co_consts)
    while ahead:
        constant = ahead.pop()
        if isinstance(constant, CodeType | tuple | frozenset):
            ahead += constant.co_consts if isinstance(constant, CodeType) else constant
        elif isinstance(constant, str):
            words.add(constant)
    return words


def _stands_in(value: Any, module: ModuleType) -> bool:
    """Whether a class or a function is a module's own, which counts whoever names it."""
    return isinstance(value, type | FunctionType) and value.__module__ == module.__name__


def _folders_of(module: ModuleType) -> Iterator[PurePath]:
    file = getattr(module, "__file__", None)
    if file is not None:
        # A module in freqaimodels mostly names files of the user directory above it.
        yield from list(PurePath(file).parents)[:2]


class _Values:
    """Hashes of values by what they hold, the same in every process."""

    def __init__(self, own: frozenset[str], folders: Sequence[str]) -> None:
        """
        :param own: names of the user's modules
        :param folders: that are left out of strings
        """
        self._own, self._folders = own, folders
        # Of what was met, by identity, with the value itself, so that no other gets the same; "" while it is looked at.
        self._known: dict[int, tuple[bytes, Any]] = {}

    def of_names(self, values: Mapping[str, Any]) -> bytes:
        """A hash of values by name; one that nests too deep counts by its type."""
        hasher = hashlib.sha256()
        for name, value in values.items():
            try:
                found = self.of(value)
            except RecursionError:
                found = _hashed("deep", type(value).__qualname__)
            hasher.update(_hashed("name", name) + found)
        return hasher.digest()

    def of(self, value: Any) -> bytes:
        """A hash of one value."""
        if isinstance(value, _PLAIN):
            return self._text(type(value).__name__, repr(value))
        if isinstance(value, PurePath | ModuleType):
            # Where a file lies changes nothing, and modules of the user's have their own turn.
            return _hashed(type(value).__name__)
        if id(value) not in self._known:
            self._known[id(value)] = b"", value
            self._known[id(value)] = self._inside(value), value
        return self._known[id(value)][0]

    def _text(self, kind: str, text: str) -> bytes:
        for folder in self._folders:
            text = text.replace(folder, "")
        return _hashed(kind, text)

    def _all(self, kind: str, values: Iterable[Any]) -> bytes:
        return _hashed(kind, b"".join(map(self.of, values)))

    def _inside(self, value: Any) -> bytes:
        kind = type(value).__name__
        if isinstance(value, list | tuple):
            # A table may have a million rows.
            plain = all(isinstance(each, _PLAIN) for each in value)
            return self._text(kind, repr(list(value))) if plain else self._all(kind, value)
        if isinstance(value, dict):
            return self._all(kind, (each for item in value.items() for each in item))
        if isinstance(value, set | frozenset):
            # Their order is another in every process.
            return _hashed("set", b"".join(sorted(map(self.of, value))))
        if isinstance(value, np.ndarray) and not value.dtype.hasobject:
            return _hashed(f"{value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes())
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return self._all(kind, (value.__func__, value.__self__))
        if isinstance(value, functools.partial):
            return self._all(kind, (value.func, value.args, value.keywords))
        if isinstance(value, property | staticmethod | classmethod):
            return self._all(kind, (getattr(value, name, None) for name in ("fget", "fset", "__func__")))
        if isinstance(value, type):
            return self._class(value)
        return self._taken_apart(value)

    def _function(self, function: FunctionType) -> bytes:
        held: list[Any] = [function.__qualname__]
        if function.__module__ in self._own:
            # A cell is empty until its variable has a value.
            cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
            held += [function.__defaults__, function.__kwdefaults__, cells]
        return self._all("function", held)

    def _class(self, kind: type) -> bytes:
        held = b""
        if kind.__module__ in self._own:
            values = {
                name: value
                for name, value in sorted(vars(kind).items())
                if not name.startswith("__") or isinstance(value, FunctionType)
            }
            held = self.of_names(values)
        return _hashed("class", kind.__qualname__.encode() + held)

    def _taken_apart(self, value: Any) -> bytes:
        """Of whatever else there is, as pickle would take it apart."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:
            # A lock, a handle, a connection.
            return _hashed("opaque", type(value).__qualname__)
        if isinstance(reduced, str):
            return _hashed("global", reduced)
        parts = (list(each) if isinstance(each, Iterator) else each for each in reduced)
        return self._all("object", parts)


def _hashed(kind: str, content: bytes | str = b"") -> bytes:
    content = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return hashlib.sha256(f"{kind} {len(content)} ".encode() + content).digest()
