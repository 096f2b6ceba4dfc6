"""A planned run through the real freqtrade command, watched from outside."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.status import Status

from mtfscalper.monitoring.estimate import TimeLeft
from mtfscalper.monitoring.freqtrade_log import TRAINING, last_error, stage_of
from mtfscalper.monitoring.gpu import GpuMemory
from mtfscalper.monitoring.plan import Plan
from mtfscalper.monitoring.sampler import Recording, Sample, TreeSampler
from mtfscalper.offline.exchange import ReplayExchange
from mtfscalper.offline.freqtrade_command import freqtrade_command, project_options, running, write_overlay


class RunError(RuntimeError):
    """freqtrade failed; the message holds its exit status, its last error and where its output is."""


class Ran(NamedTuple):
    """A run that came to its end.

    :ivar result: freqtrade's backtest result
    :ivar seconds: from freqtrade's start to its end
    :ivar watching_cpu_seconds: processor time that this process used meanwhile
    :ivar gpu_bytes: the most GPU memory that came to be used meanwhile; None where no driver tells
    """

    recording: Recording
    result: Path
    seconds: float
    watching_cpu_seconds: float
    gpu_bytes: int | None


def command_of(plan: Plan, overlay: Path, results: Path) -> list[str]:
    """The freqtrade command, to be run in the project's root.

    :param overlay: configuration file of this run, which overrides the others
    :param results: where freqtrade writes its backtest result
    """
    return freqtrade_command(
        "backtesting",
        (*plan.configs, overlay),
        datadir=plan.datadir,
        backtest_directory=results,
        # With the strategy's frame where a trade followed: it shows whether predictions came that far.
        export="signals",
        pairs=plan.pairs,
        timerange=plan.timerange,
        # On the command line, a name would override the one in the user's configuration.
        **{key: value for key, value in project_options().items() if key not in plan.config},
    )


def run_watched(plan: Plan, root: Path, scratch: Path, console: Console, time_left: TimeLeft) -> Ran:
    """Run the plan's training and backtest, and watch it.

    :param root: checkout of the project
    :param scratch: a folder for the overlay and the backtest result
    :raises RunError: if freqtrade fails or leaves no result
    """
    results = scratch / "backtest_results"
    results.mkdir()
    plan.log.parent.mkdir(parents=True, exist_ok=True)
    with ReplayExchange(plan.datadir) as exchange:
        overlay = write_overlay(scratch / "overlay.json", exchange.url, {"freqai": plan.overrides})
        began, own_cpu = time.perf_counter(), time.process_time()
        with (
            plan.log.open("wb") as log,
            running(command_of(plan, overlay, results), root, log) as process,
            TreeSampler(process.pid) as sampler,
            console.status("") as status,
        ):
            progress, gpu = _Progress(console, status, plan.log, time_left), GpuMemory()
            while process.poll() is None:
                progress.show(sampler.recording)
                gpu.look()
                time.sleep(0.2)
        seconds, own_cpu = time.perf_counter() - began, time.process_time() - own_cpu
    found = sorted(results.glob("*.zip"))
    # freqtrade leaves with status 0 after some configuration errors.
    if process.returncode != 0 or not found:
        error = last_error(plan.log.read_text(errors="replace"))
        raise RunError(f"freqtrade failed (exit status {process.returncode}): {error}\nIts whole output: {plan.log}")
    return Ran(sampler.recording, found[-1], seconds, own_cpu, gpu.most)


class _Progress:
    """How far freqtrade has come: a spinner on a terminal; elsewhere a line for each stage."""

    def __init__(self, console: Console, status: Status, log: Path, time_left: TimeLeft) -> None:
        self._time_left = time_left
        self._console, self._status, self._log = console, status, log
        self._began = time.monotonic()
        self._position = 0
        self._stage, self._shown = "starting freqtrade", ""

    def show(self, recording: Recording) -> None:
        """Read on in the log and show the stage."""
        with self._log.open("rb") as file:
            file.seek(self._position)
            text = file.read()
        self._position += len(text)
        before, seconds = self._stage, time.monotonic() - self._began
        self._stage = stage_of(text.decode(errors="replace"), self._stage)
        if self._stage != before:
            if before.startswith(TRAINING):
                self._time_left.training_ended(seconds)
            if self._stage.startswith(TRAINING):
                self._time_left.training_began(seconds)
        left = self._time_left.left(seconds)
        if self._console.is_terminal:
            self._status.update(f"{self._stage} · {seconds:.0f} s, about {left:.0f} s left{_usage(recording)}")
        elif self._stage != self._shown:
            self._console.print(f"{seconds:4.0f} s  {self._stage}, about {left:.0f} s left", markup=False)
        self._shown = self._stage


def _usage(recording: Recording) -> str:
    """Processor, workers and memory between the last two samples."""
    if len(recording.samples) < 2:
        return ""
    before, now = recording.samples[-2:]
    workers = len(recording.workers_in(now))
    memory = sum(reading.rss_bytes for reading in now.processes) / 2**30
    return f" · {_cpu_share(before, now):.0%} of a processor · {workers} workers · {memory:.1f} GiB"


def _cpu_share(before: Sample, now: Sample) -> float:
    had = {reading.pid: reading.cpu_seconds for reading in before.processes}
    used = sum(reading.cpu_seconds - had.get(reading.pid, 0.0) for reading in now.processes)
    return used / max(now.time - before.time, 1e-3)
