"""Which modules of a package import which: read off the source, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from pathlib import Path


def package_modules(root: Path) -> dict[str, Path]:
    """The files of a package by dotted name, a package's own under the package's name.

    :param root: the package's folder
    """
    modules = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return modules


def imported_modules(name: str, modules: Mapping[str, Path]) -> set[str]:
    """Modules of the package that one of them imports by name, wherever in its file.

    The packages that a module lies in are not among them, unless they are imported for a name of their own.

    :param name: the module that imports
    :param modules: see :func:`package_modules`
    """
    package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for level, module, names in _import_statements(modules[name].read_text(encoding="utf-8")):
        if module is None and not level:
            found.update(names)
            continue
        # Each dot after the first goes up by one package.
        above = package.rsplit(".", level - 1)[0] if level else ""
        source = ".".join(part for part in (above, module) if part)
        for member in (f"{source}.{imported}" for imported in names):
            found.add(member if member in modules else source)
    return found & modules.keys()


# By the text: a study asks for the hash of the same code again and again, and parsing it takes most of a second.
@lru_cache(maxsize=1024)
def _import_statements(text: str) -> tuple[tuple[int, str | None, tuple[str, ...]], ...]:
    """Dots, module and names of each import in a source; of ``import a, b`` the names alone."""
    found: list[tuple[int, str | None, tuple[str, ...]]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            found.append((0, None, names) if isinstance(node, ast.Import) else (node.level, node.module, names))
    return tuple(found)


def import_closure(entries: Iterable[str], modules: Mapping[str, Path], *, outside: Collection[str] = ()) -> set[str]:
    """Some modules and whatever they import, directly or not.

    :param entries: names of modules
    :param modules: see :func:`package_modules`
    :param outside: modules and packages that are neither followed nor counted
    """
    closure: set[str] = set()
    waiting = set(entries)
    while waiting:
        name = waiting.pop()
        if name in closure or any(name == left_out or name.startswith(f"{left_out}.") for left_out in outside):
            continue
        closure.add(name)
        waiting |= imported_modules(name, modules)
    return closure
