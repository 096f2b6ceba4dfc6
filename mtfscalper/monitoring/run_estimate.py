"""How long the trainings of a run take, roughly, with the executor and the workers that its settings name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mtfscalper.executors.threads import threads_of_job
from mtfscalper.monitoring.estimate import training_seconds
from mtfscalper.settings import Settings


class Machine(NamedTuple):
    """What trains.

    :ivar processors: that it may use
    :ivar peak_flops: of matrix products by second, in all threads together
    :ivar threads: torch's, as these were measured
    :ivar is_gpu: whether they were measured on a GPU, which trainings side by side share
    """

    processors: int
    peak_flops: float
    threads: int
    is_gpu: bool = False


class RunEstimate(NamedTuple):
    """About how long the trainings of a run take.

    :ivar at_once: as many side by side
    :ivar threads: torch's of each
    :ivar each: seconds of one policy on processors that are free, the members of an ensemble one after the other
    :ivar seconds: of all
    """

    at_once: int
    threads: int
    each: float
    seconds: float


def run_estimate(
    settings: Settings,
    timeframe: str,
    n_features: int,
    missing: Sequence[int],
    machine: Machine,
    workers: int,
) -> RunEstimate:
    """About how long the trainings of a run take with a number of workers.

    A training of fewer threads computes its products that much more slowly; its environments take as long. So two
    workers of one thread make 1.2 times as many trainings as one of two threads, where 1.22 and 1.33 were measured
    (docs/executors.md). More workers than processors gain nothing.

    :param timeframe: as freqtrade writes it
    :param n_features: of a candle
    :param missing: policies to be trained, of each pair
    :param workers: trainings side by side, by the settings
    """
    rl = settings.rl
    threads = min(threads_of_job(rl, workers, machine.processors), machine.processors)
    share = 1.0 if machine.is_gpu else threads / machine.threads
    each = training_seconds(settings, timeframe, n_features, share * machine.peak_flops)
    # With continual learning a pair's policies follow each other.
    longest, chains = (max(missing), len(missing)) if settings.continual_learning else (1, sum(missing))
    busy = 1.0 if machine.is_gpu else min(workers, rl.ensemble * chains, machine.processors / threads)
    seconds = max(longest * each / min(busy, rl.ensemble), sum(missing) * each / busy)
    return RunEstimate(workers, threads, each, seconds)
