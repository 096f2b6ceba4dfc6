"""A short training through the real freqtrade command, watched from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from freqtrade.configuration.config_validation import validate_config_schema
from freqtrade.configuration.load_config import load_from_files
from freqtrade.exceptions import FreqtradeException
from rich.console import Console
from rich.status import Status

from mtfscalper.machine import usable_processors
from mtfscalper.monitoring.facts import Asked
from mtfscalper.monitoring.sampler import WORKER, Recording, Sample, TreeSampler
from mtfscalper.offline import OFFLINE_USER_DATA, SYNTHETIC_DATADIR
from mtfscalper.offline.demo import CONFIGS, FREQAI_MODEL, STRATEGY, stop_process
from mtfscalper.offline.exchange import CandleStore, ReplayExchange, offline_config
from mtfscalper.offline.synthetic import write_market
from mtfscalper.settings import Settings, SettingsError

DEFAULT_TIMERANGE = "20241001-20241008"
PAIRS_MAX = 2

# What freqtrade logs when it comes to a stage, and what to call it.
_STAGES = (
    (re.compile(r"Loading data|Using data directory"), "loading candles"),
    (re.compile(r"Starting training (\S+)"), "training {}"),
    (re.compile(r"Done training (\S+)"), "deciding on {}"),
    (re.compile(r"Backtesting with data from"), "backtesting trades"),
)
_LOG_LINE = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
_ERROR_LINE = re.compile(r" - (?:ERROR|CRITICAL) - ")
_LOG_PREFIX = re.compile(r"^.* - (?:DEBUG|INFO|WARNING) - ")


class RequestError(ValueError):
    """A run that cannot be started as asked. Names what, received, accepted, remedy."""


class RunError(RuntimeError):
    """freqtrade failed; the message holds its exit status, its last error and where its output is."""


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


class Plan(NamedTuple):
    """A run that is ready to start.

    :ivar overrides: settings that differ from the configuration files, section and key to value
    :ivar asked: what the files and the overrides ask for together
    :ivar config: the freqtrade configuration they make
    """

    identifier: str
    configs: tuple[Path, ...]
    datadir: Path
    timerange: str
    pairs: tuple[str, ...]
    overrides: dict[str, Any]
    config: dict[str, Any]
    settings: Settings
    asked: Asked
    models: Path
    log: Path


class Ran(NamedTuple):
    """A run that came to its end.

    :ivar result: freqtrade's backtest result
    """

    recording: Recording
    result: Path
    seconds: float
    watching_cpu_seconds: float


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
    # Few passes over the candles are enough to see everything at work.
    rl_config: dict[str, Any] = {"train_cycles": 1 if request.configs else 2}
    if not request.configs:
        # After so little training a policy may veto every entry, and there would be no trade to look at.
        rl_config["entry_mode"] = "classic"
    rl_config["progress_bar"] = False
    overrides = {"identifier": identifier, "save_backtest_models": True, "rl_config": rl_config}
    config = _merged_config(configs, overrides)
    settings = _settings(config)
    user_data = request.root / OFFLINE_USER_DATA
    return Plan(
        identifier=identifier,
        configs=configs,
        datadir=datadir,
        timerange=request.timerange or DEFAULT_TIMERANGE,
        pairs=_pairs(config, datadir),
        overrides=overrides,
        config=config,
        settings=settings,
        asked=asked_of(settings),
        models=user_data / "models" / identifier,
        log=user_data / "logs" / f"{identifier}.log",
    )


def asked_of(settings: Settings) -> Asked:
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
        torch_threads=min(rl.cpu_count, processors),
        torch_interop_threads=min(rl.interop_threads, processors),
        entry_mode=rl.entry_mode,
        evaluates=settings.test_size > 0,
    )


def command_of(plan: Plan, overlay: Path, results: Path) -> list[str]:
    """The freqtrade command, to be run in the project's root.

    :param overlay: configuration file of this run, which goes before the others
    :param results: where freqtrade writes its backtest result
    """
    command = [sys.executable, "-m", "freqtrade", "backtesting"]
    command += ["--datadir", str(plan.datadir)]
    # A name on the command line would go before the user's own in the configuration.
    for option, key, default in (
        ("--strategy", "strategy", STRATEGY),
        ("--strategy-path", "strategy_path", "strategies"),
        ("--freqaimodel", "freqaimodel", FREQAI_MODEL),
        ("--freqaimodel-path", "freqaimodel_path", "user_data/freqaimodels"),
    ):
        if key not in plan.config:
            command += [option, default]
    for config in (*plan.configs, overlay):
        command += ["--config", str(config)]
    command += ["--pairs", *plan.pairs, "--timerange", plan.timerange]
    return [*command, "--cache", "none", "--backtest-directory", str(results)]


def run_watched(plan: Plan, root: Path, scratch: Path, console: Console) -> Ran:
    """Run the plan's training and backtest, and watch it.

    :param scratch: a folder for the overlay and the backtest result
    :raises RunError: if freqtrade fails or leaves no result
    """
    results = scratch / "backtest_results"
    results.mkdir()
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    with ReplayExchange(plan.datadir) as exchange:
        overlay = scratch / "overlay.json"
        overlay.write_text(json.dumps({**offline_config(exchange.url), "freqai": plan.overrides}, indent=2))
        began, own_cpu = time.perf_counter(), time.process_time()
        with plan.log.open("wb") as log:
            process = subprocess.Popen(
                command_of(plan, overlay, results), cwd=root, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
            try:
                with TreeSampler(process.pid) as sampler, _progress(console) as progress:
                    while process.poll() is None:
                        progress(plan.log, sampler)
                        time.sleep(0.2)
            finally:
                stop_process(process)
        seconds, own_cpu = time.perf_counter() - began, time.process_time() - own_cpu
    found = sorted(results.glob("*.zip"))
    # freqtrade leaves with status 0 after some configuration errors.
    if process.returncode != 0 or not found:
        error = last_error(plan.log.read_text(errors="replace"))
        raise RunError(f"freqtrade failed (exit status {process.returncode}): {error}\nIts whole output: {plan.log}")
    return Ran(sampler.recording, found[-1], seconds, own_cpu)


def last_error(log: str) -> str:
    """The last error in a log of freqtrade, in one line; else its last line."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    for number in range(len(lines) - 1, -1, -1):
        if not _ERROR_LINE.search(lines[number]):
            continue
        following = []
        for line in lines[number + 1 :]:
            if _LOG_LINE.match(line):
                break
            following.append(line.strip())
        if any(line.startswith("Traceback") for line in following):
            return following[-1]
        return " ".join([_ERROR_LINE.split(lines[number], maxsplit=1)[1], *following])
    return _LOG_PREFIX.sub("", lines[-1]) if lines else "it wrote nothing"


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    """A spinner on a terminal; elsewhere a line for each stage."""
    began = time.monotonic()
    shown = ""
    position = 0
    stage = "starting freqtrade"

    with console.status("") as status:

        def update(log: Path, sampler: TreeSampler) -> None:
            nonlocal shown, position, stage
            with log.open("rb") as file:
                file.seek(position)
                text = file.read()
            position += len(text)
            stage = stage_of(text.decode(errors="replace"), stage)
            seconds = time.monotonic() - began
            if console.is_terminal:
                _spin(status, stage, seconds, sampler)
            elif stage != shown:
                console.print(f"{seconds:4.0f} s  {stage}", markup=False)
            shown = stage

        yield update


