"""torch's threads of trainings: as many of each as a machine has processors for."""

from __future__ import annotations

from mtfscalper.machine import usable_processors
from mtfscalper.settings import RLSettings


def threads_of_job(rl: RLSettings, workers: int, processors: int | None = None) -> int:
    """torch's intra-op threads of a training that is one of several at a time.

    :param processors: of the machine; this one's by default
    """
    if rl.threads_per_job is not None:
        return rl.threads_per_job
    return max(1, min(rl.cpu_count, processors or usable_processors()) // workers)


def why_too_many_threads(rl: RLSettings) -> str | None:
    """Why a training cannot have the threads that it is known by, None where it can.

    torch would run fewer, and sums would be rounded otherwise than with as many as the fingerprint says.
    """
    threads, processors = rl.threads_per_job, usable_processors()
    if threads is None or threads <= processors:
        return None
    return (
        f"freqai.rl_config.threads_per_job is {threads}, and this machine has {processors} processors; accepted: 1 to "
        f"{processors} here, for a training gives the same bits only with the same threads; remedy: lower it"
    )
