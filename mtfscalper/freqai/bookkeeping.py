"""FreqAI's own files in an identifier's folder, kept so that none of them can stop a bot or run what it does not know.

FreqAI writes them in place and reads them without a question: cut off by a full disk, each forbids every later start.
Here each is written whole, with a second copy beside it, and is read only if it is what was written.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from weakref import WeakKeyDictionary

import pandas as pd
from freqtrade.enums import TRADE_MODES, RunMode
from freqtrade.exceptions import OperationalException
from freqtrade.freqai import freqai_interface
from freqtrade.freqai.data_drawer import FEATURE_PIPELINE, LABEL_PIPELINE, METADATA
from freqtrade.freqai.data_kitchen import FreqaiDataKitchen

from mtfscalper import artefacts
from mtfscalper.freqai import checked_json
from mtfscalper.freqai.archive import Archive
from mtfscalper.freqai.candle_history import HistoryDrawer
from mtfscalper.freqai.fallback import judged_in
from mtfscalper.freqai.owner import Owner, policy_trouble
from mtfscalper.freqai.policy_folders import PolicyFolders
from mtfscalper.freqai.policy_places import PolicyName
from mtfscalper.freqai.prediction_history import PredictionHistory, with_row
from mtfscalper.freqai.sealing import HISTORY_NAMES
from mtfscalper.freqai.sharing import Writers
from mtfscalper.freqai.stray_files import remove_stray_files
from mtfscalper.freqai.training_folder import Origin, trained_terms, write_notes
from mtfscalper.policy.algorithms import algorithm_class
from mtfscalper.seals import KEY_NAME, Seals

logger = logging.getLogger(__name__)

_LOOKS_ONLY = (RunMode.PLOT, RunMode.WEBSERVER)
_START_DATE = "start_dry_live_date"


class Bookkeeper(HistoryDrawer):
    """FreqAI's data drawer, whose files are written whole and read only if they are what it wrote.

    Reading writes nothing: what is not ours is moved aside when its name is needed.

    :ivar origins: of a bot's policies, what their folders say of them
    :ivar trained_with: what a policy of a pair is trained with now
    :ivar owner: of the bot
    """

    def __init__(
        self, seals: Seals, archive: Archive, full_path: Path, config: dict[str, Any], *, looks_only: bool = False
    ) -> None:
        """
        :param seals: of the user directory
        :param archive: of the identifier
        :param full_path: the identifier's folder
        :param looks_only: whether nothing may be written
        """
        self._seals, self._archive = seals, archive
        self._history = PredictionHistory(full_path, archive.bot / HISTORY_NAMES[0], seals)
        self._is_bot = config.get("runmode") in TRADE_MODES
        # Of a backtest: the pairs whose entries are its own.
        self._trained: set[str] = set()
        # A policy is put into use and onto disk in several steps, while the bot predicts.
        self._policy_lock = threading.RLock()
        self._unsaved: dict[str, tuple[Any, FreqaiDataKitchen]] = {}
        self._is_saving = False
        # FreqAI writes them once.
        self._unsaved_metadata: dict[str, Any] | None = None
        self._folders = PolicyFolders(full_path, archive, seals)
        self._looked_for: set[str] = set()
        self.origins: WeakKeyDictionary[Any, Origin] = WeakKeyDictionary()
        self.trained_with: Callable[[str], Mapping[str, Any]] = lambda _: {}
        self.owner = Owner()
        if not looks_only and config.get("runmode") not in _LOOKS_ONLY:
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
        self.historic_predictions = self._history.read()
        self._tell_later()
        return bool(self.historic_predictions)

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
            if coin not in self.model_dictionary or coin not in self.meta_data_dictionary:
                self._load_from_disk(coin, dk)
            return super().load_data(coin, dk)

    def _load_from_disk(self, coin: str, dk: FreqaiDataKitchen) -> None:
        """Load the policy that the dictionary names, or where that cannot be, the last one that can."""
        named = self._folders.named(self.pair_dict[coin])
        if named is None and coin in self._looked_for:
            return
        self._looked_for.add(coin)
        refused = "FreqAI's dictionary names none" if named is None else self._take(named, coin, dk)
        if refused is None:
            return
        # As never trained: FreqAI trains it at once.
        self.pair_dict[coin] = self.empty_pair_dict.copy()
        aside = ""
        if named is not None and self._folders.must_not_be_loaded(named):
            aside = f" Its files now lie in {artefacts.move_aside(named.folder)}."
        others = self._folders.others(coin, named)
        last_sound = next((name for name in others if self._take(name, coin, dk, stands_in=True) is None), None)
        if named is None and last_sound is None:
            return
        meanwhile = (
            "an open trade keeps its stop and its longest duration"
            if last_sound is None
            else f"the last sound one decides, {last_sound.folder.name}"
        )
        what = "its last policy" if named is None else named.folder.name
        self.owner.trouble(
            policy_trouble(coin),
            f"{coin}: {what} is not used: {refused}. A new one is trained at once; until then {meanwhile}.{aside}",
            coin,
        )

    def policy_in_use(self, pair: str) -> PolicyName | None:
        """A pair's policy, None where it has none."""
        entry = self.pair_dict.get(pair)
        return None if entry is None else self._folders.named(entry)

    def train_at_once(self, pair: str) -> None:
        """Let FreqAI train a pair as if it had never been; what decides now goes on meanwhile."""
        self.pair_dict[pair]["trained_timestamp"] = 0

    def _take(self, name: PolicyName, coin: str, dk: FreqaiDataKitchen, *, stands_in: bool = False) -> str | None:
        """Load a policy and put it into use.

        :return: why it cannot be, None once it is
        """
        refused = self._folders.why_refused(name, coin)
        if refused is not None:
            return refused
        origin = self._folders.origin(name, stands_in=stands_in)
        before = dict(self.pair_dict[coin])
        self.pair_dict[coin] |= {"model_filename": name.stem, "data_path": str(name.folder)}
        self.meta_data_dictionary.pop(coin, None)
        try:
            model_type = (
                self.freqai_info["rl_config"]["model_type"] if origin.terms is None else origin.terms.model_type
            )
            model = algorithm_class(model_type).load(artefacts.policy_files(*name)["model"])
            self.model_dictionary[coin] = model
            super().load_data(coin, dk)
        except Exception as error:
            # Whole, yet of another version of a library, or of a network of the user's that is gone: no common error.
            self.model_dictionary.pop(coin, None)
            self.pair_dict[coin] = cast(Any, before)
            return f"it cannot be loaded ({type(error).__name__}: {error})"
        self.origins[model] = origin
        self.meta_data_dictionary[coin] = {
            METADATA: dk.data,
            FEATURE_PIPELINE: dk.feature_pipeline,
            LABEL_PIPELINE: dk.label_pipeline,
        }
        return None

    def _read(self, path: Path, is_valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        return checked_json.read(path, self._kept(path), is_valid)

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
                # Before anything names the policy: cut off in between, the one before it is still the pair's.
                self._is_saving = True
                name = PolicyName(Path(dk.data_path), str(dk.model_filename))
                origin = self.origins.get(model)
                if origin is None:
                    # A model of the user's that trains in its own way: nothing is known but what it has left.
                    origin = Origin(trained_terms(name.folder), {}, judged=judged_in(name.folder))
                    self.origins[model] = origin
                if origin.report is not None and origin.terms is not None:
                    # They may have found no space as the training ended.
                    write_notes(name.folder, origin.report, origin.terms)
                super().save_data(model, coin, dk)
                read = origin.report.files_read if origin.report is not None else {}
                self._folders.seal(name, coin, self.trained_with(coin), read)
                self._is_saving = False
                self.save_drawer_to_disk()
            except OSError as error:
                self._use_from_memory(model, coin, dk)
                self._tell(
                    f"the policy of {coin}", error, "it decides from memory, and is written after the next training"
                )
            else:
                self._unsaved.pop(coin, None)
                self._heal(f"the policy of {coin}")
            finally:
                self._is_saving = False

    def save_metadata(self, dk: FreqaiDataKitchen) -> None:
        """FreqAI's saving of a period without its policy."""
        _free_names(dk)
        super().save_metadata(dk)

    def save_historic_predictions_to_disk(self) -> None:
        """Write what was predicted. A failure is told and tried again: FreqAI's training thread would end with it."""
        for coin, (model, dk) in list(self._unsaved.items()):
            self.save_data(model, coin, dk)
        if self._unsaved_metadata is not None:
            self.save_global_metadata_to_disk(self._unsaved_metadata)
        with self._told(self.historic_predictions_path):
            self._history.write(self.historic_predictions)

    def add_prediction(self, pair: str, row: Mapping[str, Any]) -> None:
        """Take in what was decided on a candle, and have it on disk before anybody acts on it.

        :param row: its columns, of a candle after all others of the pair's history
        """
        self.historic_predictions[pair] = with_row(self.historic_predictions[pair], row)
        with self._told(self._history.journal.path):
            self._history.journal.append(pair, row)

    def settle_history(self) -> None:
        """Let the histories end now, whatever a clock said before; see :class:`PredictionHistory`."""
        self._history.settle(self.historic_predictions, pd.Timestamp.now("UTC"))
        self._tell_later()

    def _tell_later(self) -> None:
        later = self._history.later
        if not later:
            self.owner.healed("clock", "The clock agrees with what the bot has decided; all of it counts.")
            return
        n, last = sum(map(len, later.values())), max(dates.max() for dates in later.values())
        self.owner.trouble(
            "clock",
            f"By this machine's clock it is {pd.Timestamp.now('UTC'):%Y-%m-%d %H:%M:%S} UTC, and {n} decisions on "
            f"{', '.join(later)} are of candles yet to come, up to {last:%Y-%m-%d %H:%M}: it is behind, or was ahead "
            "as they were made. They are kept, and count once they have come. Set the clock; if it is right, nothing "
            "need be done.",
        )

    def save_metric_tracker_to_disk(self) -> None:
        """Write what was measured; see :meth:`save_historic_predictions_to_disk`."""
        with self.save_lock, self._told(self.metric_tracker_path):
            self._write(self.metric_tracker_path, self.metric_tracker)

    def save_drawer_to_disk(self) -> None:
        """Write which policy each pair has.

        A backtest's policies serve a bot that is started later, as in FreqAI; those of an analysis must not.

        :raises OSError: if it cannot be written
        """
        if self._archive.is_analysis or self._is_saving:
            return
        with self.save_lock, nullcontext() if self._is_bot else Writers(self._archive).of_bookkeeping():
            entries = dict(self.pair_dict)
            if not self._is_bot:
                # Another backtest may have written its own pairs' entries since this one read them.
                written = self._read(self.pair_dictionary_path, _is_pair_dictionary) or {}
                entries |= {pair: entry for pair, entry in written.items() if pair not in self._trained}
            self._write(self.pair_dictionary_path, entries)

    def purge_old_models(self) -> None:
        """FreqAI's removal of older policies; see :meth:`mtfscalper.freqai.policy_folders.PolicyFolders.purge`."""
        self._folders.purge(self.freqai_info["purge_old_models"], self.pair_dict)

    def save_global_metadata_to_disk(self, metadata: dict[str, Any]) -> None:
        """Write when the bot was first started; see :meth:`save_historic_predictions_to_disk`."""
        self._unsaved_metadata = metadata
        with self.save_lock, self._told(self.global_metadata_path):
            self._write(self.global_metadata_path, metadata)
            self._unsaved_metadata = None

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        checked_json.write(path, self._kept(path), json.loads(json.dumps(value, default=self.np_encoder)))

    def _kept(self, path: Path) -> Path:
        """The second name of a file or folder of the identifier's folder, outside it."""
        return self._archive.bot / path.relative_to(self.full_path)

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
            self._heal(str(path))

    def _tell(self, what: str, error: OSError, then: str) -> None:
        self.owner.trouble(
            f"writing {what}", f"{what} cannot be written ({error}): {then}. Free space, or change its rights."
        )

    def _heal(self, what: str) -> None:
        self.owner.healed(f"writing {what}", f"{what} has been written.")


@contextmanager
def installed(seals: Seals, archive: Archive, *, looks_only: bool = False) -> Iterator[None]:
    """Let FreqAI's constructor make a :class:`Bookkeeper`, and keep its record of parameters whole.

    FreqAI has no hook for either: it reads its files in the constructor, by names of its module.

    :param looks_only: whether nothing may be written
    :raises OperationalException: where FreqAI's folder cannot be used
    """
    namespace = vars(freqai_interface)
    ours = {
        "FreqaiDataDrawer": partial(Bookkeeper, seals, archive, looks_only=looks_only),
        "record_params": (lambda *_: None) if looks_only else partial(_record_params, namespace["record_params"]),
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