def stage_of(log: str, stage: str) -> str:
    """The stage that freqtrade has come to.

    :param log: what was logged since
    :param stage: where it was before
    """
    for line in log.splitlines():
        for pattern, name in _STAGES:
            found = pattern.search(line)
            if found:
                stage = name.format(*found.groups())
    return stage


def _spin(status: Status, stage: str, seconds: float, sampler: TreeSampler) -> None:
    recording = sampler.recording
    text = f"{stage} · {seconds:.0f} s"
    if len(recording.samples) > 1:
        before, now = recording.samples[-2:]
        workers = sum(recording.roles.get(reading.pid) == WORKER for reading in now.processes)
        memory = sum(reading.rss_bytes for reading in now.processes) / 2**30
        text += f" · {_cpu_share(before, now):.0%} of a processor · {workers} workers · {memory:.1f} GiB"
    status.update(text)


def _cpu_share(before: Sample, now: Sample) -> float:
    had = {reading.pid: reading.cpu_seconds for reading in before.processes}
    used = sum(reading.cpu_seconds - had.get(reading.pid, 0.0) for reading in now.processes)
    return used / max(now.time - before.time, 1e-3)


def _merged_config(configs: Sequence[Path], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as freqtrade makes it from files, without what environment variables add."""
    try:
        config = load_from_files([str(path) for path in configs])
        freqai = {**config.get("freqai", {}), **{key: overrides[key] for key in overrides if key != "rl_config"}}
        freqai["rl_config"] = {**freqai.get("rl_config", {}), **overrides["rl_config"]}
        # Sets freqtrade's defaults, too, which differ from ours.
        return validate_config_schema({**config, "freqai": freqai})
    except FreqtradeException as error:
        raise RequestError(f"the configuration cannot be used: {error}") from error


def _settings(config: Mapping[str, Any]) -> Settings:
    try:
        settings = Settings.from_config(config)
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
