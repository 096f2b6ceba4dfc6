"""What a new folder starts with: the configs, the strategy and the model's stub, the same as in the project's checkout.

The files stand once, at the top of the project; `setup.py` puts them into the wheel as they are.
"""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

import mtfscalper
from mtfscalper.offline import ReplayError

# Relative to the checkout, and to the folder that they are copied to: commands are the same in both. setup.py and
# MANIFEST.in have these patterns too.
PATTERNS = ("configs/*.json", "strategies/*.py", "user_data/freqaimodels/*.py")


class Outcome(StrEnum):
    """What became of a file."""

    COPIED = "copied"
    SAME = "already there"
    KEPT = "kept: yours differs from this version's"


class Starter(NamedTuple):
    """A file of the start.

    :ivar path: relative to the folder
    :ivar outcome: what became of it
    """

    path: Path
    outcome: Outcome


def starter_folder() -> Path:
    """Where the files lie: in an installed package, else in the checkout that this package is in."""
    package = Path(mtfscalper.__file__).parent
    packed = package / "starter"
    return packed if packed.is_dir() else package.parent


def starter_files() -> list[Path]:
    """The files, relative to :func:`starter_folder`.

    :raises ReplayError: when the installation lacks them
    """
    origin = starter_folder()
    files = [path.relative_to(origin) for pattern in PATTERNS for path in sorted(origin.glob(pattern))]
    if not files:
        raise ReplayError(
            f"{origin} holds no {', '.join(PATTERNS)}: the installation is incomplete; remedy: install mtfscalper again"
        )
    return files


def copy_starter(folder: Path) -> list[Starter]:
    """Copy what is missing into a folder; whatever exists stays as it is.

    :param folder: is made where it is missing
    :raises ReplayError: when a file cannot be written
    """
    return list(_copied(folder))


def show_starter(copied: list[Starter], folder: Path, console: Console) -> None:
    """Say what became of each file."""
    for path, outcome in copied:
        console.out(f"  {outcome:<14} {folder / path}")


def _copied(folder: Path) -> Iterator[Starter]:
    for path in starter_files():
        content = (starter_folder() / path).read_bytes()
        target = folder / path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Fails where something exists, a file that another program has made just now too.
            with target.open("xb") as file:
                file.write(content)
        except FileExistsError as error:
            if not target.is_file():
                raise ReplayError(
                    f"{target} cannot be written: {error}; accepted: a folder in which it is free, or a file of yours; "
                    "remedy: choose another folder"
                ) from error
            yield Starter(path, Outcome.SAME if target.read_bytes() == content else Outcome.KEPT)
        except OSError as error:
            raise ReplayError(f"{target} cannot be written: {error}; remedy: choose another folder") from error
        else:
            yield Starter(path, Outcome.COPIED)
