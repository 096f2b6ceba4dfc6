"""The whole training on one device: populations of K members, their rivals, and what the device is doing meanwhile.

Rounds of a rollout and an update after one that warms up, evaluation apart; medians. On a GPU it takes some minutes. On
a CPU everything is smaller, and the tables' titles say so. A part that fails, or for which no time is left, is named
and left out; the JSON is written after each.

    python benchmarks/bench_device.py --json bench_device.json
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from device_measures import DTYPES, OURS, Bench
from device_task import FULL, SEED, SMALL, TOY, Size, Task
from record import Record
from rich.console import Console
from run_facts import device_facts, device_of
from tables import Columns, table, wide_console

RATE_COLUMNS: Columns = {
    "rollout_seconds": ("rollout", "{:.3f} s"),
    "update_seconds": ("update", "{:.3f} s"),
    "evaluation_seconds": ("evaluation", "{:.3f} s"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "minibatch_us": ("a minibatch", "{:,.0f} us"),
    "update_tflops": ("TFLOP/s", "{:.3g}"),
    "share_of_measured_peak": ("of peak", "{:.1%}"),
    "share_of_nominal_peak": ("nominal", "{:.1%}"),
    "member_mib": ("MiB each", "{:,.0f}"),
    "member_bytes_mib": ("reckoned", "{:,.0f}"),
}
KERNEL_COLUMNS: Columns = {
    "update_share": ("update", "{:.1%}"),
    "rollout_share": ("rollout", "{:.1%}"),
    "kernels_per_minibatch": ("kernels a minibatch", "{:.1f}"),
    "launches_per_minibatch": ("graphs a minibatch", "{:.2f}"),
}
RIVAL_COLUMNS: Columns = {
    "rollout_seconds": ("rollout", "{:.3f} s"),
    "update_seconds": ("update", "{:.3f} s"),
    "samples_per_second": ("samples/s", "{:,.0f}"),
    "x_of_one": ("ours, K = 1", "{:.2f} x"),
    "x_of_one_update": ("its update", "{:.2f} x"),
    "x_of_most": ("ours, largest K", "{:.2f} x"),
}
ENV_COLUMNS: Columns = {"steps_per_second": ("steps/s", "{:,.0f}"), "x_numpy": ("x NumPy", "{:.2f}")}
MISSION_COLUMNS: Columns = {
    "seconds": ("in all", "{:.1f} s"),
    "rollout_seconds": ("rollouts", "{:.1f} s"),
    "update_seconds": ("updates", "{:.1f} s"),
    "evaluation_seconds": ("evaluations", "{:.1f} s"),
    "timesteps": ("timesteps", "{:,.0f}"),
}


def measure(bench: Bench, record: Record, members: list[int], with_mission: bool) -> None:
    """Every part, the most telling ones first."""
    size = bench.task.size
    record.part(("peak_tflops",), bench.peaks)
    peaks = record.figures.get("peak_tflops", {"nominal_bf16": None} | dict.fromkeys(DTYPES, float("nan")))

    def population(n_members: int, batch_size: int, section: str) -> None:
        name = f"K = {n_members}, batch {batch_size}"
        record.part((section, name), lambda: bench.population(n_members, batch_size, peaks))
        if bench.is_cuda:
            record.part(("kernels", name), bench.kernels)

    first = [n_members for n_members in members if n_members in (1, 16)]
    for n_members in first:
        population(n_members, size.batch_size, "populations")
    if with_mission:
        record.part(("mission",), bench.mission)
    record.part(("rivals",), bench.rivals)
    if not bench.is_cuda:
        record.part(("environments",), bench.environments)
    for n_members in members:
        if n_members not in first:
            population(n_members, size.batch_size, "populations")
    for batch_size in size.larger_batches:
        population(1, batch_size, "larger_batches")
    beside_the_largest(record.figures)


def beside_the_largest(figures: dict[str, Any]) -> None:
    """Add to the rivals what the largest population makes of each."""
    populations = figures.get("populations", {}).values()
    if populations and "rivals" in figures:
        most = max(populations, key=lambda own: own["members"])["samples_per_second"]
        for name, own in figures["rivals"].items():
            if name != OURS:
                own["x_of_most"] = most / own["samples_per_second"]


def show(figures: dict[str, Any], size: Size, console: Console) -> None:
    """Everything measured, as tables."""
    where = f"{figures['device']}, {size.name} size"
    if figures["clock"] == time.process_time.__name__:
        where += ", processor seconds"
    by_members = sorted(figures.get("populations", {}).items(), key=lambda item: item[1]["members"])
    populations = dict(by_members)
    larger = figures.get("larger_batches", {})
    for title, columns, rows in (
        (f"populations of K, {where}: {size}", RATE_COLUMNS, populations),
        ("another algorithm: fewer updates per sample", RATE_COLUMNS, larger),
        ("of wall time with a kernel running", KERNEL_COLUMNS, figures.get("kernels", {})),
        (f"rivals, {where}", RIVAL_COLUMNS, figures.get("rivals", {})),
        (f"environments, {where}", ENV_COLUMNS, figures.get("environments", {})),
        (f"ten trainings, {where}", MISSION_COLUMNS, figures.get("mission", {})),
    ):
        if rows:
            console.print(table(title, columns, rows))


def size_of(options: argparse.Namespace, device: torch.device) -> Size:
    if options.toy:
        return TOY
    return FULL if device.type == "cuda" else SMALL


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: a GPU if any")
    parser.add_argument("--toy", action="store_true", help="seconds on a CPU: shows that everything runs, no more")
    parser.add_argument("--members", help="sizes of populations, as 1,2,4 (default: the size's)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of each (default 3)")
    parser.add_argument("--mission", action="store_true", help="the ten trainings on a CPU as well, at a small size")
    parser.add_argument(
        "--processor-seconds",
        action="store_true",
        help="tell time by what this process computes: for a busy machine, with OMP_NUM_THREADS=1 on a CPU",
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so many")
    default = Path(tempfile.gettempdir(), "bench_device.json")
    parser.add_argument("--json", type=Path, default=default, help="where the figures go (default %(default)s)")
    options = parser.parse_args(argv)
    device = device_of(options.device)
    size = size_of(options, device)
    members = [int(number) for number in options.members.split(",")] if options.members else list(size.members)
    if options.processor_seconds and device.type != "cpu":
        raise SystemExit("--processor-seconds is of a CPU alone; accepted: --device cpu with it; remedy: leave it out")
    clock = time.process_time if options.processor_seconds else time.perf_counter
    begun = device_facts(device) | {"size": size._asdict(), "seed": SEED, "clock": clock.__name__}
    record = Record(options.json, begun, options.seconds)
    bench = Bench(Task(size, str(device)), options.rounds, clock)
    measure(bench, record, members, options.mission or bench.is_cuda)
    options.json.write_text(json.dumps(record.figures, indent=1))
    show(record.figures, size, wide_console())
    print(f"figures: {options.json}")
    return 1 if record.figures["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
