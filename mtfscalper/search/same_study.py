"""Whether a study still is what it began as: its config, the user's code and this package's, asked again and again.

A study runs for hours, and each of its backtests reads files anew that may be edited meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from freqtrade.exceptions import OperationalException
from freqtrade.resolvers.freqaimodel_resolver import FreqaiModelResolver
from freqtrade.strategy import IStrategy

from mtfscalper import artefacts
from mtfscalper.freqai.written_config import as_written, flat
from mtfscalper.reporting.quiet import only_what_goes_wrong
from mtfscalper.search.errors import ChangedError
from mtfscalper.search.space import SECTION, TERMS, SearchSpace
from mtfscalper.search.study_folder import StudySpec
from mtfscalper.search.trial_config import study_config
from mtfscalper.settings import SEARCH_SPACE
from mtfscalper.user_code import files_used, load_user_code

logger = logging.getLogger(__name__)

# Sections that change no trade, or differ from machine to machine, or hold secrets.
_NOT_COMPARED = (
    *("$schema", "internals", "telegram", "webhook", "discord", "api_server", "external_message_consumer"),
    *("log_config", "bot_name", "initial_state", "user_data_dir", "datadir", "strategy_path", "freqaimodel_path"),
    *("config_files", "db_url", "exchange", "dry_run", "add_config_files", "strategy", "freqaimodel"),
)
# What the command line may say too.
_IN_FORCE = (
    *("strategy", "freqaimodel", "timeframe", "timeframe_detail", "fee", "stake_amount", "max_open_trades"),
    *("dry_run_wallet", "enable_protections", "position_stacking", "trading_mode", "margin_mode"),
)

_REMEDY = "accepted: what the study began with; remedy: put it back, or begin another study with --study"


class SameStudy:
    """What a study began with, beside what there is now."""

    def __init__(
        self, spec: StudySpec, arguments: Sequence[str], config: Mapping[str, Any], strategy: IStrategy
    ) -> None:
        """
        :param arguments: of ``freqtrade backtesting`` on this machine
        :param config: that they give
        :param strategy: as loaded
        """
        self._spec, self._arguments, self._config = spec, arguments, config
        self._files = files_of(strategy, config, spec.space)

    def check(self) -> None:
        """
        :raises ChangedError: with what has changed since the study began
        """
        try:
            with only_what_goes_wrong():
                config = study_config(self._arguments)
        except OperationalException as error:
            said = " ".join(str(error).split())
            raise ChangedError(
                f"the config of the study {self._spec.name} cannot be loaded any more ({said}); accepted: what the "
                "study began with; remedy: put it back"
            ) from error
        self._check(config)

    def check_loaded(self) -> None:
        """The same with the config that is loaded already; other libraries get a warning.

        :raises ChangedError: as :meth:`check`
        """
        self._check(self._config)
        before = self._spec.versions
        other = [
            f"{name} {before.get(name)} → {have}"
            for name, have in artefacts.library_versions().items()
            if before.get(name) != have
        ]
        if other:
            name = self._spec.name
            logger.warning("Libraries differ from those that the study %s began with: %s.", name, ", ".join(other))

    def _check(self, config: Mapping[str, Any]) -> None:
        self.check_users(config)
        if study_code() != self._spec.code:
            raise ChangedError(
                f"this package's code is another than when the study {self._spec.name} began, and its policies or "
                f"their figures would be too; {_REMEDY}"
            )

    def check_users(self, config: Mapping[str, Any]) -> None:
        """Compare what is the user's own.

        :param config: the freqtrade config
        :raises ChangedError: as :meth:`check`
        """
        spec = self._spec
        before, now = flat(spec.config), flat(compared_config(config))
        if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
            told = "; ".join(f"{key} was {before.get(key)!r} and is {now.get(key)!r}" for key in changed[:5])
            raise ChangedError(f"the config of the study {spec.name} has changed: {told}; {_REMEDY}")
        space = ((config.get("freqai") or {}).get("rl_config") or {}).get(SEARCH_SPACE)
        if space is not None and SearchSpace.from_json(space).as_json() != spec.space:
            raise ChangedError(f"{SECTION} has changed since the study {spec.name} began; {_REMEDY}")
        found = hashes_of(self._files)
        if others := [name for name in sorted(found | spec.sources) if found.get(name) != spec.sources.get(name)]:
            raise ChangedError(f"{', '.join(others)} changed since the study {spec.name} began; {_REMEDY}")


def study_code() -> str:
    """A short hash of the package's code that trains a study's policies, and that says what they are worth."""
    return artefacts.value_hash([artefacts.code_hash(), artefacts.measuring_code_hash()])


def files_of(strategy: IStrategy, config: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Path]:
    """The user's files that decide what a trial is worth, by name.

    They are those of the strategy, of the FreqAI model, of what the config or the space names, and of what these
    import, as far as they are not installed; and hyperopt's parameters beside the strategy, which need not be there.

    :param config: the freqtrade config
    :param space: what is searched, by key
    """
    own = Path(str(strategy.__file__))
    named = [load_user_code(name, Path(config["user_data_dir"]), SECTION).value for name in _named(config, space)]
    files = {f"{name}.py": path for name, path in files_used(type(strategy), *named).items()}
    of_model = {f"{name}.py (FreqAI model)": path for name, path in files_used(_model_class(config)).items()}
    return {**of_model, **files, own.name: own, own.with_suffix(".json").name: own.with_suffix(".json")}


def hashes_of(files: Mapping[str, Path]) -> dict[str, str]:
    """Short hashes of the files that are there, by name."""
    return {name: artefacts.file_hash(path)[:16] for name, path in files.items() if path.is_file()}


def _named(config: Mapping[str, Any], space: Mapping[str, Any]) -> Iterator[str]:
    """Code of the user's that a config or a space names, ``module:name``."""
    rl = (config.get("freqai") or {}).get("rl_config") or {}
    names = {*((rl.get("model_reward_parameters") or {}).get("terms") or ()), rl.get("network")}
    names |= {key.removeprefix(TERMS) for key in space if key.startswith(TERMS)}
    names |= {*(space.get("network") or {}).get("choices", ())}
    yield from sorted(filter(None, names))


