"""Opening a study to look at it: whatever looks on writes nothing, repairs nothing and creates nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from mtfscalper.search.errors import StudyError
from mtfscalper.search.study_folder import StudyFolder

if TYPE_CHECKING:
    import optuna


class _ReadOnlyJournal(JournalFileBackend):
    """A journal that is read alone. A last record that is not whole yet is left for the next time."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise PermissionError("this study is looked at, and looking changes nothing")


def study_names(userdir: Path) -> list[str]:
    """Studies of a user directory, by name."""
    folders = [StudyFolder(path) for path in StudyFolder.of(userdir, "any").path.parent.glob("*")]
    return sorted(folder.path.name for folder in folders if folder.exists)


def folder_of(userdir: Path, name: str | None) -> StudyFolder:
    """The folder of a study.

    :param name: None for the only one that there is
    :raises StudyError: if there is none, or several and no name
    """
    names = study_names(userdir)
    if name is None and len(names) == 1:
        [name] = names
    if name in names:
        return StudyFolder.of(userdir, name)
    asked = "no --study is given" if name is None else f"--study is {name!r}"
    remedy = "--study NAME" if names else "begin one with mtfscalper study run --study NAME, or name its --userdir"
    raise StudyError(
        f"{asked}, and the studies of {userdir} are: {', '.join(names) or 'none'}; accepted: one of them; remedy: "
        f"{remedy}"
    )


def open_to_look(folder: StudyFolder, url: str | None) -> BaseStorage:
    """The storage of a study, which cannot be written through where it is a journal.

    :param url: of a database, None for the journal in the folder
    :raises StudyError: if it cannot be opened
    """
    if url is None:
        # Optuna would create it.
        if not folder.journal.is_file():
            raise StudyError(
                f"{folder.journal} is missing; accepted: the journal of a study that has begun; remedy: --storage URL "
                "if the study keeps its trials in a database, else begin it with mtfscalper study run"
            )
        return JournalStorage(_ReadOnlyJournal(str(folder.journal)))
    try:
        return RDBStorage(url, skip_table_creation=True)
    except Exception as error:
        # Of SQLAlchemy, its drivers and Optuna, each with errors of its own.
        raise StudyError(
            f"--storage cannot be opened ({type(error).__name__}: {error}); accepted: the URL of the database that the "
            "study's workers use; remedy: try it with mtfscalper study run, or start the database"
        ) from error


def study_of(storage: BaseStorage, name: str) -> optuna.Study:
    """A study of a storage.

    :raises StudyError: if the storage has none of that name
    """
    import optuna

    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        held = ", ".join(study.study_name for study in storage.get_all_studies()) or "none"
        raise StudyError(
            f"the storage has no study {name!r}; accepted: one of those that it has: {held}; remedy: check --storage"
        ) from error
