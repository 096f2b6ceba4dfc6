"""How the machine was used, and how fast it was."""

from __future__ import annotations

import math

from mtfscalper.monitoring.facts import PhaseUsage, RunFacts, TimedRun
from mtfscalper.monitoring.verdicts import Check, Verdict, distinct, judge

# A phase that only computes and uses less than this share of one processor waits for something.
CPU_SHARE_MIN = 0.5
# With this share of the machine busy, other programs may be why the training used little of it.
CONTESTED_SHARE = 0.75
# Processor time is read five times a second, too seldom to tell what a shorter phase used.
PHASE_SECONDS_MIN = 0.6
MEMORY_SHARE_MAX = 0.9
# Of what a phase reaches when it is timed by itself: below, something else went on in the run.
PHASE_FLOOR = 0.5
# A short training spends the rest on its workers' start and its evaluations.
TRAINING_FLOOR = 0.25
# Decided 30 to 75 times as fast in docs/benchmark-training.md.
BATCH_GAIN_MIN = 5
# Updates of the shipped networks reached 45 to 77 % in docs/benchmark-training.md.
ROOFLINE_FLOOR = 0.2
# Below, calling torch takes as long as a minibatch's products, whatever is done well.
PRODUCTS_SECONDS_MIN = 1e-3
# Other programs that used more of a processor may be why a phase was slow.
OTHERS_SHARE = 0.5
_ALONE = "run it again alone"

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


def check_rollout_speed(facts: RunFacts, timed: TimedRun) -> Check:
    """Environment steps a second, over all environments, beside the same by itself, and the share of the roofline."""
    steps = sum(period.report.timesteps for period in facts.periods)
    seconds = sum(period.watched.rollout.seconds for period in facts.periods)
    check = _speed(facts, "rollout", steps, seconds, "steps/s", 1 / timed.timed.per_step.rollout, PHASE_FLOOR)
    if seconds <= 0:
        return check
    least = max(timed.decision_flop / timed.peak_flops, timed.step_bytes / timed.copied_bytes_per_second)
    return check._replace(seen=f"{check.seen}, {steps * least / seconds:.1%} of the roofline")


def check_update_speed(facts: RunFacts, timed: TimedRun) -> Check:
    """Samples a second that pass through the network's update, each once an epoch, beside the same by itself."""
    seconds = sum(period.watched.update.seconds for period in facts.periods)
    alone = 1 / timed.timed.per_step.update
    return _speed(facts, "update", samples_updated(facts), seconds, "samples/s", alone, PHASE_FLOOR)


def check_training_speed(facts: RunFacts, timed: TimedRun) -> Check:
    """Environment steps a second over a whole training, workers' start and evaluation included."""
    steps = sum(period.report.timesteps for period in facts.periods)
    seconds = sum(period.report.seconds for period in facts.periods)
    parts = {
        phase: sum(getattr(period.watched, phase).seconds for period in facts.periods)
        for phase in ("rollout", "update")
    }
    alone = 1 / timed.timed.per_step.training(timed.n_epochs)
    check = _speed(facts, "whole training", steps, seconds, "steps/s", alone, TRAINING_FLOOR)
    if seconds <= 0:
        return check
    shares = ", ".join(f"{phase} {part / seconds:.0%}" for phase, part in parts.items())
    return check._replace(seen=f"{check.seen} ({shares}, rest {1 - sum(parts.values()) / seconds:.0%})")


def check_prediction_speed(facts: RunFacts) -> Check:
    """Rows a second through the batched decisions, beside the same one by one."""
    rates = [period.decided.rows_per_second for period in facts.periods]
    gains = [period.decided.rows_per_second / period.decided.singly_per_second for period in facts.periods]
    rows = distinct(f"{period.decided.batch_rows:,}" for period in facts.periods)
    return judge(
        "speed",
        "batched decisions",
        f"{min(rates):,.0f} rows/s ({rows} rows, in this process), {min(gains):.0f} x one by one",
        f"at least {BATCH_GAIN_MIN} x one by one",
        all(math.isfinite(one) and one >= BATCH_GAIN_MIN for one in gains),
        "the batch is hardly faster than single rows: run it again alone, then report it as a bug with the model file",
    )


