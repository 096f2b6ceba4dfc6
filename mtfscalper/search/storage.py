"""Where a study's trials are kept: a journal in its folder, or a database that several machines share."""

from __future__ import annotations

import json
import logging
import os
import time
import warnings
from typing import TYPE_CHECKING, Any

from mtfscalper.search.errors import StudyError
from mtfscalper.search.installed import check_installed
from mtfscalper.search.study_folder import StudyFolder, StudySpec

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage

logger = logging.getLogger(__name__)

# Where a storage with a password may be named: command lines are seen by everybody on a machine.
STORAGE_VARIABLE = "MTFSCALPER_STORAGE"
SPEC = "mtfscalper:spec"
# Between a study's name in a storage and its spec there are milliseconds, if its process lives.
SPEC_SECONDS, _LOOK_SECONDS = 10.0, 0.2
# Of the pruner: a trial is given up where the same instances went worse than the best trial's by less chance than this.
P_THRESHOLD = 0.1
# Fewer instances than these never give a trial up.
STARTUP_INSTANCES = 6
# Trials that are drawn at random before the sampler begins to learn from them.
STARTUP_TRIALS = 10


def check_optuna() -> None:
    """
    :raises StudyError: if a package is missing that only studies need
    """
    check_installed("optuna", "arch")
    import optuna

    # Each trial is told of by the study's own lines.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def shown(url: str | None) -> str:
    """A storage as it may be printed and written: without its password."""
    if url is None:
        return "journal"
    from sqlalchemy.engine import make_url

    return str(make_url(url).render_as_string(hide_password=True))


def open_storage(url: str | None, folder: StudyFolder) -> BaseStorage:
    """Open a study's storage.

    :param url: of a database; None for the journal in the study's folder
    :raises StudyError: if it cannot be used
    """
    check_optuna()
    from optuna.storages import JournalStorage

    if url is None:
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            return JournalStorage(_journal(folder))
        except (ValueError, KeyError) as error:
            raise StudyError(
                f"{folder.journal} is damaged ({error}); accepted: Optuna's journal, whose last record alone may be "
                "cut off; remedy: restore it from a copy, or begin another study"
            ) from error
    return _database(url)


def _database(url: str) -> BaseStorage:
    from optuna.storages import RDBStorage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    accepted = "accepted: postgresql://USER@HOST/DATABASE or mysql://…; none keeps a journal in the study's folder"
    try:
        kind = make_url(url).get_backend_name()
    except ArgumentError:
        raise StudyError(f"--storage is no address of a database; {accepted}") from None
    if kind == "sqlite":
        raise StudyError(
            f"--storage is {shown(url)}, and SQLite loses records when several processes write; {accepted}; remedy: "
            "leave --storage away"
        )
    try:
        # A connection that the database has closed meanwhile is noticed before it is used.
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except ImportError as error:
        raise StudyError(
            f"--storage is {shown(url)}, and its driver is not installed ({error}); remedy: pip install "
            "'mtfscalper[postgres]', or the driver that SQLAlchemy names for your database"
        ) from None
    except SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StudyError(
            f"--storage {shown(url)} cannot be opened: {reason}; {accepted}; remedy: start it, or correct the address"
        ) from None


def _journal(folder: StudyFolder) -> Any:
    """The journal's file, which mends itself: a process that is killed while it writes leaves half a record."""
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class MendedJournal(JournalFileBackend):
        """Cuts off half a record before it writes the next: two on one line would be the end of the journal."""

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
            with self._lock_held(), open(self._file_path, "r+b") as file:
                _mend(file, self._file_path)
                file.seek(0, os.SEEK_END)
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())

        def mend(self) -> None:
            """Cut off half a record now."""
            with self._lock_held(), open(self._file_path, "r+b") as file:
                _mend(file, self._file_path)

        def _lock_held(self) -> Any:
            from optuna.storages.journal._file import get_lock_file

            return get_lock_file(self._lock)

    path = str(folder.journal)
    # Not by a symbolic link, which Windows permits to few.
    journal = MendedJournal(path, JournalFileOpenLock(path))
    journal.mend()
    return journal


