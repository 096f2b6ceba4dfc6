"""Environment steps a second of worker processes: by pipes, as stable-baselines3 has them, and by shared memory.

All take the same random actions on the same candles, first side by side, where everything they say must be equal, then
against the clock in interleaved rounds. With ``--starts`` it is timed how long workers take until they are there, in a
fresh process, at first and once more. With ``--fits`` whole trainings follow, each in a process of its own: ``subproc``
beside ``batched``, with the same settings.

    python benchmarks/bench_workers.py --starts 5 --fits 3 --json bench_workers.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_training import train
from env_contenders import RULES, vectorised
from rich.console import Console
from rich.progress import track
from rich.table import Table
from run_facts import facts
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv, VecMonitor
from step_market import N_CANDLES, market, tape_of

from mtfscalper.envs.build import build_vec_env
from mtfscalper.envs.episodes import EnvSettings
from mtfscalper.envs.lookback_observation import make_env
from mtfscalper.market.tape import MarketTape
from mtfscalper.trading.actions import N_ACTIONS
from mtfscalper.trading.reward import RewardSettings

N_ENVS = 8
PIPES = f"pipes, {N_ENVS} workers"
BATCHED = "batched"
# Of a whole training, each with as many environments and steps.
FITS = ("subproc", "batched 8", "subproc bf16", "batched bf16 8")


def trained_on() -> tuple[MarketTape, EnvSettings]:
    return tape_of(*market()).without_features(), EnvSettings(RULES, RewardSettings(), "agent", 1)


def contenders() -> dict[str, VecEnv]:
    """Eight environments in each way."""
    tape, settings = trained_on()
    build = partial(build_vec_env, tape=tape, settings=settings, n_envs=N_ENVS)
    return {
        PIPES: VecMonitor(SubprocVecEnv([partial(make_env, tape, settings, True)] * N_ENVS)),
        f"shared memory, {N_ENVS} workers": build("subproc"),
        "shared memory, 4 workers": build("subproc", n_workers=4),
        "shared memory, 2 workers": build("subproc", n_workers=2),
        "dummy": build("dummy"),
        BATCHED: build("batched"),
    }


def check_equal(vec_envs: dict[str, VecEnv], n_steps: int) -> None:
    """Nothing that any of them says may differ, but for the type of rewards that went through a pipe."""
    random = np.random.default_rng(0)
    for vec_env in vec_envs.values():
        vec_env.seed(0)
    started = [vec_env.reset() for vec_env in vec_envs.values()]
    assert all(np.array_equal(observations, started[0]) for observations in started)
    ends = 0
    for _ in range(n_steps):
        actions = random.integers(0, N_ACTIONS, N_ENVS)
        (observations, rewards, dones, infos), *others = [vec_env.step(actions) for vec_env in vec_envs.values()]
        for other in others:
            assert np.array_equal(other[0], observations)
            assert np.array_equal(np.float32(other[1]), np.float32(rewards))
            assert np.array_equal(other[2], dones)
            for info, its in zip(infos, other[3], strict=True):
                assert info.keys() == its.keys()
                assert np.array_equal(info.get("terminal_observation"), its.get("terminal_observation"))
        ends += int(dones.sum())
    assert ends, "no episode ended, so that nothing was compared of its end"


def table_of(title: str, rates: dict[str, list[float]], rival: str) -> Table:
    """Medians, and their ratios to a rival of the same rounds."""
    table = Table("", title=title)
    for column in ("median", "lowest", "highest", f"x {rival}"):
        table.add_column(column, justify="right")
    for name, values in rates.items():
        ratio = np.median(np.divide(values, rates[rival]))
        middle = (np.median(values), min(values), max(values))
        table.add_row(name, *(f"{value:,.0f}" for value in middle), f"{ratio:.2f}")
    return table


def measure(run: dict[str, Callable[[], float]], rounds: int, what: str) -> dict[str, list[float]]:
    """A figure of each contender in each round."""
    figures: dict[str, list[float]] = {name: [] for name in run}
    for _ in track(range(rounds), what, console=Console(stderr=True)):
        for name, one in run.items():
            figures[name].append(one())
    return figures


def starts() -> list[float]:
    """Seconds until eight workers are there, in this process at first and once more."""
    tape, settings = trained_on()
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        vec_env = build_vec_env("subproc", tape, settings, N_ENVS)
        seconds.append(time.perf_counter() - began)
        vec_env.close()
    return seconds


def starts_of_a_fresh_process() -> list[float]:
    program = "import bench_workers, json; print(json.dumps(bench_workers.starts()))"
    said = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds: list[float] = json.loads(said)
    return seconds


def fit(contender: str) -> float:
    """Timesteps a second of a whole fit."""
    name = contender.removesuffix(f" {N_ENVS}")
    figures = train(name, cycles=8, **({"n_envs": N_ENVS} if name.startswith("batched") else {}))
    return float(figures["timesteps"] / figures["seconds"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds (default 15)")
    parser.add_argument("--seconds", type=float, default=0.3, help="seconds a contender and round (default 0.3)")
    parser.add_argument("--starts", type=int, default=0, help="fresh processes to start workers from (default 0)")
    parser.add_argument("--fits", type=int, default=0, help="rounds of whole fits, a minute or two each (default 0)")
    default = Path(tempfile.gettempdir(), "bench_workers.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    vec_envs = contenders()
    try:
        check_equal(vec_envs, 2000)
        runs = {name: partial(vectorised(vec_env), options.seconds) for name, vec_env in vec_envs.items()}
        steps = measure(runs, options.rounds, "rounds of steps")
    finally:
        for vec_env in vec_envs.values():
            vec_env.close()
    Console().print(table_of(f"steps a second of {N_ENVS} environments, {N_CANDLES:,} candles", steps, PIPES))
    figures: dict[str, Any] = facts() | {"steps_per_second": steps}
    if options.starts:
        seconds = [starts_of_a_fresh_process() for _ in range(options.starts)]
        for when, values in zip(("at first", "once more"), zip(*seconds, strict=True), strict=True):
            print(
                f"{N_ENVS} workers are there {when} after {np.median(values):.2f} s ({min(values):.2f} to "
                f"{max(values):.2f}, {options.starts} processes)"
            )
        figures["start_seconds"] = seconds
    if options.fits:
        fits = measure({name: partial(fit, name) for name in FITS}, options.fits, "rounds of fits")
        Console().print(table_of(f"whole fits, steps a second, {N_ENVS} environments x 4,096", fits, FITS[1]))
        figures["fits"] = fits
    options.json.write_text(json.dumps(figures, indent=1))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    # Not as a script: each worker process would import it with all it imports.
    program = "import sys, bench_workers; sys.exit(bench_workers.main(sys.argv[1:]))"
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    sys.exit(subprocess.run([sys.executable, "-c", program, *sys.argv[1:]], env=environment).returncode)
