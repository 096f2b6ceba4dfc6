"""From facts to verdicts. Every check is a pure function, and every one can fail."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

from mtfscalper.monitoring.facts import PhaseUsage, RunFacts
from mtfscalper.monitoring.packages import PackageFact

# A phase that only computes and uses less than this share of one processor waits for something.
CPU_SHARE_MIN = 0.5
# With this share of the machine busy, a low figure of ours can be others' doing.
CONTESTED_SHARE = 0.75
# Processor time is read five times a second: it cannot be told whether shorter phases used it.
PHASE_SECONDS_MIN = 0.6
SAMPLES_MIN = 3
MEMORY_SHARE_MAX = 0.9
ROWS_MIN = 500
# Different values shown in a line; a user's configuration may train dozens of windows.
SHOWN_MAX = 4
SHOWN_PACKAGES = ("freqtrade", "torch", "stable-baselines3", "gymnasium", "pandas")

_VEC_ENV_CLASSES = {"subproc": "SubprocVecEnv", "dummy": "DummyVecEnv", "batched": "BatchedTradingEnv"}
_GIB = 2**30


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    FAILED = "FAILED"


class Check(NamedTuple):
    """One line of the table.

    :ivar group: heading it stands under
    :ivar remedy: what to do about it; empty where all is well
    """

    group: str
    name: str
    seen: str
    expected: str
    verdict: Verdict
    remedy: str = ""


def check_packages(packages: Iterable[PackageFact]) -> Check:
    """Every required package is there, in a version that is accepted, and the main ones can be imported."""
    packages = list(packages)
    problems = [f"{fact.name}: {fact.problem}" for fact in packages if fact.problem]
    main = [f"{fact.name} {fact.installed}" for fact in packages if fact.name in SHOWN_PACKAGES]
    return _check(
        "setup",
        "packages",
        "; ".join(problems) or f"{', '.join(main)}; {len(packages) - len(main)} more",
        "as pyproject.toml requires",
        not problems,
        "run make setup",
    )


def all_checks(facts: RunFacts) -> list[Check]:
    """Judge a run."""
    if not facts.windows:
        nothing = "no pair and window was trained"
        return [
            check_packages(facts.packages),
            check_settings(facts),
            _check("setup", "training", nothing, "at least one", False, "choose a --timerange that the data cover"),
        ]
    return [
        check_packages(facts.packages),
        check_settings(facts),
        check_training(facts),
        check_vec_env(facts),
        check_workers(facts),
        check_workers_gone(facts),
        check_threads(facts),
        check_interop_threads(facts),
        check_saved(facts, "n_steps"),
        check_saved(facts, "batch_size"),
        check_saved(facts, "n_epochs"),
        check_network(facts, "policy"),
        check_network(facts, "value"),
        check_cpu(facts, "rollout"),
        check_cpu(facts, "update"),
        check_memory(facts),
        check_rollout_speed(facts),
        check_update_speed(facts),
        check_training_speed(facts),
        check_prediction_speed(facts),
        check_batched_decisions(facts),
        check_learned(facts),
        check_evaluation(facts),
        check_trades(facts),
    ]


# ---------------------------------------------------------------------- processes and threads


def check_settings(facts: RunFacts) -> Check:
    """freqtrade ran with the settings that the configuration files hold."""
    return _check(
        "setup",
        "settings in force",
        "; ".join(facts.changed_settings) or "as freqtrade recorded them",
        "those of the configuration files",
        not facts.changed_settings,
        _remedy(facts, "look into the log for the configuration files that freqtrade loaded"),
    )


def check_training(facts: RunFacts) -> Check:
    """Each training ran in the watched process, and ran what was asked: whole rollouts, an update after each."""
    per_rollout = facts.asked.n_envs * facts.asked.n_steps
    seen, sound = [], True
    for window in facts.windows:
        report, rollouts, updates = window.report, window.watched.rollout.count, window.watched.update.count
        asked = facts.asked.train_cycles * report.train_candles
        sound &= window.watched.in_watched_process and rollouts == updates > 0
        sound &= report.timesteps == rollouts * per_rollout == math.ceil(asked / per_rollout) * per_rollout
        seen.append(f"{report.timesteps:,} steps in {_count(rollouts, 'rollout')}, {_count(updates, 'update')}")
    outside = sum(not window.watched.in_watched_process for window in facts.windows)
    trainings = f"{len(facts.windows)} trainings of " if len(facts.windows) > 1 else ""
    return _check(
        "setup",
        "training",
        trainings + _distinct(seen) + (f"; {outside} not in the watched process" if outside else ""),
        f"{facts.asked.train_cycles} x candles, rollouts of {facts.asked.n_envs} x {facts.asked.n_steps:,}",
        sound,
        _remedy(facts, "compare n_envs, n_steps and train_cycles with training_report.json"),
    )


def check_vec_env(facts: RunFacts) -> Check:
    """The vector environment that trained is the one asked for, not the one that stepped in for it."""
    asked = facts.asked.vec_env
    names = sorted(_VEC_ENV_CLASSES.values()) if asked == "auto" else [_VEC_ENV_CLASSES[asked]]
    accepted = {f"{name} x {facts.asked.n_envs}" for name in names}
    seen = [f"{window.report.vec_env} x {window.report.n_envs}" for window in facts.windows]
    return _check(
        "processes",
        "vector environment",
        _distinct(seen),
        f"the fastest of {', '.join(names)}, x {facts.asked.n_envs}" if asked == "auto" else min(accepted),
        len(set(seen)) == 1 and set(seen) <= accepted,
        _remedy(facts, "look for 'could not start' in the log: it says why another one took over"),
    )


def check_workers(facts: RunFacts) -> Check:
    """As many worker processes ran in every sample as there are environments, the very ones that trained."""
    # What 'auto' chose is for the training to say; the sampler saw whether it is true.
    chosen = {window.report.vec_env for window in facts.windows} if facts.asked.vec_env == "auto" else set()
    with_workers = facts.asked.vec_env == "subproc" or chosen == {_VEC_ENV_CLASSES["subproc"]}
    expected = facts.asked.n_envs if with_workers else 0
    counts = [window.watched.worker_counts for window in facts.windows]
    samples = sum(window.watched.samples for window in facts.windows)
    same = all(set(window.report.worker_pids) == set(window.watched.worker_pids) for window in facts.windows)
    seen = f"{_distinct(sorted({number for found in counts for number in found})) or 'none'} in {samples} samples"
    if same and any(window.report.worker_pids for window in facts.windows):
        seen += ", pids as the training says"
    elif not same:
        seen += f"; the training says {_distinct(len(window.report.worker_pids) for window in facts.windows)}, others"
    check = _check(
        "processes",
        "worker processes",
        seen,
        f"{expected} throughout training",
        set(counts) == {(expected,)} and same,
        "a worker that is missing died or never started: see the log; then check the machine's memory or lower n_envs",
    )
    if check.verdict is Verdict.OK and samples < SAMPLES_MIN:
        remedy = f"{samples} samples are too few to tell: raise train_cycles"
        return check._replace(verdict=Verdict.NOTE, remedy=remedy)
    return check


def check_workers_gone(facts: RunFacts) -> Check:
    """No worker outlives its training, nothing outlives freqtrade."""
    left = [f"worker {pid} after its training" for window in facts.windows for pid in window.watched.workers_left]
    left += [f"{role} {pid} after freqtrade" for pid, role in facts.processes_left.items()]
    return _check(
        "processes",
        "processes left",
        _distinct(left) or "none",
        "none afterwards",
        not left,
        "end what is left (kill), and report it as a bug with the log",
    )


def check_threads(facts: RunFacts) -> Check:
    """torch's intra-op threads in the training process; from outside, no more threads computed than that."""
    asked = facts.asked.torch_threads
    inside = [window.report.torch_threads for window in facts.windows]
    outside = [window.watched.update.computing_threads for window in facts.windows]
    counted = [threads for threads in outside if threads is not None]
    seen = f"{_distinct(inside)}; from outside, {_distinct(sorted(counted)) or 'unknown'}"
    return _check(
        "processes",
        "intra-op threads",
        f"{seen} of {facts.most_threads} computing",
        f"{asked} (cpu_count, on {facts.processors} cores)",
        set(inside) == {asked} and max(counted, default=0) <= asked and facts.most_threads >= max(inside),
        _remedy(facts, "freqai.rl_config.cpu_count did not reach torch: see 'intra-op' in the log"),
    )


