"""One period of a backtest: what it is made from, what of it lies on disk and may be reused."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mtfscalper import artefacts
from mtfscalper.freqai.computed_frame import ComputedFrame, FrameSlice
from mtfscalper.freqai.policy_store import PlannedPeriod
from mtfscalper.seals import Seals
from mtfscalper.trading.account import FLAT, Account

logger = logging.getLogger(__name__)

# Files with the frame that a policy was trained on, and the one it predicted.
_TRAINED, _PREDICTED = "trained_frame", "predicted_frame"


@dataclass
class BacktestPeriod:
    """One period of one pair.

    :ivar first_ms: the first row that it predicts
    :ivar stop_ms: the first row that it no longer predicts
    :ivar folder: where its files lie
    :ivar name: FreqAI's, with which its files' names begin
    :ivar predictions: the file of its columns
    :ivar trained_on: the computed frame, cut to the rows that its policy is trained on
    :ivar predicts_on: the computed frame, cut to the rows that it predicts
    :ivar model_fingerprint: what else its policy is made from, name to hash
    :ivar fingerprint: what else its predictions are made from, name to hash; the policy's among it
    :ivar decision_mode: how its predictions are made
    :ivar predecessor: the period whose model its own goes on from, None without continual learning
    :ivar saves_model: whether a policy that is trained is left on disk
    :ivar needs_model: whether its predictions are of no use without the policy on disk
    :ivar reuses_model: whether the policy is the one that lay on disk
    :ivar seals: of the user directory
    :ivar account_before: the account that it was predicted from, as ``account_after``
    """

    first_ms: int
    stop_ms: int
    folder: Path
    name: str
    predictions: Path
    trained_on: FrameSlice
    predicts_on: FrameSlice
    model_fingerprint: Mapping[str, str]
    fingerprint: Mapping[str, str]
    decision_mode: str
    predecessor: BacktestPeriod | None
    saves_model: bool
    needs_model: bool
    seals: Seals
    reuses_model: bool = False
    account_before: Account = FLAT
    account_after: Account = FLAT

    @property
    def decisions(self) -> Path:
        """The file of the rows that decisions about open trades are made on."""
        return self.folder / f"{self.name}_decisions.npz"

    def move_aside_if_not_ours(self, pair: str) -> None:
        """Let files that another installation sealed, or none, lie where a run neither reads nor overwrites them."""
        unsealed = artefacts.why_unsealed(self.folder, self.seals)
        # Without a manifest they were never finished.
        if unsealed is None or artefacts.read_manifest(self.folder) is None:
            return
        if self.predictions.is_file():
            artefacts.move_aside(self.predictions)
        aside = artefacts.move_aside(self.folder)
        logger.warning("%s: %s is trained anew: %s. Its files now lie in %s.", pair, self.name, unsealed, aside)

    def why_model_is_stale(self) -> str | None:
        """Why the policy on disk cannot be used, None if it can."""
        roles = (*artefacts.policy_files(self.folder, self.name), _TRAINED)
        stale = artefacts.why_stale(self.folder, self.model_fingerprint, roles, self.seals)
        return stale or self._why_computed_differs(_TRAINED)

    def why_predictions_are_stale(self, account: Account) -> str | None:
        """Why the predictions on disk cannot be used, None if they can.

        :param account: the account that the period before this one ended with
        """
        needed = {"model": self.needs_model, "decisions": self.decision_mode == "exact"}
        roles = ("predictions", "metadata", _TRAINED, _PREDICTED, *(role for role, needs in needed.items() if needs))
        stale = artefacts.why_stale(self.folder, self.fingerprint, roles, self.seals)
        stale = stale or self._why_computed_differs(_TRAINED) or self._why_computed_differs(_PREDICTED)
        if stale is not None:
            return stale
        if self._manifest().get("account_before") != list(account):
            return "the period before it now ends with another account"
        return None

    def sealed_account(self) -> Account:
        """The account that the predictions on disk end with."""
        return Account(*self._manifest()["account_after"])

    def seal(self, *, pair: str, features: list[str]) -> None:
        """Write the manifest: the files are all there.

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
        files |= {role: self._computed_path(role) for role in self._computed}
        artefacts.write_manifest(
            self.folder,
            self.fingerprint,
            files | {"predictions": self.predictions, "decisions": self.decisions},
            self.seals,
            pair=pair,
            features=features,
            account_before=list(self.account_before),
            account_after=list(self.account_after),
            written=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def planned(self, root: Path) -> PlannedPeriod:
        """The period as decisions about open trades look for it.

        :param root: the identifier's folder
        """
        return PlannedPeriod(self.first_ms, self.stop_ms, os.path.relpath(self.folder, root), self.fingerprint)

    @property
    def model_made(self) -> str:
        """A hash that another policy for this period has not, even one that was made from the same."""
        return artefacts.value_hash([dict(self.model_fingerprint), self._manifest().get("files", {}).get("model")])

    def sealed_model(self) -> bytes | None:
        """The zip of the policy on disk, None where a run leaves none there."""
        if "model" not in self._manifest().get("files", {}):
            return None
        return artefacts.sealed_path(self.folder, "model").read_bytes()

    @property
    def _computed(self) -> dict[str, FrameSlice]:
        return {_TRAINED: self.trained_on, _PREDICTED: self.predicts_on}

    def _computed_path(self, role: str) -> Path:
        return self.folder / f"{self.name}_{role}.npz"

    def _why_computed_differs(self, role: str) -> str | None:
        kept = ComputedFrame.from_file(artefacts.sealed_path(self.folder, role))
        differs = kept.difference(self._computed[role].cut())
        return differs and f"changed since: {differs}"

    def _manifest(self) -> dict[str, Any]:
        return artefacts.read_manifest(self.folder) or {}
