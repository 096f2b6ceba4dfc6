"""The order of the package's parts: who may import whom, and how long a file may be."""

import ast
import graphlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

import mtfscalper
from mtfscalper.imports import imported_modules, package_modules

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mtfscalper.__file__).parent

# From the bottom to the top: each may import those before it. Each is a module or a folder of the package.
LAYERS = (
    "moved",
    "machine",
    "imports",
    "sent_errors",
    "seals",
    "artefacts",
    "user_values",
    "files_read",
    "user_code",
    "market",
    "trading",
    "stock_keys",
    "settings_text",
    "ppo_settings",
    "fold_settings",
    "environment_settings",
    "executor_settings",
    "freqai_settings",
    "settings",
    "envs",
    "policy",
    "training",
    "executors",
    "progress",
    "freqai",
    "strategy",
    "offline",
    "reporting",
    "search",
    "monitoring",
    "command_help",
    "study_commands",
    "offline_commands",
    "first_commands",
    "cli",
    "__main__",
)

_RL_LIBRARIES = {"stable_baselines3", "sb3_contrib", "gymnasium"}
# Libraries that a layer does without, its own imports and those of whatever it imports.
BARRED = {
    "market": {"freqtrade", "torch", *_RL_LIBRARIES},
    "trading": {"freqtrade", "torch", *_RL_LIBRARIES},
    "settings_text": {"freqtrade", "torch", *_RL_LIBRARIES},
    "settings": {"freqtrade", "torch", *_RL_LIBRARIES},
    "envs": {"freqtrade"},
    "policy": {"freqtrade"},
    "training": {"freqtrade"},
    "executors": {"freqtrade"},
    "progress": {"freqtrade"},
}
# The trading rules over torch's tensors.
EXEMPT = {("trading.torch_arrays", "torch")}

LINES_MAX = 450
# FreqAI's hooks and no more.
HOOKS_LINES_MAX = 250


# ---------------------------------------------------------------------- reading a package


def modules_of(package: Path) -> dict[str, Path]:
    """Files of a package by the modules' dotted names, without the package's own name: ``""`` is the package."""
    return {without_package(name): path for name, path in package_modules(package).items()}


def without_package(name: str) -> str:
    return name.partition(".")[2]


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere: at the top, in functions, for type checking.

    ``from a import b`` is ``a.b``, whether ``b`` is a module or a name.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively; remedy: write the module's whole name"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def inner_imports(package: Path) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports."""
    modules = package_modules(package)
    return {
        without_package(name): {without_package(other) for other in imported_modules(name, modules)} for name in modules
    }


def reached_from(module: str, imports: Mapping[str, set[str]]) -> set[str]:
    """A module, and all that it imports, directly or not."""
    reached: set[str] = set()
    waiting = {module}
    while waiting:
        reached |= waiting
        waiting = set().union(*(imports[name] for name in waiting)) - reached
    return reached


def layer_of(module: str) -> str:
    return module.partition(".")[0]


# ---------------------------------------------------------------------- the rules, as lists of what breaks them


def without_a_layer(package: Path, layers: Sequence[str]) -> list[str]:
    return [module for module in modules_of(package) if module and layer_of(module) not in layers]


def upward_imports(package: Path, layers: Sequence[str]) -> list[str]:
    # The package itself holds what all may read, and imports nothing but the lowest layer's module.
    height = {"": -1} | {name: index for index, name in enumerate(layers)}
    return [
        f"{module} imports {other}"
        for module, others in inner_imports(package).items()
        for other in sorted(others)
        if height[layer_of(module)] < height[layer_of(other)] and (module, other) != ("", layers[0])
    ]


def import_circles(package: Path) -> list[str]:
    """The first circle found, if there is one."""
    try:
        graphlib.TopologicalSorter(inner_imports(package)).prepare()
    except graphlib.CycleError as error:
        return [" is imported by ".join(error.args[1])]
    return []


def barred_imports(package: Path, barred: Mapping[str, set[str]], exempt: set[tuple[str, str]]) -> list[str]:
    inner = inner_imports(package)
    libraries = {
        module: {name.partition(".")[0] for name in imports_of(path)} for module, path in modules_of(package).items()
    }
    return [
        f"{module} reaches {library} in {reached}"
        for module in inner
        for reached in sorted(reached_from(module, inner))
        for library in sorted(libraries[reached] & barred.get(layer_of(module), set()))
        if (module, library) not in exempt
    ]


def long_files(package: Path, lines_max: int) -> list[str]:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules_of(package).values()}
    return [f"{path.relative_to(package)} has {count} lines" for path, count in lines.items() if count > lines_max]


# ---------------------------------------------------------------------- the package keeps them


def test_every_module_belongs_to_a_layer() -> None:
    assert without_a_layer(PACKAGE, LAYERS) == []


def test_no_module_imports_one_of_a_higher_layer() -> None:
    assert upward_imports(PACKAGE, LAYERS) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert import_circles(PACKAGE) == []


