"""A user directory on a synthetic market, and the freqtrade commands that run in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import psutil
from faults.warm import PATHS, ROOT, WarmServer
from freqai.damage import copy_home
from shipped import shipped_options
from tiny_rl import TINY_RL

from mtfscalper.artefacts import file_hash
from mtfscalper.offline.freqtrade_command import Option, freqtrade_command, write_overlay
from mtfscalper.seals import KEY_NAME

USER_CODE = Path(__file__).parent / "user_code"
CONFIG = ROOT / "configs" / "config_rl_hybrid.json"
PAIR = "BTC/USDT:USDT"
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 12, tzinfo=UTC)
# Three periods of a day.
TIMERANGE, N_PERIODS = "20240905-20240908", 3
IDENTIFIER = "faults"
TRAINING = "Starting training"
LONGEST_SECONDS = 600

FREQAI: dict[str, Any] = {
    "identifier": IDENTIFIER,
    "train_period_days": 2,
    "backtest_period_days": 1,
    "activate_tensorboard": False,
    "rl_config": {
        **TINY_RL,
        "decision_mode": "exact",
        # Every signal is a trade, and the policy leaves it about every other time that it is asked.
        "entry_mode": "classic",
        "initial_exit_probability": 0.5,
        "train_cycles": 2,
        "vec_env": "batched",
    },
}

Trades = list[dict[str, Any]]


class Ended(NamedTuple):
    """A command that has ended.

    :ivar trades: those of a backtest that has exported them, else None
    """

    status: int
    output: str
    trades: Trades | None

    @property
    def n_trained(self) -> int:
        """How many trainings it began."""
        return self.output.count(f"{TRAINING} {PAIR}")

    def why_not_as(self, expected: Trades) -> str | None:
        """What is wrong with a backtest that should have ended with these trades."""
        if self.status != 0:
            return f"exit status {self.status}: {self.output[-1500:]}"
        if "Traceback" in self.output:
            return f"a traceback: {self.output[-1500:]}"
        if self.trades != expected:
            return f"other trades: {self.trades} instead of {expected}"
        return None


class Home:
    """A user directory, and the results of its runs beside it."""

    def __init__(
        self, folder: Path, market: Path, url: str, user: Path | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """
        :param folder: of its own
        :param market: the candles
        :param url: of the exchange
        :param user: the user directory, where it lies elsewhere
        :param prefix: what makes a command that of somebody else
        """
        self.folder, self.market, self.url, self._prefix = folder, market, url, list(prefix)
        self.user = user or folder / "user"
        for name in ("models", "backtest_results", "hyperopt_results", "plot"):
            (self.user / name).mkdir(parents=True, exist_ok=True)
        (folder / "runs").mkdir(parents=True)
        # For results of whoever runs the command.
        (folder / "runs").chmod(0o777)
        self._n_runs = 0

    # ------------------------------------------------------------------ commands

    def overlay(self, freqai: Mapping[str, Any] | None = None, url: str | None = None, **sections: Any) -> Path:
        """A configuration file with some of FreqAI's settings changed, those of its ``rl_config`` one by one."""
        settings = deepcopy(FREQAI)
        for name, value in (freqai or {}).items():
            settings[name] = settings[name] | value if isinstance(value, dict) else value
        path = write_overlay(self.new("json"), url or self.url, {"freqai": settings, **sections})
        values = json.loads(path.read_text())
        values["exchange"]["pair_whitelist"] = [PAIR]
        path.write_text(json.dumps(values))
        return path

    def command(
        self,
        subcommand: str,
        freqai: Mapping[str, Any] | None = None,
        sections: Mapping[str, Any] | None = None,
        **options: Option,
    ) -> list[str]:
        """A command with the project's strategy and model."""
        where = {"datadir": self.market, "timerange": TIMERANGE, "userdir": self.user, "no_color": True}
        overlay = self.overlay(freqai, **(sections or {}))
        return freqtrade_command(subcommand, [CONFIG, overlay], **(shipped_options() | where | options))

    def backtesting(self, freqai: Mapping[str, Any] | None = None, **options: Option) -> list[str]:
        """The command of a backtest, whose results go into a folder of their own."""
        results = self.new("results")
        results.mkdir()
        results.chmod(0o777)
        return self.command("backtesting", freqai, backtest_directory=results, **options)

    def run(self, command: list[str], environment: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end."""
        with self.started(command, environment) as process:
            return process.end()

    def started(self, command: list[str], environment: Mapping[str, str] | None = None) -> Started:
        """Start a command."""
        home = {"HOME": str(self.folder)} if self._prefix else {}
        return Started([*self._prefix, *command], self.new("log"), home | dict(environment or {}))

    def run_warm(self, server: WarmServer, command: list[str], environment: Mapping[str, str] | None = None) -> Ended:
        """Run a command to its end in a process whose libraries are imported already."""
        status, output = server.run(command, self.new("log"), environment)
        return Ended(status, output, results_of(command))

    def new(self, kind: str) -> Path:
        """A path beside the user directory that nothing has yet.

        :param kind: how its name ends
        """
        self._n_runs += 1
        return self.folder / "runs" / f"{self._n_runs}.{kind}"

    # ------------------------------------------------------------------ files

    @property
    def models(self) -> Path:
        """The folder that FreqAI writes to."""
        return self.user / "models" / IDENTIFIER

    @property
    def archive(self) -> Path:
        """The folder in which runs keep what they sealed."""
        return self.user / "models" / ".sealed" / IDENTIFIER

    def kept_files(self) -> list[Path]:
        """Every file under the models' folder, and the key: relative to the user directory."""
        found = [path for path in (self.user / "models").rglob("*") if path.is_file()]
        return sorted(path.relative_to(self.user) for path in (*found, self.user / KEY_NAME))

    def tree(self) -> dict[str, str]:
        """Every file of the user directory by its hash, and the folders; without what freqtrade draws."""
        paths = sorted(path for path in self.user.rglob("*") if "plot" not in path.relative_to(self.user).parts)
        return {str(path.relative_to(self.user)): file_hash(path) if path.is_file() else "" for path in paths}

    def strays(self) -> list[Path]:
        """What writers leave that were ended before they were done."""
        return [path for path in self.user.rglob("*") if path.name.endswith(".tmp")]

    def keep(self) -> Path:
        """Keep the user directory as it is now, to be restored later."""
        return copy_home(self.user, self.folder / "kept")

    def restore(self) -> None:
        """Make the user directory what was kept, in its own place: some files name others by their whole path."""
        copy_home(self.folder / "kept", self.user)


class Started:
    """A command that runs, the leader of a process group of its own."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        imported: Sequence[Path] = (),
    ) -> None:
        """
        :param log: gets what it prints
        :param environment: what is added to its
        :param imported: further folders that it imports from
        """
        self.command, self.log = command, log
        path = os.pathsep.join([*map(str, (*imported, *PATHS)), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    "OMP_NUM_THREADS": "1",
                    "COLUMNS": "1000",
                    **(environment or {}),
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        kill_group(self.process.pid)
        self.process.wait()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def end(self) -> Ended:
        """Wait for its end."""
        status = self.process.wait(LONGEST_SECONDS)
        return Ended(status, self.output, results_of(self.command))


def results_of(command: list[str]) -> Trades | None:
    """The trades that a backtest has exported last."""
    if "--backtest-directory" not in command:
        return None
    written = list(Path(command[command.index("--backtest-directory") + 1]).glob("*.zip"))
    if not written:
        return None
    # A run that was killed may have left one before.
    path = max(written, key=lambda path: path.stat().st_mtime_ns)
    with ZipFile(path) as results:
        [strategy] = json.loads(results.read(f"{path.stem}.json"))["strategy"].values()
    trades: Trades = strategy["trades"]
    return trades


def n_policy_exits(trades: Trades | None) -> int:
    """How many trades the policy has left."""
    return sum(trade["exit_reason"].startswith("rl_exit") for trade in trades or [])


def group_members(leader: int) -> list[psutil.Process]:
    """The processes of a group that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def kill_group(leader: int) -> None:
    """End a process and those that it started, at once."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
