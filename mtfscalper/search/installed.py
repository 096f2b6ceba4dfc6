"""Packages of the extra ``search``, which not everyone needs."""

from __future__ import annotations

from importlib.util import find_spec

from mtfscalper.search.errors import StudyError


def check_installed(*modules: str) -> None:
    """Refuse before anything is begun.

    :param modules: by the names that they are imported by
    :raises StudyError: if one cannot be
    """
    missing = [module.replace("_", "-") for module in modules if find_spec(module) is None]
    if missing:
        raise StudyError(
            f"not installed: {', '.join(missing)}, which studies need; remedy: pip install 'mtfscalper[search]'"
        )


def is_dashboard_installed() -> bool:
    """Whether a dashboard's pictures and notes can be made here, and are of use to anybody."""
    return all(find_spec(module) is not None for module in ("optuna_dashboard", "matplotlib"))
