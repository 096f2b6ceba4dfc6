"""A policy that leaves when it should is kept, one that does not falls back, and folds choose by what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from builders import make_settings, make_tape, random_candles
from tiny_training import env_settings_of, random_tape, tiny_settings

from mtfscalper.executors.choice import executor_for
from mtfscalper.executors.executor import run_all
from mtfscalper.market.tape import MarketTape
from mtfscalper.policy import closed_loop
from mtfscalper.policy.inference import Decisions, TradeDecision
from mtfscalper.trading.actions import N_ACTIONS, Action
from mtfscalper.training import ensemble
from mtfscalper.training.evaluation import Evaluation, Judgement, evaluate
from mtfscalper.training.guard import judge
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.member import Member
from mtfscalper.training.paired_result import PairedResult
from mtfscalper.training.report import TrainingReport, doubts

GUARDED = {"fallback": "classic", "entry_mode": "classic"}
BEATEN = PairedResult(40, 12, 0.01, 0.002, 0.003)
NOT_BEATEN = PairedResult(40, 12, 0.004, 0.002, -0.001)


class Planted:
    """A decider that leaves a trade where the tape's feature says so."""

    def __init__(self, features: npt.NDArray[np.float32]) -> None:
        self._leaves = features[:, 0] > 0

    def decide(self, observations: npt.NDArray[np.float32]) -> Decisions:
        n = len(observations)
        return Decisions(np.zeros(n, dtype=np.int64), np.zeros((n, N_ACTIONS), dtype=np.float32))

    def trade_decider(self) -> Planted | Asked:
        return Asked(self._leaves)


class Asked:
    def __init__(self, leaves: npt.NDArray[np.bool_]) -> None:
        self._leaves = leaves

    def decide(self, seen: Sequence[Any]) -> list[TradeDecision]:
        return [
            TradeDecision(Action.LONG_EXIT, 0.9) if self._leaves[int(one.row)] else TradeDecision(Action.NEUTRAL, 0.1)
            for one in seen
        ]


def planted(monkeypatch: pytest.MonkeyPatch, *, days: int, foresees: float) -> PairedResult:
    """How a policy is judged on a random walk with an entry an hour.

    :param foresees: chance that it leaves before a fall of the next two hours; else it leaves at random
    """
    monkeypatch.setattr(closed_loop, "loop_decider", lambda model, features, *_: Planted(features))
    n = days * 288
    candles = random_candles(5, n, volatility=0.001)
    ahead = np.append(candles["open"].to_numpy()[24:], [np.nan] * 24) < candles["open"].to_numpy()
    random = np.random.default_rng(7)
    leaves = np.where(random.random(n) < foresees, np.roll(ahead, -1), random.random(n) < 0.5)
    tape = make_tape(candles, np.arange(n) % 12 == 0, False, leaves[:, None].astype(np.float32))
    settings = make_settings("classic", max_trade_duration_candles=24)
    # What it was trained on and chosen by has no entry, and judges nothing.
    other = make_tape(random_candles(6, 400), False, False, np.zeros((400, 1), np.float32))
    job = TrainingJob(tiny_settings(**GUARDED), other, other, settings, judging=tape)
    return judge(job, object())  # type: ignore[arg-type]  # The planted decider asks no model.


def test_a_policy_that_leaves_before_falls_beats_classic_exits(monkeypatch: pytest.MonkeyPatch) -> None:
    result = planted(monkeypatch, days=10, foresees=0.9)
    assert result.trades > 100
    assert result.days == 10
    assert result.beats_classic
    assert result.difference > 0.0005


def test_a_policy_that_leaves_at_random_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    result = planted(monkeypatch, days=10, foresees=0.0)
    assert result.trades > 100
    assert not result.beats_classic


def test_a_good_policy_of_few_trades_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    result = planted(monkeypatch, days=1, foresees=1.0)
    assert 5 < result.trades < 30
    assert result.difference > 0
    assert not result.beats_classic


