"""A user's own code, named in the config as ``module:name`` and imported from the user directory."""

from __future__ import annotations

import hashlib
import importlib
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle


class UserCodeError(ValueError):
    """Code that the config names cannot be used. Names key, value received, what is accepted and the remedy."""


class UserObject(NamedTuple):
    """Something of a user's module.

    :ivar source_sha256: of the module's file: code that was changed is other code
    """

    value: Any
    source_sha256: str


def make_importable(user_data: Path) -> None:
    """Let the modules of a user directory be imported, and those beside its FreqAI models.

    :param user_data: freqtrade's ``user_data_dir``
    """
    for folder in (user_data, user_data / "freqaimodels"):
        # At the end: no installed package is hidden.
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def load_user_object(name: str, key: str) -> UserObject:
    """Import what the config names.

    From now on cloudpickle writes the module's code into what it pickles, not a reference to its file: a model's zip,
    or what a worker process is sent, works where the user directory is not on the path.

    :param name: ``module:name``
    :param key: where the config says so, for the message of an error
    :raises UserCodeError: if the module cannot be imported, or has no such name
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserCodeError(
            f"{key} is {name!r}, and importing {module_name} fails with {type(error).__name__}: {error}; accepted: "
            "'module:name' of a module in the user directory, in its freqaimodels or on sys.path; remedy: put "
            f"{module_name}.py there"
        ) from error
    if not hasattr(module, attribute):
        raise UserCodeError(
            f"{key} is {name!r}, and {module.__file__} defines no {attribute}; accepted: a name that the module "
            f"defines; remedy: correct the name, or define {attribute} there"
        )
    path = Path(str(module.__file__))
    if not _is_installed(path):
        cloudpickle.register_pickle_by_value(module)
    return UserObject(getattr(module, attribute), hashlib.sha256(path.read_bytes()).hexdigest())


def _is_installed(path: Path) -> bool:
    """Whether a module belongs to Python or to an installed package, which are found wherever this package is."""
    return any(path.is_relative_to(sysconfig.get_path(place)) for place in ("stdlib", "purelib", "platlib"))
