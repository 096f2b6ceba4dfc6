"""What to run, and what it has to show: a short training by the configuration files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from freqtrade.configuration.config_validation import validate_config_schema
from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import FreqtradeException
from stable_baselines3.common.utils import get_device

from mtfscalper.freqai.written_config import as_written
from mtfscalper.machine import usable_processors
from mtfscalper.monitoring.facts import Asked
from mtfscalper.offline import OFFLINE_USER_DATA, SYNTHETIC_DATADIR
from mtfscalper.offline.candles import CandleStore
from mtfscalper.offline.freqtrade_command import CONFIGS, offline_config
from mtfscalper.offline.synthetic import write_market
from mtfscalper.settings import Settings, SettingsError

DEFAULT_TIMERANGE = "20241001-20241008"
PAIRS_MAX = 2


class RequestError(ValueError):
    """A run that cannot be started as asked. Names what, received, accepted, remedy."""


class Request(NamedTuple):
    """What to run.

    :ivar root: checkout of the project
    :ivar configs: freqtrade configuration files in place of the project's
    :ivar datadir: freqtrade data directory; None takes the synthetic market
    :ivar timerange: what to backtest, None with the synthetic market alone
    :ivar keep: leave models and backtest result behind
    """

    root: Path
    configs: tuple[Path, ...] = ()
    datadir: Path | None = None
    timerange: str | None = None
    keep: bool = False


class Change(NamedTuple):
    """A key that the run sets otherwise than the user's configuration, both values in words."""

    key: str
    before: str
    after: str


class Plan(NamedTuple):
    """A run that is ready to start.

    :ivar overrides: settings that differ from the configuration files, section and key to value
    :ivar changes: the same, and what else differs, each beside what it was
    :ivar asked: what the files and the overrides ask for together
    :ivar config: the freqtrade configuration they make
    """

    identifier: str
    configs: tuple[Path, ...]
    datadir: Path
    timerange: str
    pairs: tuple[str, ...]
    overrides: dict[str, Any]
    changes: tuple[Change, ...]
    config: dict[str, Any]
    settings: Settings
    asked: Asked
    user_data: Path
    models: Path
    log: Path


def plan_run(request: Request) -> Plan:
    """Work out what to run and what it has to show.

    :raises RequestError: if it cannot be run
    """
    configs = tuple(request.configs or (request.root / path for path in CONFIGS))
    for path in configs:
        if not path.is_file():
            raise RequestError(f"--config {path}: there is no such file; name a freqtrade configuration")
    if request.datadir is not None and request.timerange is None:
        raise RequestError(
            f"--datadir {request.datadir} was given without --timerange; say which part of your candles to backtest, "
            "for example --timerange 20250401-20250408 (training needs the weeks before it)"
        )
    datadir = request.datadir or request.root / SYNTHETIC_DATADIR
    if request.datadir is None:
        write_market(datadir)
    identifier = f"validate_{datetime.now(UTC):%Y%m%d_%H%M%S}_{os.getpid()}"
    # A training this short still shows every part at work.
    rl_config: dict[str, Any] = {"train_cycles": 1 if request.configs else 2}
    if not request.configs:
        # After so little training a policy may veto every entry, and there would be no trade to look at.
        rl_config["entry_mode"] = "classic"
    rl_config["progress_bar"] = False
    overrides = {"identifier": identifier, "save_backtest_models": True, "rl_config": rl_config}
    config = _merged_config(configs, overrides)
    if config["freqai"]["rl_config"].get("executor") == "processes":
        # What is watched is one training at a time, in the run's own process.
        rl_config |= {"executor": "inline", "workers": "auto"}
        config = _merged_config(configs, overrides)
    settings = _settings(config)
    user_data = request.root / OFFLINE_USER_DATA
    pairs = _pairs(config, datadir)
    return Plan(
        identifier=identifier,
        configs=configs,
        datadir=datadir,
        timerange=request.timerange or DEFAULT_TIMERANGE,
        pairs=pairs,
        overrides=overrides,
        changes=_changes(configs, overrides, config, pairs),
        config=config,
        settings=settings,
        asked=_asked(settings),
        user_data=user_data,
        models=user_data / "models" / identifier,
        log=user_data / "logs" / f"{identifier}.log",
    )