def check_interop_threads(facts: RunFacts) -> Check:
    """torch's inter-op threads, as the training process itself reports them."""
    asked = facts.asked.torch_interop_threads
    inside = [window.report.torch_interop_threads for window in facts.windows]
    return _check(
        "processes",
        "inter-op threads",
        _distinct(inside),
        f"{asked} (interop_threads)",
        set(inside) == {asked},
        _remedy(facts, "something in the process used torch before the model could set it: see the log"),
    )


# ---------------------------------------------------------------------- the saved model


def check_saved(facts: RunFacts, name: str) -> Check:
    """A training argument, read back from the model file."""
    asked = getattr(facts.asked, name)
    seen = [getattr(window.saved, name) for window in facts.windows]
    return _check(
        "saved model",
        name,
        _distinct(seen),
        str(asked),
        set(seen) == {asked},
        _remedy(facts, f"freqai.rl_config.{name} did not reach the model: compare with run_params.json (--keep)"),
    )


def check_network(facts: RunFacts, which: str) -> Check:
    """Hidden layers of one of the two networks, read from the shapes of its weights."""
    key = "net_arch" if which == "policy" else "net_arch_value"
    asked: tuple[int, ...] = getattr(facts.asked, key)
    seen = [getattr(window.saved, f"{which}_layers") for window in facts.windows]
    return _check(
        "saved model",
        f"{which} network",
        _distinct(list(layers) for layers in seen),
        str(list(asked)),
        set(seen) == {asked},
        _remedy(facts, f"freqai.rl_config.{key} did not reach the model: compare with run_params.json (--keep)"),
    )


