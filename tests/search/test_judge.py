"""A winner on the locked candles: looked at once, on record before it is run, and never silently again."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from optuna.trial import TrialState
from rich.console import Console
from search.exit_markets import Size, judged
from search.judged_studies import (
    CODE,
    TEST_SEEDS,
    TUNING_SEEDS,
    finished,
    make_spec,
    make_study,
    runs,
    study_folder,
    unfinished,
)

from mtfscalper import artefacts
from mtfscalper.monitoring.study_state import ranking
from mtfscalper.search import judge_command
from mtfscalper.search.errors import ChangedError, StudyError
from mtfscalper.search.gates import Limits
from mtfscalper.search.judge import best_of, days_of_trials, finished_trial, judge
from mtfscalper.search.judge_command import print_judgement
from mtfscalper.search.judgements import Judgement, Judgements
from mtfscalper.search.looks import looks_of
from mtfscalper.search.run_figures import Run
from mtfscalper.search.same_study import SameStudy
from mtfscalper.search.study_folder import StudyFolder
from mtfscalper.search.study_run import Opened


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFolder:
    monkeypatch.setattr(artefacts, "code_hash", lambda: CODE)
    return study_folder(tmp_path)


def states(folder: StudyFolder) -> list[str]:
    return [json.loads(line)["state"] for line in folder.judgements.read_text().splitlines()]


def test_better_exits_of_entries_that_lose_are_not_called_a_profit(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    judgement, _ = judge(folder, trials, best, runs(skill=1.0)[0])
    assert judgement.passed
    for profit, is_said in ((0.01, False), (-0.479, True)):
        shown = io.StringIO()
        print_judgement("small", judgement._replace(profit=profit), Console(file=shown, width=400), looked=True)
        assert ("That is no profit" in shown.getvalue()) is is_said


def test_exits_with_foresight_pass_and_random_ones_do_not(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    run, asked = runs(skill=1.0)
    judgement, looked = judge(folder, trials, best, run)
    assert looked
    assert judgement.passed, [gate for gate in judgement.gates if not gate.passed]
    assert judgement.refused_by == ()
    # Fresh seeds, each once.
    assert tuple(asked) == TEST_SEEDS == judgement.seeds
    assert (judgement.look, judgement.level, judgement.trials) == (1, 0.9, 8)
    assert judgement.difference > 0
    unlucky, _ = judge(folder, trials, trials[3], runs(skill=0.0)[0])
    assert not unlucky.passed
    assert unlucky.look == 2
    assert unlucky.level == pytest.approx(0.95)
    assert {gate.key for gate in unlucky.gates if not gate.passed} >= {"interval", "deflated_sharpe"}
    assert {gate.key for gate in unlucky.gates if gate.passed} >= {"trades", "drawdown"}


def test_a_look_is_on_record_before_it_is_run(folder: StudyFolder) -> None:
    trials, best = make_study(folder)

    def run(seed: int) -> Run:
        assert states(folder) == ["begun"]
        return runs()[0](seed)

    judge(folder, trials, best, run)
    assert states(folder) == ["begun", "done"]


def test_a_trial_that_was_judged_is_not_looked_at_again_unless_asked_for(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    run, asked = runs()
    first, _ = judge(folder, trials, best, run)
    before = folder.judgements.read_bytes()
    assert judge(folder, trials, best, run) == (first, False)
    assert folder.judgements.read_bytes() == before
    assert len(asked) == len(TEST_SEEDS)
    again, looked = judge(folder, trials, best, run, again=True)
    assert looked
    assert (again.look, looks_of(folder)) == (2, 2)
    # What it costs: the same candles, the same trades, a stricter interval.
    assert again.difference == first.difference
    low, later = (next(gate for gate in one.gates if gate.key == "interval").value for one in (first, again))
    assert low is not None
    assert later is not None
    assert later < low
    assert Judgements(folder).done() == [first, again]
    assert Judgements(folder).of(best.number, first.overlay) == again


def test_another_limit_than_a_trial_was_judged_by_is_not_passed_over(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    first, _ = judge(folder, trials, best, runs()[0], Limits(drawdown=0.3))
    for asked in (None, Limits(drawdown=0.3)):
        assert judge(folder, trials, best, runs()[0], asked) == (first, False)
    with pytest.raises(StudyError, match=r"by another limit \(drawdown 0.3\) than is asked for \(drawdown 0.01\)"):
        judge(folder, trials, best, runs()[0], Limits(drawdown=0.01))
    stricter, looked = judge(folder, trials, best, runs()[0], Limits(drawdown=0.01), again=True)
    assert looked
    assert (first.passed, stricter.passed) == (True, False)


def test_a_look_that_is_cut_off_is_gone_on_with_and_stays_one(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    run, asked = runs()

    def broken(seed: int) -> Run:
        if seed == TEST_SEEDS[1]:
            raise KeyboardInterrupt
        return run(seed)

    with pytest.raises(KeyboardInterrupt):
        judge(folder, trials, best, broken)
    assert states(folder) == ["begun", "failed"]
    judgement, _ = judge(folder, trials, best, run)
    assert judgement.look == 1
    assert states(folder) == ["begun", "failed", "done"]
    # What was there of it is not run again.
    assert tuple(asked) == TEST_SEEDS


def cut_off(folder: StudyFolder, limits: Limits | None, **more: Any) -> None:
    """A look that ends after its last seed, when all of it lies there to be read."""

    def stop(text: str) -> None:
        if text == "the gates":
            raise KeyboardInterrupt

    trials, best = make_study(folder)
    with pytest.raises(KeyboardInterrupt):
        judge(folder, trials, best, runs()[0], limits, progress=stop, **more)


def test_a_look_that_is_cut_off_is_gone_on_with_by_its_own_limits_alone(folder: StudyFolder) -> None:
    cut_off(folder, Limits(drawdown=0.01))
    trials, best = make_study(folder)
    looser = Limits(drawdown=0.3)
    with pytest.raises(StudyError, match=r"at look 1, which was cut off, by another limit \(drawdown 0.01\)"):
        judge(folder, trials, best, runs()[0], looser)
    assert looks_of(folder) == 1
    run, asked = runs()
    judgement, _ = judge(folder, trials, best, run)
    assert (judgement.look, judgement.limits["drawdown"], judgement.passed) == (1, 0.01, False)
    assert asked == []


def test_a_look_that_is_cut_off_and_begun_again_by_other_limits_is_another_look(folder: StudyFolder) -> None:
    cut_off(folder, Limits(drawdown=0.01))
    trials, best = make_study(folder)
    judgement, _ = judge(folder, trials, best, runs()[0], Limits(drawdown=0.3), again=True)
    assert (judgement.look, judgement.limits["drawdown"]) == (2, 0.3)


def test_candles_that_were_repaired_between_looks_or_seeds_are_refused(folder: StudyFolder) -> None:
    cut_off(folder, None, candles=lambda: "before")
    trials, best = make_study(folder)
    for asked in (False, True):
        with pytest.raises(StudyError, match=r"are others than an earlier look .*hash before"):
            judge(folder, trials, best, runs()[0], again=asked, candles=lambda: "repaired")
    assert looks_of(folder) == 1
    judgement, _ = judge(folder, trials, best, runs()[0], candles=lambda: "before")
    assert judgement.look == 1
    # One look at them, which is begun, and another before each seed.
    seen = iter(["before", "before", "repaired"])
    with pytest.raises(StudyError, match=r"are others than an earlier look"):
        judge(folder, trials, trials[1], runs()[0], candles=lambda: next(seen))


def test_a_study_that_changes_between_two_seeds_is_looked_at_no_further(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, best = make_study(folder)
    run, asked = runs()

    class Changed(SameStudy):
        def __init__(self, *_: Any) -> None: ...

        def check(self) -> None:
            if asked:
                raise ChangedError("Strategy.py changed since the study small began")

    monkeypatch.setattr(judge_command, "SameStudy", Changed)
    monkeypatch.setattr(judge_command.StrategyResolver, "load_strategy", lambda _: None)
    monkeypatch.setattr(judge_command, "config_of_trial", lambda *_: {})
    monkeypatch.setattr(judge_command, "run_backtest", lambda _, seed, **__: run(seed))
    locked_runs = judge_command._LockedRuns(Opened(folder, folder.spec, None, (), {}), best)  # type: ignore[arg-type]
    with pytest.raises(ChangedError):
        judge(folder, trials, best, locked_runs.run)
    assert tuple(asked) == TEST_SEEDS[:1]
    assert states(folder) == ["begun", "failed"]


def test_another_trial_after_a_look_that_was_cut_off_is_another_look(folder: StudyFolder) -> None:
    trials, best = make_study(folder)

    def broken(_: int) -> Run:
        raise StudyError("no candles")

    with pytest.raises(StudyError, match="no candles"):
        judge(folder, trials, best, broken)
    judgement, _ = judge(folder, trials, trials[1], runs()[0])
    assert judgement.look == 2


def test_a_record_that_cannot_be_read_counts_as_a_look(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    judge(folder, trials, best, runs()[0])
    folder.judgements.write_bytes(folder.judgements.read_bytes()[:-100])
    # The look that began is one, and the record that is cut off another: of which look it was is not known.
    assert looks_of(folder) == 2
    judgement, looked = judge(folder, trials, best, runs()[0])
    assert looked
    assert judgement.look == 1


def test_judging_it_twice_at_once_is_refused(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    with FileLock(folder.path / ".judging.lock"), pytest.raises(StudyError, match="another process looks"):
        judge(folder, trials, best, runs()[0])
    assert looks_of(folder) == 0


@pytest.mark.parametrize("seeds", [(), TUNING_SEEDS[:1]])
def test_seeds_that_trials_were_trained_from_judge_nothing(folder: StudyFolder, seeds: tuple[int, ...]) -> None:
    trials, best = make_study(folder)
    folder.write_spec(make_spec(test_seeds=seeds))
    with pytest.raises(StudyError, match="test seeds"):
        judge(folder, trials, best, runs()[0])
    assert looks_of(folder) == 0


def test_every_trial_that_was_run_counts_and_one_that_was_begun_again_counts_once(folder: StudyFolder) -> None:
    trials, _ = make_study(folder)
    others = [
        unfinished(8, TrialState.PRUNED),
        unfinished(9, TrialState.FAIL, error="no candles"),
        unfinished(10, TrialState.FAIL),
        unfinished(11, TrialState.RUNNING, again_of=10),
        unfinished(12, TrialState.WAITING),
    ]
    # The pruned one has shown what its first run gave.
    run = json.loads(folder.run_file(0, TUNING_SEEDS[0]).read_text())
    folder.trial(8).mkdir(parents=True)
    folder.run_file(8, TUNING_SEEDS[0]).write_text(json.dumps(run))
    found = days_of_trials(folder, [*trials, *others], TUNING_SEEDS)
    assert [one.number for one in found] == [*range(8), 8, 9, 11]
    assert [one.complete for one in found] == [True] * 8 + [False] * 3
    assert found[8].differences == tuple(run["differences"])
    assert found[9].days == ()


def test_a_finished_trial_without_its_figures_judges_nothing(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    folder.run_file(best.number, TUNING_SEEDS[1]).unlink()
    with pytest.raises(StudyError, match="1 of its 2 runs are missing"):
        judge(folder, trials, best, runs()[0])
    assert looks_of(folder) == 0


def test_days_of_trials_that_another_machine_ran_are_in_the_storage(folder: StudyFolder) -> None:
    """Without them the variance of trials, and so the verdict, would depend on which machine judges."""
    trials, _ = make_study(folder)
    here = days_of_trials(folder, trials, TUNING_SEEDS)
    for trial, days in zip(trials, here, strict=True):
        told = {"seeds": list(TUNING_SEEDS), "first_day": days.days[0], "differences": list(days.differences)}
        trial.set_user_attr("daily", told)
    pruned = unfinished(8, TrialState.PRUNED, seeds_done=[1], daily={**told, "seeds": [1]})
    shutil.rmtree(folder.path / "trials")
    elsewhere = days_of_trials(folder, [*trials, pruned], TUNING_SEEDS)
    assert elsewhere[:8] == here
    assert elsewhere[8].differences == here[-1].differences
    # Of a version that kept them in folders alone.
    with pytest.raises(StudyError, match=r"trial 9 is pruned, and 1 of its 1 runs are missing"):
        days_of_trials(folder, [*trials, unfinished(9, TrialState.PRUNED, seeds_done=[1])], TUNING_SEEDS)


def test_only_finished_trials_are_judged_and_the_best_by_default(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    pruned = finished(8, None, state=TrialState.PRUNED)
    assert best_of([*trials, pruned]) is best
    # Of equals the first, in whatever order they come.
    equal = [finished(number, 0.5) for number in (9, 7, 8)]
    assert best_of(equal).number == 7
    assert [one.number for one in ranking([*equal, pruned, finished(6, 0.4)])] == [7, 8, 9, 6]
    assert finished_trial(trials, 3).number == 3
    for number, state in ((8, "pruned"), (99, "not there")):
        with pytest.raises(StudyError, match=f"--trial is {number}, which is {state}"):
            finished_trial([*trials, pruned], number)
    with pytest.raises(StudyError, match="no finished trial, of 1"):
        best_of([pruned])


def test_a_run_without_trades_is_judged_and_passes_nothing(folder: StudyFolder) -> None:
    trials, best = make_study(folder)
    run, _ = runs(n_trades=0)
    judgement, _ = judge(folder, trials, best, run, Limits(trades=1))
    assert {gate.key for gate in judgement.gates if gate.passed} <= {"drawdown", "overfitting"}
    written = json.loads(json.dumps(judgement.as_json()))
    assert Judgement.from_json(written) == judgement
    # Of a record from before looks of other studies were counted.
    del written["looks_of_others"]
    assert Judgement.from_json(written) == judgement


@pytest.mark.parametrize("swings", [False, True])
def test_rules_pass_on_a_market_that_swings_back_and_not_on_a_random_walk(folder: StudyFolder, swings: bool) -> None:
    """A few draws of tests/acceptance/test_study_gates.py."""
    size = Size(validation_days=50, locked_days=40, trades_a_day=3, trials=4)
    assert judged(folder, 3, size, swings=swings).passed == swings
