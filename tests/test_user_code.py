"""A user's code is found in the user directory, as it is now, and goes with what is pickled."""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

import mtfscalper
from mtfscalper.user_code import UserCodeError, class_code, class_sources_sha256, forget_user_code, load_user_code

KEY = "freqai.rl_config.network"


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    """As in a process of its own."""
    forget_user_code()


@pytest.mark.parametrize("folder", [".", "freqaimodels"])
def test_a_module_of_the_user_directory_is_found_and_the_path_stays_as_it_is(tmp_path: Path, folder: str) -> None:
    before = list(sys.path)
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "users_answer.py").write_text("def answer():\n    return 42\n")
    assert load_user_code("users_answer:answer", tmp_path, KEY).value() == 42
    assert sys.path == before


def test_what_is_pickled_works_where_the_user_directory_is_not_on_the_path(tmp_path: Path) -> None:
    (tmp_path / "users_base.py").write_text("BASE = 40\n")
    (tmp_path / "users_sum.py").write_text(
        "import math\nfrom users_base import BASE\n\ndef two():\n    return 2\n\n"
        "def answer():\n    return math.floor(BASE + two())\n"
    )
    (tmp_path / "pickled").write_bytes(pickle.dumps(load_user_code("users_sum:answer", tmp_path, KEY)))
    code = (
        "import pickle, sys; code = pickle.load(open(sys.argv[1], 'rb')); "
        "print(code.value(), pickle.loads(pickle.dumps(code)).value(), 'users_sum' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(mtfscalper.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(tmp_path / "pickled")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/")
    assert result.stdout == "42 42 False\n"


def test_an_edit_is_seen_and_is_other_code_and_other_files_are_not(tmp_path: Path) -> None:
    (tmp_path / "users_limit.py").write_text("LIMIT = 3\n")
    (tmp_path / "users_code.py").write_text("import users_limit\n\ndef limit():\n    return users_limit.LIMIT\n")
    first = load_user_code("users_code:limit", tmp_path, KEY)
    (tmp_path / "users_other.py").write_text("LIMIT = 5\n")
    assert load_user_code("users_code:limit", tmp_path, KEY) == first
    (tmp_path / "users_limit.py").write_text("LIMIT = 30\n")
    forget_user_code()
    second = load_user_code("users_code:limit", tmp_path, KEY)
    assert second != first
    assert (first.value(), second.value()) == (3, 30)


def test_two_user_directories_do_not_get_in_each_others_way(tmp_path: Path) -> None:
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "users_same.py").write_text(f"def number():\n    return {number}\n")
        forget_user_code()
        assert load_user_code("users_same:number", folder, KEY).value() == number


def test_code_that_lies_elsewhere_on_the_path_is_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "not_the_users.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    (tmp_path / "user_data").mkdir()
    (tmp_path / "user_data" / "users_import.py").write_text("import numpy\nfrom not_the_users import answer\n")
    code = load_user_code("users_import:answer", tmp_path / "user_data", KEY)
    known = sys.modules["not_the_users"]
    forget_user_code()
    assert "users_import" not in sys.modules
    assert sys.modules["not_the_users"] is known
    assert b"not_the_users" in pickle.dumps(code)
    assert "not_the_users" not in cloudpickle.list_registry_pickle_by_value()


def test_two_names_of_one_file_share_its_module(tmp_path: Path) -> None:
    (tmp_path / "users_two.py").write_text(
        "STATE = []\n\ndef one():\n    return STATE\n\ndef two():\n    return STATE\n"
    )
    one, two = (load_user_code(f"users_two:{name}", tmp_path, KEY).value() for name in ("one", "two"))
    assert one is two


