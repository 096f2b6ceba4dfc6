"""Which modules of a package import which: read off the source, without importing any of them."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Mapping
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
    for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # Each dot after the first goes up by one package.
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                member = f"{source}.{alias.name}"
                found.add(member if member in modules else source)
    return found & modules.keys()


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
