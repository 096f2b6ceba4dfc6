"""Trainings side by side in processes against one after the other in this one: trainings a minute, and the ratio.

In each round both train the same jobs, in turn: the processes with the processors divided among them, and this process
with all of them. The processes are there already, as they are in all but the first trainings of a run; what it takes to
start one, and what one job takes longer in a process than here at as many threads, is timed by itself.

    python benchmarks/bench_executors.py
    python benchmarks/bench_executors.py --net small --workers 4 --rounds 5
    python benchmarks/bench_executors.py --scaling 1,2,4,8 --net main --rounds 3
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from main_job import our_job

from mtfscalper.executors.executor import Running
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.executors.processes import ProcessesExecutor
from mtfscalper.machine import set_torch_threads, usable_processors
from mtfscalper.training.job import TrainingJob

# Of both, eight environments of 4,096 steps: one rollout for each training.
NETS: dict[str, dict[str, Any]] = {"main": {"net_arch": [512, 512, 256]}, "small": {"net_arch": [32]}}


class Sizes(NamedTuple):
    """How much is timed.

    :ivar workers: processes
    :ivar jobs: in each round, of each
    :ivar cycles: passes over 7,776 candles
    :ivar n_steps: of a rollout, in each of eight environments
    """

    workers: int
    jobs: int
    rounds: int
    cycles: int
    n_steps: int


def job_of(net: str, sizes: Sizes, threads: int) -> TrainingJob:
    """A training of the main configuration with another net."""
    changes = NETS[net] | {"vec_env": "batched", "n_steps": sizes.n_steps, "threads_per_job": threads, "device": "cpu"}
    return our_job(changes, lookback=30, n_features=20, cycles=sizes.cycles)


def seconds_of(running: Running, jobs: Sequence[TrainingJob]) -> float:
    """From the first job's submission until the last one's model is here."""
    began, waiting = time.perf_counter(), list(jobs)
    for _ in jobs:
        while waiting and running.room > 0:
            running.submit(waiting.pop())
        _, outcome = running.next_finished()
        if isinstance(outcome, Exception):
            raise outcome
    return time.perf_counter() - began


def many(job: TrainingJob, n: int) -> list[TrainingJob]:
    """Jobs that differ in their seeds."""
    return [replace(job, seed=seed) for seed in range(n)]


def side_by_side(net: str, sizes: Sizes) -> None:
    """Print trainings a minute of both, and the ratio of each round."""
    processors = usable_processors()
    threads = max(1, processors // sizes.workers)
    set_torch_threads(processors, 2)
    divided, alone = job_of(net, sizes, threads), job_of(net, sizes, processors)
    with (
        ProcessesExecutor(lambda _: sizes.workers).start() as processes,
        InlineExecutor().start() as here,
    ):
        # Both are warm, and all processes are there.
        seconds_of(processes, many(divided, 2 * sizes.workers))
        seconds_of(here, [alone])
        rounds = [
            (seconds_of(processes, many(divided, sizes.jobs)), seconds_of(here, many(alone, sizes.jobs)))
            for _ in range(sizes.rounds)
        ]
    ratios = [inline / processes for processes, inline in rounds]
    for name, seconds in zip(
        (f"{sizes.workers} processes x {threads} threads", f"inline x {processors} threads"),
        zip(*rounds, strict=True),
        strict=True,
    ):
        print(f"  {name:<28} {60 * sizes.jobs / statistics.median(seconds):8.2f} trainings a minute")
    each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"  ratio {statistics.median(ratios):.2f} (rounds: {each})")


def scaling(net: str, sizes: Sizes, workers: Sequence[int]) -> None:
    """Print trainings a minute of several numbers of processes of one thread each, beside the first's in proportion.

    In each round all train in turn, each process as many jobs as the one alone.
    """
    job, per_process = job_of(net, sizes, 1), max(1, sizes.jobs // min(workers))
    with ExitStack() as stack:
        executors = {n: stack.enter_context(ProcessesExecutor(lambda _, n=n: n).start()) for n in workers}
        # Every process is there, and has everything imported.
        first = job_of("small", sizes._replace(cycles=1, n_steps=64), 1)
        for n, processes in executors.items():
            seconds_of(processes, many(first, n))
        rates: dict[int, list[float]] = {n: [] for n in workers}
        for _ in range(sizes.rounds):
            for n, processes in executors.items():
                rates[n].append(n * per_process / seconds_of(processes, many(job, n * per_process)))
                linear = n / workers[0] * rates[workers[0]][-1]
                print(
                    f"  {n:3d} processes x 1 thread {60 * rates[n][-1]:9.2f} trainings a minute, "
                    f"{rates[n][-1] / linear:.2f} of linear",
                    flush=True,
                )


def one_job(net: str, sizes: Sizes) -> None:
    """Print what a job takes longer in a process than here, at as many threads, and what a process takes to start."""
    processors = usable_processors()
    set_torch_threads(processors, 2)
    job = job_of(net, sizes, processors)
    with ProcessesExecutor(lambda _: 1).start() as processes, InlineExecutor().start() as here:
        first = seconds_of(processes, [job])
        seconds_of(here, [job])
        rounds = [(seconds_of(processes, [job]), seconds_of(here, [job])) for _ in range(sizes.rounds)]
    there = statistics.median(process for process, _ in rounds)
    ratios = [process / inline for process, inline in rounds]
    each = ", ".join(f"{ratio - 1:+.1%}" for ratio in ratios)
    print(f"  one job: {there:.2f} s in a process, {statistics.median(ratios) - 1:+.1%} of inline's (rounds: {each})")
    print(f"  a process takes {first - there:.1f} s to start")


def main() -> None:
    """Print both for each net."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", choices=NETS, help="default: one after the other")
    parser.add_argument("--workers", type=int, default=usable_processors(), help="processes; default: a processor each")
    parser.add_argument("--jobs", type=int, default=4, help="trainings in each round, of each (default 4)")
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument("--cycles", type=int, default=4, help="passes over 7,776 candles (default 4: one rollout)")
    parser.add_argument("--n-steps", type=int, default=4096, help="steps of a rollout in each environment")
    parser.add_argument("--scaling", help="numbers of processes, as 1,2,4,8, each of one thread: these, nothing else")
    args = parser.parse_args()
    sizes = Sizes(args.workers, args.jobs, args.rounds, args.cycles, args.n_steps)
    for net in [args.net] if args.net else NETS:
        print(f"{net} net, {8 * sizes.n_steps:,} timesteps in a rollout, {usable_processors()} processors:")
        if args.scaling:
            scaling(net, sizes, [int(n) for n in args.scaling.split(",")])
            continue
        side_by_side(net, sizes)
        one_job(net, sizes)


if __name__ == "__main__":
    main()
