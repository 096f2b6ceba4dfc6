"""FreqAI's own files in an identifier's folder, kept so that none of them can stop a bot or run what it does not know.

FreqAI writes them in place and reads them without a question: cut off by a full disk, each forbids every later start.
Here each is written whole, with a second copy beside it, and is read only if it is what was written.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle
import psutil
from freqtrade.enums import TRADE_MODES, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai import freqai_interface
from freqtrade.freqai.data_drawer import FEATURE_PIPELINE, LABEL_PIPELINE, METADATA
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen

from mtfscalper import artefacts
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.candle_history import HistoryDrawer
from mtfscalper.freqai.sealing import HISTORY_PURPOSE
from mtfscalper.freqai.sharing import Writers
from mtfscalper.seals import KEY_NAME, Seals

logger = logging.getLogger(__name__)

# In FreqAI's JSON files, beside what FreqAI keeps there.
_CHECKSUM = "mtfscalper_sha256"
_LOOKS_ONLY = (RunMode.PLOT, RunMode.WEBSERVER)
_START_DATE = "start_dry_live_date"


class Bookkeeper(HistoryDrawer):
    """FreqAI's data drawer, whose files are written whole and read only if they are what it wrote.

    Reading writes nothing: what is not ours is moved aside when its name is needed.
    """

    def __init__(self, seals: Seals, archive: Archive, full_path: Path, config: dict[str, Any]) -> None:
        """
        :param seals: of the user directory
        :param archive: of the identifier
        :param full_path: the identifier's folder
        """
        self._seals, self._archive = seals, archive
        self._is_bot = config.get("runmode") in TRADE_MODES
        # Of a backtest: the pairs whose entries are its own.
        self._trained: set[str] = set()
        # A policy is put into use and onto disk in several steps, while the bot predicts.
        self._policy_lock = threading.RLock()
        self._unsaved: dict[str, tuple[Any, FreqaiDataKitchen]] = {}
        self._failed: set[str] = set()
        if config.get("runmode") not in _LOOKS_ONLY:
            keys = seals.key_path.parent.glob(f".{KEY_NAME}.*.tmp")
            remove_stray_files([*full_path.rglob(".*.tmp"), *keys])
        super().__init__(full_path, config)

    # ------------------------------------------------------------------ reading

    def load_drawer_from_disk(self) -> None:
        """Which policy each pair has."""
        self.pair_dict = self._read(self.pair_dictionary_path, _is_pair_dictionary) or {}

    def load_metric_tracker_from_disk(self) -> None:
        """What FreqAI measured about its trainings."""
        if self.freqai_info.get("write_metrics_to_disk", False):
            self.metric_tracker = self._read(self.metric_tracker_path, _is_metric_tracker) or {}

    def load_global_metadata_from_disk(self) -> dict[str, Any]:
        """When the bot was first started; where that is lost, the date of its first prediction."""
        metadata = self._read(self.global_metadata_path, _is_global_metadata)
        if metadata is None:
            dates = [frame["date_pred"].min() for frame in self.historic_predictions.values() if "date_pred" in frame]
            metadata = {_START_DATE: int(min(dates).timestamp())} if dates else {}
        return metadata

    def load_historic_predictions_from_disk(self) -> bool:
        """What the bot predicted before, if this user directory sealed it."""
        paths = (self.historic_predictions_path, self.historic_predictions_bkp_path)
        for path in (*paths, self._kept(paths[0])):
            history = self._history(path)
            if history is not None:
                if path != paths[0]:
                    logger.warning("%s is missing or damaged; restored from %s.", paths[0], _shown(path, paths[0]))
                self.historic_predictions = {
                    pair: self._repair_historic_predictions(pair, frame) for pair, frame in history.items()
                }
                return True
        if any(path.is_file() for path in paths):
            logger.warning(
                "%s was not sealed by this user directory, or is damaged, and is not read: a history runs code as it "
                "is unpickled. The bot begins a new one and leaves this one aside; if it is yours, `mtfscalper seal "
                "%s` seals it.",
                paths[0],
                self.full_path,
            )
        return False

    def load_data(self, coin: str, dk: FreqaiDataKitchen) -> Any:
        """FreqAI's loading of a policy, of none that this user directory did not seal.

        :return: None where there is no policy that may be loaded: FreqAI trains one
        """
        entry = self.pair_dict[coin]
        if not dk.live:
            # A backtest knows by its period's manifest that the policy is there, whatever became of the dictionary.
            entry["model_filename"] = dk.model_filename
            return super().load_data(coin, dk)
        with self._policy_lock:
            in_memory = coin in self.model_dictionary and coin in self.meta_data_dictionary
            if entry["model_filename"] and not in_memory:
                # The names only: a user directory may have moved, and nothing outside it is asked for.
                folder = self.full_path / Path(entry["data_path"]).name
                name = Path(entry["model_filename"]).name
                entry |= {"data_path": str(folder), "model_filename": name}
                self._put_back(folder, name)
                refused = self._why_refused(folder, name)
                if refused is not None:
                    self.pair_dict[coin] = self.empty_pair_dict.copy()
                    aside = f" Its files now lie in {artefacts.move_aside(folder)}." if folder.is_dir() else ""
                    logger.warning("%s: %s is not used: %s. A new one is trained.%s", coin, folder.name, refused, aside)
                    return None
            return super().load_data(coin, dk)

    def _put_back(self, folder: Path, name: str) -> None:
        """Give a policy its place again that was deleted or damaged there, where its kept names are whole.

        freqtrade's analyses delete the identifier's folder.
        """
        kept = self._kept(folder)
        refused = self._why_refused(folder, name)
        if refused is None or self._why_refused(kept, name) is not None:
            return
        aside = f" What lay there now lies in {artefacts.move_aside(folder)}." if folder.is_dir() else ""
        for path in kept.iterdir():
            artefacts.link(path, folder / path.name)
        logger.warning("%s: %s; put back from %s.%s", folder, refused, kept, aside)

    def _why_refused(self, folder: Path, name: str) -> str | None:
        """Why a bot's policy must not be loaded, None if it may."""
        if not folder.is_dir():
            return "it is missing"
        unsealed = artefacts.why_unsealed(folder, self._seals)
        if unsealed is not None:
            return unsealed
        roles = artefacts.policy_files(folder, name)
        missing = next((f"{path.name} is missing" for path in roles.values() if not path.is_file()), None)
        # Without a manifest, but admitted by its digest.
        if missing is not None or artefacts.read_manifest(folder) is None:
            return missing
        stale = artefacts.why_stale(folder, {}, tuple(roles), self._seals)
        if stale is None and any(artefacts.sealed_path(folder, role) != path for role, path in roles.items()):
            return f"its manifest is that of another policy than {name}"
        return stale

    def _history(self, path: Path) -> Any:
        """A sealed history, None where a file holds none."""
        if not path.is_file():
            return None
        content = self._seals.content(HISTORY_PURPOSE, path.read_bytes())
        if content is None:
            return None
        try:
            return cloudpickle.loads(content)
        except Exception as error:
            # Sealed here, yet by libraries whose objects those of now cannot read: pickle names no common error.
            logger.warning("%s cannot be unpickled (%s: %s).", path, type(error).__name__, error)
            return None

    def _read(self, path: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """A JSON file of FreqAI's or its second copy, None where neither is what was written."""
        copy = _copy_of(path)
        for candidate in (path, copy, self._kept(path)):
            value = self._read_one(candidate, is_valid)
            if value is not None:
                if candidate != path:
                    logger.warning("%s is missing or damaged; restored from %s.", path, _shown(candidate, path))
                return value
        if path.exists() or copy.exists():
            logger.warning("%s is damaged, and its second copy too: it is made anew.", path)
        return None

    def _read_one(self, path: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        try:
            value = json.loads(path.read_bytes()) if path.exists() else None
        except ValueError:
            return None
        if not isinstance(value, dict):
            return None
        checksum = value.pop(_CHECKSUM, None)
        # Without one it was written by FreqAI alone. No seal is asked for: it runs nothing, and the policies that it
        # names have seals of their own.
        is_whole = checksum is None or checksum == artefacts.value_hash(value)
        return value if is_whole and is_valid(value) else None

    # ------------------------------------------------------------------ writing

    def save_data(self, model: Any, coin: str, dk: FreqaiDataKitchen) -> None:
        """FreqAI's saving of a policy; a bot's is sealed, and used from memory where it cannot be written."""
        _free_names(dk)
        if not dk.live:
            # A backtest's period is sealed with its predictions.
            self._trained.add(coin)
            super().save_data(model, coin, dk)
            return
        with self._policy_lock:
            try:
                super().save_data(model, coin, dk)
                folder = Path(dk.data_path)
                files = artefacts.policy_files(folder, dk.model_filename)
                files |= {name: folder / name for name in (artefacts.REPORT_NAME, artefacts.TERMS_NAME)}
                artefacts.write_manifest(folder, {}, files, self._seals, pair=coin)
                for path in (*files.values(), folder / artefacts.MANIFEST_NAME):
                    self._keep(path)
            except OSError as error:
                self._use_from_memory(model, coin, dk)
                self._tell(
                    f"the policy of {coin}", error, "it decides from memory, and is written after the next training"
                )
            else:
                self._unsaved.pop(coin, None)
                self._failed.discard(f"the policy of {coin}")

    def save_metadata(self, dk: FreqaiDataKitchen) -> None:
        """FreqAI's saving of a period without its policy."""
        _free_names(dk)
        super().save_metadata(dk)

    def save_historic_predictions_to_disk(self) -> None:
        """Write what was predicted. A failure is told and tried again: FreqAI's training thread would end with it."""
        for coin, (model, dk) in list(self._unsaved.items()):
            self.save_data(model, coin, dk)
        with self._told(self.historic_predictions_path):
            pickled = cloudpickle.dumps(self.historic_predictions, protocol=cloudpickle.DEFAULT_PROTOCOL)
            content = self._seals.append(HISTORY_PURPOSE, pickled)
            for path in (self.historic_predictions_path, self.historic_predictions_bkp_path):
                if path.is_file() and self._seals.content(HISTORY_PURPOSE, path.read_bytes()) is None:
                    artefacts.move_aside(path)
                artefacts.write_bytes(path, content)
            self._keep(self.historic_predictions_path)

    def save_metric_tracker_to_disk(self) -> None:
        """Write what was measured; see :meth:`save_historic_predictions_to_disk`."""
        with self.save_lock, self._told(self.metric_tracker_path):
            self._write(self.metric_tracker_path, self.metric_tracker)

    def save_drawer_to_disk(self) -> None:
        """Write which policy each pair has.

        A backtest's policies serve a bot that is started later, as in FreqAI; those of an analysis must not.

        :raises OSError: if it cannot be written
        """
        if self._archive.is_analysis:
            return
        with self.save_lock, nullcontext() if self._is_bot else Writers(self._archive).of_bookkeeping():
            entries = dict(self.pair_dict)
            if not self._is_bot:
                # Another backtest may have written its own pairs' entries since this one read them.
                written = self._read(self.pair_dictionary_path, _is_pair_dictionary) or {}
                entries |= {pair: entry for pair, entry in written.items() if pair not in self._trained}
            self._write(self.pair_dictionary_path, entries)

    def purge_old_models(self) -> None:
        """FreqAI's removal of older policies, and that of what was kept of them."""
        super().purge_old_models()
        in_use = {Path(entry["data_path"]).name for entry in self.pair_dict.values()}
        for kept in self._archive.bot.glob("sub-train-*"):
            if kept.name not in in_use and not (self.full_path / kept.name).exists():
                shutil.rmtree(kept)

    def save_global_metadata_to_disk(self, metadata: dict[str, Any]) -> None:
        """Write when the bot was first started."""
        with self.save_lock, self._told(self.global_metadata_path):
            self._write(self.global_metadata_path, metadata)

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        plain = json.loads(json.dumps(value, default=self.np_encoder))
        for target in (path, _copy_of(path)):
            artefacts.write_json(target, {**plain, _CHECKSUM: artefacts.value_hash(plain)})
        self._keep(path)

    def _kept(self, path: Path) -> Path:
        """The second name of a file or folder of the identifier's folder, outside it."""
        return self._archive.bot / path.relative_to(self.full_path)

    def _keep(self, path: Path) -> None:
        if path.is_file():
            artefacts.link(path, self._kept(path))

    def _use_from_memory(self, model: Any, coin: str, dk: FreqaiDataKitchen) -> None:
        """What FreqAI does once a policy is on disk."""
        dk.data |= {
            "data_path": str(dk.data_path),
            "model_filename": str(dk.model_filename),
            "training_features_list": dk.training_features_list,
            "label_list": dk.label_list,
        }
        self.model_dictionary[coin] = model
        self.pair_dict[coin] |= {"model_filename": dk.model_filename, "data_path": str(dk.data_path)}
        self.meta_data_dictionary[coin] = {
            METADATA: dk.data,
            FEATURE_PIPELINE: dk.feature_pipeline,
            LABEL_PIPELINE: dk.label_pipeline,
        }
        self._unsaved[coin] = model, dk

    @contextmanager
    def _told(self, path: Path) -> Iterator[None]:
        """Let a bot go on where a file cannot be written, and say so once until it can."""
        try:
            yield
        except OSError as error:
            self._tell(str(path), error, "what stood there before is whole, and it is tried again")
        else:
            self._failed.discard(str(path))

    def _tell(self, what: str, error: OSError, then: str) -> None:
        if what not in self._failed:
            self._failed.add(what)
            logger.warning("%s cannot be written (%s): %s. Free space, or change its rights.", what, error, then)


@contextmanager
def installed(seals: Seals, archive: Archive) -> Iterator[None]:
    """Let FreqAI's constructor make a :class:`Bookkeeper`, and keep its record of parameters whole.

    FreqAI has no hook for either: it reads its files in the constructor, by names of its module.

    :raises OperationalException: where FreqAI's folder cannot be used
    """
    namespace = vars(freqai_interface)
    ours = {
        "FreqaiDataDrawer": partial(Bookkeeper, seals, archive),
        "record_params": partial(_record_params, namespace["record_params"]),
    }
    before = {name: namespace[name] for name in ours}
    namespace.update(ours)
    try:
        with clear_file_errors():
            yield
    finally:
        namespace.update(before)


@contextmanager
def clear_file_errors() -> Iterator[None]:
    """A file that cannot be read or written, as the kind of error freqtrade prints and stops at."""
    try:
        yield
    except OSError as error:
        raise OperationalException(
            f"{error.filename or 'A file'} cannot be used: {error}; accepted: a user directory that can be read and "
            "written, with space left; remedy: free space or change its rights, and run again: what was finished is "
            "reused"
        ) from error


def remove_stray_files(paths: Iterable[Path]) -> None:
    """Remove what writers of ours left behind as they were killed; a process that still runs keeps its own.

    :param paths: of files with names of writers, others among them
    """
    for path in paths:
        found = re.search(r"\.(\d+)\.tmp$", path.name)
        if found and not _is_being_written(path, int(found[1])):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("%s, left by a process that was killed, cannot be removed (%s).", path, error)


def _is_being_written(path: Path, pid: int) -> bool:
    try:
        # A process that began after the file was written has another's number.
        return psutil.Process(pid).create_time() <= path.stat().st_mtime
    except (psutil.NoSuchProcess, FileNotFoundError):
        return False


def _record_params(record: Callable[[dict[str, Any], Path], None], config: dict[str, Any], full_path: Path) -> None:
    """FreqAI's record of a run's parameters, written whole; a folder that cannot be written to does without."""
    path = full_path / "run_params.json"
    try:
        with TemporaryDirectory() as scratch:
            record(config, Path(scratch))
            content = (Path(scratch) / path.name).read_bytes()
        if not path.is_file() or path.read_bytes() != content:
            artefacts.write_bytes(path, content)
    except OSError as error:
        logger.warning("%s cannot be written (%s); nothing of a run depends on it.", path, error)


def _free_names(dk: FreqaiDataKitchen) -> None:
    """Let FreqAI write new files: it writes into those that it finds, and what is sealed may share their data."""
    for path in artefacts.policy_files(Path(dk.data_path), dk.model_filename).values():
        path.unlink(missing_ok=True)


def _shown(path: Path, instead_of: Path) -> str:
    return path.name if path.parent == instead_of.parent else str(path)


def _copy_of(path: Path) -> Path:
    return path.with_name(f"{path.stem}.backup{path.suffix}")


def _is_pair_dictionary(value: dict[str, Any]) -> bool:
    kinds = {"model_filename": str, "trained_timestamp": int, "data_path": str}
    return all(
        isinstance(entry, dict) and all(isinstance(entry.get(name), kind) for name, kind in kinds.items())
        for entry in value.values()
    )


def _is_global_metadata(value: dict[str, Any]) -> bool:
    return set(value) <= {_START_DATE} and isinstance(value.get(_START_DATE, 0), int)


def _is_metric_tracker(value: dict[str, Any]) -> bool:
    return all(isinstance(entry, dict) for entry in value.values())
