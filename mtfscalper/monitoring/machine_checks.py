"""How the machine was used, and how fast it was."""

from __future__ import annotations

import math

from mtfscalper.monitoring.facts import PhaseUsage, RunFacts
from mtfscalper.monitoring.verdicts import Check, Verdict, distinct, judge

# A phase that only computes and uses less than this share of one processor waits for something.
CPU_SHARE_MIN = 0.5
# With this share of the machine busy, other programs may be why the training used little of it.
CONTESTED_SHARE = 0.75
# Processor time is read five times a second, too seldom to tell what a shorter phase used.
PHASE_SECONDS_MIN = 0.6
MEMORY_SHARE_MAX = 0.9

_GIB = 2**30


def check_cpu(facts: RunFacts, phase: str) -> Check:
    """Processor time of the process tree while it rolls out or updates."""
    usages: list[PhaseUsage] = [getattr(period.watched, phase) for period in facts.periods]
    seconds = sum(usage.seconds for usage in usages)
    expected = f"at least {CPU_SHARE_MIN:.0%} of a core"
    name = f"CPU in {phase}s"
    if seconds <= 0:
        return judge("machine", name, f"no {phase}", expected, False, "training_report.json lists none; see the log")
    training = sum(usage.training_process_cpu_seconds for usage in usages) / seconds
    workers = sum(usage.workers_cpu_seconds for usage in usages) / seconds
    tree = sum(usage.tree_cpu_seconds for usage in usages) / seconds
    busy = sum(usage.machine_busy_seconds for usage in usages) / seconds
    seen = (
        f"{tree:.0%} of a core, {tree / facts.processors:.0%} of the machine "
        f"(training {training:.0%}, workers {workers:.0%}); other programs {max(busy - tree, 0.0):.0%}"
    )
    check = judge(
        "machine",
        name,
        seen,
        expected,
        tree >= CPU_SHARE_MIN,
        "it waits for something: look for swapping, a slow disk or a processor quota of the container",
    )
    if seconds / sum(usage.count for usage in usages) < PHASE_SECONDS_MIN:
        return check._replace(verdict=Verdict.NOTE, remedy=f"{phase}s are too short to tell: raise n_steps")
    if check.verdict is Verdict.FAILED and busy / facts.processors >= CONTESTED_SHARE:
        return check._replace(verdict=Verdict.NOTE, remedy="other programs kept the machine busy: run it again alone")
    return check


def check_memory(facts: RunFacts) -> Check:
    """The most memory the process tree used."""
    memory = facts.memory
    used = memory.rss_bytes if memory.pss_bytes is None else memory.pss_bytes
    share = used / facts.memory_bytes
    sums = f"RSS {_gib(memory.rss_bytes)}, largest process {_gib(memory.largest_bytes)}"
    return judge(
        "machine",
        "peak memory",
        sums if memory.pss_bytes is None else f"PSS {_gib(memory.pss_bytes)}; {sums}",
        f"below {MEMORY_SHARE_MAX:.0%} of {_gib(facts.memory_bytes)}",
        0 < share <= MEMORY_SHARE_MAX,
        "lower n_envs, each of which is a process, or conv_width",
    )


def check_rollout_speed(facts: RunFacts) -> Check:
    """Environment steps a second, over all environments."""
    steps = sum(period.report.timesteps for period in facts.periods)
    return _speed("rollout", steps, sum(period.watched.rollout.seconds for period in facts.periods), "steps/s")


def check_update_speed(facts: RunFacts) -> Check:
    """Samples a second that pass through the network's update; each is used once an epoch."""
    rows = 0
    for period in facts.periods:
        rows += period.saved.epochs_run * period.saved.n_envs * period.saved.n_steps
    return _speed("update", rows, sum(period.watched.update.seconds for period in facts.periods), "samples/s")


def check_training_speed(facts: RunFacts) -> Check:
    """Environment steps a second over a whole training, workers' start and evaluation included."""
    steps = sum(period.report.timesteps for period in facts.periods)
    seconds = sum(period.report.seconds for period in facts.periods)
    parts = {
        phase: sum(getattr(period.watched, phase).seconds for period in facts.periods)
        for phase in ("rollout", "update")
    }
    check = _speed("whole training", steps, seconds, "steps/s")
    if check.verdict is Verdict.FAILED:
        return check
    shares = ", ".join(f"{phase} {part / seconds:.0%}" for phase, part in parts.items())
    return check._replace(seen=f"{check.seen} ({shares}, rest {1 - sum(parts.values()) / seconds:.0%})")


def check_prediction_speed(facts: RunFacts) -> Check:
    """Rows a second through the batched decisions."""
    rates = [period.decided.rows_per_second for period in facts.periods]
    rows = distinct(f"{period.decided.batch_rows:,}" for period in facts.periods)
    return judge(
        "speed",
        "batched decisions",
        f"{min(rates):,.0f} rows/s ({rows} rows, in this process)",
        "above 0",
        all(math.isfinite(rate) and rate > 0 for rate in rates),
        "the saved policy could not decide on its own features; see the log",
    )


def _speed(what: str, units: int, seconds: float, unit: str) -> Check:
    measured = seconds > 0 and units > 0
    return judge(
        "speed",
        what,
        f"{units / seconds:,.0f} {unit}" if measured else f"{units:,} in {seconds:.1f} s",
        "above 0",
        measured,
        "training_report.json lists no such phase; raise train_cycles",
    )


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
