"""The key of a user directory: made once, by one of several, read by its owner alone, and never on its travels."""

import logging
import multiprocessing
import os
import pickle
import stat
from pathlib import Path

import pytest

from mtfscalper.seals import KEY_NAME, SealError, Seals


def test_a_seal_holds_for_its_bytes_its_purpose_and_its_user_directory_alone(tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    seal = Seals(here).seal("history", b"content")
    Seals(elsewhere).seal("history", b"content")
    assert Seals(here).holds("history", b"content", seal)
    assert not Seals(here).holds("history", b"contens", seal)
    assert not Seals(here).holds("manifest", b"content", seal)
    assert not Seals(elsewhere).holds("history", b"content", seal)
    for other in (None, 3, "", seal[:-1], "é"):
        assert not Seals(here).holds("history", b"content", other)


def test_checking_makes_no_key(tmp_path: Path) -> None:
    assert not Seals(tmp_path).holds("history", b"content", "0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_its_owners_and_is_told_to_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seals = Seals(tmp_path)
    seals.seal("history", b"content")
    key = tmp_path / KEY_NAME
    assert [path.name for path in tmp_path.iterdir()] == [KEY_NAME]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    secret = key.read_bytes()
    assert len(secret) == 32
    assert f"Made a key in {key}" in caplog.text
    assert secret not in pickle.dumps(seals)
    assert secret.hex() not in caplog.text + repr(seals)
    assert pickle.loads(pickle.dumps(seals)).holds("history", b"content", seals.seal("history", b"content"))


def seal_when_all_are_there(user_dir: Path, barrier: "multiprocessing.synchronize.Barrier", results: Path) -> None:
    barrier.wait()
    results.write_text(Seals(user_dir).seal("history", b"content"))


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    home = tmp_path / "home"
    home.mkdir()
    barrier = context.Barrier(4)
    files = [tmp_path / f"seal-{index}" for index in range(4)]
    processes = [context.Process(target=seal_when_all_are_there, args=(home, barrier, file)) for file in files]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len({file.read_text() for file in files}) == 1
    assert [path.name for path in home.iterdir()] == [KEY_NAME]


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 33])
def test_a_damaged_key_lies_aside_and_another_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    before = Seals(tmp_path).seal("history", b"content")
    (tmp_path / KEY_NAME).write_bytes(content)
    assert not Seals(tmp_path).holds("history", b"content", before)
    assert Seals(tmp_path).seal("history", b"content") != before
    assert (tmp_path / f"{KEY_NAME}.damaged").read_bytes() == content
    assert "is damaged, and lies aside" in caplog.text


def test_without_hard_links_the_key_is_made_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    seal = Seals(tmp_path).seal("history", b"content")
    assert [path.name for path in tmp_path.iterdir()] == [KEY_NAME]
    assert Seals(tmp_path).holds("history", b"content", seal)


def test_a_key_that_cannot_be_read_or_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / KEY_NAME).mkdir()
    with pytest.raises(SealError, match=rf"{KEY_NAME} cannot be read .*remedy: give it to that user"):
        Seals(tmp_path).seal("history", b"content")
    with pytest.raises(SealError, match=r"cannot be written .*remedy: free space"):
        Seals(tmp_path / "missing").seal("history", b"content")


def test_a_sealed_pickle_is_read_by_whoever_knows_no_seals(tmp_path: Path) -> None:
    seals = Seals(tmp_path)
    content = pickle.dumps({"a": 1})
    sealed = seals.append("history", content)
    assert pickle.loads(sealed) == {"a": 1}
    assert seals.content("history", sealed) == content
    for broken in (content, b"", sealed[:-1], b"x" + sealed, sealed[:40] + sealed[41:], sealed.replace(b"a", b"b", 1)):
        assert seals.content("history", broken) is None
