"""Two pairs on the synthetic market: their backtests and trainings by the command line, to their ends or in part."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from freqtrade.data.btanalysis import load_backtest_data
from marked_processes import RUN, may_take_to_stop, processes_with, shared_memory_of
from shipped import shipped_options
from test_commands import CONFIG, TIMERANGE, Freqtrade

from mtfscalper.offline.freqtrade_command import Option

PAIRS = ["BTC/USDT:USDT", "ETH/USDT:USDT"]
MARKET = datetime(2024, 9, 1, tzinfo=UTC), datetime(2024, 9, 12, tzinfo=UTC)
# For whatever a busy machine does not come to.
LONGEST_SECONDS = 900


class Home(Freqtrade):
    """A user directory, and what is run in it.

    :ivar data: the candles
    """

    def __init__(self, home: Path, url: str, data: Path, **rl: Any) -> None:
        """
        :param rl: changes of the section ``rl_config``
        """
        super().__init__(home, url)
        self.data = data
        values = self.values()
        values["exchange"]["pair_whitelist"] = PAIRS
        # Of two threads the sums' last bits are others than of one.
        values["freqai"]["rl_config"] |= rl | {"threads_per_job": 1, "cpu_count": 1}
        self.write(values)

    def values(self) -> dict[str, Any]:
        """What its own configuration says."""
        values: dict[str, Any] = json.loads(self.overlay.read_text())
        return values

    @property
    def rl(self) -> dict[str, Any]:
        """The section ``rl_config`` of that."""
        rl: dict[str, Any] = self.values()["freqai"]["rl_config"]
        return rl

    def write(self, values: Mapping[str, Any]) -> None:
        """Configure it otherwise."""
        self.overlay.write_text(json.dumps(values))

    # ------------------------------------------------------------------ commands

    def train_command(self, *options: str) -> list[str]:
        """``mtfscalper train``."""
        words = [sys.executable, "-m", "mtfscalper.cli", "train", *options, "--config", str(CONFIG)]
        words += ["--config", str(self.overlay), "--userdir", str(self.user), "--datadir", str(self.data)]
        words += ["--timerange", TIMERANGE]
        for name, value in shipped_options().items():
            words += [f"--{name.replace('_', '-')}", value]
        return words

    def backtest_command(self) -> list[str]:
        """``freqtrade backtesting``."""
        options: dict[str, Option] = {"datadir": self.data, "timerange": TIMERANGE, "export": "trades"}
        return self.command("backtesting", **(shipped_options() | options))

    def train(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run ``mtfscalper train`` to its end."""
        return subprocess.run(
            self.train_command(*options),
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=LONGEST_SECONDS,
        )

    def backtest(self) -> tuple[str, pd.DataFrame]:
        """Run ``freqtrade backtesting`` to its end, which has to be a good one.

        :return: its output and its trades
        """
        with self.under_way(self.backtest_command()) as run:
            output = run.ended(0)
        return output, self.trades()

    def trades(self) -> pd.DataFrame:
        """Those of the only backtest that was run to its end."""
        [result] = (self.user / "backtest_results").glob("*.zip")
        return load_backtest_data(result)

    def kept(self) -> list[Path]:
        """The trainings that have finished and whose periods are not sealed yet."""
        return [*(self.user / "models" / ".sealed").glob("*/trainings/**/*.training")]

    @contextmanager
    def under_way(self, command: Sequence[str], environment: Mapping[str, str] = os.environ) -> Iterator[RunUnderWay]:
        """A run until a ``with`` block ends."""
        run = RunUnderWay(command, self.home, environment)
        try:
            yield run
        finally:
            for process in run.processes():
                process.kill()
            shutil.rmtree(run.scratch, ignore_errors=True)


class RunUnderWay:
    """A run in a session of its own, as a terminal has it.

    :ivar process: the command's
    :ivar scratch: where all of it writes temporary files
    """

    def __init__(self, command: Sequence[str], home: Path, environment: Mapping[str, str]) -> None:
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._log = home / f"{self._mark}.log"
        # Sockets lie in it, whose paths may have a hundred characters.
        self.scratch = Path("/tmp") / f"tp-{self._mark}"
        self.scratch.mkdir()
        # torch makes a folder among the temporary files for what it compiles, and leaves it there.
        compiled = {"TORCHINDUCTOR_CACHE_DIR": str(home / "compiled")}
        variables = {RUN: self._mark, "TMPDIR": str(self.scratch), "COLUMNS": "1000", "OMP_NUM_THREADS": "1"} | compiled
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=home,
                env={**environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def processes(self) -> list[psutil.Process]:
        """All that belong to it and have not ended."""
        return processes_with(RUN, self._mark)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait while it runs."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.2)

    def shared_memory(self) -> set[Path]:
        """What its environments have, which there are while a training runs."""
        return shared_memory_of(self.processes())

    def stop(self, how: signal.Signals) -> tuple[float, float, int]:
        """End it, and wait until all of it has ended.

        :param how: as Ctrl-C, which reaches all that a terminal has started, or as ``kill`` of the command alone
        :return: seconds, how many it may take here, and exit status
        """
        left, began = self.processes(), time.monotonic()
        may_take = may_take_to_stop(len(left))
        (os.killpg if how == signal.SIGINT else os.kill)(self.process.pid, how)
        status = self.process.wait(LONGEST_SECONDS)
        psutil.wait_procs(left, timeout=60)
        return time.monotonic() - began, may_take, status

    def ended(self, status: int) -> str:
        """Wait for its end, by itself and with this status.

        :return: its output
        """
        assert self.process.wait(LONGEST_SECONDS) == status, self.output
        return self.output


def seen(output: str) -> str:
    """Output as people read it, however its lines were broken."""
    return re.sub(r"\s+", " ", output)
