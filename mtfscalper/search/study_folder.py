"""The folder of a study: what it searches, and what its trials left. All paths in one place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mtfscalper import artefacts
from mtfscalper.search.errors import StudyError

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"


@dataclass(frozen=True)
class StudySpec:
    """What a study searches and how it measures. Written once, when the study begins; nothing changes it later.

    :ivar name: of the study
    :ivar created: when, ISO date and time, UTC
    :ivar arguments: of ``freqtrade backtesting``, as the user gave them
    :ivar config: what the user wrote in its config files, without secrets and paths, to tell a changed one by
    :ivar space: what is searched, see :class:`mtfscalper.search.space.SearchSpace`
    :ivar first: the config's own values of what is searched, as Optuna keeps them: the first trial
    :ivar overlay: config that the study sets in each trial, beside what is searched
    :ivar strategy: class of the strategy
    :ivar pairs: to trade
    :ivar timeframe: of the candles that are traded on
    :ivar validation: what trials are judged on, a timerange as freqtrade writes it
    :ivar locked: what no trial may read, a timerange that begins where ``validation`` ends
    :ivar lock_ms: its beginning, milliseconds since 1970; no candle of :attr:`StudyFolder.candles` ends after it
    :ivar datadir: where all candles lie
    :ivar tuning_seeds: of the trainings of trials
    :ivar test_seeds: of the trainings that judge a winner; none is a tuning seed
    :ivar sampler_seed: of the sampler, and of the orders in which instances are reported
    :ivar candles: hash of the copied candles
    :ivar sources: hashes of the user's files, by name, see :func:`mtfscalper.search.same_study.files_of`
    :ivar versions: of the libraries
    :ivar code: see :func:`mtfscalper.search.same_study.study_code`
    """

    name: str
    created: str
    arguments: tuple[str, ...]
    config: dict[str, Any]
    space: dict[str, Any]
    first: dict[str, Any]
    overlay: dict[str, Any]
    strategy: str
    pairs: tuple[str, ...]
    timeframe: str
    validation: str
    locked: str
    lock_ms: int
    datadir: str
    tuning_seeds: tuple[int, ...]
    test_seeds: tuple[int, ...]
    sampler_seed: int
    candles: str
    sources: dict[str, str]
    versions: dict[str, str]
    code: str

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return artefacts.plain_json(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> StudySpec:
        """The spec that :meth:`as_json` made.

        :raises TypeError: if a value is missing or unknown
        """
        lists = [field.name for field in fields(cls) if str(field.type).startswith("tuple")]
        return cls(**{**values, **{name: tuple(values[name]) for name in lists if name in values}})

    @property
    def shared_sha256(self) -> str:
        """A short hash of what is the same on all machines that work at the study."""
        own = ("created", "arguments", "datadir", "versions")
        return artefacts.value_hash({key: value for key, value in self.as_json().items() if key not in own})


class StudyFolder:
    """``user_data/studies/NAME``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, user_data_dir: Path, name: str) -> StudyFolder:
        """The folder of a study, which need not exist.

        :raises StudyError: if that is no name
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise StudyError(
                f"--study is {name!r}; accepted: up to 64 letters, digits, - and _, the first a letter or digit; "
                "remedy: choose such a name"
            )
        return cls(user_data_dir / "studies" / name)

    @property
    def spec_file(self) -> Path:
        """Where the spec lies."""
        return self.path / "study.json"

    @property
    def exists(self) -> bool:
        """Whether a study has begun here."""
        return self.spec_file.is_file()

    @property
    def spec(self) -> StudySpec:
        """What the study searches.

        :raises StudyError: if there is none, or it cannot be read
        """
        try:
            return StudySpec.from_json(json.loads(self.spec_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StudyError(
                f"{self.spec_file} does not exist; accepted: a study that has begun; remedy: begin it with mtfscalper "
                "study run, or name its user directory with --userdir"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise StudyError(
                f"{self.spec_file} cannot be read ({error}); accepted: what mtfscalper study run wrote there; remedy: "
                "restore it, or begin another study"
            ) from None

    def write_spec(self, spec: StudySpec) -> None:
        """Begin the study."""
        artefacts.write_json(self.spec_file, spec.as_json())

    @property
    def journal(self) -> Path:
        """Optuna's journal."""
        return self.path / "journal.log"

    @property
    def models(self) -> Path:
        """Where FreqAI keeps policies, those of trials among them."""
        return self.path.parents[1] / "models"

    @property
    def candles(self) -> Path:
        """The data directory of the trials, without the locked candles."""
        return self.path / "candles"

    @property
    def logs(self) -> Path:
        """The folder of the workers' logs."""
        return self.path / "logs"

    @property
    def judgements(self) -> Path:
        """One line for each look at the locked candles."""
        return self.path / "judgements.jsonl"

    def trial(self, number: int) -> Path:
        """The folder of a trial."""
        return self.path / "trials" / str(number)

    def overlay(self, number: int) -> Path:
        """A trial's settings as a freqtrade config, to come after those of the study's arguments."""
        return self.trial(number) / "overlay.json"

    def run_file(self, number: int, seed: int) -> Path:
        """Figures of a trial's run, see :class:`mtfscalper.search.run_figures.RunFigures`."""
        return self.trial(number) / f"seed_{seed}.json"

    def trades_file(self, number: int, seed: int) -> Path:
        """Trades of a trial's run, with the columns of :data:`mtfscalper.reporting.trades.COLUMNS`."""
        return self.trial(number) / f"seed_{seed}.feather"
