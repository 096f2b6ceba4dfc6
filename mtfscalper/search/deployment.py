"""What is deployed: a freqtrade config to lay over one's own, with where it comes from, and every version before it.

A *line* is what one bot follows: a name, one FreqAI identifier, one file that is replaced. The policies of an
identifier lie in one folder, so that those which decide about open trades are found whatever is deployed next.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock
from freqtrade.misc import deep_merge_dicts

from mtfscalper import artefacts
from mtfscalper.freqai.deployed_config import DECIDING, SECTION
from mtfscalper.search.errors import StudyError
from mtfscalper.search.judgements import Judgement
from mtfscalper.search.ledger import Ledger
from mtfscalper.search.study_folder import NAME_PATTERN, StudySpec


class Deployed(NamedTuple):
    """One version of a line.

    :ivar path: the config that a bot reads
    :ivar previous: the version that it took the place of; None for the first
    :ivar set_aside: where a file lies now that was there and none of this line's versions
    """

    line: str
    version: int
    study: str
    trial: int
    path: Path
    previous: int | None
    set_aside: Path | None = None


def identifier_of(line: str) -> str:
    """FreqAI's identifier of a line."""
    return f"deployed_{line}"


def overlay_for(spec: StudySpec, trial_overlay: Mapping[str, Any], line: str) -> dict[str, Any]:
    """A trial's settings as a config that needs nothing of the study's own files.

    :param trial_overlay: see :meth:`mtfscalper.search.study_folder.StudyFolder.overlay`
    """
    config = {name: deepcopy(spec.config[name]) for name in DECIDING if name in spec.config}
    merged: dict[str, Any] = deep_merge_dicts(deepcopy(dict(trial_overlay)), config)
    section = merged.setdefault("freqai", {})
    section["identifier"] = identifier_of(line)
    # The first run of the trial: a backtest of this config on the validation candles is that run.
    section.setdefault("rl_config", {})["seed"] = spec.tuning_seeds[0]
    return {
        "strategy": spec.strategy,
        **merged,
        "exchange": {**merged.get("exchange", {}), "pair_whitelist": list(spec.pairs)},
    }