def test_an_installed_package_is_pickled_by_reference(tmp_path: Path) -> None:
    code = load_user_code("torch.nn:Identity", tmp_path, KEY)
    assert len(pickle.dumps(code)) < 500
    assert pickle.loads(pickle.dumps(code)).value is code.value


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("users_broken:Net", r"importing users_broken fails \(ZeroDivisionError: division by zero\)"),
        ("users_nowhere:Net", r"importing users_nowhere fails \(ModuleNotFoundError: "),
        ("users_net:Missing", "users_net.py defines no function or class Missing"),
        ("users_net:WIDTH", "users_net.py defines no function or class WIDTH"),
        ("json:loads", "json/__init__.py has the same name; rename "),
    ],
)
def test_what_cannot_be_used_is_refused_by_key_and_name(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "users_broken.py").write_text("1 / 0\n")
    (tmp_path / "users_net.py").write_text("WIDTH = 5\n")
    (tmp_path / "json.py").write_text("def loads():\n    return 0\n")
    with pytest.raises(UserCodeError, match=rf"^{KEY} names '{name}', and .*{said}.*; accepted: .*; remedy: "):
        load_user_code(name, tmp_path, KEY)


# ---------------------------------------------------------------------- a class of the user's


def resolved(folder: Path, files: dict[str, str]) -> type:
    """``users_model.Child``, as freqtrade's resolver loads it: its module is on no list, the helpers' are."""
    for name, text in files.items():
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("users_model", folder / "users_model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    module.Child.__file__ = str(folder / "users_model.py")
    return module.Child


USERS_MODEL = {
    "users_model": (
        "import math\nfrom users_parent import Parent\nfrom users_helper import half\n\n"
        "class Child(Parent):\n    def scaled(self, x):\n        return half(math.floor(x))\n"
    ),
    "users_parent": "from users_base import BASE\n\nclass Parent:\n    base = BASE\n",
    "users_helper": "def half(x):\n    return x / 2\n",
    "users_base": "BASE = 1\n",
}


@pytest.mark.parametrize("file", [None, *USERS_MODEL])
def test_a_class_is_known_by_its_file_its_parents_and_whatever_they_use(tmp_path: Path, file: str | None) -> None:
    before = class_sources_sha256(resolved(tmp_path / "before", USERS_MODEL))
    edited = USERS_MODEL if file is None else {**USERS_MODEL, file: USERS_MODEL[file] + "# Edited.\n"}
    after = class_sources_sha256(resolved(tmp_path / "after", edited))
    assert (before == after) == (file is None)


def test_a_class_without_functions_is_known_by_its_file(tmp_path: Path) -> None:
    shipped = 'class Child(dict):\n    """Nothing of its own."""\n'
    hashes = {
        class_sources_sha256(resolved(tmp_path / name, {"users_model": text}))
        for name, text in {"a": shipped, "b": shipped, "c": shipped + "# Edited.\n"}.items()
    }
    assert len(hashes) == 2


def test_installed_classes_have_no_file_of_the_users() -> None:
    assert class_sources_sha256(dict) == class_sources_sha256(Path)


def test_what_it_imports_only_once_it_runs_is_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    (tmp_path / "lib" / "users_late.py").write_text("import users_later\n\nLIMIT = 1\n")
    (tmp_path / "lib" / "users_later.py").write_text("MORE = 1\n")
    source = "class Child:\n    def limit(self):\n        from users_late import LIMIT\n        return LIMIT\n"

    def hashes() -> tuple[str, str]:
        importlib.invalidate_caches()
        child = resolved(tmp_path / "model", {"users_model": source})
        return class_sources_sha256(child), class_code(child, child).source_sha256

    found = [hashes(), hashes()]
    for name in ("users_late", "users_later"):
        (tmp_path / "lib" / f"{name}.py").write_text("LIMIT = MORE = 2\nimport users_later\n")
        found.append(hashes())
    assert [len(set(each)) for each in zip(*found, strict=True)] == [3, 3]
    assert not {"users_late", "users_later"} & sys.modules.keys()


def test_what_a_named_function_uses_beside_the_user_directory_is_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "user_data").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    (tmp_path / "user_data" / "users_near.py").write_text(
        "from users_far import far\n\n\ndef near():\n    return far()\n"
    )
    found = set()
    for number in (1, 1, 2):
        (tmp_path / "lib" / "users_far.py").write_text(f"def far():\n    return {number}\n")
        sys.modules.pop("users_far", None)
        forget_user_code()
        found.add(load_user_code("users_near:near", tmp_path / "user_data", KEY).source_sha256)
    assert len(found) == 2
    sys.modules.pop("users_far", None)
