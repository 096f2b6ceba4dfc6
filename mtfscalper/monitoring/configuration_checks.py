"""Whether what was configured is what ran: settings, processes, threads, and the arguments of the saved model."""

from __future__ import annotations

import math
from dataclasses import replace

from mtfscalper.monitoring.facts import RunFacts
from mtfscalper.monitoring.verdicts import Check, Verdict, counted, distinct, judge, remedy_of

# Fewer samples than this, taken while a training ran, say little about its worker processes.
SAMPLES_MIN = 3

# How a report names them; 'auto' takes one of the first three.
_CLASSES_OF_AUTO = {"subproc": "SubprocVecEnv", "dummy": "DummyVecEnv", "batched": "BatchedTradingEnv"}
_VEC_ENV_CLASSES = {**_CLASSES_OF_AUTO, "torch": "torch"}


def with_number_chosen(facts: RunFacts) -> RunFacts:
    """The facts, asked for the number of environments that the trainings say was chosen for ``n_envs`` "auto".

    It is judged by what it must keep: the size of a rollout, and one number throughout.
    """
    asked, chosen = facts.asked, facts.periods[0].report.n_envs
    rollout = asked.n_envs * asked.n_steps
    if not asked.chooses_n_envs or chosen < 1 or rollout % chosen:
        return facts
    return replace(facts, asked=replace(asked, n_envs=chosen, n_steps=rollout // chosen))


def check_settings(facts: RunFacts) -> Check:
    """freqtrade ran with the settings that the configuration files hold."""
    return judge(
        "setup",
        "settings in force",
        "; ".join(facts.changed_settings) or "as freqtrade recorded them",
        "those of the configuration files",
        not facts.changed_settings,
        remedy_of(facts, "look into the log for the configuration files that freqtrade loaded"),
    )


def check_training(facts: RunFacts) -> Check:
    """Each training ran in the watched process, and ran what was asked: whole rollouts, an update after each."""
    per_rollout = facts.asked.n_envs * facts.asked.n_steps
    seen, sound = [], True
    for period in facts.periods:
        report, rollouts, updates = period.report, period.watched.rollout.count, period.watched.update.count
        asked = facts.asked.train_cycles * report.train_candles
        sound &= period.watched.in_watched_process and rollouts == updates > 0
        sound &= report.timesteps == rollouts * per_rollout == math.ceil(asked / per_rollout) * per_rollout
        seen.append(f"{report.timesteps:,} steps in {counted(rollouts, 'rollout')}, {counted(updates, 'update')}")
    outside = sum(not period.watched.in_watched_process for period in facts.periods)
    trainings = f"{len(facts.periods)} trainings of " if len(facts.periods) > 1 else ""
    return judge(
        "setup",
        "training",
        trainings + distinct(seen) + (f"; {outside} not in the watched process" if outside else ""),
        f"{facts.asked.train_cycles} x candles, rollouts of {facts.asked.n_envs} x {facts.asked.n_steps:,}",
        sound,
        remedy_of(facts, "compare n_envs, n_steps and train_cycles with training_report.json"),
    )


def check_vec_env(facts: RunFacts) -> Check:
    """The vector environment that trained is the one asked for, not the one that stepped in for it."""
    asked = facts.asked.vec_env
    names = sorted(_CLASSES_OF_AUTO.values()) if asked == "auto" else [_VEC_ENV_CLASSES[asked]]
    accepted = {f"{name} x {facts.asked.n_envs}" for name in names}
    seen = [f"{period.report.vec_env} x {period.report.n_envs}" for period in facts.periods]
    return judge(
        "processes",
        "vector environment",
        distinct(seen),
        f"the fastest of {', '.join(names)}, x {facts.asked.n_envs}" if asked == "auto" else min(accepted),
        len(set(seen)) == 1 and set(seen) <= accepted,
        remedy_of(facts, "look for 'training goes on with' in the log: it says why another one took over"),
    )


def check_workers(facts: RunFacts) -> Check:
    """As many worker processes ran in every sample as were asked for, the very ones that trained."""
    # With 'auto' the training's report says what was chosen; whether workers ran, the sampler saw for itself.
    chosen = {period.report.vec_env for period in facts.periods} if facts.asked.vec_env == "auto" else set()
    with_workers = facts.asked.vec_env == "subproc" or chosen == {_VEC_ENV_CLASSES["subproc"]}
    expected = min(facts.asked.env_workers or facts.asked.n_envs, facts.asked.n_envs) if with_workers else 0
    counts = [period.watched.worker_counts for period in facts.periods]
    samples = sum(period.watched.samples for period in facts.periods)
    same = all(set(period.report.worker_pids) == set(period.watched.worker_pids) for period in facts.periods)
    seen = f"{distinct(sorted({number for found in counts for number in found})) or 'none'} in {samples} samples"
    if same and any(period.report.worker_pids for period in facts.periods):
        seen += ", pids as the training says"
    elif not same:
        seen += f"; the training says {distinct(len(period.report.worker_pids) for period in facts.periods)}, others"
    check = judge(
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
    left = [f"worker {pid} after its training" for period in facts.periods for pid in period.watched.workers_left]
    left += [f"{role} {pid} after freqtrade" for pid, role in facts.processes_left.items()]
    return judge(
        "processes",
        "processes left",
        distinct(left) or "none",
        "none afterwards",
        not left,
        "end what is left (kill), and report it as a bug with the log",
    )


def check_threads(facts: RunFacts) -> Check:
    """torch's intra-op threads in the training process; from outside, no more threads computed than that."""
    asked = facts.asked.torch_threads
    inside = [period.report.torch_threads for period in facts.periods]
    outside = [period.watched.update.computing_threads for period in facts.periods]
    computing = [threads for threads in outside if threads is not None]
    seen = f"{distinct(inside)}; from outside, {distinct(sorted(computing)) or 'unknown'}"
    return judge(
        "processes",
        "intra-op threads",
        f"{seen} of {facts.most_threads} computing",
        f"{asked} (cpu_count, on {facts.processors} cores)",
        set(inside) == {asked} and max(computing, default=0) <= asked and facts.most_threads >= max(inside),
        remedy_of(facts, "freqai.rl_config.cpu_count did not reach torch: see 'intra-op' in the log"),
    )


def check_interop_threads(facts: RunFacts) -> Check:
    """torch's inter-op threads, as the training process itself reports them."""
    asked = facts.asked.torch_interop_threads
    inside = [period.report.torch_interop_threads for period in facts.periods]
    return judge(
        "processes",
        "inter-op threads",
        distinct(inside),
        f"{asked} (interop_threads)",
        set(inside) == {asked},
        remedy_of(facts, "something in the process used torch before the model could set it: see the log"),
    )


def check_saved(facts: RunFacts, name: str) -> Check:
    """A training argument, read back from the model file."""
    asked = getattr(facts.asked, name)
    seen = [getattr(period.saved, name) for period in facts.periods]
    return judge(
        "saved model",
        name,
        distinct(seen),
        str(asked),
        set(seen) == {asked},
        remedy_of(facts, f"freqai.rl_config.{name} did not reach the model: compare with run_params.json (--keep)"),
    )


def check_network(facts: RunFacts, which: str) -> Check:
    """Hidden layers of one of the two networks, read from the shapes of its weights."""
    key = "net_arch" if which == "policy" else "net_arch_value"
    asked: tuple[int, ...] = getattr(facts.asked, key)
    seen = [getattr(period.saved, f"{which}_layers") for period in facts.periods]
    return judge(
        "saved model",
        f"{which} network",
        distinct(list(layers) for layers in seen),
        str(list(asked)),
        set(seen) == {asked},
        remedy_of(facts, f"freqai.rl_config.{key} did not reach the model: compare with run_params.json (--keep)"),
    )