def test_without_candles_that_judge_nothing_beats_classic() -> None:
    settings = tiny_settings(**GUARDED)
    job = TrainingJob(settings, random_tape(), None, env_settings_of(settings))
    assert judge(job, object()) == PairedResult(0, 0, 0.0, 0.0, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("vec_env", ["dummy", "torch"])
@pytest.mark.parametrize("members", [1, 2])
def test_every_way_to_train_judges_the_policy_that_it_returns(
    monkeypatch: pytest.MonkeyPatch, vec_env: str, members: int
) -> None:
    settings = tiny_settings(**GUARDED, vec_env=vec_env, ensemble=members, evaluation_folds=2)
    env, judging = env_settings_of(settings), random_tape(400, seed=5)
    judged: list[Any] = []
    real = ensemble.judged

    def watched(job: Any, model: Any, report: TrainingReport) -> TrainingReport:
        judged.append(model)
        return real(job, model, report)

    monkeypatch.setattr(ensemble, "judged", watched)
    job = TrainingJob(settings, random_tape(), random_tape(80, seed=2), env, judging=judging)
    [outcome] = run_all(executor_for(settings), [job])
    assert not isinstance(outcome, Exception)
    model, report = outcome
    assert judged == [model]
    assert len(report.members) == (members if members > 1 else 0)
    # What it earns on the candles that it has learned from.
    assert report.training_evaluation is not None
    learned = evaluate(model, job.train, env)._replace(seconds=report.training_evaluation["seconds"])
    assert report.training_evaluation == learned.figures()
    assert learned.trades > 0
    assert report.judged == judge(job, model)
    assert report.judged is not None
    assert report.judged.trades > 0
    assert all(member.judged is None for member in report.members)
    assert TrainingReport.from_json(report.as_json()) == report
    assert report.judged.in_words() in report.summary()


def test_looking_at_the_candles_learned_from_changes_no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_settings()
    env = env_settings_of(settings)
    jobs = [TrainingJob(settings, random_tape(seed=seed), random_tape(80, seed=2), env) for seed in (1, 3)]
    looked = run_all(executor_for(settings), jobs)
    monkeypatch.setattr(ensemble, "can_evaluate", lambda *_: False)
    unlooked = run_all(executor_for(settings), jobs)
    for one, other in zip(looked, unlooked, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        assert one[1].training_evaluation is not None
        assert other[1].training_evaluation is None
        weights = zip(one[0].policy.parameters(), other[0].policy.parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in weights)


def test_without_a_fallback_nothing_is_judged_and_old_reports_are_read() -> None:
    settings = tiny_settings()
    [outcome] = run_all(
        executor_for(settings),
        [TrainingJob(settings, random_tape(), None, env_settings_of(settings), judging=random_tape(80, seed=2))],
    )
    assert not isinstance(outcome, Exception)
    report = outcome[1]
    assert report.judged is None
    old = report.as_json()
    del old["judged"]
    assert TrainingReport.from_json(old) == report


def test_the_summary_says_who_ends_the_trades() -> None:
    report = TrainingReport("P", "PPO", 64)
    assert "ends" not in report.summary()
    assert "not beaten, the rules end its trades (fallback)" in replace(report, judged=NOT_BEATEN).summary()
    assert "beaten, the policy ends its trades" in replace(report, judged=BEATEN).summary()
    assert doubts([replace(report, judged=BEATEN)]) is None


# ------------------------------------------------------------------ what chooses the policy


def in_stretches(*stretches: tuple[float, int]) -> float:
    returns, candles = zip(*stretches, strict=True)
    return Evaluation.over(64, returns, candles, (), 0, 0.0, 0.0).lower_log_return


def test_the_lower_end_of_a_log_return_goes_by_how_much_stretches_differ() -> None:
    # Two of equal length: total 0.3, residuals 0.05 and -0.05, so that the error of the total is 0.1.
    assert in_stretches((0.2, 50), (0.1, 50)) == pytest.approx(0.3 - 0.1 * np.tan(0.45 * np.pi))
    # In step with their lengths they do not differ.
    assert in_stretches((0.2, 100), (0.1, 50)) == pytest.approx(0.3)
    assert in_stretches((0.2, 100)) == 0.2


# The first is better in sum, the second at the lower end.
RESULTS = (Evaluation(64, 0.9, 5, 0.5, 0.0, 0.2, 2), Evaluation(128, 0.3, 5, 0.5, 0.0, 0.01, 2))


class Silent:
    """In the place of stable-baselines3's logger: remembers what was recorded."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def record(self, name: str, _: float) -> None:
        self.names.add(name)


@pytest.mark.parametrize(("mode", "best"), [("mean", 0), ("lower", 1)])
def test_the_best_policy_is_the_one_that_the_mode_asks_for(mode: Any, best: int) -> None:
    logger = Silent()
    judgement = Judgement(64, mode)
    for result in RESULTS:
        judgement.note(result, logger)  # type: ignore[arg-type]
    assert judgement.best == RESULTS[best]
    assert ("eval/lower_log_return" in logger.names) == (mode == "lower")


def gapped(n_candles: int, at: int, seed: int) -> MarketTape:
    whole = random_tape(n_candles, seed=seed)
    dates = whole.dates_ms.copy()
    dates[at:] += 36_000_000
    return replace(whole, dates_ms=dates, segments=((0, at), (at, n_candles)))


def test_a_population_evaluates_the_lower_end_that_one_training_does() -> None:
    settings = tiny_settings(entry_mode="agent", evaluation_folds=2, evaluation_mode="lower", vec_env="torch")
    env = env_settings_of(settings)
    held_out = gapped(200, 120, seed=4)
    seen: list[Evaluation] = []
    job = TrainingJob(settings, random_tape(), held_out, env)
    model, report = job.run(lambda result: seen.append(result) if result is not None else None)
    assert len(seen) > 1
    assert report.best_evaluation is not None
    # Of equals the last.
    best = max(reversed(seen), key=lambda one: one.lower_log_return)
    assert report.best_evaluation == best.figures()
    expected = evaluate(model, held_out, env)
    assert expected.lower_log_return < expected.log_return
    assert best.lower_log_return == pytest.approx(expected.lower_log_return, abs=1e-12)
    judgement = Member(job, None).judgement
    assert judgement is not None
    for result in RESULTS:
        judgement.note(result, Silent())  # type: ignore[arg-type]
    assert judgement.best == RESULTS[1]
