"""Trainings in this process: in their order, each to its own end."""

from collections.abc import Sequence

import pytest
from builders import make_tape, random_candles
from tiny_training import env_settings_of, parameters, random_tape, same, tiny_settings

from mtfscalper.executors.executor import Outcome, run_all
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.market.tape import MarketTape, TapeError
from mtfscalper.training.evaluation import Evaluation
from mtfscalper.training.job import TrainingJob


def job_on(tape: MarketTape) -> TrainingJob:
    settings = tiny_settings()
    return TrainingJob(settings, tape, random_tape(seed=9), env_settings_of(settings))


def too_short() -> MarketTape:
    candles = random_candles(1, 3)
    return make_tape(candles, [False] * 3, [False] * 3)


def test_each_job_gets_in_its_place_what_it_gives_when_run_by_itself() -> None:
    jobs = [job_on(random_tape(seed=seed)) for seed in (1, 2)]
    done = run_all(InlineExecutor(), jobs)
    alone = [job.run() for job in jobs]
    assert [report.train_tape_sha256 for _, report in trained(done)] == [job.train.digest() for job in jobs]
    weights = [parameters(model) for model, _ in trained(done)]
    assert [same(left, parameters(model)) for left, (model, _) in zip(weights, alone, strict=True)] == [True, True]
    assert not same(*weights)


def trained(outcomes: Sequence[Outcome]) -> list[tuple]:
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    return list(outcomes)


def test_a_training_that_fails_leaves_its_error_in_its_place_and_stops_no_other() -> None:
    first, failed, last = run_all(
        InlineExecutor(), [job_on(tape) for tape in (random_tape(), too_short(), random_tape())]
    )
    assert isinstance(failed, TapeError)
    assert len(trained([first, last])) == 2


def test_every_job_is_watched() -> None:
    seen: list[Evaluation | None] = []
    done = trained(run_all(InlineExecutor(), [job_on(random_tape()), job_on(random_tape(seed=2))], seen.append))
    told = [result.figures() for result in seen if result is not None]
    assert told == [result for _, report in done for result in report.evaluations]
    assert len(told) > 2


def test_what_ends_the_whole_program_comes_through() -> None:
    def interrupt(_: Evaluation | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(InlineExecutor(), [job_on(random_tape())], interrupt)