class Deployments:
    """``user_data/deployed``: a config for each line, its versions, and the log of all that was done."""

    def __init__(self, user_data_dir: Path) -> None:
        self._folder = user_data_dir / "deployed"
        self.log = Ledger(self._folder / "deployments.jsonl")

    def path(self, line: str) -> Path:
        """The config that a line's bot reads.

        :raises StudyError: if that is no name
        """
        if not re.fullmatch(NAME_PATTERN, line):
            raise StudyError(
                f"--name is {line!r}; accepted: up to 64 letters, digits, - and _, the first a letter or digit; "
                "remedy: choose such a name"
            )
        return self._folder / f"{line}.json"

    def current(self, line: str) -> dict[str, Any] | None:
        """Where a line's config says it comes from; None where there is none, or none of ours."""
        return _section(self.path(line))

    def version_file(self, line: str, version: int) -> Path:
        """Where a version is kept."""
        return self._folder / "versions" / line / f"{version:04}.json"

    # ------------------------------------------------------------------ what is done

    def deploy(
        self,
        line: str,
        spec: StudySpec,
        trial: int,
        overlay: Mapping[str, Any],
        judgement: Judgement | None,
        *,
        parameters: Mapping[str, Any] | None = None,
        value: float | None = None,
        force: str | None = None,
        changed: str | None = None,
    ) -> Deployed:
        """Put a trial's settings in a line's place.

        :param overlay: as :func:`overlay_for` makes it
        :param judgement: of these settings
        :param parameters: of the trial
        :param value: of the trial
        :param force: why it is deployed without passed gates
        :param changed: why a bot would trade otherwise than what was judged, None where it would not
        :raises StudyError: if its gates are not passed and no reason is given
        """
        refusal = why_refused(spec.name, trial, judgement)
        if refusal is None and changed is not None:
            refusal = f'{changed}, or name your reason with --force "REASON", which is recorded'
        if refusal is not None and not (force and force.strip()):
            self.note("refuse", line, study=spec.name, trial=trial, why=refusal)
            raise StudyError(refusal)
        path = self.path(line)
        with self._lock(line):
            current = self.current(line)
            version = self._newest(line) + 1
            section: dict[str, Any] = {
                "line": line,
                "version": version,
                "previous": None if current is None else int(current["version"]),
                "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                "study": spec.name,
                "study_sha256": spec.shared_sha256,
                "trial": trial,
                "parameters": dict(parameters or {}),
                "value": value,
                "passed": refusal is None,
                "forced": None if refusal is None else (force or "").strip(),
                "not_passed": refusal,
                "gates": None if judgement is None else [gate.as_json() for gate in judgement.gates],
                "look": None if judgement is None else judgement.look,
                "data": {"validation": spec.validation, "locked": spec.locked, "pairs": list(spec.pairs)},
                "code": artefacts.code_hash(),
                "versions": artefacts.library_versions(),
                "settings_sha256": artefacts.value_hash(dict(overlay)),
            }
            content = artefacts.plain_json({**overlay, SECTION: section})
            artefacts.write_json(self.version_file(line, version), content)
            aside = self._put(line, content)
            self.note(
                *("deploy", line),
                **{name: section[name] for name in ("version", "previous", "study", "trial", "passed", "forced")},
                sha256=artefacts.file_hash(path),
            )
        return Deployed(line, version, spec.name, trial, path, section["previous"], aside)

    def rollback(self, line: str) -> Deployed:
        """Put back what a line had before its last deployment; again, what it had before that.

        :raises StudyError: if there is nothing before it
        """
        try:
            return self._rollback(line)
        except StudyError as error:
            self.note("refuse", line, asked="rollback", why=str(error))
            raise

    def _rollback(self, line: str) -> Deployed:
        with self._lock(line):
            current = self.current(line)
            if current is None:
                raise StudyError(
                    f"{self.path(line)} is no config that was deployed; accepted: the --name of a line with two "
                    f"versions or more; remedy: choose among {', '.join(self.lines()) or 'none'}"
                )
            if current["previous"] is None:
                raise StudyError(
                    f"{line} has version {current['version']} and none before it; accepted: a line with an earlier "
                    "version; remedy: deploy another trial, or take the file out of the bot's --config"
                )
            kept = self.version_file(line, int(current["previous"]))
            section = _section(kept)
            if section is None:
                raise StudyError(
                    f"{kept} is missing or damaged; accepted: what was deployed; remedy: restore it, or deploy the "
                    "trial again"
                )
            aside = self._put(line, json.loads(kept.read_text(encoding="utf-8")))
            self.note(
                *("rollback", line),
                **{"from": current["version"], "version": section["version"]},
                study=section["study"],
                trial=section["trial"],
            )
        return Deployed(
            *(line, section["version"], section["study"], section["trial"], self.path(line), section["previous"], aside)
        )

    def note(self, action: str, line: str, **facts: Any) -> None:
        """Add to the log what was done."""
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.log.add(artefacts.plain_json({"at": at, "action": action, "line": line, **facts}))

    def had(self, line: str, study: str, trial: int) -> bool:
        """Whether a trial has ever been deployed as a line."""
        deployed = {"action": "deploy", "line": line, "study": study, "trial": trial}
        return any(deployed.items() <= record.items() for record in self.log.records())

    def lines(self) -> list[str]:
        """The names of what is deployed."""
        return sorted(path.stem for path in self._folder.glob("*.json") if _section(path) is not None)

    # ------------------------------------------------------------------ files

    def _lock(self, line: str) -> FileLock:
        self._folder.mkdir(parents=True, exist_ok=True)
        return FileLock(self._folder / f".{line}.lock")

    def _newest(self, line: str) -> int:
        kept = [int(path.stem) for path in self.version_file(line, 1).parent.glob("*.json") if path.stem.isdecimal()]
        return max(kept, default=0)

    def _put(self, line: str, content: Mapping[str, Any]) -> Path | None:
        """Replace a line's config.

        :return: where the one lies now that was there, if it is none of the versions as they were written
        """
        path, aside = self.path(line), None
        if path.exists():
            section = _section(path)
            kept = None if section is None else self.version_file(line, int(section["version"]))
            if kept is None or not kept.is_file() or artefacts.file_hash(kept) != artefacts.file_hash(path):
                aside = artefacts.move_aside(path, "edited")
        artefacts.write_json(path, content)
        return aside


def why_refused(study: str, trial: int, judgement: Judgement | None) -> str | None:
    """Why a trial must not be deployed, None if it may.

    :param judgement: of its settings
    """
    remedy = 'remedy: deploy another trial, or name your reason with --force "REASON", which is recorded'
    if judgement is None:
        return (
            f"trial {trial} of study {study} has not been judged; accepted: a trial that has passed every gate; "
            f"remedy: mtfscalper study judge --study {study} --trial {trial}"
        )
    if not judgement.passed:
        return (
            f"trial {trial} of study {study} did not pass: {', '.join(judgement.refused_by)}; accepted: a trial that "
            f"has passed every gate; {remedy}"
        )
    code = artefacts.code_hash()
    if judgement.code != code:
        return (
            f"trial {trial} of study {study} was judged with code {judgement.code}, and {code} is installed, which may "
            "train other policies; accepted: what was judged; remedy: mtfscalper study judge --again, which is another "
            'look at the locked candles, or --force "REASON"'
        )
    return None


def _section(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get(SECTION)
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) and {"version", "previous", "study", "trial"} <= set(found) else None
