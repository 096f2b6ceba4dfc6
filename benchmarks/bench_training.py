"""A whole ``fit``, evaluation included: freqtrade's learners beside this package's.

Every run is a process of its own (training_contenders.py); the contenders of a round follow one another, so that
whatever else the machine does hits them alike. A quarter of an hour a round on two processors.

    python benchmarks/bench_training.py --rounds 3 --json bench_training.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from main_config import ROOT
from rich.console import Console
from rich.progress import track
from rich.table import Table
from run_facts import facts
from training_contenders import CONTENDERS, STOCK

from mtfscalper.machine import has_bf16

LOOKBACKS = (1, 30)
MIB = 2**20


class Run(NamedTuple):
    """One contender, trained once."""

    contender: str
    lookback: int
    figures: dict[str, Any]


def train(contender: str, **options: Any) -> dict[str, Any]:
    """Train in a new process.

    :param options: of training_contenders.py
    :return: its figures
    """
    arguments = [contender]
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    # Not as a script: each worker process would import that script with all it imports, as it does not under freqtrade.
    program = "import sys, training_contenders; sys.exit(training_contenders.main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if result.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{result.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def rates(runs: Iterable[Run], contender: str, lookback: int) -> list[float]:
    """Timesteps a second of a contender's whole fits."""
    return [
        run.figures["timesteps"] / run.figures["seconds"]
        for run in runs
        if (run.contender, run.lookback) == (contender, lookback)
    ]


def middle(runs: Iterable[Run], contender: str, lookback: int, name: str) -> float:
    """The median of one of a contender's figures."""
    return float(
        np.median([run.figures[name] for run in runs if (run.contender, run.lookback) == (contender, lookback)])
    )


def table_of(runs: list[Run], lookback: int, contenders: Sequence[str]) -> tuple[Table, dict[str, Any]]:
    """One lookback's contenders, and their figures by name.

    :param contenders: ``stock``, freqtrade's default, among them
    """
    table = Table(title=f"whole fit, evaluation included: lookback {lookback}, 54 features")
    table.add_column("contender", no_wrap=True)
    for column in ("steps/s", "lowest", "highest", "x stock", "x best stock", "MiB", "workers'"):
        table.add_column(column, justify="right")
    medians = {name: float(np.median(rates(runs, name, lookback))) for name in contenders}
    best = max(medians[name] for name in contenders if name in STOCK)
    summary = {}
    for name in contenders:
        each = rates(runs, name, lookback)
        own, workers = (middle(runs, name, lookback, f"{kind}_memory_bytes") / MIB for kind in ("own", "worker"))
        ratios = medians[name] / medians["stock"], medians[name] / best
        table.add_row(
            name,
            *(f"{value:,.0f}" for value in (medians[name], min(each), max(each))),
            *(f"{ratio:.2f}" for ratio in ratios),
            *(f"{value:,.0f}" for value in (own + workers, workers)),
        )
        summary[name] = {
            "steps_per_second": each,
            "median": medians[name],
            "x_stock": ratios[0],
            "x_best_stock": ratios[1],
            "memory_mib": own + workers,
            "worker_memory_mib": workers,
        }
    return table, summary


def compare(contenders: Sequence[str], rounds: int, cycles: int, path: Path) -> None:
    """Contenders at both lookbacks, round by round; what is known so far is in the file after each run."""
    jobs = [(name, lookback) for _ in range(rounds) for lookback in LOOKBACKS for name in contenders]
    runs: list[Run] = []
    console = Console(stderr=True)
    for name, lookback in track(jobs, "fits", console=console):
        run = Run(name, lookback, train(name, lookback=lookback, cycles=cycles))
        runs.append(run)
        console.print(f"lookback {lookback:>2}, {name}: {run.figures['seconds']:.1f} s")
        path.write_text(json.dumps(facts() | {"runs": [run._asdict() for run in runs]}, indent=1))
    summaries = {}
    for lookback in LOOKBACKS:
        table, summaries[f"lookback {lookback}"] = table_of(runs, lookback, contenders)
        Console().print(table)
    path.write_text(json.dumps(facts() | {"summary": summaries, "runs": [run._asdict() for run in runs]}, indent=1))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    possible = [name for name in CONTENDERS if has_bf16(torch.device("cpu")) or "bf16" not in name]
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=possible,
        default=possible,
        metavar="NAME",
        help=f"beside stock, which always runs: {str(possible)[1:-1]} (default: all)",
    )
    parser.add_argument("--rounds", type=int, default=1, help="of all contenders (default 1)")
    parser.add_argument("--cycles", type=int, default=4, help="train_cycles of each fit (default 4)")
    default = Path(tempfile.gettempdir(), "bench_training.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    contenders = [name for name in CONTENDERS if name == "stock" or name in options.contenders]
    compare(contenders, options.rounds, options.cycles, options.json)
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
