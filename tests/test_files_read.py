"""Which files a user's code reads while it runs, in whatever way, and which do not count."""

from __future__ import annotations

import builtins
import gzip
import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mtfscalper import artefacts
from mtfscalper.files_read import CHANGED, MISSING, note_all, under, watched, why_changed

READ: dict[str, Callable[[Path], Any]] = {
    "limits.json": lambda path: json.loads(path.read_text()),
    "with_open.json": lambda path: json.load(open(path)),  # noqa: SIM115
    "by_name.json": lambda path: io.open(str(path)).read(),  # noqa: SIM115, UP020
    "by_bytes.json": lambda path: open(os.fsencode(path), "rb").read(),  # noqa: SIM115
    "a.csv": pd.read_csv,
    "a.json": pd.read_json,
    "a.parquet": pd.read_parquet,
    "a.feather": pd.read_feather,
    "a.pkl": pd.read_pickle,
    "b.pkl": lambda path: pickle.loads(path.read_bytes()),
    "a.npy": np.load,
    "mapped.npy": lambda path: np.load(path, mmap_mode="r"),
    "a.npz": lambda path: np.load(path)["a"],
    "a.txt": np.loadtxt,
    "raw.bin": np.fromfile,
    "b.txt": lambda path: np.genfromtxt(str(path)),
    "a.csv.xz": pd.read_csv,
    "a.csv.bz2": pd.read_csv,
    "a.gz": lambda path: gzip.open(path).read(),  # noqa: SIM115
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    frame = pd.DataFrame({"cap": [1.0, 2.0]})
    for name in ("limits.json", "with_open.json", "by_name.json", "by_bytes.json"):
        (tmp_path / name).write_text('{"cap": 1}')
    frame.to_csv(tmp_path / "a.csv")
    frame.to_csv(tmp_path / "a.csv.xz")
    frame.to_csv(tmp_path / "a.csv.bz2")
    frame.to_json(tmp_path / "a.json")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_feather(tmp_path / "a.feather")
    frame.to_pickle(tmp_path / "a.pkl")
    frame.to_pickle(tmp_path / "b.pkl")
    np.save(tmp_path / "a.npy", np.ones(3))
    np.save(tmp_path / "mapped.npy", np.ones(3))
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    np.savetxt(tmp_path / "a.txt", np.ones(3))
    np.savetxt(tmp_path / "b.txt", np.ones(3))
    np.ones(3).tofile(tmp_path / "raw.bin")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"1"))
    return tmp_path


@pytest.mark.parametrize("name", READ)
def test_a_file_that_is_read_is_known_by_its_content(folder: Path, name: str) -> None:
    read: dict[str, str] = {}
    with watched(read):
        READ[name](folder / name)
    assert read == {str(folder / name): artefacts.file_hash(folder / name)}
    named = under(read, folder)
    assert list(named) == [name]
    assert why_changed(named, folder) is None
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert why_changed(named, folder) == f"what your code read of {name}"
    (folder / name).unlink()
    assert why_changed(named, folder) == f"what your code read of {name}"


def test_it_holds_where_the_user_directory_lies_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    read: dict[str, str] = {}
    with watched(read):
        (folder / "limits.json").read_text()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "limits.json").write_text('{"cap": 1}')
    assert why_changed(under(read, folder), elsewhere) is None


def test_a_relative_path_is_one_of_the_folder_that_it_was_opened_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    read: dict[str, str] = {}
    with watched(read):
        Path("limits.json").read_text()
    monkeypatch.chdir("/")
    assert list(read) == [str(folder / "limits.json")]
    assert why_changed(under(read, folder), folder) is None


def test_a_file_that_is_not_there_counts_once_it_is(folder: Path) -> None:
    read: dict[str, str] = {}
    with watched(read), pytest.raises(FileNotFoundError):
        (folder / "more.json").read_text()
    assert read == {str(folder / "more.json"): MISSING}
    assert why_changed(under(read, folder), folder) is None
    (folder / "more.json").write_text("1")
    assert why_changed(under(read, folder), folder) == "what your code read of more.json"


def test_a_file_that_changes_while_it_is_read_is_never_the_same(folder: Path) -> None:
    read: dict[str, str] = {}
    path = folder / "limits.json"
    first = path.read_bytes()
    with watched(read):
        path.read_text()
        with_another_program(path, b'{"cap": 2}')
        path.read_text()
        with_another_program(path, first)
        path.read_text()
    assert read == {str(path): CHANGED}
    assert why_changed(under(read, folder), folder) == "what your code read of limits.json"
    apart = {"a": "1", "b": "1"}
    note_all(apart, {"a": "2", "b": "1"})
    assert apart == {"a": CHANGED, "b": "1"}


def with_another_program(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC)
    os.write(descriptor, content)
    os.close(descriptor)


def test_what_it_writes_itself_and_code_and_what_others_read_do_not_count(folder: Path) -> None:
    read: dict[str, str] = {}
    with watched(read):
        (folder / "log.txt").write_text("begun")
        with open(folder / "log.txt", "a") as log:
            log.write("ended")
        (folder / "log.txt").read_text()
        # Python's own, a library's, and what this package reads.
        Path(__file__).read_text()
        Path(json.__file__).with_suffix(".txt").exists()
        artefacts.file_hash(folder / "limits.json")
    assert read == {}


def test_python_opens_files_by_itself_again_afterwards(folder: Path) -> None:
    own = builtins.open
    outer: dict[str, str] = {}
    inner: dict[str, str] = {}
    with watched(outer):
        with watched(inner):
            assert builtins.open is not own
            (folder / "limits.json").read_text()
        (folder / "a.csv").read_text()
    assert builtins.open is own
    assert io.open is own
    (folder / "a.txt").read_text()
    assert [Path(path).name for path in inner] == ["limits.json"]
    assert [Path(path).name for path in outer] == ["limits.json", "a.csv"]