def check_roofline(facts: RunFacts, timed: TimedRun) -> Check:
    """Operations a second of the updates, beside the best of this machine's matrix products."""
    seconds = sum(period.watched.update.seconds for period in facts.periods)
    expected = f"at least {ROOFLINE_FLOOR:.0%}"
    if seconds <= 0:
        return judge("speed", "share of the roofline", "no update", expected, False, "see the log")
    reached = samples_updated(facts) * timed.update_flop / seconds
    share = reached / timed.peak_flops
    check = judge(
        "speed",
        "share of the roofline",
        f"updates {reached / 1e9:,.0f} of {timed.peak_flops / 1e9:,.0f} GFLOP/s: {share:.0%}",
        expected,
        share >= ROOFLINE_FLOOR,
        "the updates do something else than products: compare 'update' with the log; see docs/benchmark-training.md",
    )
    if check.verdict is Verdict.OK:
        return check
    if facts.asked.batch_size * timed.update_flop / timed.peak_flops < PRODUCTS_SECONDS_MIN:
        note = "nothing to do: a minibatch of so small a network is bound by calls, not by products"
        return check._replace(verdict=Verdict.NOTE, remedy=note)
    return _unless_contested(check, facts, "update")


def check_gpu(facts: RunFacts, timed: TimedRun) -> Check:
    """A GPU, where there is one, is what trains."""
    gpus, device, used = timed.gpus, facts.asked.device, facts.gpu_bytes
    memory = f", {_gib(used)} of its memory used" if used is not None else ""
    if not gpus or device == "cpu":
        check = judge("machine", "GPU", f"{distinct(gpus) or 'none'}; torch trains on {device}", "", not gpus, "")
        remedy = "see below whether freqai.rl_config.device 'cuda' is faster for this network"
        return check._replace(
            expected="trains where there is one",
            verdict=Verdict.NOTE if gpus else Verdict.OK,
            remedy=remedy if gpus else "",
        )
    return judge(
        "machine",
        "GPU",
        f"{distinct(gpus)}; torch trains on {device}{memory}",
        "holds the training" if used is not None else "trains where there is one",
        used is None or used > 0,
        "the driver saw nothing of the training on it: see 'device' in the log",
    )


def samples_updated(facts: RunFacts) -> int:
    """Samples that passed through the network's update, each once an epoch."""
    return sum(period.saved.epochs_run * period.saved.n_envs * period.saved.n_steps for period in facts.periods)


def _speed(facts: RunFacts, what: str, units: int, seconds: float, unit: str, alone: float, floor: float) -> Check:
    """
    :param alone: units a second of the same training when it was timed by itself
    :param floor: the share of it that is asked for
    """
    expected = f"at least {floor:.0%} of {alone:,.0f}, timed alone"
    if seconds <= 0 or units <= 0:
        remedy = "training_report.json lists no such phase; raise train_cycles"
        return judge("speed", what, f"{units:,} in {seconds:.1f} s", expected, False, remedy)
    rate = units / seconds
    check = judge(
        "speed",
        what,
        f"{rate:,.0f} {unit}",
        expected,
        rate >= floor * alone,
        "something held it up that did not when it was timed: look for swapping, a slow disk, warnings in the log",
    )
    return _unless_contested(check, facts, *(("rollout", "update") if what == "whole training" else (what,)))


def _unless_contested(check: Check, facts: RunFacts, *phases: str) -> Check:
    """The check; a note where other programs kept the machine busy, which may be why it failed."""
    if check.verdict is not Verdict.FAILED:
        return check
    usages: list[PhaseUsage] = [getattr(period.watched, phase) for period in facts.periods for phase in phases]
    seconds = sum(usage.seconds for usage in usages)
    others = sum(usage.machine_busy_seconds - usage.tree_cpu_seconds for usage in usages) / seconds
    if others >= OTHERS_SHARE:
        return check._replace(verdict=Verdict.NOTE, remedy=f"other programs used {others:.0%} of a core: {_ALONE}")
    return check


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
