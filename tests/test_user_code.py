"""A user's code is found in the user directory, and goes with what is pickled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cloudpickle
import pytest

from mtfscalper.user_code import UserCodeError, load_user_object, make_importable

KEY = "freqai.rl_config.network"


@pytest.fixture
def user_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "freqaimodels").mkdir()
    make_importable(tmp_path)
    return tmp_path


@pytest.mark.parametrize("folder", [".", "freqaimodels"])
def test_a_module_of_the_user_directory_is_found(user_data: Path, folder: str) -> None:
    name = f"users_{folder.strip('.')}"
    (user_data / folder / f"{name}.py").write_text("def answer():\n    return 42\n")
    assert load_user_object(f"{name}:answer", KEY).value() == 42


def test_the_user_directory_hides_no_installed_package_and_is_added_once(user_data: Path) -> None:
    before = list(sys.path)
    assert before[-2:] == [str(user_data), str(user_data / "freqaimodels")]
    make_importable(user_data)
    assert sys.path == before


def test_what_is_pickled_works_where_the_user_directory_is_not_on_the_path(user_data: Path) -> None:
    (user_data / "users_sum.py").write_text(
        "import math\nBASE = 40\n\ndef two():\n    return 2\n\ndef answer():\n    return math.floor(BASE + two())\n"
    )
    loaded = load_user_object("users_sum:answer", KEY)
    (user_data / "pickled").write_bytes(cloudpickle.dumps(loaded.value))
    code = "import cloudpickle, sys; print(cloudpickle.loads(open(sys.argv[1], 'rb').read())())"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, str(user_data / "pickled")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd="/")
    assert result.stdout == "42\n"


def test_code_that_was_changed_is_other_code(user_data: Path) -> None:
    path = user_data / "users_changing.py"
    path.write_text("answer = 1\n")
    first = load_user_object("users_changing:answer", KEY)
    assert load_user_object("users_changing:answer", KEY) == first
    path.write_text("answer = 1  # still\n")
    assert load_user_object("users_changing:answer", KEY).source_sha256 != first.source_sha256


def test_an_installed_package_is_pickled_by_reference(user_data: Path) -> None:
    loaded = load_user_object("torch.nn:Identity", KEY)
    assert len(cloudpickle.dumps(loaded.value)) < 200


def test_a_module_that_fails_is_named_with_its_error(user_data: Path) -> None:
    (user_data / "users_broken.py").write_text("1 / 0\n")
    with pytest.raises(
        UserCodeError,
        match=r"^freqai\.rl_config\.network is 'users_broken:Net', and importing users_broken fails with ",
    ):
        load_user_object("users_broken:Net", KEY)