def test_lower_layers_do_without_the_libraries_of_higher_ones() -> None:
    assert barred_imports(PACKAGE, BARRED, EXEMPT) == []


def test_no_file_of_the_package_is_long() -> None:
    assert long_files(PACKAGE, LINES_MAX) == []
    assert len((PACKAGE / "freqai" / "model.py").read_text(encoding="utf-8").splitlines()) <= HOOKS_LINES_MAX


def test_contributing_names_the_same_layers() -> None:
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    assert " → ".join(LAYERS) in text


# ---------------------------------------------------------------------- each rule can be broken


def package_of(folder: Path, files: Mapping[str, str]) -> Path:
    package = folder / "made_up"
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


SOUND = {
    "__init__.py": "__version__ = '1'\n",
    "low/__init__.py": "",
    "low/tape.py": "import numpy\nfrom made_up import __version__\n",
    "high/__init__.py": "NAME = 'high'\n",
    "high/model.py": "import torch\nfrom made_up.high import NAME\nfrom made_up.low.tape import Tape\n",
}
LOW_TO_HIGH = ("low", "high")


def broken_rules(package: Path) -> dict[str, list[str]]:
    broken = {
        "layer": without_a_layer(package, LOW_TO_HIGH),
        "circle": import_circles(package),
        "library": barred_imports(package, {"low": {"torch"}}, {("low.tensors", "torch")}),
        "length": long_files(package, 3),
    }
    if not broken["layer"]:
        broken["upward"] = upward_imports(package, LOW_TO_HIGH)
    return {rule: found for rule, found in broken.items() if found}


def test_a_sound_package_breaks_no_rule(tmp_path: Path) -> None:
    package = package_of(tmp_path, SOUND)
    assert broken_rules(package) == {}
    assert inner_imports(package)["high.model"] == {"high", "low.tape"}


@pytest.mark.parametrize(
    "upward",
    [
        "import made_up.high.model\n",
        "from made_up import high\n",
        "from made_up.high import NAME\n",
        "def late():\n    from made_up.high.names import NAME\n",
        "if TYPE_CHECKING:\n    import made_up.high.names\n",
    ],
    ids=["module", "folder", "name", "in a function", "for type checking"],
)
def test_an_import_upwards_is_found_wherever_it_stands(upward: str, tmp_path: Path) -> None:
    files = {**SOUND, "high/model.py": "", "high/names.py": "", "low/tape.py": upward}
    (broken,) = broken_rules(package_of(tmp_path, files)).items()
    assert broken[0] == "upward"
    assert broken[1][0].startswith("low.tape imports high")


def test_an_import_of_the_package_itself_is_not_upwards_and_one_by_it_is(tmp_path: Path) -> None:
    files = {**SOUND, "__init__.py": "from made_up.low import tape\n", "low/tape.py": ""}
    assert broken_rules(package_of(tmp_path, files)) == {"upward": [" imports low.tape"]}


def test_a_circle_within_a_layer_is_found(tmp_path: Path) -> None:
    files = {**SOUND, "low/a.py": "from made_up.low import b\n", "low/b.py": "def late():\n    import made_up.low.a\n"}
    (broken,) = broken_rules(package_of(tmp_path, files)).items()
    assert broken[0] == "circle"
    assert set(broken[1][0].split(" is imported by ")) == {"low.a", "low.b"}


def test_a_barred_library_is_found_in_whatever_a_module_imports(tmp_path: Path) -> None:
    files = {
        **SOUND,
        "low/deep.py": "def late():\n    from torch import nn\n",
        "low/tape.py": "import made_up.low.deep\n",
    }
    assert broken_rules(package_of(tmp_path, files)) == {
        "library": ["low.deep reaches torch in low.deep", "low.tape reaches torch in low.deep"]
    }


def test_an_exempt_module_may_import_the_library_and_others_may_not_import_the_module(tmp_path: Path) -> None:
    files = {**SOUND, "low/tensors.py": "import torch.nn\n"}
    assert broken_rules(package_of(tmp_path, files)) == {}
    files["low/tape.py"] = "import made_up.low.tensors\n"
    assert broken_rules(package_of(tmp_path, files)) == {"library": ["low.tape reaches torch in low.tensors"]}


@pytest.mark.parametrize(
    ("name", "text", "broken"),
    [
        ("stray.py", "", {"layer": ["stray"]}),
        ("low/long.py", "#\n" * 4, {"length": ["low/long.py has 4 lines"]}),
    ],
)
def test_a_stray_module_and_a_long_file_are_found(
    name: str, text: str, broken: dict[str, list[str]], tmp_path: Path
) -> None:
    assert broken_rules(package_of(tmp_path, {**SOUND, name: text})) == broken


def test_a_relative_import_counts_as_any_other(tmp_path: Path) -> None:
    package = package_of(tmp_path, {**SOUND, "low/tape.py": "from . import other\n", "low/other.py": ""})
    assert "low.other" in inner_imports(package)["low.tape"]
