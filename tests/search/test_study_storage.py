"""Where trials are kept: a journal that mends itself, and databases that are opened or refused in one sentence."""

from __future__ import annotations

import logging
from pathlib import Path

import optuna
import pytest
from studies import spec_of

from mtfscalper.search.errors import StudyError
from mtfscalper.search.storage import SPEC, open_storage, open_study, put_spec, shown, spec_in
from mtfscalper.search.study_folder import StudyFolder

HALF = '{"op_code":4,"worker_id":"abc","study_id":0,"datetime_sta'


def study_in(folder: StudyFolder) -> optuna.Study:
    return open_study(open_storage(None, folder), spec_of(), [1])


def tell_one(study: optuna.Study) -> None:
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    study.tell(trial, 1.0)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "small")


def test_a_journal_is_cut_back_to_its_last_whole_record_with_one_line(
    folder: StudyFolder, caplog: pytest.LogCaptureFixture
) -> None:
    tell_one(study_in(folder))
    whole = folder.journal.read_bytes()
    with folder.journal.open("a") as file:
        file.write(HALF)
    with caplog.at_level(logging.WARNING, "mtfscalper"):
        again = study_in(folder)
    assert folder.journal.read_bytes() == whole
    assert [record.getMessage() for record in caplog.records if record.name == "mtfscalper.search.storage"] == [
        f"{folder.journal} ended with half a record: {len(HALF)} bytes were cut off, all before is kept."
    ]
    assert len(again.trials) == 1


def test_half_a_record_of_another_process_does_not_spoil_the_next(folder: StudyFolder) -> None:
    study = study_in(folder)
    tell_one(study)
    with folder.journal.open("a") as file:
        # It was killed while this one goes on.
        file.write(HALF)
    tell_one(study)
    assert len(study_in(folder).trials) == 2
    assert HALF not in folder.journal.read_text()


@pytest.mark.parametrize("tail", ["", HALF, "[1]\n", HALF + "\n" + HALF, "\x00" * 70_000])
def test_whatever_a_journal_ends_with_all_whole_records_before_it_stay(folder: StudyFolder, tail: str) -> None:
    tell_one(study_in(folder))
    whole = folder.journal.read_bytes()
    with folder.journal.open("a") as file:
        file.write(tail)
    open_storage(None, folder)
    assert folder.journal.read_bytes() == whole


def test_a_journal_that_is_damaged_within_is_refused(folder: StudyFolder) -> None:
    tell_one(study_in(folder))
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join([lines[0], HALF + "\n", *lines[1:]]))
    with pytest.raises(StudyError, match=r"journal.log is damaged"):
        open_storage(None, folder)


def test_sqlite_is_refused_and_passwords_are_not_told(folder: StudyFolder) -> None:
    with pytest.raises(StudyError, match=r"SQLite loses records when several processes write"):
        open_storage("sqlite:///trials.db", folder)
    with pytest.raises(StudyError) as refused:
        open_storage("mysql+pymysql://me:secret@127.0.0.1:1/studies", folder)
    assert "its driver is not installed" in str(refused.value)
    with pytest.raises(StudyError, match="no address of a database"):
        open_storage("nowhere", folder)
    assert "secret" not in str(refused.value) + shown("postgresql://me:secret@host/studies")
    assert shown(None) == "journal"


def test_another_study_of_the_same_name_is_refused(folder: StudyFolder) -> None:
    storage = open_storage(None, folder)
    assert spec_in(storage, "small") is None
    open_study(storage, spec_of(), [1])
    # On another machine it lies elsewhere and may have begun later.
    open_study(storage, spec_of(datadir="elsewhere", arguments=("--config", "mine.json")), [2])
    assert spec_in(storage, "small") == spec_of()
    with pytest.raises(StudyError, match=r"holds another study of the name 'small'.*move the folder studies/small"):
        open_study(storage, spec_of(lock_ms=1), [1])
    assert spec_in(storage, "small") == spec_of()


def test_a_name_whose_process_died_before_it_had_a_spec_is_taken_over(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtfscalper.search.storage.SPEC_SECONDS", 0.0)
    storage = open_storage(None, folder)
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "small")
    assert put_spec(storage, spec_of()) == spec_of()
    assert put_spec(storage, spec_of(lock_ms=1)) == spec_of()


def test_a_study_of_another_version_is_told_of_in_one_line(folder: StudyFolder) -> None:
    storage = open_storage(None, folder)
    storage.set_study_user_attr(
        storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "small"), SPEC, {"name": "small"}
    )
    with pytest.raises(StudyError, match="that this version cannot read"):
        open_study(storage, spec_of(), [1])