def _mend(file: Any, path: str) -> None:
    """Cut a journal's file off after its last whole record, with one line if that changes it."""
    size = whole = file.seek(0, os.SEEK_END)
    while whole and not _ends_whole(file, whole):
        whole = _end_of_line_before(file, whole)
    if whole < size:
        file.truncate(whole)
        logger.warning("%s ended with half a record: %d bytes were cut off, all before is kept.", path, size - whole)


def _ends_whole(file: Any, end: int) -> bool:
    begin = _end_of_line_before(file, end)
    file.seek(begin)
    line = file.read(end - begin)
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _end_of_line_before(file: Any, end: int) -> int:
    """Where the line ends that comes before the one that ends here."""
    end -= 1
    while end > 0:
        begin = max(0, end - 65_536)
        file.seek(begin)
        at = file.read(end - begin).rfind(b"\n")
        if at >= 0:
            return int(begin + at + 1)
        end = begin
    return 0


def open_study(storage: BaseStorage, spec: StudySpec, seed: list[int]) -> Study:
    """The study in its storage, which is made if it is not there.

    :param seed: of the sampler in this process; no two that ask at once may have the same
    :raises StudyError: if the storage holds another study of this name
    """
    import numpy as np
    import optuna

    if put_spec(storage, spec).shared_sha256 != spec.shared_sha256:
        raise StudyError(
            f"the storage holds another study of the name {spec.name!r}, which searches or measures otherwise; "
            "accepted: the study of this folder; remedy: choose another name with --study, or another storage; to take "
            f"part in the one that it holds, move the folder studies/{spec.name} of this user directory away and run "
            "the command again"
        )
    sampler_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
    study = optuna.load_study(
        study_name=spec.name,
        storage=storage,
        sampler=optuna.samplers.TPESampler(
            multivariate=False, constant_liar=True, n_startup_trials=STARTUP_TRIALS, seed=sampler_seed
        ),
        pruner=optuna.pruners.WilcoxonPruner(p_threshold=P_THRESHOLD, n_startup_steps=STARTUP_INSTANCES),
    )
    if not study.metric_names:
        # As a dashboard writes it beside the axis.
        study.set_metric_names(["paired difference a day"])
    return study


def spec_in(storage: BaseStorage, name: str) -> StudySpec | None:
    """The spec of a study that has begun in a storage; None where there is none.

    :raises StudyError: if it cannot be read
    """
    try:
        study_id = storage.get_study_id_from_name(name)
    except KeyError:
        return None
    values = storage.get_study_user_attrs(study_id).get(SPEC)
    try:
        return None if values is None else StudySpec.from_json(values)
    except TypeError as error:
        raise StudyError(
            f"the storage holds a study of the name {name!r} that this version cannot read ({error}); accepted: one "
            "that it began; remedy: choose another name with --study, or another storage"
        ) from None


def put_spec(storage: BaseStorage, spec: StudySpec) -> StudySpec:
    """Begin a study in its storage, if nobody has.

    Of two that begin the same study at once the storage takes one name: whoever comes second gets the other's spec.

    :return: the spec that the storage has now, another than the one given where somebody else was first
    :raises StudyError: if it cannot be read
    """
    from optuna.exceptions import DuplicatedStudyError
    from optuna.study import StudyDirection

    if (begun := spec_in(storage, spec.name)) is not None:
        return begun
    try:
        study_id = storage.create_new_study([StudyDirection.MAXIMIZE], spec.name)
    except DuplicatedStudyError:
        if (begun := _awaited_spec(storage, spec.name)) is not None:
            return begun
        # Whoever had the name is gone; of several that see so the last one to write it is obeyed.
        storage.set_study_user_attr(storage.get_study_id_from_name(spec.name), SPEC, spec.as_json())
        time.sleep(5 * _LOOK_SECONDS)
    else:
        storage.set_study_user_attr(study_id, SPEC, spec.as_json())
    return spec_in(storage, spec.name) or spec


def _awaited_spec(storage: BaseStorage, name: str) -> StudySpec | None:
    end = time.monotonic() + SPEC_SECONDS
    while (begun := spec_in(storage, name)) is None and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    return begun