def _model_class(config: Mapping[str, Any]) -> Any:
    """The FreqAI model's class, as freqtrade finds it."""
    paths = FreqaiModelResolver.build_search_paths(dict(config), user_subdir=FreqaiModelResolver.user_subdir)
    for folder in filter(Path.is_dir, paths):
        found, _ = FreqaiModelResolver._search_object(folder, object_name=str(config["freqaimodel"]))
        if found is not None:
            return found
    # That there is none, freqtrade says where it is needed.
    return object


def compared_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a config decides how trials are measured: as its user wrote it, without secrets and paths."""
    written = deepcopy(as_written(config)) if "original_config" not in config else deepcopy(config["original_config"])
    exchange = written.get("exchange") or {}
    kept = {key: value for key, value in written.items() if key not in _NOT_COMPARED}
    kept["exchange"] = {key: exchange.get(key) for key in ("name", "pair_whitelist", "pair_blacklist")}
    if config.get("pairs"):
        kept["exchange"]["pair_whitelist"] = config["pairs"]
    freqai = kept.setdefault("freqai", {})
    freqai.pop("identifier", None)
    # Compared as the space, where it is written.
    (freqai.get("rl_config") or {}).pop(SEARCH_SPACE, None)
    kept |= {key: config[key] for key in _IN_FORCE if config.get(key) is not None}
    plain: dict[str, Any] = artefacts.plain_json({key: _plain(value) for key, value in kept.items()})
    return plain


def _plain(value: Any) -> Any:
    return str(getattr(value, "value", value)) if not isinstance(value, bool | int | float | dict | list) else value
