"""The freqtrade command: its command line, the configuration that sends it to the loopback exchange, and its run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import ccxt

from mtfscalper.offline import EXIT_INTERRUPTED, OFFLINE_USER_DATA

MAIN_CONFIG = Path("configs/config_rl_hybrid.json")
# What a short run on the loopback exchange is configured with, from the project's root.
CONFIGS = (MAIN_CONFIG, Path("configs/config_rl_demo.json"), Path("configs/offline.json"))
STRATEGY = "MtfScalper_RL_Hybrid"
FREQAI_MODEL = "MtfScalperRLModel"

# What an option of the command line can be given.
Option = str | Path | int | Sequence[str]


def project_options(root: Path = Path()) -> dict[str, str]:
    """Name the project's strategy and model and say where they lie, under freqtrade's own keys.

    :param root: checkout of the project, relative to where the command runs
    """
    return {
        "strategy": STRATEGY,
        "strategy_path": str(root / "strategies"),
        "freqaimodel": FREQAI_MODEL,
        "freqaimodel_path": str(root / "user_data" / "freqaimodels"),
    }


def freqtrade_command(
    subcommand: str,
    configs: Iterable[Path],
    *,
    pairs: Sequence[str] = (),
    timerange: str | None = None,
    program: str = "freqtrade",
    **options: Option,
) -> list[str]:
    """Build a freqtrade command line.

    :param subcommand: such as ``backtesting``
    :param configs: configuration files, later ones override earlier ones
    :param pairs: pairs to trade; none takes those of the configuration
    :param timerange: as freqtrade writes it
    :param program: the module that is run as freqtrade
    :param options: further options by name: ``strategy_path="mine"`` becomes ``--strategy-path mine``,
        ``no_color=True`` becomes ``--no-color``, and a list or tuple an option with several values
    :return: arguments, the Python interpreter first
    """
    command = [sys.executable, "-m", program, subcommand]
    for name, value in options.items():
        values = value if isinstance(value, list | tuple) else [] if value is True else [value]
        command += [f"--{name.replace('_', '-')}", *map(str, values)]
    for config in configs:
        command += ["--config", str(config)]
    if pairs:
        command += ["--pairs", *pairs]
    if timerange is not None:
        command += ["--timerange", timerange]
    # freqtrade's cache of results does not see a changed model or package.
    return [*command, "--cache", "none"] if subcommand == "backtesting" else command


def as_typed(command: Sequence[str]) -> str:
    """Write a freqtrade command line as a user types it into a shell: ``freqtrade``, not ``python -m freqtrade``."""
    return shlex.join(["freqtrade", *command[3:]])


def runnable(words: Sequence[str], folder: Path | None = None) -> str:
    """Write a command so that it can be pasted into this shell: with the environment's path, where PATH lacks it.

    :param words: the program's name and its arguments
    :param folder: where it will be pasted; None is the working directory
    """
    found = shutil.which(words[0])
    in_environment = shutil.which(words[0], path=str(Path(sys.executable).parent))
    if in_environment is None or (found is not None and Path(found).samefile(in_environment)):
        return shlex.join(words)
    path, here = Path(in_environment), folder or Path.cwd()
    return shlex.join([str(path.relative_to(here) if path.is_relative_to(here) else path), *words[1:]])


def offline_config(url: str) -> dict[str, Any]:
    """Build the freqtrade configuration that sends every request ccxt can make for Binance to one address.

    :param url: address of the loopback exchange, such as ``http://127.0.0.1:8765``
    :return: what ``configs/offline.json`` holds for the default port
    """
    addresses = {name: re.sub(r"^https://[^/]+", url, address) for name, address in ccxt.binance().urls["api"].items()}
    return {
        "user_data_dir": str(OFFLINE_USER_DATA),
        "exchange": {
            "name": "binance",
            "key": "",
            "secret": "",
            "enable_ws": False,
            # Otherwise download-data asks data.binance.vision first.
            "only_from_ccxt": True,
            "ccxt_config": {
                "urls": {"api": addresses},
                "options": {"fetchMarkets": {"types": ["linear"]}},
            },
        },
    }


def write_overlay(path: Path, url: str, sections: Mapping[str, Any]) -> Path:
    """Write the configuration of one run: the address of its exchange, and what else is its own.

    :param path: the file to write
    :param url: address of the loopback exchange
    :param sections: further parts of the configuration, by key
    :return: ``path``
    """
    path.write_text(json.dumps({**offline_config(url), **sections}, indent=2), encoding="utf-8")
    return path


def run_freqtrade(command: Sequence[str], root: Path) -> int:
    """Run a command with its output on the terminal, and stop it when this program is interrupted.

    :param command: program and arguments
    :param root: working directory
    :return: its exit status, or 130 when it was interrupted
    """
    sys.stdout.flush()
    try:
        with running(command, root) as process:
            status = process.wait()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    # Popen reports death by signal n as -n, a shell as 128 + n.
    return status if status >= 0 else 128 - status


@contextmanager
def running(command: Sequence[str], root: Path, log: IO[bytes] | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a command for as long as a ``with`` block lasts at the most.

    :param command: program and arguments
    :param root: working directory
    :param log: where its output goes, and then it has no input; None leaves both at the terminal
    """
    stdin = None if log is None else subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=root, stdin=stdin, stdout=log, stderr=log)
    try:
        yield process
    finally:
        stop_process(process)


def stop_process(process: "subprocess.Popen[bytes]") -> None:
    """Ask a process to end, with growing insistence."""
    interrupt = signal.SIGTERM if os.name == "nt" else signal.SIGINT
    # Ctrl-C in a terminal has reached it already; it is given time to close its worker processes.
    if not _ends_within(process, seconds=3.0):
        process.send_signal(interrupt)
        if not _ends_within(process, seconds=10.0):
            process.kill()
            process.wait()


def _ends_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True
