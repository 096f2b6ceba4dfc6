"""Files of a trained period: written whole or not at all, reused only while nothing they stand on has changed."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

import mtfscalper
from mtfscalper import artefacts
from mtfscalper.artefacts import (
    MANIFEST_NAME,
    code_hash,
    file_hash,
    library_versions,
    link,
    read_manifest,
    value_hash,
    why_stale,
    write_atomically,
    write_bytes,
    write_json,
    write_manifest,
)
from mtfscalper.seals import Seals

FINGERPRINT = {"settings": "a", "candles": "b"}
ROLES = ("model", "predictions")


# ---------------------------------------------------------------------- writing


def test_two_names_of_a_file_share_its_data_until_one_is_written_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "below" / "second"
    first.write_bytes(b"first")
    link(first, second)
    assert second.samefile(first)
    link(first, second)
    write_bytes(first, b"again")
    assert second.read_bytes() == b"first"
    link(first, second)
    assert second.read_bytes() == b"again"
    assert second.samefile(first)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["below", "first", "second"]


def test_a_name_that_has_the_content_already_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.write_bytes(b"same")
    link(first, second)
    assert not second.samefile(first)


@pytest.mark.parametrize(
    ("number", "is_copied"),
    [
        (errno.EPERM, True),
        (errno.EXDEV, True),
        (errno.EMLINK, True),
        (errno.ENOSPC, False),
        (errno.EROFS, False),
        (errno.EACCES, False),
    ],
)
def test_where_a_name_cannot_be_had_the_file_is_copied_unless_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_copied: bool
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(b"first")
    monkeypatch.setattr("os.link", refuse)
    if is_copied:
        link(first, second)
        assert second.read_bytes() == b"first"
    else:
        with pytest.raises(OSError, match="refused"):
            link(first, second)
        assert not second.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "model.zip"
    write_atomically(path, lambda target: target.write_bytes(b"whole"))
    assert path.read_bytes() == b"whole"
    assert [file.name for file in path.parent.iterdir()] == ["model.zip"]


def test_the_name_is_taken_only_when_the_file_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    seen: list[bool] = []

    def write(target: Path) -> None:
        assert target.parent == path.parent
        target.write_bytes(b"half")
        seen.append(path.exists())
        target.write_bytes(b"whole")

    write_atomically(path, write)
    assert seen == [False]
    assert path.read_bytes() == b"whole"


def fail_halfway(target: Path) -> None:
    target.write_bytes(b"half")
    raise RuntimeError("disk full")


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(tmp_path / "model.zip", fail_halfway)
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail_halfway)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_keyboard_interrupt_leaves_no_file_either(tmp_path: Path) -> None:
    def interrupt(target: Path) -> None:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "model.zip", interrupt)
    assert list(tmp_path.iterdir()) == []


def test_the_content_is_on_the_disk_before_the_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.zip"
    synced: list[bytes] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        assert not path.exists()
        synced.append(os.pread(descriptor, 10, 0))
        fsync(descriptor)

    monkeypatch.setattr(artefacts.os, "fsync", watched)
    write_atomically(path, lambda target: target.write_bytes(b"whole"))
    assert synced == [b"whole"]


def test_json_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True], "b": {"c": "–"}}
    write_json(tmp_path / "value.json", value)
    assert json.loads((tmp_path / "value.json").read_text()) == value


def test_json_that_no_reader_would_take_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nan"):
        write_json(tmp_path / "value.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- hashes


def test_the_hash_of_a_file_is_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert file_hash(path) == hashlib.sha256(b"abc").hexdigest()


def test_the_hash_of_a_value_does_not_depend_on_the_order_of_keys() -> None:
    assert value_hash({"a": 1, "b": [1, 2]}) == value_hash({"b": [1, 2], "a": 1})
    different = [{"a": 1}, {"a": 2}, {"b": 1}, {"a": 1.5}, {"a": "1"}, {"a": None}, [], [1, 2], [2, 1]]
    assert len({value_hash(value) for value in different}) == len(different)


@pytest.fixture
def package_copy(tmp_path: Path) -> Path:
    copy = tmp_path / "mtfscalper"
    shutil.copytree(Path(mtfscalper.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


def change(file: Path) -> None:
    file.write_text(file.read_text() + "\n# changed\n")


@pytest.mark.parametrize(
    "file",
    [
        "settings.py",
        "machine.py",
        "market/tape.py",
        "market/signals.py",
        "trading/rules.py",
        "trading/exits.py",
        "trading/reward.py",
        "envs/trading_env.py",
        "envs/batched_env.py",
        "policy/network.py",
        "policy/algorithms.py",
        "training/fit.py",
        "training/ppo.py",
        "freqai/model.py",
        "freqai/columns.py",
        "freqai/strategy_rules.py",
        "freqai/trade_decisions.py",
        "freqai/policy_store.py",
    ],
)
def test_the_hash_of_the_code_changes_with_what_decides_a_policy(package_copy: Path, file: str) -> None:
    before = code_hash(package_copy)
    assert code_hash(package_copy) == before
    change(package_copy / file)
    assert code_hash(package_copy) != before


@pytest.mark.parametrize("file", ["cli.py", "monitoring/checks.py", "offline/demo.py", "moved.py", "strategy.py"])
def test_the_hash_of_the_code_does_not_change_with_what_looks_on(package_copy: Path, file: str) -> None:
    before = code_hash(package_copy)
    change(package_copy / file)
    assert code_hash(package_copy) == before


def test_a_file_belongs_to_the_hash_of_the_code_once_the_model_imports_it(package_copy: Path) -> None:
    before = code_hash(package_copy)
    new = package_copy / "trading" / "more.py"
    new.write_text("LIMIT = 1\n")
    assert code_hash(package_copy) == before
    model = package_copy / "freqai" / "model.py"
    model.write_text(model.read_text() + "\n\ndef limit():\n    from mtfscalper.trading.more import LIMIT\n")
    imported = code_hash(package_copy)
    new.write_text("LIMIT = 2\n")
    assert len({before, imported, code_hash(package_copy)}) == 3


@pytest.mark.parametrize("package", ["executors", "reporting", "search"])
def test_what_runs_or_shows_a_training_stays_outside_though_the_model_imports_it(
    package_copy: Path, package: str
) -> None:
    new = package_copy / package / "more.py"
    new.parent.mkdir(exist_ok=True)
    new.write_text("LIMIT = 1\n")
    model = package_copy / "freqai" / "model.py"
    model.write_text(model.read_text() + f"\nfrom mtfscalper.{package} import more\n")
    before = code_hash(package_copy)
    new.write_text("LIMIT = 2\n")
    assert code_hash(package_copy) == before


def test_the_hash_of_the_code_is_that_of_the_package_in_use(package_copy: Path) -> None:
    assert code_hash() == code_hash(package_copy)


def test_versions_of_the_libraries_a_result_depends_on_are_known() -> None:
    versions = library_versions()
    assert {"freqtrade", "stable-baselines3", "torch", "numpy", "pandas"} <= set(versions)
    assert all(version[0].isdigit() for version in versions.values())


# ---------------------------------------------------------------------- manifest


@pytest.fixture
def seals(tmp_path: Path) -> Seals:
    home = tmp_path / "home"
    home.mkdir()
    return Seals(home)


@pytest.fixture
def period(tmp_path: Path, seals: Seals) -> Path:
    """A sealed period: its model, and predictions in a folder beside it as FreqAI keeps them."""
    folder = tmp_path / "sub-train-BTC_1"
    folder.mkdir()
    (folder / "model.zip").write_bytes(b"model")
    predictions = tmp_path / "backtesting_predictions" / "p.feather"
    predictions.parent.mkdir()
    predictions.write_bytes(b"predictions")
    files = {"model": folder / "model.zip", "predictions": predictions, "absent": folder / "nothing.pkl"}
    write_manifest(folder, FINGERPRINT, files, seals, pair="BTC/USDT:USDT", account_after=[0.0, 1.0])
    return folder


def test_a_manifest_is_read_back_with_everything_in_it(period: Path) -> None:
    manifest = read_manifest(period)
    assert manifest is not None
    assert len(manifest.pop("seal")) == 64
    assert manifest == {
        "fingerprint": FINGERPRINT,
        "files": {
            "model": {"path": "model.zip", "sha256": hashlib.sha256(b"model").hexdigest()},
            "predictions": {
                "path": "../backtesting_predictions/p.feather",
                "sha256": hashlib.sha256(b"predictions").hexdigest(),
            },
        },
        "pair": "BTC/USDT:USDT",
        "account_after": [0.0, 1.0],
    }


def test_files_that_match_their_manifest_are_not_stale(period: Path, seals: Seals) -> None:
    assert why_stale(period, FINGERPRINT, ROLES, seals) is None


def test_a_period_can_be_moved_as_a_whole(period: Path, seals: Seals) -> None:
    moved = period.parent.rename(period.parent.with_name("elsewhere")) / period.name
    assert why_stale(moved, FINGERPRINT, ROLES, seals) is None


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{",
        '{"fingerprint": {}}',
        '{"files": {}}',
        "[]",
        "null",
        "3",
        '{"fingerprint": [], "files": []}',
        "\udcff",
    ],
)
def test_a_period_without_a_readable_manifest_is_stale(period: Path, seals: Seals, content: str | None) -> None:
    (period / MANIFEST_NAME).unlink()
    if content is not None:
        (period / MANIFEST_NAME).write_text(content, encoding="utf-8", errors="surrogateescape")
    assert read_manifest(period) is None
    assert why_stale(period, FINGERPRINT, ROLES, seals) == "it has no readable manifest"


def test_a_truncated_manifest_is_not_readable(period: Path, seals: Seals) -> None:
    path = period / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-20])
    assert why_stale(period, FINGERPRINT, ROLES, seals) == "it has no readable manifest"


def test_what_changed_since_is_named(period: Path, seals: Seals) -> None:
    now = {"settings": "a", "candles": "other", "code": "new"}
    assert why_stale(period, now, ROLES, seals) == "changed since: candles, code"


def test_a_role_never_sealed_is_named(period: Path, seals: Seals) -> None:
    assert why_stale(period, FINGERPRINT, ("model", "metadata"), seals) == "it holds no metadata"
    assert why_stale(period, FINGERPRINT, ("absent",), seals) == "it holds no absent"


def test_a_missing_file_is_named(period: Path, seals: Seals) -> None:
    (period / "model.zip").unlink()
    assert why_stale(period, FINGERPRINT, ROLES, seals) == "model.zip is missing"
    assert why_stale(period, FINGERPRINT, ("predictions",), seals) is None


@pytest.mark.parametrize("content", [b"mode", b"modem", b"", b"model "])
def test_a_damaged_file_is_named(period: Path, seals: Seals, content: bytes) -> None:
    (period / "model.zip").write_bytes(content)
    stale = why_stale(period, FINGERPRINT, ROLES, seals)
    assert stale is not None
    assert stale.startswith("model.zip is damaged")
    assert why_stale(period, FINGERPRINT, ("predictions",), seals) is None


def test_predictions_outside_the_period_are_checked_too(period: Path, seals: Seals) -> None:
    (period.parent / "backtesting_predictions" / "p.feather").write_bytes(b"damaged")
    stale = why_stale(period, FINGERPRINT, ROLES, seals)
    assert stale is not None
    assert stale.startswith("p.feather is damaged")