def why_refused(plan: Plan, changes: Mapping[str, Any]) -> str | None:
    """Why the settings refuse a configuration once more keys of ``rl_config`` are changed; None where they take it."""
    overrides = {**plan.overrides, "rl_config": {**plan.overrides["rl_config"], **changes}}
    try:
        _settings(_merged_config(plan.configs, overrides))
    except RequestError as error:
        return str(error)
    return None


def _changes(
    configs: Sequence[Path], overrides: Mapping[str, Any], config: Mapping[str, Any], pairs: tuple[str, ...]
) -> tuple[Change, ...]:
    """What the run sets otherwise than the files do."""
    written = load_from_files([str(path) for path in configs])
    freqai = written.get("freqai", {})
    flat = {f"freqai.{key}": (freqai.get(key), new) for key, new in overrides.items() if key != "rl_config"}
    rl_config = freqai.get("rl_config", {})
    flat |= {f"freqai.rl_config.{key}": (rl_config.get(key), new) for key, new in overrides["rl_config"].items()}
    wanted = config.get("exchange", {}).get("pair_whitelist")
    flat["exchange.pair_whitelist"] = (wanted, list(pairs))
    flat["user_data_dir"] = (written.get("user_data_dir"), str(OFFLINE_USER_DATA))
    exchange = written.get("exchange", {})
    flat["exchange.name"] = (exchange.get("name"), offline_config("http://127.0.0.1")["exchange"]["name"])
    changes = [
        Change(key, "not set" if old is None else json.dumps(old), json.dumps(new))
        for key, (old, new) in flat.items()
        if old != new
    ]
    for key in ("key", "secret"):
        if exchange.get(key):
            # What it is, nobody is shown.
            changes.append(Change(f"exchange.{key}", "set", '""'))
    own_addresses = "set" if exchange.get("ccxt_config") else "not set"
    changes.append(Change("exchange.ccxt_config", own_addresses, "every request goes to the loopback exchange"))
    return tuple(changes)


def _asked(settings: Settings) -> Asked:
    """What settings ask a training for, on this machine."""
    rl, processors = settings.rl, usable_processors()
    return Asked(
        vec_env=rl.vec_env,
        n_envs=rl.n_envs,
        n_steps=settings.ppo.n_steps,
        batch_size=settings.ppo.batch_size,
        n_epochs=settings.ppo.n_epochs,
        net_arch=rl.net_arch,
        net_arch_value=rl.net_arch_value or rl.net_arch,
        train_cycles=rl.train_cycles,
        torch_threads=min(rl.torch_threads, processors),
        torch_interop_threads=min(rl.interop_threads, processors),
        entry_mode=rl.entry_mode,
        evaluates=settings.test_size > 0,
        decision_mode=rl.decision_mode,
        tensorboard=settings.tensorboard,
        device=get_device(rl.device).type,
    )


def _merged_config(configs: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as freqtrade makes it from files, without what environment variables add."""
    try:
        config = load_from_files([str(path) for path in configs])
        freqai = {**config.get("freqai", {}), **{key: overrides[key] for key in overrides if key != "rl_config"}}
        freqai["rl_config"] = {**freqai.get("rl_config", {}), **overrides["rl_config"]}
        written = {**config, "freqai": freqai}
        # This also fills in freqtrade's defaults, which differ from those in settings.py.
        return validate_config_schema({**deepcopy(written), "original_config": written})
    except FreqtradeException as error:
        raise RequestError(f"the configuration cannot be used: {error}") from error


def _settings(config: Mapping[str, Any]) -> Settings:
    try:
        settings = Settings.from_config(as_written(config))
    except SettingsError as error:
        raise RequestError(f"the configuration cannot be used: {error}") from error
    if settings.rl.model_type != "PPO":
        raise RequestError(
            f"freqai.rl_config.model_type is {settings.rl.model_type!r}; accepted: 'PPO', the only algorithm "
            "that these checks know; remedy: check with model_type 'PPO'"
        )
    return settings


def _pairs(config: Mapping[str, Any], datadir: Path) -> tuple[str, ...]:
    """The first pairs of the whitelist that there are candles of; without a whitelist, of the data."""
    available = list(CandleStore(datadir).timeframes)
    wanted = config.get("exchange", {}).get("pair_whitelist") or available
    pairs = [pair for pair in wanted if pair in available][:PAIRS_MAX]
    if not pairs:
        raise RequestError(
            f"exchange.pair_whitelist is {', '.join(wanted)}, of which {datadir} has no candles; accepted: "
            f"{', '.join(available)}; remedy: name one of these, or give --datadir"
        )
    return tuple(pairs)
