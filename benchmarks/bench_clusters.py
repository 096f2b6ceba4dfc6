"""Trainings on a Ray cluster of this machine against processes, and what that makes of a long run on many workers.

In each round both train the same jobs, in turn, at one thread each. What one training takes, and what is beside it (on
the node, and on the driver for each job that is sent and comes back), is then put into a simulation of 50 pairs x 52
periods on 1 to 64 workers, which is first held against the measured rounds.

    python benchmarks/bench_clusters.py --json bench_clusters.json --plot docs/images/clusters.svg
"""

import argparse
import heapq
import json
import math
import pickle
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import matplotlib
from bench_executors import NETS, Sizes, job_of, many
from run_facts import facts

from mtfscalper.executors.executor import Outcome, Running
from mtfscalper.executors.processes import ProcessesExecutor
from mtfscalper.executors.ray import AHEAD, RayExecutor
from mtfscalper.executors.ray_cluster import why_no_ray
from mtfscalper.machine import usable_processors
from mtfscalper.training.job import TrainingJob

matplotlib.use("svg")

from matplotlib import pyplot

PAIRS, PERIODS = 50, 52
WORKERS = (1, 2, 4, 8, 16, 32, 64)
# The simulation has to meet the measured rounds this closely.
TOLERANCE = 0.1
# Between machines; on this one alone nothing is slower than memory.
NETWORK_BYTES_PER_SECOND = 1e9 / 8


class Timed(NamedTuple):
    """Trainings that ran on some workers.

    :ivar seconds: from the first submission until the last model is here
    :ivar trainings: seconds of each, by its own report
    :ivar sending: seconds that the driver took to submit each
    """

    workers: int
    seconds: float
    trainings: list[float]
    sending: list[float]


class Beside(NamedTuple):
    """Seconds of a job beside its training.

    :ivar node: on its node, whose processor waits meanwhile
    :ivar sending: on the driver, one job after the other
    :ivar receiving: the same
    """

    node: float
    sending: float
    receiving: float


def run(running: Running, jobs: Sequence[TrainingJob], at_once: int) -> tuple[Timed, Outcome]:
    """Run jobs of which so many are under way at a time.

    :return: how long they took, and what became of the last one
    :raises Exception: that of a training which fails
    """
    began, waiting = time.perf_counter(), list(jobs)
    sending: list[float] = []
    trainings: list[float] = []
    while len(trainings) < len(jobs):
        while waiting and len(sending) - len(trainings) < at_once and running.room > 0:
            submitted = time.perf_counter()
            running.submit(waiting.pop())
            sending.append(time.perf_counter() - submitted)
        _, outcome = running.next_finished()
        if isinstance(outcome, Exception):
            raise outcome
        trainings.append(outcome[1].seconds)
    return Timed(at_once, time.perf_counter() - began, trainings, sending), outcome


def simulated(jobs: Sequence[float], workers: int, beside: Beside) -> float:
    """Seconds of a run: the driver sends and receives one job at a time, and each worker runs one at a time.

    :param jobs: seconds of each training
    """
    now, sent, done, n_free = 0.0, 0, 0, workers
    ends: list[float] = []
    waiting: deque[float] = deque()
    while done < len(jobs):
        is_heard = bool(ends) and ends[0] <= now
        if not is_heard and sent < len(jobs) and sent - done < math.ceil(workers * (1 + AHEAD)):
            now += beside.sending
            seconds = jobs[sent] + beside.node
            sent += 1
            if n_free:
                n_free -= 1
                heapq.heappush(ends, now + seconds)
            else:
                waiting.append(seconds)
            continue
        end = heapq.heappop(ends)
        if waiting:
            heapq.heappush(ends, end + waiting.popleft())
        else:
            n_free += 1
        now = max(now, end) + beside.receiving
        done += 1
    return now


