"""One period of a backtest: what it is made from, what of it lies on disk and may be reused."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtfscalper import artefacts
from mtfscalper.files_read import FILES_READ, note_all, read_so_far, under, why_changed
from mtfscalper.freqai.archive import Versions
from mtfscalper.freqai.computed_frame import ComputedFrame, FrameSlice
from mtfscalper.freqai.fallback import falls_back, judged_in, why_fallen
from mtfscalper.freqai.run_plan import PlannedPeriod
from mtfscalper.freqai.trained_with import TRAINED_WITH
from mtfscalper.seals import Seals
from mtfscalper.trading.account import FLAT, Account
from mtfscalper.training.paired_result import PairedResult, must_fall_back

logger = logging.getLogger(__name__)

# Files with the frame that a policy was trained on, and the one it predicted.
_TRAINED, _PREDICTED = "trained_frame", "predicted_frame"
# What a training leaves beside its policy, by role.
_REPORTS = {"report": artefacts.REPORT_NAME, "terms": artefacts.TERMS_NAME}
# Of a fingerprint, with continual learning: the policy that this one goes on from.
BEFORE_IT = "model before it"
# Of a period's manifest.
_FALLS_BACK = "falls_back"


@dataclass
class BacktestPeriod:
    """One period of one pair.

    :ivar pair: whose it is
    :ivar first_ms: the first row that it predicts
    :ivar stop_ms: the first row that it no longer predicts
    :ivar folder: where FreqAI reads and writes its files
    :ivar name: FreqAI's, with which its files' names begin
    :ivar predictions: where FreqAI reads its columns
    :ivar versions: what runs have sealed of it
    :ivar trained_on: the computed frame, cut to the rows that its policy is trained on
    :ivar predicts_on: the computed frame, cut to the rows that it predicts
    :ivar trained_with: what a bot that finds its policy compares, see :mod:`mtfscalper.freqai.trained_with`
    :ivar model_fingerprint: what else its policy is made from, name to hash
    :ivar fingerprint: what else its predictions are made from, name to hash; the policy's among it
    :ivar decision_mode: how its predictions are made
    :ivar predecessor: the period whose model its own goes on from, None without continual learning
    :ivar saves_model: whether a policy that is trained is left on disk
    :ivar needs_model: whether its predictions are of no use without the policy on disk
    :ivar reuses_model: whether the policy is one that was sealed before
    :ivar version: the folder of the sealed version that the run goes by, None until there is one
    :ivar was_put_back: whether files came from a version, because FreqAI's folder held others or none
    :ivar seals: of the user directory
    :ivar chooses_environments: whether its policy may have any number of environments (``rl_config.n_envs`` "auto");
        the one it has is sealed with it
    :ivar looks_only: whether nothing may be written
    :ivar found: the folder of what can be reused, from a look at the period until it is begun
    :ivar why_trained: why its policy cannot be reused, from a look at the period; None where there is none to reuse
    :ivar is_guarded: whether its policy was judged (``rl_config.fallback``)
    :ivar falls_back: whether it was judged not to beat classic exits, so that the rules end its trades
    :ivar judged: how it was judged, or why that is not known, in words; None while nothing has asked
    :ivar files_read: by the user's own code in the policy's training, see :mod:`mtfscalper.files_read`
    :ivar account_before: the account that it was predicted from, as ``account_after``
    """

    pair: str
    first_ms: int
    stop_ms: int
    folder: Path
    name: str
    predictions: Path
    versions: Versions
    trained_on: FrameSlice
    predicts_on: FrameSlice
    trained_with: Mapping[str, Any]
    model_fingerprint: Mapping[str, str]
    fingerprint: Mapping[str, str]
    decision_mode: str
    predecessor: BacktestPeriod | None
    saves_model: bool
    needs_model: bool
    seals: Seals
    chooses_environments: bool = False
    looks_only: bool = False
    found: Path | None = None
    why_trained: str | None = None
    is_guarded: bool = False
    falls_back: bool = False
    judged: PairedResult | str | None = None
    reuses_model: bool = False
    version: Path | None = None
    was_put_back: bool = False
    files_read: dict[str, str] = field(default_factory=dict)
    account_before: Account = FLAT
    account_after: Account = FLAT
    _told: set[str] = field(default_factory=set)

    @property
    def decisions(self) -> Path:
        """The file of the rows that decisions about open trades are made on."""
        return self.folder / f"{self.name}_decisions.npz"

    def move_aside_if_not_ours(self) -> None:
        """Let files that another installation sealed, or none, lie where a run neither reads nor overwrites them."""
        unsealed = artefacts.why_unsealed(self.folder, self.seals)
        # Without a manifest they were never finished.
        if unsealed is None or artefacts.read_manifest(self.folder) is None:
            return
        if self.predictions.is_file():
            artefacts.move_aside(self.predictions)
        aside = artefacts.move_aside(self.folder)
        logger.warning("%s: %s is trained anew: %s. Its files now lie in %s.", self.pair, self.name, unsealed, aside)

    def needs_training(self) -> bool:
        """Whether neither predictions nor a policy can be reused; tells why.

        That predictions may go on from another account is not seen: no period before this one has been gone through.
        """
        predictions, stale = self._find(lambda folder: self._why_predictions_are_stale(folder, None))
        self.found = predictions
        if predictions is not None:
            return False
        self._tell_predictions_stale(stale)
        self.found, stale = self._find(self._why_model_is_stale)
        if self.found is None:
            self.why_trained = stale
            self._tell_model_stale(stale)
        return self.found is None

    def reuse_predictions(self, account: Account) -> bool:
        """Put sealed predictions that hold today, with all that belongs to them, where FreqAI reads them.

        :param account: the account that the period before this one ended with
        :return: whether there are any; if not, nothing lies where FreqAI would read predictions
        """
        self.found = None
        source, stale = self._find(lambda folder: self._why_predictions_are_stale(folder, account))
        if source is None:
            self._tell_predictions_stale(stale)
            self.predictions.unlink(missing_ok=True)
            return False
        files = self._install(source, lambda role: True)
        artefacts.link(self.folder / files["predictions"], self.predictions)
        # Last: it vouches for the others.
        artefacts.link(source / artefacts.MANIFEST_NAME, self.folder / artefacts.MANIFEST_NAME)
        self.version = self.versions.add(self.folder)
        self.falls_back = bool(self._manifest().get(_FALLS_BACK, False))
        if self.falls_back:
            self.judged = judged_in(self.folder)
        return True

    def reuse_model(self) -> bool:
        """Put a sealed policy that holds today where FreqAI reads it.

        :return: whether there is one
        """
        source, stale = self._find(self._why_model_is_stale)
        self.reuses_model = source is not None
        if source is not None:
            self._install(source, lambda role: role in self._model_roles)
            self.files_read = (artefacts.read_manifest(source) or {}).get(FILES_READ, {})
            if self.is_guarded:
                self.judged = judged_in(self.folder)
                self.falls_back = falls_back(self.judged, self.pair)
            return True
        self._tell_model_stale(stale)
        return False

    def judge(self, judged: PairedResult) -> None:
        """Take the judgement of the policy's training."""
        self.judged, self.falls_back = judged, must_fall_back(judged)

    def judge_unjudged(self) -> None:
        """Let the rules end the trades of a policy that had to be judged and was not, and say so.

        A model of the user's may train in its own way.
        """
        if self.is_guarded and self.judged is None:
            self.judged = "its training did not judge it"
            self.falls_back = falls_back(self.judged, self.pair)

    @property
    def why_fallen(self) -> str:
        """Why its policy has fallen back, in words that many periods have in common; "" where it has not."""
        return why_fallen(self.judged) if self.falls_back and self.judged is not None else ""

    def _tell_predictions_stale(self, stale: str | None) -> None:
        self._tell(stale and f"{self.pair}: predictions of {self.name} are made anew: {stale}.")

    def _tell_model_stale(self, stale: str | None) -> None:
        self._tell(stale and f"{self.pair}: {self.name} is trained anew: {stale}.")

    def _tell(self, line: str | None) -> None:
        """Say what cannot be reused, once: a period may be looked at before it is begun."""
        if line is not None and line not in self._told:
            self._told.add(line)
            logger.info("%s", line)

    def _find(self, why_stale: Callable[[Path], str | None]) -> tuple[Path | None, str | None]:
        """The folder of sealed files that hold today, FreqAI's before the versions; else why the first one's do not."""
        if not self.looks_only:
            self.was_put_back |= self.versions.mend(self.folder)
        in_place = artefacts.read_manifest(self.folder) is not None
        first_reason = None
        for folder in (*([self.folder] if in_place else []), *self.versions.to_reuse()):
            reason = why_stale(folder)
            if reason is None:
                return folder, None
            first_reason = first_reason or reason
        if first_reason is None and artefacts.policy_files(self.folder, self.name)["model"].is_file():
            first_reason = "it has no readable manifest"
        return None, first_reason

    def _install(self, source: Path, wanted: Callable[[str], bool]) -> dict[str, str]:
        """Give sealed files the names that FreqAI knows them by.

        :param wanted: whether the file of a role is
        :return: role of each of them to its name
        """
        sealed = (artefacts.read_manifest(source) or {"files": {}})["files"]
        files = {role: Path(file["path"]).name for role, file in sealed.items() if wanted(role)}
        if source != self.folder:
            self.was_put_back = True
            for role, name in files.items():
                # What nobody has asked for may be lost.
                if artefacts.is_whole(source / name, sealed[role]):
                    artefacts.link(source / name, self.folder / name)
        return files

    def _why_model_is_stale(self, folder: Path) -> str | None:
        """Why the policy in a folder cannot be used, None if it can."""
        roles = (*artefacts.policy_files(folder, self.name), _TRAINED)
        # The report of a guarded period says whether its policy falls back.
        roles = (*roles, "report") if self.is_guarded else roles
        stale = artefacts.why_stale(folder, self.model_fingerprint, roles, self.seals)
        return stale or self._why_files_differ(folder) or self._why_computed_differs(folder, _TRAINED)

    def _why_predictions_are_stale(self, folder: Path, account: Account | None) -> str | None:
        """Why the predictions in a folder cannot be used, None if they can.

        :param account: the account that the period before this one ended with, None for any
        """
        needed = {"model": self.needs_model, "decisions": self.decision_mode == "exact"}
        roles = ("predictions", "metadata", _TRAINED, _PREDICTED, *(role for role, needs in needed.items() if needs))
        stale = artefacts.why_stale(folder, self.fingerprint, roles, self.seals)
        stale = stale or self._why_files_differ(folder)
        stale = stale or self._why_computed_differs(folder, _TRAINED) or self._why_computed_differs(folder, _PREDICTED)
        if stale is not None:
            return stale
        before = (artefacts.read_manifest(folder) or {}).get("account_before")
        if account is not None and before != list(account):
            return "the period before it now ends with another account"
        return None

    def sealed_account(self) -> Account:
        """The account that the predictions on disk end with."""
        return Account(*self._manifest()["account_after"])

    def seal(self, features: list[str]) -> None:
        """Write the manifest, and keep what it vouches for as a version: the files are all there.

        :param features: the names of what the policy was trained on
        """
        files = artefacts.policy_files(self.folder, self.name)
        # Where the policy is not saved, all but the metadata are an earlier one's.
        if not (self.saves_model or self.reuses_model):
            files = {"metadata": files["metadata"]}
        # A policy that is reused keeps the frame it was trained on: small differences must not add up unseen.
        made = {_PREDICTED: self.predicts_on} if self.reuses_model else self._computed
        for role, rows in made.items():
            ComputedFrame.from_rows(rows.cut()).save(self._computed_path(role))
        predictions = self.folder / self.predictions.name
        artefacts.link(self.predictions, predictions)
        files |= {role: self._computed_path(role) for role in self._computed}
        files |= {role: self.folder / name for role, name in _REPORTS.items()}
        artefacts.write_manifest(
            self.folder,
            {**self.fingerprint, **self._environments},
            files | {"predictions": predictions, "decisions": self.decisions},
            self.seals,
            pair=self.pair,
            features=features,
            account_before=list(self.account_before),
            account_after=list(self.account_after),
            **{_FALLS_BACK: self.falls_back, TRAINED_WITH: dict(self.trained_with)},
            **{FILES_READ: self._all_files_read()},
            written=datetime.now(UTC).isoformat(),
        )
        self.version = self.versions.add(self.folder)

    def planned(self, root: Path) -> PlannedPeriod:
        """The period as decisions about open trades look for it.

        :param root: of the archive
        """
        assert self.version is not None, self.name
        return PlannedPeriod(self.first_ms, self.stop_ms, os.path.relpath(self.version, root), self.falls_back)

    @property
    def model_made(self) -> str:
        """A hash that another policy for this period has not, even one that was made from the same."""
        return artefacts.value_hash([dict(self.model_fingerprint), self._manifest().get("files", {}).get("model")])

    def sealed_model(self) -> bytes | None:
        """The zip of the policy on disk, None where a run leaves none there."""
        if "model" not in self._manifest().get("files", {}):
            return None
        return artefacts.sealed_path(self.found or self.folder, "model").read_bytes()

    @property
    def _environments(self) -> dict[str, Any]:
        """The number of environments that was chosen for the policy, which nobody asks for: any will do."""
        path = self.folder / artefacts.REPORT_NAME
        # A disk that was full has no report, and the run went on.
        if not self.chooses_environments or not path.is_file():
            return {}
        return {"n_envs": json.loads(path.read_text())["n_envs"]}

    @property
    def _computed(self) -> dict[str, FrameSlice]:
        return {_TRAINED: self.trained_on, _PREDICTED: self.predicts_on}

    def _computed_path(self, role: str) -> Path:
        return self.folder / f"{self.name}_{role}.npz"

    @property
    def _model_roles(self) -> set[str]:
        return {*artefacts.policy_files(self.folder, self.name), _TRAINED, *_REPORTS}

    def _why_files_differ(self, folder: Path) -> str | None:
        read = (artefacts.read_manifest(folder) or {}).get(FILES_READ, {})
        differs = why_changed(read, self._user_dir)
        return differs and f"changed since: {differs}"

    def _all_files_read(self) -> dict[str, str]:
        """Those of the policy's training, and what hooks of the user's model have read in this process."""
        read = under(self.files_read, self._user_dir)
        note_all(read, under(read_so_far(), self._user_dir))
        return read

    @property
    def _user_dir(self) -> Path:
        return self.seals.key_path.parent

    def _why_computed_differs(self, folder: Path, role: str) -> str | None:
        kept = ComputedFrame.from_file(artefacts.sealed_path(folder, role))
        differs = kept.difference(self._computed[role].cut())
        return differs and f"changed since: {differs}"

    def _manifest(self) -> dict[str, Any]:
        return artefacts.read_manifest(self.found or self.folder) or {}
