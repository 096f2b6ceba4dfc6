"""The packages this project needs: what is required, what is installed, whether it can be imported."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from packaging.requirements import Requirement

DISTRIBUTION = "mtfscalper"

# Imported for the check; with the names they are imported under.
IMPORTED = {
    "freqtrade": "freqtrade",
    "torch": "torch",
    "stable-baselines3": "stable_baselines3",
    "sb3-contrib": "sb3_contrib",
    "gymnasium": "gymnasium",
    "numpy": "numpy",
    "pandas": "pandas",
    "psutil": "psutil",
}


class PackageFact(NamedTuple):
    """A package that is needed.

    :ivar required: versions accepted, as pip writes them; empty for any
    :ivar installed: version found, None if there is none
    :ivar problem: why it cannot be used, None if it can
    """

    name: str
    required: str
    installed: str | None
    problem: str | None


def package_facts(requirements: list[str] | None = None) -> tuple[PackageFact, ...]:
    """Look at every package that is required on this platform.

    :param requirements: as pip writes them; None takes those of the installed project
    :return: one fact a package; a project that is not installed is itself the only fact
    """
    if requirements is None:
        try:
            requirements = requires(DISTRIBUTION) or []
        except PackageNotFoundError:
            return (PackageFact(DISTRIBUTION, "", None, "it is not installed"),)
    parsed = [Requirement(line) for line in requirements]
    needed = [item for item in parsed if item.marker is None or item.marker.evaluate({"extra": ""})]
    return tuple(_fact(item) for item in needed)


def _fact(requirement: Requirement) -> PackageFact:
    required = str(requirement.specifier)
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return PackageFact(requirement.name, required, None, "it is not installed")
    problem = None
    if not requirement.specifier.contains(installed, prereleases=True):
        problem = f"{installed} is installed, {required} is required"
    elif requirement.name in IMPORTED:
        try:
            importlib.import_module(IMPORTED[requirement.name])
        except Exception as error:
            problem = f"it cannot be imported ({type(error).__name__}: {error})"
    return PackageFact(requirement.name, required, installed, problem)