def sizes_of(job: TrainingJob, outcome: Outcome) -> tuple[int, int]:
    """Bytes of a job that go, and that come back."""
    tapes = [tape for tape in (job.train, job.evaluation, job.judging) if tape is not None]
    return sum(len(pickle.dumps(tape)) for tape in tapes), len(cloudpickle.dumps(outcome))


def receiving_seconds(outcome: Outcome) -> float:
    """What the driver takes to unpack what came back."""
    packed = cloudpickle.dumps(outcome)
    began = time.perf_counter()
    pickle.loads(packed)
    return time.perf_counter() - began


def measure(net: str, sizes: Sizes) -> dict[str, Any]:
    """Rounds of both executors, and of one worker alone; each is printed as it ends."""
    job, workers = job_of(net, sizes, 1), sizes.workers
    # Two rollouts of a few candles: every process is there, and has everything imported.
    first = job_of(net, sizes._replace(cycles=1, n_steps=64), 1)
    first = replace(first, train=first.train.rows(0, 600))
    rl = job.settings.rl.model_copy(update={"executor": "ray", "vec_env": "batched"})
    began = time.perf_counter()
    with RayExecutor(rl).start() as ray:
        started = time.perf_counter() - began
        say(f"Ray takes {started:.1f} s to start")
        with ProcessesExecutor(lambda _: workers).start() as processes:
            for warm in (ray, processes):
                run(warm, many(first, workers), workers)
            say(f"every process is there after {time.perf_counter() - began:.1f} s")
            rounds = []
            for number in range(sizes.rounds):
                by_ray, by_processes = (run(each, many(job, sizes.jobs), workers)[0] for each in (ray, processes))
                rounds.append((by_ray, by_processes))
                say(
                    f"round {number + 1} of {sizes.rounds}, {sizes.jobs} trainings each: Ray {by_ray.seconds:.1f} s, "
                    f"processes {by_processes.seconds:.1f} s, ratio {by_processes.seconds / by_ray.seconds:.2f}"
                )
        # Each of them with its own candles to send, as of another pair or period: those of one that has ended are gone.
        alone, outcome = run(ray, many(job, max(2, sizes.jobs // workers)), 1)
        say(f"Ray, one at a time: {alone.seconds:.1f} s for {len(alone.trainings)}")
    sending = statistics.median(alone.sending)
    receiving = statistics.median(receiving_seconds(outcome) for _ in range(5))
    # Of one after the other, what is neither training nor driver.
    node = (alone.seconds - sum(alone.trainings) - sum(alone.sending)) / len(alone.trainings) - receiving
    return {
        "started": started,
        "rounds": rounds,
        "alone": alone,
        "beside": Beside(max(node, 0.0), sending, receiving),
        "bytes": sizes_of(job, outcome),
    }


def say(words: str) -> None:
    """Print a line of a net at once."""
    print(f"  {words}", flush=True)


def report(net: str, found: dict[str, Any]) -> dict[str, Any]:
    """Print what was found, and the simulation; its figures, and whether it meets what was measured."""
    rounds, beside, (there, back) = found["rounds"], found["beside"], found["bytes"]
    ratios = [processes.seconds / ray.seconds for ray, processes in rounds]
    per_minute = [
        60 * len(timed[0].trainings) / statistics.median(one.seconds for one in timed)
        for timed in zip(*rounds, strict=True)
    ]
    say(
        f"Ray {per_minute[0]:.2f} trainings a minute, processes {per_minute[1]:.2f}; ratio "
        f"{statistics.median(ratios):.2f} (rounds: {', '.join(f'{ratio:.2f}' for ratio in ratios)})"
    )
    say(
        f"beside a training: {beside.node:.3f} s on its node, {1000 * beside.sending:.0f} ms to send "
        f"{there / 1e6:.1f} MB, {1000 * beside.receiving:.0f} ms to unpack {back / 1e6:.1f} MB"
    )
    measured = []
    for timed in (found["alone"], *(ray for ray, _ in rounds)):
        expected = simulated(timed.trainings, timed.workers, beside)
        measured.append((timed.workers, len(timed.trainings), timed.seconds, expected))
        say(
            f"{timed.workers} workers: {timed.seconds:.1f} s measured, {expected:.1f} s simulated "
            f"({expected / timed.seconds - 1:+.1%})"
        )
    seconds = [one for ray, _ in rounds for one in ray.trainings]
    jobs = [seconds[number % len(seconds)] for number in range(PAIRS * PERIODS)]
    # Between machines the bytes take longer than here.
    far = beside._replace(
        sending=beside.sending + there / NETWORK_BYTES_PER_SECOND,
        receiving=beside.receiving + back / NETWORK_BYTES_PER_SECOND,
    )
    hours = {workers: simulated(jobs, workers, far) / 3600 for workers in WORKERS}
    say(f"{PAIRS} pairs x {PERIODS} periods, over a network of a gigabit a second:")
    for workers, spent in hours.items():
        share = hours[1] / spent / workers
        say(f"{workers:>6} workers: {spent:7.2f} h, {hours[1] / spent:6.1f} x one, {share:.0%} of linear")
    passes = all(abs(expected / spent - 1) <= TOLERANCE for _, _, spent, expected in measured)
    say(f"the simulation is {'within' if passes else 'NOT WITHIN'} {TOLERANCE:.0%} of what was measured")
    return {
        "net": net,
        "started": found["started"],
        "per_minute": per_minute,
        "ratios": ratios,
        "beside": beside._asdict(),
        "bytes": (there, back),
        "measured": measured,
        "hours": hours,
        "passes": passes,
    }


def plot(figures: Sequence[dict[str, Any]], path: Path) -> None:
    """How many trainings an hour on how many workers: as simulated for the long run, and as measured here."""
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for one in figures:
        rates = [PAIRS * PERIODS / one["hours"][workers] for workers in WORKERS]
        [line] = axis.plot(WORKERS, rates, ".-", label=f"{one['net']} net, simulated")
        colour = line.get_color()
        axis.plot(WORKERS, [rates[0] * workers for workers in WORKERS], ":", color=colour, alpha=0.5)
        points = [(workers, 3600 * n / seconds) for workers, n, seconds, _ in one["measured"]]
        axis.plot(*zip(*points, strict=True), "x", color=colour, label=f"{one['net']} net, measured")
    axis.set(xlabel="workers (dotted: linear)", ylabel="trainings an hour", xscale="log", yscale="log")
    axis.set_xticks(WORKERS, map(str, WORKERS))
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    print(f"picture: {path}")


def main(argv: list[str] | None = None) -> int:
    """Print all of it for each net.

    :return: 1 if the simulation misses what was measured
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--net", choices=NETS, help="default: one after the other")
    parser.add_argument("--jobs", type=int, default=2, help="trainings of each worker in each round (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--cycles", type=int, default=4, help="passes over 7,776 candles (default 4: one rollout)")
    parser.add_argument("--n-steps", type=int, default=4096, help="steps of a rollout in each environment")
    parser.add_argument("--json", type=Path, help="where the figures go, after each net")
    parser.add_argument("--plot", type=Path, help="where the picture goes, after each net")
    args = parser.parse_args(argv)
    if (why := why_no_ray()) is not None:
        print(f"nothing is timed: {why}")
        return 0
    workers = usable_processors()
    sizes = Sizes(workers, args.jobs * workers, args.rounds, args.cycles, args.n_steps)
    figures: list[dict[str, Any]] = []
    for net in [args.net] if args.net else NETS:
        print(f"{net} net, {8 * sizes.n_steps:,} timesteps in a rollout, {workers} workers of one thread:", flush=True)
        figures.append(report(net, measure(net, sizes)))
        if args.json is not None:
            args.json.write_text(json.dumps({"facts": facts(), "figures": figures}, indent=1))
        if args.plot is not None:
            plot(figures, args.plot)
    return int(not all(one["passes"] for one in figures))


if __name__ == "__main__":
    sys.exit(main())
