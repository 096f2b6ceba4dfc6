"""From facts to verdicts: all checks, in the order of the table.

Every check is a pure function of the facts, and each can fail.
"""

from __future__ import annotations

from collections.abc import Iterable

from mtfscalper.monitoring import configuration_checks, machine_checks, outcome_checks, policy_checks
from mtfscalper.monitoring.facts import RunFacts
from mtfscalper.monitoring.packages import PackageFact
from mtfscalper.monitoring.verdicts import Check, judge

SHOWN_PACKAGES = ("freqtrade", "torch", "stable-baselines3", "gymnasium", "pandas")


def all_checks(facts: RunFacts) -> list[Check]:
    """Judge a run."""
    if not facts.periods:
        nothing = "no pair and period was trained"
        return [
            check_packages(facts.packages),
            configuration_checks.check_settings(facts),
            judge("setup", "training", nothing, "at least one", False, "choose a --timerange that the data cover"),
        ]
    facts = configuration_checks.with_number_chosen(facts)
    return [
        check_packages(facts.packages),
        configuration_checks.check_settings(facts),
        configuration_checks.check_training(facts),
        configuration_checks.check_vec_env(facts),
        configuration_checks.check_workers(facts),
        configuration_checks.check_workers_gone(facts),
        configuration_checks.check_threads(facts),
        configuration_checks.check_interop_threads(facts),
        configuration_checks.check_saved(facts, "n_steps"),
        configuration_checks.check_saved(facts, "batch_size"),
        configuration_checks.check_saved(facts, "n_epochs"),
        configuration_checks.check_network(facts, "policy"),
        configuration_checks.check_network(facts, "value"),
        machine_checks.check_cpu(facts, "rollout"),
        machine_checks.check_cpu(facts, "update"),
        machine_checks.check_memory(facts),
        *_timed_checks(facts),
        machine_checks.check_prediction_speed(facts),
        policy_checks.check_batched_decisions(facts),
        policy_checks.check_learned(facts),
        policy_checks.check_evaluation(facts),
        policy_checks.check_trades(facts),
        outcome_checks.check_tensorboard(facts),
        outcome_checks.check_manifests(facts),
        outcome_checks.check_predictions(facts),
    ]


def _timed_checks(facts: RunFacts) -> list[Check]:
    """What is judged by the same training, timed by itself."""
    if facts.timed is None:
        remedy = "see why; nothing else tells whether the run was as fast as it can be"
        return [judge("speed", "timed alone", facts.why_untimed, "rollouts and updates by themselves", False, remedy)]
    return [
        machine_checks.check_gpu(facts, facts.timed),
        machine_checks.check_rollout_speed(facts, facts.timed),
        machine_checks.check_update_speed(facts, facts.timed),
        machine_checks.check_roofline(facts, facts.timed),
        machine_checks.check_training_speed(facts, facts.timed),
    ]


def check_packages(packages: Iterable[PackageFact]) -> Check:
    """Every required package is there, in a version that is accepted, and the main ones can be imported."""
    packages = list(packages)
    problems = [f"{fact.name}: {fact.problem}" for fact in packages if fact.problem]
    main = [f"{fact.name} {fact.installed}" for fact in packages if fact.name in SHOWN_PACKAGES]
    return judge(
        "setup",
        "packages",
        "; ".join(problems) or f"{', '.join(main)}; {len(packages) - len(main)} more",
        "as pyproject.toml requires",
        not problems,
        "run make setup",
    )
