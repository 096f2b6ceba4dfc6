"""The wheel holds what a user needs, once and as it is in the project, and asks for no package that nobody imports."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from fnmatch import fnmatch
from pathlib import Path

import pytest

import mtfscalper
from mtfscalper.offline.starter import PATTERNS, starter_files

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")

# Required and not imported by us: who imports it.
IMPORTED_BY_OTHERS = {
    "datasieve": "freqtrade's FreqAI",
    "scikit-learn": "freqtrade's FreqAI",
    "xgboost": "freqtrade's FreqAI, through its TensorBoard package",
    "xgboost-cpu": "freqtrade's FreqAI, through its TensorBoard package",
}
# Where the name that is imported is not the package's.
IMPORTED_AS = {"nvidia-ml-py": "pynvml", "TA-Lib": "talib"}


def built(folder: Path, **environment: str) -> Path:
    """The wheel, built from a copy of what the project holds."""
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("mtfscalper", "configs", "strategies", "user_data/freqaimodels"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    # What hyperopt leaves beside the strategy belongs to nobody else.
    (folder / "strategies" / "MtfScalper_RL_Hybrid.json").write_text("{}")
    program = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GITHUB_")}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env={**variables, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("project"), GITHUB_REPOSITORY="Somebody/mtfscalper")


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode())


def test_the_wheel_holds_the_projects_configs_strategy_and_model(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {
            name.removeprefix("mtfscalper/starter/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("mtfscalper/starter/")
        }
    assert packed == {path.as_posix(): (ROOT / path).read_bytes() for path in starter_files()}


def test_the_wheel_holds_every_module_and_what_the_report_is_made_of(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mtfscalper").rglob("*.py")}
    files |= {f"mtfscalper/reporting/page/page.{kind}" for kind in ("html", "css", "js")} | {"mtfscalper/py.typed"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert files <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_wheel_says_what_it_is_and_where_more_stands(wheel: Path) -> None:
    told = metadata(wheel)
    assert told["Version"] == mtfscalper.__version__
    assert told["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ") for url in told.get_all("Project-URL"))
    assert urls["Homepage"] == "https://github.com/Somebody/mtfscalper"
    assert urls["Documentation"] == "https://somebody.github.io/mtfscalper/"
    readme = str(told.get_payload())
    assert "https://github.com/Somebody/mtfscalper/raw/HEAD/docs/images/" in readme
    targets = re.findall(r"\]\(([^)]*)\)", readme)
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def test_patterns_of_the_start_stand_alike_where_the_wheel_is_made() -> None:
    [assigned] = [
        node.value
        for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "STARTER"
    ]
    assert ast.literal_eval(assigned) == PATTERNS
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    for pattern in PATTERNS:
        folder, _, files = pattern.rpartition("/")
        assert f"recursive-include {folder} {files}\n" in manifest


def test_the_image_is_of_the_freqtrade_that_is_required() -> None:
    [required] = [line for line in PROJECT["dependencies"] if line.startswith("freqtrade==")]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.findall(r"^ARG FREQTRADE=(\S+)", dockerfile, re.MULTILINE) == [required.removeprefix("freqtrade==")]
    # What the package is built from reaches the build.
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in (*PATTERNS, "mtfscalper", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        assert f"!{name}" in kept


def test_every_required_package_is_imported() -> None:
    imported = set()
    for path in [*(ROOT / "mtfscalper").rglob("*.py"), *(ROOT / "strategies").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(str(node.module).partition(".")[0])
    required = [REQUIREMENT.match(line)[0] for line in PROJECT["dependencies"]]
    needless = [
        name
        for name in required
        if IMPORTED_AS.get(name, name.replace("-", "_")) not in imported and name not in IMPORTED_BY_OTHERS
    ]
    assert needless == []
    assert set(IMPORTED_BY_OTHERS) <= set(required)


def test_the_change_log_begins_with_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert mtfscalper.__version__ in versions[:2]
    assert versions[0] in ("Unreleased", mtfscalper.__version__)


def test_pythons_that_are_promised_are_those_that_are_tested() -> None:
    promised = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert promised == set(re.findall(r'"(3\.\d+)"', workflow))


@pytest.mark.parametrize("lock", ["requirements-docs.lock", "requirements-release.lock", "requirements-ray.lock"])
def test_locks_of_extras_fit_the_lock_of_all(lock: str) -> None:
    def pinned(file: str) -> dict[str, str]:
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        pairs = (line.partition(";")[0].strip().split("==") for line in lines if "==" in line and line[0] != "#")
        return {name.lower().replace("_", "-"): version for name, version in pairs}

    everywhere, here = pinned("requirements.lock"), pinned(lock)
    assert here
    assert {name for name in here if name in everywhere and everywhere[name] != here[name]} == set()
    extra = lock.removeprefix("requirements-").removesuffix(".lock")
    for requirement in PROJECT["optional-dependencies"][extra]:
        assert REQUIREMENT.match(requirement)[0].lower() in here
    assert fnmatch(lock, "requirements-*.lock")


def test_the_installed_command_is_this_package() -> None:
    [script] = [each for each in importlib.metadata.entry_points(group="console_scripts") if each.name == "mtfscalper"]
    assert script.value == PROJECT["scripts"]["mtfscalper"]
