"""Workers of a study, whose backtests are made up: what they try, tell, give up, give back and stop at."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileOpenLock
from optuna.trial import TrialState
from studies import run_of, spec_of

from mtfscalper.search import attachments, leases, trial, worker
from mtfscalper.search.errors import ChangedError
from mtfscalper.search.leases import LeaseTimes
from mtfscalper.search.run_figures import Instance, Run, RunFigures
from mtfscalper.search.storage import open_storage, open_study
from mtfscalper.search.study_folder import StudyFolder, StudySpec
from mtfscalper.search.trial import CONFIG_HASH, PRUNED_STEP, ImpossibleError, TrialRunner, folders_of, step_of
from mtfscalper.search.worker import Plan, Worker

SPEC = spec_of()
PERIODS = ("2024-09-05", "2024-09-06")
INSTANCES = [(pair, period) for pair in SPEC.pairs for period in PERIODS]
LONG_AGO = datetime(2000, 1, 1)
# A worker that lives is not taken for dead, however slow the machine is.
TIMES = LeaseTimes(0.5, 3600.0)


class Bench:
    """A study in a folder, and a worker on it.

    :ivar ran: learning rate and seed of each backtest
    """

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch, value: Callable[[float, int], Any]) -> None:
        """
        :param value: of each instance of a run, from its learning rate and its seed
        """
        self.folder, self.ran, self._value = StudyFolder(home / "studies" / "small"), list[tuple[float, int]](), value
        self.home = home
        monkeypatch.setattr(TrialRunner, "_config", lambda _, __, overlay: json.loads(overlay.read_text()))
        self.study = open_study(open_storage(None, self.folder), SPEC, [1])

    def run(self, config: dict[str, Any], seed: int, identifier: str) -> Run:
        rate = float(config["freqai"]["rl_config"]["learning_rate"])
        self.ran.append((rate, seed))
        for made in folders_of(self.home, identifier):
            made.mkdir(parents=True, exist_ok=True)
        values = np.broadcast_to(self._value(rate, seed), (len(INSTANCES),))
        return run_of(seed, dict(zip(INSTANCES, values.tolist(), strict=True)))

    def work(self, trials: int, since: datetime = LONG_AGO, **more: Any) -> str | None:
        made = Worker(self.study, self.folder, SPEC, self.home, self.run, TIMES, arguments=())
        return made.work(Plan(trials, None, since, **more))


def test_a_trials_value_is_the_mean_of_its_instances_over_all_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: np.array([1.0, 2.0, 3.0, 6.0]) * (seed == 8))
    bench.study.enqueue_trial(SPEC.first)
    assert bench.work(1) is None
    [done] = bench.study.trials
    assert done.value == 1.5
    assert sorted(bench.ran) == [(0.003, 7), (0.003, 8)]
    assert len(done.intermediate_values) == len(INSTANCES) * 2
    assert sorted(done.user_attrs["seeds_done"]) == [7, 8]
    assert {tuple(instance.values()) for instance in done.user_attrs["instances"]} == {
        Instance(*place, seed, 1.0, 10, value * (seed == 8))
        for seed in (7, 8)
        for place, value in zip(INSTANCES, (1.0, 2.0, 3.0, 6.0), strict=True)
    }
    # What the gates need of it, for whichever machine judges: the very figures of its folder.
    runs = [RunFigures.from_json(json.loads(bench.folder.run_file(0, seed).read_text())) for seed in (7, 8)]
    means = np.mean([run.differences for run in runs], axis=0).tolist()
    assert done.user_attrs["daily"] == {"seeds": [7, 8], "first_day": runs[0].days[0], "differences": means}
    # Of two days nobody knows an interval.
    assert done.user_attrs["interval"] == [None, 1.5, None]
    for seed in (7, 8):
        figures = json.loads(bench.folder.run_file(0, seed).read_text())
        assert RunFigures.from_json(figures).seed == seed
        assert bench.folder.trades_file(0, seed).is_file()
    overlay = json.loads(bench.folder.overlay(0).read_text())
    assert overlay == {"freqai": {"rl_config": {"threads_per_job": 1, "learning_rate": 0.003}}}


def test_instances_are_reported_at_the_same_steps_in_every_trial_and_in_another_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    orders = []
    real = optuna.Trial.report

    def report(self: optuna.Trial, value: float, step: int) -> None:
        orders.append((self.number, step))
        real(self, value, step)

    monkeypatch.setattr(optuna.Trial, "report", report)
    bench.work(3)
    by_trial = [[step for number, step in orders if number == of and step < PRUNED_STEP] for of in range(3)]
    instances = [Instance(*place, seed, 1.0, 1, 0.0) for place in INSTANCES for seed in SPEC.tuning_seeds]
    assert {step_of(SPEC, instance) for instance in instances} == set(by_trial[0])
    assert len(set(by_trial[0])) == len(instances)
    assert by_trial[0] != sorted(by_trial[0])
    assert len({tuple(order) for order in by_trial}) > 1


def test_a_trial_that_is_worse_in_every_instance_gets_no_further_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtfscalper.search.storage.STARTUP_INSTANCES", 4)
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate + np.arange(4))
    bench.study = open_study(open_storage(None, bench.folder), SPEC, [1])
    for rate in (0.008, 0.002, 0.009):
        bench.study.enqueue_trial({"learning_rate": rate})
    bench.work(3)
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE", "PRUNED", "COMPLETE"]
    pruned = bench.study.trials[1]
    assert len(pruned.user_attrs["seeds_done"]) == 1
    # What the sampler learns from it: the mean of what ran, at a step that tells how far it came.
    assert pruned.last_step == PRUNED_STEP + 1
    assert pruned.value == pytest.approx(1.502)
    assert len(bench.ran) == 5


def test_policies_stay_of_the_best_trial_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    bench.work(5)
    best = bench.study.best_trial.user_attrs[CONFIG_HASH]
    kept = {path.name for path in (tmp_path / "models").glob("study_*")}
    assert kept == {f"study_small_{best}_{seed}" for seed in SPEC.tuning_seeds}
    assert {path.name for path in (tmp_path / "models").glob("*/study_*")} == kept


def test_policies_of_all_trials_stay_where_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    bench.work(3, keep_models=True)
    assert len(list((tmp_path / "models").glob("study_*"))) == 6


def test_a_trial_that_fails_says_why_and_three_in_a_row_stop_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = iter([False, False, True, False, False, False])

    def value(rate: float, seed: int) -> float:
        if not next(outcomes, True) and seed:
            raise OSError("no such exchange")
        return rate

    bench = Bench(tmp_path, monkeypatch, value)
    monkeypatch.setattr(bench, "_value", value)
    spec = spec_of(tuning_seeds=(7,))
    made = Worker(bench.study, bench.folder, spec, tmp_path, bench.run, TIMES, arguments=())
    reason = made.work(Plan(5, None, LONG_AGO))
    assert reason is not None
    assert "the last 3 trials failed (trials 3, 4, 5), the newest with: OSError: no such exchange" in reason
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    # Whoever runs it again has corrected something.
    assert made.work(Plan(5, None, datetime.now())) is None
    assert worker.finished_of(bench.study.trials) == 5


def test_neither_a_note_nor_a_picture_costs_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(attachments, "is_dashboard_installed", lambda: True)
    monkeypatch.setattr(attachments, "_TOLD", set())
    monkeypatch.setattr(attachments, "_attach_pictures", fail)
    monkeypatch.setattr(attachments, "_write_note", fail)
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    assert bench.work(4) is None
    assert [trial.state.name for trial in bench.study.trials] == ["COMPLETE"] * 4
    told = [record.message for record in caplog.records if "no space left" in record.message]
    assert [message.split(" cannot")[0] for message in told] == ["The pictures of trials", "The notes of trials"]


def test_settings_that_cannot_be_are_set_aside_and_stop_the_study_only_if_nearly_all_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)

    def config(_: Any, __: Any, overlay: Path) -> dict[str, Any]:
        asked = json.loads(overlay.read_text())
        if asked["freqai"]["rl_config"]["learning_rate"] > highest:
            raise ImpossibleError("learning_rate is too high")
        return asked

    monkeypatch.setattr(TrialRunner, "_config", config)
    highest = 0.006
    assert bench.work(4) is None
    assert worker.finished_of(bench.study.trials) == 4
    highest = 0.0
    reason = bench.work(30, since=datetime.now())
    assert reason is not None
    assert "the last 20 trials were impossible" in reason
    assert "learning_rate is too high" in reason
    assert [trial.user_attrs[leases.SET_ASIDE] for trial in bench.study.trials[-20:]] == [leases.IMPOSSIBLE] * 20


def test_a_worker_that_is_stopped_gives_its_trial_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stops = iter([True, False])

    def value(rate: float, seed: int) -> float:
        if next(stops, False):
            raise KeyboardInterrupt
        return rate

    bench = Bench(tmp_path, monkeypatch, value)
    with pytest.raises(KeyboardInterrupt):
        bench.work(1)
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "WAITING"]
    bench.work(1)
    first, second = bench.study.trials
    assert second.state.name == "COMPLETE"
    assert second.params == first.params
    assert second.user_attrs[leases.AGAIN_OF] == 0


def test_a_study_that_changes_in_the_middle_is_measured_no_further_and_its_trial_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)

    def check_same() -> None:
        # Edited after the first of a trial's two backtests.
        if bench.ran:
            raise ChangedError("Strategy.py changed since the study small began")

    made = Worker(bench.study, bench.folder, SPEC, tmp_path, bench.run, arguments=(), check_same=check_same)
    with pytest.raises(ChangedError):
        made.work(Plan(2, None, LONG_AGO))
    assert len(bench.ran) == 1
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "WAITING"]
    assert bench.study.trials[0].user_attrs[leases.SET_ASIDE] == leases.STOPPED
    # None is asked for while it is so.
    with pytest.raises(ChangedError):
        made.work(Plan(2, None, LONG_AGO))
    assert len(bench.study.trials) == 2
    bench.work(1)
    first, second = bench.study.trials
    assert (second.state.name, second.params) == ("COMPLETE", first.params)


def test_no_trial_begins_after_the_time_is_over_and_none_that_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    made = Worker(bench.study, bench.folder, SPEC, tmp_path, bench.run, arguments=())
    assert made.work(Plan(1, time.time() - 1, LONG_AGO)) is None
    assert bench.ran == []
    bench.work(2)
    # Two workers may have asked at once for the last one.
    made._take_one(Plan(2, None, LONG_AGO))
    assert bench.study.trials[-1].user_attrs[leases.SET_ASIDE] == leases.SURPLUS
    assert worker.finished_of(bench.study.trials) == 2


def test_what_comes_out_of_a_trial_that_was_taken_back_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def value(rate: float, seed: int) -> float:
        running = [trial for trial in bench.study.trials if trial.state.name == "RUNNING"]
        if len(bench.ran) == 1:
            # By another, who took this worker for dead.
            leases.set_aside(bench.study, running[0], leases.LOST)
            leases.enqueue_again(bench.study)
        return rate

    bench = Bench(tmp_path, monkeypatch, value)
    bench.work(1)
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "COMPLETE"]
    assert bench.study.trials[0].params == bench.study.trials[1].params


def test_a_trial_that_is_taken_back_before_its_worker_has_a_lease_costs_that_worker_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    real, taken = leases.Lease.__enter__, list[int]()

    def late(lease: leases.Lease) -> leases.Lease:
        if not taken:
            [running] = [trial for trial in bench.study.trials if trial.state.name == "RUNNING"]
            taken.append(running.number)
            leases.set_aside(bench.study, running, leases.LOST)
        return real(lease)

    monkeypatch.setattr(leases.Lease, "__enter__", late)
    assert bench.work(2) is None
    assert taken == [0]
    assert [trial.state.name for trial in bench.study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert bench.study.trials[1].params == bench.study.trials[0].params


def test_failures_are_forgiven_by_a_clock_that_all_machines_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, monkeypatch, lambda rate, seed: 1 / 0)
    before = datetime.now()
    assert bench.work(3)
    trials = bench.study.trials
    for one in trials:
        # As a machine nine hours to the west leaves it in a database.
        assert one.datetime_complete is not None
        one.datetime_complete -= timedelta(hours=9)
    assert worker.failing(trials, before)
    assert worker.failing(trials, datetime.now()) is None


# For whoever knows that nobody lives: a lease is over as soon as it ends.
OVER = LeaseTimes(0.5, 0.0)
# And a trial without one has long been seen.
LONG_SEEN = dict.fromkeys(range(100), 0.0)


def working(home: Path, trials: int, number: int, *, hangs: bool) -> None:
    """A process of its own at work until it is killed: it says when its first backtest has begun.

    :param hangs: in that backtest, for ever, and not until it may go on
    """
    with pytest.MonkeyPatch.context() as patch:

        def value(rate: float, seed: int) -> float:
            (home / f"begun {number}").touch()
            while hangs or not (home / "go on").exists():
                time.sleep(0.01)
            return rate

        bench = Bench(home, patch, value)
        bench.study = open_study(open_storage(None, bench.folder), SPEC, [os.getpid()])
        bench.work(trials)


def taking_over(home: Path, trials: int, all_there: Any) -> None:
    """A process of its own that finds what the dead left at the same time as others, and works on to the end."""
    with pytest.MonkeyPatch.context() as patch:
        bench = Bench(home, patch, lambda rate, seed: rate)
        bench.study = open_study(open_storage(None, bench.folder), SPEC, [os.getpid()])
        bench.study.get_trials()
        all_there.wait(120)
        leases.take_back(bench.study, OVER, dict(LONG_SEEN))
        # Nobody has a trial before all have looked: by now, a living one's lease would seem over too.
        all_there.wait(120)
        bench.work(trials)


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, and no SIGKILL")
def test_killed_workers_lose_no_parameters_and_no_trial_is_finished_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, context = 12, multiprocessing.get_context("fork")
    with monkeypatch.context() as patch:
        # In seconds; the workers have half a minute, as ever.
        patch.setattr(JournalFileOpenLock.__init__, "__defaults__", (3,))
        bench = Bench(tmp_path, monkeypatch, lambda rate, seed: rate)
    killed = [
        context.Process(target=working, args=(tmp_path, trials, number), kwargs={"hangs": number % 2 == 0})
        for number in range(6)
    ]
    for process in killed:
        process.start()
    while len(list(tmp_path.glob("begun *"))) < len(killed):
        assert all(process.is_alive() for process in killed)
        time.sleep(0.01)
    # Three die in a backtest, three wherever they are.
    (tmp_path / "go on").touch()
    random = np.random.default_rng(1)
    for process in killed:
        time.sleep(random.uniform(0.0, 0.1))
        process.kill()
        process.join()
    # One that was killed in the middle of a record left the journal's lock, which whoever writes next breaks.
    bench.study.set_user_attr("killed", len(killed))
    left = bench.study.get_trials(states=(TrialState.RUNNING,))
    assert len(left) >= 3
    while not all(leases._is_stale(one, OVER, LONG_SEEN) for one in left):
        time.sleep(0.01)
    all_there = context.Barrier(3)
    others = [context.Process(target=taking_over, args=(tmp_path, trials, all_there)) for _ in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0, 0]
    done = bench.study.trials
    assert worker.finished_of(done) == trials
    finished = Counter(trial.params["learning_rate"] for trial in done if trial.state.name in ("COMPLETE", "PRUNED"))
    assert max(finished.values()) == 1
    # One may have been killed before it had parameters.
    lost = {
        trial.params["learning_rate"]
        for trial in done
        if trial.user_attrs.get(leases.SET_ASIDE) == leases.LOST and trial.params
    }
    assert lost == {trial.params["learning_rate"] for trial in left if trial.params}
    assert len(lost) >= 3
    assert lost <= set(finished)


def test_of_a_run_whose_periods_are_equally_long_the_intervals_mean_is_the_value() -> None:
    figures = [run_of(seed, dict.fromkeys(INSTANCES, 0.01 * seed)).figures for seed in (7, 8)]
    assert trial.interval_of(figures).mean == pytest.approx(0.075)


def test_a_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    folder.write_spec(SPEC)
    assert folder.spec == SPEC
    values = SPEC.as_json()
    with pytest.raises(TypeError):
        StudySpec.from_json({**values, "unknown": 1})


def test_one_machines_worker_draws_the_same_again_and_no_two_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = StudySpec.__new__(StudySpec)
    object.__setattr__(spec, "sampler_seed", 7)

    def drawn(index: int, trials: int, name: str, *, is_shared: bool) -> tuple[int, ...]:
        monkeypatch.setattr(leases, "worker_name", lambda: name)
        return tuple(worker.sampler_entropy(spec, index, trials, is_shared=is_shared))

    assert drawn(0, 3, "here:1", is_shared=False) == drawn(0, 3, "here:2", is_shared=False)
    others = {drawn(index, trials, "here:1", is_shared=False) for index in (0, 1) for trials in (0, 3)}
    others |= {drawn(0, 3, name, is_shared=True) for name in ("here:1", "there:1")}
    assert len(others) == 6
