"""How the time of a whole ``fit`` grows with environments, lookback, features and cycles.

python benchmarks/bench_scaling.py --json bench_scaling.json --plot docs/training_time.svg
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import torch
from bench_training import train
from rich.console import Console
from rich.progress import track
from rich.table import Table
from run_facts import facts

from mtfscalper.machine import has_bf16

matplotlib.use("svg")

from matplotlib import pyplot

# The fast configuration, shortened, and what of it is varied, one thing at a time.
BASE = {"n_envs": 64, "lookback": 1, "features": 54, "cycles": 4}
VARIED = {"n_envs": (8, 64, 512), "lookback": (1, 15, 30), "features": (10, 54, 200), "cycles": (4, 8)}
CONTENDERS = ("batched", "batched bf16") if has_bf16(torch.device("cpu")) else ("batched",)


def scale() -> list[dict[str, Any]]:
    """A whole fit of every contender at every value."""
    jobs = [(name, value, kind) for name, values in VARIED.items() for value in values for kind in CONTENDERS]
    # What they all start from is trained once.
    known: dict[tuple[Any, ...], dict[str, Any]] = {}
    points = []
    for name, value, kind in track(jobs, "fits", console=Console(stderr=True)):
        shape = BASE | {name: value}
        key = (kind, *shape.values())
        if key not in known:
            known[key] = train(kind, **shape)
        points.append({"varied": name, "value": value, "contender": kind} | known[key])
    return points


def table_of(points: list[dict[str, Any]]) -> Table:
    """Seconds of a fit and timesteps a second."""
    table = Table(title="a whole fit, evaluation included")
    for column in ("varied", "value", "contender", "timesteps", "seconds", "steps/s"):
        table.add_column(column, justify="left" if column in ("varied", "contender") else "right")
    for point in points:
        rate = point["timesteps"] / point["seconds"]
        row = (point["varied"], f"{point['value']}", point["contender"], f"{point['timesteps']:,}")
        table.add_row(*row, f"{point['seconds']:.1f}", f"{rate:,.0f}")
    return table


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """A picture for each thing that was varied: seconds against its values."""
    figure, axes = pyplot.subplots(1, len(VARIED), figsize=(14, 3.4), layout="constrained")
    for axis, name in zip(axes, VARIED, strict=True):
        for kind in CONTENDERS:
            line = [point for point in points if (point["varied"], point["contender"]) == (name, kind)]
            axis.plot([point["value"] for point in line], [point["seconds"] for point in line], "o-", label=kind)
        axis.set(xlabel=name, xscale="log" if name == "n_envs" else "linear")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("seconds of a whole fit")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    print(f"picture: {path}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, what in {"json": "the figures", "plot": "the picture"}.items():
        kind = "json" if name == "json" else "svg"
        default = Path(tempfile.gettempdir(), f"bench_scaling.{kind}")
        parser.add_argument(f"--{name}", type=Path, default=default, help=f"where {what} goes (default %(default)s)")
    options = parser.parse_args(argv)
    points = scale()
    Console().print(table_of(points))
    plot(points, options.plot)
    options.json.write_text(json.dumps(facts() | {"points": points}, indent=1))
    print(f"figures: {options.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
