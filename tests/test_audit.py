"""The report on the locked packages says what is known, and says so where nothing can be known."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SOUND = {"name": "numpy", "version": "2.4.6", "vulns": []}
VULNERABLE = {
    "name": "aiohttp",
    "version": "3.0",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3.1", "4.0"]}, {"id": "PYSEC-2", "fix_versions": []}],
}
SKIPPED = {"name": "zlib-ng", "skip_reason": "Dependency not found on PyPI"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).parents[1] / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_advisories_are_listed_with_what_repairs_them(audit: ModuleType) -> None:
    assert audit.report(json.dumps({"dependencies": [SOUND, VULNERABLE, SKIPPED]}), "").splitlines() == [
        "audit: 2 advisories against 2 packages of requirements.lock, 1 could not be asked for",
        "  aiohttp 3.0: PYSEC-1, repaired in 3.1, 4.0",
        "  aiohttp 3.0: PYSEC-2, repaired in no version yet",
    ]


def test_where_no_package_could_be_asked_for_nothing_is_called_sound(audit: ModuleType) -> None:
    """pip-audit itself ends well then, with "No known vulnerabilities found"."""
    said = audit.report(json.dumps({"dependencies": [SKIPPED, SKIPPED]}), "No known vulnerabilities found")
    assert said == "audit: no report: advisories cannot be had here for any of 2 packages"


@pytest.mark.parametrize(
    ("errors", "why"),
    [("a\nConnectionError: no network\n", "ConnectionError: no network"), ("", "it said nothing")],
)
def test_without_an_answer_it_says_why(audit: ModuleType, errors: str, why: str) -> None:
    assert audit.report("", errors) == f"audit: no report: pip-audit could not ask for advisories ({why})"
