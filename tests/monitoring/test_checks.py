"""Every check passes on a healthy run, and fails when its fact is sabotaged: its own line, and no other."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console

from mtfscalper.monitoring.checks import all_checks
from mtfscalper.monitoring.choices import Choice
from mtfscalper.monitoring.facts import (
    Asked,
    Decided,
    LeftBehind,
    PhaseUsage,
    RunFacts,
    SavedPolicy,
    TimedRun,
    Trades,
    TrainedPeriod,
    WatchedTraining,
)
from mtfscalper.monitoring.outcome_checks import EVALUATION_TAGS, TRAINING_TAGS
from mtfscalper.monitoring.packages import PackageFact, package_facts
from mtfscalper.monitoring.sampler import PeakMemory
from mtfscalper.monitoring.table import checks_table, passed, summary
from mtfscalper.monitoring.timing import PerStep, Timed
from mtfscalper.monitoring.verdicts import Check, Verdict
from mtfscalper.training.report import TrainingReport

WORKERS = (11, 12, 13, 14, 15, 16, 17, 18)

ASKED = Asked(
    vec_env="subproc",
    n_envs=8,
    n_steps=1024,
    batch_size=256,
    n_epochs=10,
    net_arch=(512, 512, 256),
    net_arch_value=(512, 512, 256),
    train_cycles=2,
    torch_threads=2,
    torch_interop_threads=2,
    entry_mode="classic",
    evaluates=True,
)


def healthy_report() -> TrainingReport:
    evaluation = {"timesteps": 8192, "log_return": 0.01, "trades": 3, "win_ratio": 0.5, "seconds": 0.1}
    return TrainingReport(
        pair="BTC/USDT:USDT",
        model_type="PPO",
        timesteps_asked=15552,
        timesteps=16384,
        seconds=20.0,
        process_id=10,
        vec_env="SubprocVecEnv",
        n_envs=8,
        worker_pids=list(WORKERS),
        torch_threads=2,
        torch_interop_threads=2,
        train_candles=7776,
        evaluation_candles=864,
        evaluations=[evaluation, evaluation],
        best_evaluation=evaluation,
    )


HEALTHY_PERIOD = TrainedPeriod(
    name="BTC/USDT:USDT 1727740800",
    report=healthy_report(),
    watched=WatchedTraining(
        in_watched_process=True,
        samples=80,
        worker_counts=(8,),
        worker_pids=WORKERS,
        workers_left=(),
        rollout=PhaseUsage(2, 4.0, 20, 4.2, 1.0, 5.2, 6.0, 1),
        update=PhaseUsage(2, 8.0, 40, 15.0, 0.0, 15.0, 15.5, 2),
    ),
    saved=SavedPolicy(
        n_steps=1024,
        n_envs=8,
        batch_size=256,
        n_epochs=10,
        policy_layers=(512, 512, 256),
        value_layers=(512, 512, 256),
        epochs_run=20,
        tensors=16,
        tensors_moved=16,
        relative_change=0.15,
        finite=True,
    ),
    decided=Decided(
        rows=1000,
        equal=1000,
        ties=0,
        kinds=3,
        unlike_untrained=800,
        batch_rows=7776,
        rows_per_second=15e3,
        singly_per_second=1e3,
    ),
)

TAGS = tuple(sorted(tag + "equity" if tag.endswith("/") else tag for tag in (*TRAINING_TAGS, *EVALUATION_TAGS)))
LEFT = LeftBehind(
    tags={"tensorboard/BTC/PPO_1": TAGS, "tensorboard/ETH/PPO_1": TAGS},
    bad_manifests=(),
    manifests=2,
    predicted_rows=2000,
    frame_rows=300,
    frame_equal=300,
    questions=900,
    answered=900,
)
# By itself 5,000 steps and 25,000 samples a second; the run makes 4,096 and 20,480. Its updates compute 5e6 operations
# for each sample: 102 of 200 GFLOP/s.
TIMED = TimedRun(
    timed=Timed(Choice("subproc", 2, 2, "fp32", "cpu"), PerStep(1 / 5000, 1 / 25000), (), None),
    peak_flops=200e9,
    copied_bytes_per_second=5e9,
    update_flop=5e6,
    decision_flop=2e6,
    step_bytes=1000.0,
    n_epochs=10,
    seconds=60.0,
    gpus=(),
    others_cores=0.1,
    rest_share=0.2,
)

HEALTHY = RunFacts(
    asked=ASKED,
    packages=(PackageFact("freqtrade", "==2026.9", "2026.9", None), PackageFact("pandas", "<3.1", "3.0.6", None)),
    periods=(HEALTHY_PERIOD, replace(HEALTHY_PERIOD, name="ETH/USDT:USDT 1727740800")),
    trades=Trades(32, 17, 15, {"roi": 20, "exit_signal": 12}),
    left=LEFT,
    timed=TIMED,
    memory=PeakMemory(2_700_000_000, 1_000_000_000, 800_000_000, "root"),
    processors=2,
    memory_bytes=24_000_000_000,
    most_threads=15,
    changed_settings=(),
    processes_left={},
    environment_overrides=(),
    freqtrade_seconds=60.0,
    watching_cpu_seconds=2.0,
)


def with_period(**changes: object) -> RunFacts:
    """A run in which one of its two periods differs."""
    return replace(HEALTHY, periods=(HEALTHY.periods[0], replace(HEALTHY.periods[1], **changes)))


def with_report(**changes: object) -> RunFacts:
    return with_period(report=replace(healthy_report(), **changes))


def with_watched(**changes: object) -> RunFacts:
    return with_period(watched=replace(HEALTHY_PERIOD.watched, **changes))


def with_saved(**changes: object) -> RunFacts:
    return with_period(saved=replace(HEALTHY_PERIOD.saved, **changes))


def with_decided(**changes: object) -> RunFacts:
    return with_period(decided=replace(HEALTHY_PERIOD.decided, **changes))


def with_phase(phase: str, **changes: object) -> RunFacts:
    """A run in which a phase differs in every period."""
    changed = replace(getattr(HEALTHY_PERIOD.watched, phase), **changes)
    period = replace(HEALTHY_PERIOD, watched=replace(HEALTHY_PERIOD.watched, **{phase: changed}))
    return replace(HEALTHY, periods=(period, period))


def idle(phase: str, machine_busy_seconds: float) -> RunFacts:
    """A phase in which the process tree hardly computed."""
    return with_phase(
        phase,
        training_process_cpu_seconds=0.4,
        workers_cpu_seconds=0.0,
        tree_cpu_seconds=0.4,
        machine_busy_seconds=machine_busy_seconds,
    )


def infinite_evaluation() -> RunFacts:
    # How JSON holds a number that is not finite.
    broken = {**healthy_report().evaluations[0], "log_return": None}
    return with_report(evaluations=[broken], best_evaluation=broken)


def with_left(**changes: object) -> RunFacts:
    return replace(HEALTHY, left=replace(LEFT, **changes))


def timed(**per_step: float) -> RunFacts:
    """A run beside another rate by itself."""
    alone = TIMED.timed._replace(per_step=TIMED.timed.per_step._replace(**per_step))
    return replace(HEALTHY, timed=replace(TIMED, timed=alone))


def on_gpu(gpu_bytes: int | None) -> RunFacts:
    with_card = replace(TIMED, gpus=("NVIDIA H100",))
    return replace(HEALTHY, asked=replace(ASKED, device="cuda"), timed=with_card, gpu_bytes=gpu_bytes)


SABOTAGED: list[tuple[str, Callable[[], RunFacts], str]] = [
    (
        "packages",
        lambda: replace(
            HEALTHY, packages=(PackageFact("pandas", "<3.1", "3.1.0", "3.1.0 is installed, <3.1 is required"),)
        ),
        "make setup",
    ),
    (
        "settings in force",
        lambda: replace(HEALTHY, changed_settings=("entry_mode was 'gated', not 'classic'",)),
        "look into the log",
    ),
    ("training", lambda: with_report(timesteps=8192), "train_cycles"),
    ("training", lambda: with_watched(in_watched_process=False), "training_report.json"),
    ("vector environment", lambda: with_report(vec_env="DummyVecEnv"), "training goes on with"),
    ("vector environment", lambda: with_report(n_envs=4), "training goes on with"),
    ("worker processes", lambda: with_watched(worker_counts=(7, 8)), "lower n_envs"),
    ("worker processes", lambda: with_watched(worker_counts=()), "lower n_envs"),
    ("worker processes", lambda: with_watched(worker_pids=(*WORKERS[:-1], 99)), "lower n_envs"),
    ("processes left", lambda: with_watched(workers_left=(18,)), "report it as a bug"),
    ("processes left", lambda: replace(HEALTHY, processes_left={18: "worker"}), "report it as a bug"),
    ("intra-op threads", lambda: with_report(torch_threads=1), "cpu_count"),
    ("intra-op threads", lambda: with_phase("update", computing_threads=5), "cpu_count"),
    ("intra-op threads", lambda: replace(HEALTHY, most_threads=1), "cpu_count"),
    ("inter-op threads", lambda: with_report(torch_interop_threads=8), "used torch before"),
    ("n_steps", lambda: with_saved(n_steps=2048, epochs_run=10), "n_steps"),
    ("batch_size", lambda: with_saved(batch_size=64), "batch_size"),
    ("n_epochs", lambda: with_saved(n_epochs=4), "n_epochs"),
    ("policy network", lambda: with_saved(policy_layers=(64, 64)), "net_arch"),
    ("value network", lambda: with_saved(value_layers=(512, 512)), "net_arch"),
    ("CPU in rollouts", lambda: idle("rollout", 1.0), "it waits"),
    ("CPU in updates", lambda: idle("update", 1.0), "it waits"),
    (
        "peak memory",
        lambda: replace(HEALTHY, memory=HEALTHY.memory._replace(pss_bytes=23_000_000_000)),
        "lower n_envs",
    ),
    ("rollout", lambda: with_phase("rollout", seconds=0.0), "no such phase"),
    ("rollout", lambda: timed(rollout=1 / 9000), "held it up"),
    ("update", lambda: with_phase("update", seconds=0.0), "no such phase"),
    ("update", lambda: timed(update=1 / 45000), "held it up"),
    # 16,384 steps in 20 s are 819 a second; by itself 1 / (1 / 5000 + 10 / 25000) = 1,667.
    ("whole training", lambda: replace(HEALTHY, periods=_both(seconds=0.0)), "no such phase"),
    ("whole training", lambda: replace(HEALTHY, periods=_both(seconds=50.0)), "held it up"),
    ("share of the roofline", lambda: replace(HEALTHY, timed=replace(TIMED, peak_flops=600e9)), "something else"),
    ("GPU", lambda: on_gpu(gpu_bytes=0), "the driver saw nothing"),
    ("batched decisions", lambda: with_decided(rows_per_second=math.nan), "hardly faster"),
    ("batched decisions", lambda: with_decided(rows_per_second=4e3), "hardly faster"),
    ("batched = row by row", lambda: with_decided(equal=999), "a bug"),
    ("batched = row by row", lambda: _all_decided(rows=200, equal=200), "too few candles"),
    ("differs from untrained", lambda: with_saved(tensors_moved=15), "updates did not reach"),
    ("differs from untrained", lambda: with_saved(finite=False), "learning_rate"),
    ("evaluation", infinite_evaluation, "test_size"),
    ("evaluation", lambda: with_report(evaluations=[], best_evaluation=None), "test_size"),
    ("trades made", lambda: replace(HEALTHY, trades=Trades(0, 0, 0, {})), "no classic signal"),
    ("TensorBoard", lambda: with_left(tags={"tensorboard/BTC/PPO_1": TAGS}), "disk full"),
    ("TensorBoard", lambda: with_left(tags={**LEFT.tags, "tensorboard/ETH/PPO_1": TAGS[1:]}), "disk full"),
    ("manifests", lambda: with_left(bad_manifests=("sub-train-BTC_1: model is missing or damaged",)), "full disk"),
    ("manifests", lambda: with_left(manifests=0), "full disk"),
    ("predictions reached", lambda: with_left(frame_equal=299), "freqai.start"),
    ("predictions reached", lambda: with_left(answered=899), "custom_exit must ask"),
    ("predictions reached", lambda: with_left(questions=0, answered=0), "custom_exit must ask"),
]


def _both(**changes: object) -> tuple[TrainedPeriod, ...]:
    period = replace(HEALTHY_PERIOD, report=replace(healthy_report(), **changes))
    return (period, period)


def _all_decided(**changes: object) -> RunFacts:
    period = replace(HEALTHY_PERIOD, decided=replace(HEALTHY_PERIOD.decided, **changes))
    return replace(HEALTHY, periods=(period, period))


def failed(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks if check.verdict is Verdict.FAILED}


def test_a_healthy_run_passes_every_check() -> None:
    checks = all_checks(HEALTHY)
    assert [check.name for check in checks if check.verdict is not Verdict.OK] == []
    assert passed(checks)
    assert all(check.seen and check.expected and not check.remedy for check in checks)


@pytest.mark.parametrize(
    ("name", "sabotage", "remedy"), SABOTAGED, ids=[f"{name}-{index}" for index, (name, *_) in enumerate(SABOTAGED)]
)
def test_a_sabotaged_fact_fails_its_own_line(name: str, sabotage: Callable[[], RunFacts], remedy: str) -> None:
    checks = all_checks(sabotage())
    found = failed(checks)
    assert not passed(checks)
    assert remedy in found[name].remedy
    # A phase that never was cannot have used the processor either.
    related = {"rollout": {"CPU in rollouts"}, "update": {"CPU in updates", "share of the roofline"}}.get(name, set())
    assert {name} <= set(found) <= {name} | related


def test_every_check_is_sabotaged() -> None:
    assert {name for name, *_ in SABOTAGED} == {check.name for check in all_checks(HEALTHY)}


def test_dummy_environments_have_no_workers() -> None:
    period = replace(
        HEALTHY_PERIOD,
        report=replace(healthy_report(), vec_env="DummyVecEnv", worker_pids=[]),
        watched=replace(HEALTHY_PERIOD.watched, worker_counts=(0,), worker_pids=()),
    )
    facts = replace(HEALTHY, asked=replace(ASKED, vec_env="dummy"), periods=(period,))
    assert failed(all_checks(facts)) == {}
    # Workers, although none were asked for.
    facts = replace(facts, periods=(replace(period, watched=replace(period.watched, worker_counts=(8,))),))
    assert set(failed(all_checks(facts))) == {"worker processes"}


@pytest.mark.parametrize(("chosen", "workers"), [("SubprocVecEnv", 8), ("BatchedTradingEnv", 0)])
def test_auto_expects_the_workers_of_what_it_chose(chosen: str, workers: int) -> None:
    pids = tuple(healthy_report().worker_pids[:workers])
    period = replace(
        HEALTHY_PERIOD,
        report=replace(healthy_report(), vec_env=chosen, worker_pids=list(pids)),
        watched=replace(HEALTHY_PERIOD.watched, worker_counts=(workers,), worker_pids=pids),
    )
    facts = replace(HEALTHY, asked=replace(ASKED, vec_env="auto"), periods=(period,))
    assert failed(all_checks(facts)) == {}
    facts = replace(facts, periods=(replace(period, watched=replace(period.watched, worker_counts=(3,))),))
    assert set(failed(all_checks(facts))) == {"worker processes"}


def test_workers_that_share_the_environments_are_as_many_as_asked() -> None:
    facts = replace(HEALTHY, asked=replace(ASKED, env_workers=2))
    assert set(failed(all_checks(facts))) == {"worker processes"}
    period = replace(
        HEALTHY_PERIOD,
        report=replace(healthy_report(), worker_pids=[11, 12]),
        watched=replace(HEALTHY_PERIOD.watched, worker_counts=(2,), worker_pids=(11, 12)),
    )
    assert failed(all_checks(replace(facts, periods=(period,)))) == {}


def test_a_number_that_was_chosen_keeps_the_size_of_a_rollout() -> None:
    asked = replace(ASKED, vec_env="auto", n_envs=8, n_steps=1024, chooses_n_envs=True)
    period = replace(
        HEALTHY_PERIOD,
        report=replace(healthy_report(), vec_env="BatchedTradingEnv", n_envs=64, worker_pids=[]),
        watched=replace(HEALTHY_PERIOD.watched, worker_counts=(0,), worker_pids=()),
        saved=replace(HEALTHY_PERIOD.saved, n_envs=64, n_steps=128),
    )
    facts = replace(HEALTHY, asked=asked, periods=(period,))
    assert failed(all_checks(facts)) == {}
    # Steps of another rollout.
    facts = replace(facts, periods=(replace(period, saved=replace(period.saved, n_steps=64)),))
    assert "n_steps" in failed(all_checks(facts))


def test_a_training_wholly_in_torch_is_one() -> None:
    period = replace(
        HEALTHY_PERIOD,
        report=replace(healthy_report(), vec_env="torch", worker_pids=[]),
        watched=replace(HEALTHY_PERIOD.watched, worker_counts=(0,), worker_pids=()),
    )
    facts = replace(HEALTHY, asked=replace(ASKED, vec_env="torch"), periods=(period,))
    assert failed(all_checks(facts)) == {}
    # Where it cannot train so, another one takes over.
    facts = replace(facts, periods=(replace(period, report=replace(period.report, vec_env="BatchedTradingEnv")),))
    assert set(failed(all_checks(facts))) == {"vector environment"}


def test_a_run_without_training_fails() -> None:
    assert set(failed(all_checks(replace(HEALTHY, periods=())))) == {"training"}


def test_an_idle_phase_on_a_busy_machine_is_only_a_note() -> None:
    notes = [check for check in all_checks(idle("update", 15.8)) if check.verdict is Verdict.NOTE]
    assert [check.name for check in notes] == ["CPU in updates"]
    assert "other programs" in notes[0].remedy


def test_phases_shorter_than_the_sampling_are_a_note() -> None:
    checks = all_checks(with_phase("rollout", count=20, tree_cpu_seconds=0.0))
    assert "CPU in rollouts" in [check.name for check in checks if check.verdict is Verdict.NOTE]


def test_too_few_samples_are_a_note() -> None:
    period = replace(HEALTHY_PERIOD, watched=replace(HEALTHY_PERIOD.watched, samples=1))
    checks = all_checks(replace(HEALTHY, periods=(period,)))
    assert [check.name for check in checks if check.verdict is Verdict.NOTE] == ["worker processes"]
    assert passed(checks)


def test_actions_that_differ_by_rounding_alone_are_a_note() -> None:
    checks = all_checks(with_decided(equal=998, ties=2))
    assert [check.name for check in checks if check.verdict is Verdict.NOTE] == ["batched = row by row"]


def test_a_policy_with_one_action_everywhere_is_a_note() -> None:
    checks = all_checks(_all_decided(kinds=1))
    assert [check.name for check in checks if check.verdict is Verdict.NOTE] == ["batched = row by row"]


def test_without_held_out_candles_no_evaluation_is_asked_for() -> None:
    facts = replace(HEALTHY, asked=replace(ASKED, evaluates=False), periods=_both(evaluations=[], best_evaluation=None))
    assert passed(all_checks(facts))


def test_no_trades_in_gated_mode_names_the_veto() -> None:
    facts = replace(HEALTHY, asked=replace(ASKED, entry_mode="gated"), trades=Trades(0, 0, 0, {}))
    check = failed(all_checks(facts))["trades made"]
    assert "vetoed" in check.remedy
    assert "'gated'" in check.expected


def test_memory_is_resident_memory_where_no_proportional_one_is_known() -> None:
    facts = replace(HEALTHY, memory=HEALTHY.memory._replace(pss_bytes=None, rss_bytes=23_000_000_000))
    assert set(failed(all_checks(facts))) == {"peak memory"}


def test_the_remedy_names_environment_variables_that_override_the_configuration() -> None:
    facts = replace(with_saved(n_steps=128), environment_overrides=("FREQTRADE__FREQAI__RL_CONFIG__N_STEPS",))
    assert "remove FREQTRADE__FREQAI__RL_CONFIG__N_STEPS" in failed(all_checks(facts))["n_steps"].remedy


def test_update_speed_counts_a_sample_once_an_epoch() -> None:
    # 2 periods x 20 epochs x 8 environments x 1,024 steps in 2 x 8 s.
    check = next(check for check in all_checks(HEALTHY) if check.name == "update")
    assert check.seen == "20,480 samples/s"


def test_the_roofline_is_operations_over_the_best_rate_of_products() -> None:
    seen = {check.name: check.seen for check in all_checks(HEALTHY)}
    # 20,480 samples a second x 5e6 operations.
    assert seen["share of the roofline"] == "updates 102 of 200 GFLOP/s: 51%"
    # 4,096 steps a second x max(2e6 / 200e9, 1000 / 5e9) seconds.
    assert seen["rollout"] == "4,096 steps/s, 4.1% of the roofline"


def test_a_slow_phase_on_a_busy_machine_is_only_a_note() -> None:
    facts = timed(update=1 / 45000)
    busy = replace(HEALTHY_PERIOD.watched.update, machine_busy_seconds=20.0, tree_cpu_seconds=15.0)
    period = replace(HEALTHY_PERIOD, watched=replace(HEALTHY_PERIOD.watched, update=busy))
    notes = {c.name: c for c in all_checks(replace(facts, periods=(period,) * 2)) if c.verdict is Verdict.NOTE}
    assert set(notes) == {"update"}
    assert "other programs used 62% of a core" in notes["update"].remedy


def test_a_network_too_small_for_products_to_matter_is_a_note() -> None:
    facts = replace(HEALTHY, timed=replace(TIMED, update_flop=1e4))
    notes = [check for check in all_checks(facts) if check.verdict is Verdict.NOTE]
    assert [check.name for check in notes] == ["share of the roofline"]
    assert "bound by calls" in notes[0].remedy


def test_a_training_that_cannot_be_timed_fails_by_name() -> None:
    checks = all_checks(replace(HEALTHY, timed=None, why_untimed="the process that times it ended"))
    assert set(failed(checks)) == {"timed alone"}
    assert failed(checks)["timed alone"].seen == "the process that times it ended"


def test_a_gpu_that_is_there_and_not_used_is_a_note() -> None:
    facts = replace(HEALTHY, timed=replace(TIMED, gpus=("NVIDIA H100",)))
    notes = [check for check in all_checks(facts) if check.verdict is Verdict.NOTE]
    assert [check.name for check in notes] == ["GPU"]
    assert "'cuda'" in notes[0].remedy
    assert passed(all_checks(on_gpu(gpu_bytes=2**30)))


def test_without_tensorboard_no_tags_are_asked_for() -> None:
    facts = replace(with_left(tags={}), asked=replace(ASKED, tensorboard=False))
    assert passed(all_checks(facts))


def test_a_run_without_signals_and_trades_says_that_nothing_can_be_told() -> None:
    left = replace(LEFT, frame_rows=0, frame_equal=0, questions=0, answered=0)
    facts = replace(HEALTHY, left=left, trades=Trades(0, 0, 0, {}))
    (check,) = (check for check in all_checks(facts) if check.name == "predictions reached")
    assert check.verdict is Verdict.NOTE


def test_the_table_shows_every_line_and_the_remedy() -> None:
    console = Console(record=True, width=120)
    checks = all_checks(with_saved(policy_layers=(64, 64)))
    console.print(checks_table(checks))
    text = console.export_text()
    assert all(check.name in text for check in checks)
    assert "→ freqai.rl_config.net_arch" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    assert summary(checks) == f"{len(checks) - 1} ok, 1 FAILED"


def test_required_packages_are_judged_by_version_and_import(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = package_facts(
        ["pandas>=3.0,<3.1", "pandas<1", "no-such-package-anywhere", "torch>=2.4; sys_platform == 'plan9'", "rich>=13"]
    )
    assert [(fact.name, fact.problem is None) for fact in facts] == [
        ("pandas", True),
        ("pandas", False),
        ("no-such-package-anywhere", False),
        ("rich", True),
    ]
    assert facts[1].problem is not None
    assert "<1 is required" in facts[1].problem

    def broken(name: str) -> None:
        raise ImportError("undefined symbol")

    monkeypatch.setattr("importlib.import_module", broken)
    assert "undefined symbol" in (package_facts(["pandas"])[0].problem or "")


def test_the_installed_project_has_what_it_requires() -> None:
    facts = package_facts()
    assert len(facts) > 15
    assert [fact for fact in facts if fact.problem] == []
