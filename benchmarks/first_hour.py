"""Times and sizes of each command of a newcomer's first hour, from a fresh clone to the audit of a backtest.

It clones this repository, sets the clone up as ``make demo`` does, installs the wheel into an environment of its own,
and gives the tutorial's commands in an empty folder, on the synthetic market. Packages are downloaded where pip has not
kept them (``--no-cache`` lets it keep none). Let nothing else run beside it.

    python benchmarks/first_hour.py
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from main_config import ROOT
from rich.table import Table
from run_facts import facts
from tables import wide_console

from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import write_overlay
from mtfscalper.offline.synthetic import write_market

WITH_FAST = (
    "--config configs/config_rl_hybrid.json --config configs/config_rl_fast.json "
    "--strategy MtfScalper_RL_Hybrid --freqaimodel MtfScalperRLModel --timerange 20241001-20241101"
)
# Beside the tutorial's own configs, so that no exchange is asked.
EXCHANGE = "exchange.json"


class Step(NamedTuple):
    """A command of the first hour.

    :ivar line: as it is typed
    :ivar where: in the ``clone``, or in a ``folder`` with the wheel's environment
    :ivar makes: what it leaves, whose size is told, relative to where it is given
    """

    line: str
    where: str
    makes: str | None = None
    needs_exchange: bool = False


STEPS = (
    Step("make demo", "clone", ".venv"),
    Step("python3 -m venv ../environment", "clone"),
    Step("../environment/bin/pip install WHEEL[report]", "clone", "../environment"),
    Step("mtfscalper init", "folder", "."),
    Step(f"mtfscalper train --dry-run {WITH_FAST}", "folder", needs_exchange=True),
    Step(f"freqtrade backtesting {WITH_FAST}", "folder", "user_data/models", needs_exchange=True),
    Step("mtfscalper report", "folder", "user_data/backtest_results"),
    Step("mtfscalper audit", "folder"),
)


class Measured(NamedTuple):
    """What a step took.

    :ivar size_bytes: of what it left; None where that is not told
    """

    line: str
    seconds: float
    size_bytes: int | None


def size_of(folder: Path) -> int:
    """Bytes on disk of a folder's files, each counted once."""
    files = {(one.st_dev, one.st_ino): one.st_blocks * 512 for one in (path.lstat() for path in folder.rglob("*"))}
    return sum(files.values())


def run(words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Give a command, its output on the terminal.

    :raises subprocess.CalledProcessError: if it fails
    """
    subprocess.run(words, cwd=folder, env=environment, check=True)


def clone_into(home: Path) -> None:
    """The newest commit, without what lies in this checkout beside it."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(home / "clone")], check=True)
    (home / "folder").mkdir()


def wheel_of(clone: Path) -> Path:
    """Build the wheel, which a user would download."""
    command = [".venv/bin/python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "wheel", "."]
    subprocess.run(command, cwd=clone, check=True)
    [wheel] = (clone / "wheel").glob("*.whl")
    return wheel


def measure(home: Path, *, keeps_packages: bool) -> list[Measured]:
    """Go through all steps.

    :param home: an empty folder
    :param keeps_packages: whether pip may take what it downloaded on another day
    """
    clone_into(home)
    environment = {**os.environ, "PATH": f"{home / 'environment' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for name in ("PYTHONPATH", "VIRTUAL_ENV"):
        environment.pop(name, None)
    if not keeps_packages:
        environment["PIP_NO_CACHE_DIR"] = "1"
    candles = home / "folder" / "user_data" / "data" / "binance"
    measured: list[Measured] = []
    write_market(candles)
    with ReplayExchange(candles) as exchange:
        write_overlay(home / "folder" / EXCHANGE, exchange.url, {"user_data_dir": "user_data"})
        for step in STEPS:
            words = shlex.split(step.line)
            if "WHEEL[report]" in words:
                words[words.index("WHEEL[report]")] = f"{wheel_of(home / 'clone')}[report]"
            if step.needs_exchange:
                # The last of several configs overrides those before it.
                at = len(words) - words[::-1].index("--config") + 1
                words[at:at] = ["--config", EXCHANGE]
            started = time.perf_counter()
            run(words, home / step.where, environment)
            seconds = time.perf_counter() - started
            size = None if step.makes is None else size_of(home / step.where / step.makes)
            measured.append(Measured(step.line, seconds, size))
    return measured


def duration(seconds: float) -> str:
    """A time as the docs write it."""
    return (
        f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} minutes"
    )


def size(of_bytes: int | None) -> str:
    """A size as the docs write it."""
    if of_bytes is None:
        return ""
    return f"{of_bytes / 1e9:.1f} GB" if of_bytes >= 1e9 else f"{of_bytes / 1e6:.1f} MB"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--no-cache", action="store_true", help="download every package, whatever pip has kept")
    default = Path(tempfile.gettempdir(), "first_hour.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as home:
        measured = measure(Path(home), keeps_packages=not options.no_cache)
    options.json.write_text(json.dumps(facts() | {"steps": [one._asdict() for one in measured]}, indent=1))
    table = Table("command", title="The first hour")
    for heading in ("time", "leaves"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in measured:
        table.add_row(one.line, duration(one.seconds), size(one.size_bytes))
    wide_console().print(table)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