# ---------------------------------------------------------------------- use of the machine


def check_cpu(facts: RunFacts, phase: str) -> Check:
    """Processor time of the process tree while it rolls out or updates."""
    usages: list[PhaseUsage] = [getattr(window.watched, phase) for window in facts.windows]
    seconds = sum(usage.seconds for usage in usages)
    expected = f"at least {CPU_SHARE_MIN:.0%} of a core"
    name = f"CPU in {phase}s"
    if seconds <= 0:
        return _check("machine", name, f"no {phase}", expected, False, "training_report.json lists none; see the log")
    training = sum(usage.training_process_cpu_seconds for usage in usages) / seconds
    workers = sum(usage.workers_cpu_seconds for usage in usages) / seconds
    tree = sum(usage.tree_cpu_seconds for usage in usages) / seconds
    busy = sum(usage.machine_busy_seconds for usage in usages) / seconds
    seen = (
        f"{tree:.0%} of a core, {tree / facts.processors:.0%} of the machine "
        f"(training {training:.0%}, workers {workers:.0%}); other programs {max(busy - tree, 0.0):.0%}"
    )
    check = _check(
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
    return _check(
        "machine",
        "peak memory",
        sums if memory.pss_bytes is None else f"PSS {_gib(memory.pss_bytes)}; {sums}",
        f"below {MEMORY_SHARE_MAX:.0%} of {_gib(facts.memory_bytes)}",
        0 < share <= MEMORY_SHARE_MAX,
        "lower n_envs, each of which is a process, or conv_width",
    )


# ---------------------------------------------------------------------- speed


def check_rollout_speed(facts: RunFacts) -> Check:
    """Environment steps a second, over all environments."""
    steps = sum(window.report.timesteps for window in facts.windows)
    return _speed("rollout", steps, sum(window.watched.rollout.seconds for window in facts.windows), "steps/s")


def check_update_speed(facts: RunFacts) -> Check:
    """Samples a second that pass through the network's update; each is used once an epoch."""
    rows = 0
    for window in facts.windows:
        rows += window.saved.epochs_run * window.saved.n_envs * window.saved.n_steps
    return _speed("update", rows, sum(window.watched.update.seconds for window in facts.windows), "samples/s")


def check_training_speed(facts: RunFacts) -> Check:
    """Environment steps a second over a whole training, workers' start and evaluation included."""
    steps = sum(window.report.timesteps for window in facts.windows)
    seconds = sum(window.report.seconds for window in facts.windows)
    parts = {
        phase: sum(getattr(window.watched, phase).seconds for window in facts.windows)
        for phase in ("rollout", "update")
    }
    check = _speed("whole training", steps, seconds, "steps/s")
    if check.verdict is Verdict.FAILED:
        return check
    shares = ", ".join(f"{phase} {part / seconds:.0%}" for phase, part in parts.items())
    return check._replace(seen=f"{check.seen} ({shares}, rest {1 - sum(parts.values()) / seconds:.0%})")


def check_prediction_speed(facts: RunFacts) -> Check:
    """Rows a second through the batched decisions."""
    rates = [window.decided.rows_per_second for window in facts.windows]
    rows = _distinct(f"{window.decided.batch_rows:,}" for window in facts.windows)
    return _check(
        "speed",
        "batched decisions",
        f"{min(rates):,.0f} rows/s ({rows} rows, in this process)",
        "above 0",
        all(math.isfinite(rate) and rate > 0 for rate in rates),
        "the saved policy could not decide on its own features; see the log",
    )


def _speed(what: str, units: int, seconds: float, unit: str) -> Check:
    measured = seconds > 0 and units > 0
    return _check(
        "speed",
        what,
        f"{units / seconds:,.0f} {unit}" if measured else f"{units:,} in {seconds:.1f} s",
        "above 0",
        measured,
        "training_report.json lists no such phase; raise train_cycles",
    )


# ---------------------------------------------------------------------- the policy and its trades


def check_batched_decisions(facts: RunFacts) -> Check:
    """One batch and row by row take the same actions."""
    rows = sum(window.decided.rows for window in facts.windows)
    equal = sum(window.decided.equal for window in facts.windows)
    ties = sum(window.decided.ties for window in facts.windows)
    kinds = max(window.decided.kinds for window in facts.windows)
    check = _check(
        "policy",
        "batched = row by row",
        f"{equal:,} of {rows:,} rows equal, {kinds} kinds of action" + (f", {ties} ties" if ties else ""),
        f"all of at least {ROWS_MIN}",
        equal + ties == rows >= ROWS_MIN,
        "train_period_days leaves too few candles" if rows < ROWS_MIN else "a bug: report it with the model file",
    )
    if check.verdict is Verdict.OK and ties:
        return check._replace(verdict=Verdict.NOTE, remedy="nothing to do: two actions with the same probability")
    if check.verdict is Verdict.OK and kinds < 2:
        return check._replace(verdict=Verdict.NOTE, remedy="one action everywhere shows little: train for longer")
    return check


def check_learned(facts: RunFacts) -> Check:
    """Every parameter tensor moved away from the untrained network."""
    tensors = sum(window.saved.tensors for window in facts.windows)
    moved = sum(window.saved.tensors_moved for window in facts.windows)
    finite = all(window.saved.finite for window in facts.windows)
    change = _distinct(f"{window.saved.relative_change:.1%}" for window in facts.windows)
    rows = sum(window.decided.rows for window in facts.windows)
    unlike = sum(window.decided.unlike_untrained for window in facts.windows)
    return _check(
        "policy",
        "differs from untrained",
        f"{moved} of {tensors} tensors moved, by {change}; {unlike / max(rows, 1):.0%} of actions differ"
        + ("" if finite else "; some are not finite"),
        "all moved, all finite",
        moved == tensors > 0 and finite,
        "the updates did not reach the saved model, or diverged: look for warnings in the log, lower learning_rate",
    )


def check_evaluation(facts: RunFacts) -> Check:
    """Evaluations on held-out candles took place and gave numbers."""
    evaluations = [evaluation for window in facts.windows for evaluation in window.report.evaluations]
    if not facts.asked.evaluates:
        return Check("policy", "evaluation", f"{len(evaluations)} evaluations", "none: test_size is 0", Verdict.NOTE)
    # JSON has no infinity: fit writes null for it.
    values = [value for evaluation in evaluations for value in evaluation.values()]
    finite = all(value is not None and math.isfinite(value) for value in values)
    best = [window.report.best_evaluation for window in facts.windows]
    figures = _distinct(
        f"{found['log_return']:+.4f} ({_count(found['trades'], 'trade')})" for found in best if found and finite
    )
    return _check(
        "policy",
        "evaluation",
        f"{len(evaluations)}, {f'best log return {figures}' if finite else 'some not finite'}",
        "finite, at least one a training",
        finite and all(window.report.evaluations for window in facts.windows),
        "raise data_split_parameters.test_size, so that the held-out candles are enough",
    )


def check_trades(facts: RunFacts) -> Check:
    """The backtest traded."""
    trades, mode = facts.trades, facts.asked.entry_mode
    reasons = ", ".join(f"{reason} {count}" for reason, count in list(trades.exit_reasons.items())[:3])
    detail = f": {trades.long} long, {trades.short} short; {reasons}" if trades.total else ""
    remedies = {
        "gated": "the policy vetoed every entry: train for longer, or set entry_mode to 'classic'",
        "classic": "no classic signal came up: lengthen --timerange",
        "agent": "the policy never entered: train for longer",
    }
    return _check(
        "policy",
        "trades made",
        f"{trades.total}{detail}",
        f"more than 0 (entry_mode '{mode}')",
        trades.total > 0,
        remedies.get(mode, "train for longer"),
    )


# ---------------------------------------------------------------------- helpers


def _check(group: str, name: str, seen: str, expected: str, holds: bool, remedy: str) -> Check:
    verdict = Verdict.OK if holds else Verdict.FAILED
    return Check(group, name, seen, expected, verdict, "" if holds else remedy)


def _remedy(facts: RunFacts, remedy: str) -> str:
    """A remedy; where environment variables set freqtrade's configuration, that comes first."""
    if facts.environment_overrides:
        return f"remove {', '.join(facts.environment_overrides)}, which override the configuration files"
    return remedy


def _count(number: float, what: str) -> str:
    return f"{number:.0f} {what}" if number == 1 else f"{number:.0f} {what}s"


def _distinct(values: Iterable[object]) -> str:
    different = list(dict.fromkeys(str(value) for value in values))
    more = f" and {len(different) - SHOWN_MAX} more" if len(different) > SHOWN_MAX else ""
    return ", ".join(different[:SHOWN_MAX]) + more


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB"
