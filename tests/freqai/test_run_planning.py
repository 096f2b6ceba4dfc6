"""A run plans all its pairs, trains what they lack, and gives what it gives pair after pair."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import candles_read_once
import pandas as pd
import pytest
from freqai_runs import OTHER_PAIR, PAIR, PERIODS, FreqtradeBacktest, Watch
from test_planned_periods import assert_same_policies, assert_same_seals, fail_on, told
from tiny_training import tiny_settings

from mtfscalper.executors import processes
from mtfscalper.executors.choice import here_if_alone
from mtfscalper.executors.executor import Outcome, Running
from mtfscalper.executors.inline import InlineExecutor
from mtfscalper.freqai import model
from mtfscalper.training.callbacks import OnEvaluation
from mtfscalper.training.job import TrainingJob
from mtfscalper.training.watching import Watch as TrainingWatch

BOTH: dict[str, Any] = {"exchange": {"pair_whitelist": [PAIR, OTHER_PAIR]}, "timerange": "20240905-20240907"}
KEPT = PERIODS[:2]
FEATURES = ("feature_engineering_expand_all", "feature_engineering_expand_basic", "feature_engineering_standard")


class TwoAtATime:
    """An executor that takes two jobs, and finishes the one that it was given last first.

    :ivar started: the jobs' names, as they were submitted
    :ivar most: jobs that it held at once
    """

    together = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.most = 0
        self._held: list[TrainingJob] = []
        monkeypatch.setattr(model, "executor_for", lambda settings: self)

    def start(
        self, on_evaluation: OnEvaluation | None = None, watch: TrainingWatch | None = None
    ) -> AbstractContextManager[Running]:
        self._inline = InlineExecutor().start(on_evaluation, watch)
        self._held = []
        return self  # type: ignore[return-value]

    def __enter__(self) -> TwoAtATime:
        self._running = self._inline.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._inline.__exit__(*error)

    @property
    def room(self) -> int:
        return 2 - len(self._held)

    def submit(self, job: TrainingJob) -> None:
        assert self.room > 0
        self.started.append(job.name)
        self._held.append(job)
        self.most = max(self.most, len(self._held))

    def next_finished(self) -> tuple[TrainingJob, Outcome]:
        self._running.submit(self._held.pop())
        return self._running.next_finished()

    def take_finished(self) -> list[tuple[TrainingJob, Outcome]]:
        return []


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch, policy="decisive", leaves=0.1)


@pytest.fixture(scope="module")
def in_turn(tmp_path_factory: pytest.TempPathFactory, market: Path) -> tuple[FreqtradeBacktest, Any]:
    """A run of two pairs whose periods are trained in turn, and its trades."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        Watch(monkeypatch, policy="decisive", leaves=0.1)
        run = FreqtradeBacktest(tmp_path_factory.mktemp("in turn"), market, **BOTH)
        run.run()
        return run, run.trades()


def counted_features(run: FreqtradeBacktest, monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str, str]]:
    """Counts calls of a strategy's feature functions: by name, pair, and distance of the candles."""
    calls: Counter[tuple[str, str, str]] = Counter()
    kind = type(run.strategy)
    for name in FEATURES:
        real = getattr(kind, name)

        def spied(self: Any, dataframe: Any, *rest: Any, _name: str = name, _real: Any = real, **more: Any) -> Any:
            distance = dataframe["date"].iloc[-1] - dataframe["date"].iloc[-2] if len(dataframe) > 1 else "one row"
            calls[_name, more["metadata"]["pair"], str(distance)] += 1
            return _real(self, dataframe, *rest, **more)

        monkeypatch.setattr(kind, name, spied)
    return calls


def folder(run: FreqtradeBacktest, coin: str, period: int) -> Path:
    return run.models / f"sub-train-{coin}_{period}"


def assert_same_run(run: FreqtradeBacktest, usual: tuple[FreqtradeBacktest, Any]) -> None:
    for pair in (PAIR, OTHER_PAIR):
        pd.testing.assert_frame_equal(run.frames[pair], usual[0].frames[pair])
    for coin in ("BTC", "ETH"):
        for period in KEPT:
            folders = folder(run, coin, period), folder(usual[0], coin, period)
            assert_same_seals(*folders)
            assert_same_policies(*(each / f"cb_{coin.lower()}_{period}_model.zip" for each in folders))


def test_all_pairs_are_planned_at_once_and_leave_what_they_leave_in_turn(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    in_turn: tuple[FreqtradeBacktest, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    executor = TwoAtATime(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, **BOTH)
    calls = counted_features(run, monkeypatch)
    run.run()
    days = ["2024-09-05", "2024-09-06"]
    assert executor.started == [f"{pair} {day}" for pair in (PAIR, OTHER_PAIR) for day in days]
    assert executor.most == 2
    assert len(watch.trained) == 4
    # Two timeframes for the candles' own features and the wider ones; each once, for each pair alike.
    by_pair = {pair: {key[::2]: n for key, n in calls.items() if key[1] == pair} for pair in (PAIR, OTHER_PAIR)}
    assert by_pair[PAIR] == by_pair[OTHER_PAIR]
    assert by_pair[PAIR]["feature_engineering_standard", "0 days 00:05:00"] == 1
    assert by_pair[PAIR]["feature_engineering_expand_basic", "0 days 01:00:00"] == 1
    assert_same_run(run, in_turn)
    pd.testing.assert_frame_equal(run.trades(), in_turn[1])
    assert len(in_turn[1]) > 5
    assert told(caplog, "Planned 2 pairs: 4 policies to train, 0 of an earlier run")
    # Nothing is left but what a run seals, and the next one trains nothing, wherever trainings run.
    assert not (run.archive.root / "trainings").exists()
    assert not run.archive.frames.exists()
    monkeypatch.setattr(model, "executor_for", lambda settings: InlineExecutor())
    watch.forget()
    again = FreqtradeBacktest(tmp_path, market, **BOTH)
    again.run()
    assert watch.trained == []
    assert_same_run(again, in_turn)


def feature_bytes() -> int:
    """Bytes of all frames of features that a run holds, each array of them once."""
    arrays: dict[int, int] = {}
    # What the tests themselves remember of other runs.
    remembered = {id(frame) for frame in candles_read_once._merges.values()}
    for value in gc.get_objects():
        if (
            id(value) not in remembered
            and isinstance(value, pd.DataFrame)
            and sum(str(name).startswith("%") for name in value.columns) > 10
        ):
            for name in value.columns:
                values = value[name].to_numpy()
                owner = values if values.base is None else values.base
                arrays[id(owner)] = getattr(owner, "nbytes", 0)
    return sum(arrays.values())


def test_features_of_one_pair_at_a_time_lie_in_memory_while_all_are_trained(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = TwoAtATime(monkeypatch)
    held: list[int] = []
    submit = TwoAtATime.submit

    def noting(self: TwoAtATime, job: TrainingJob) -> None:
        gc.collect()
        held.append(feature_bytes())
        submit(self, job)

    monkeypatch.setattr(TwoAtATime, "submit", noting)
    peaks = []
    for pairs in ([PAIR], [PAIR, OTHER_PAIR]):
        held.clear()
        run = FreqtradeBacktest(tmp_path / str(len(pairs)), market, **BOTH | {"exchange": {"pair_whitelist": pairs}})
        run.run()
        assert len(held) == 2 * len(pairs)
        peaks.append(max(held))
        # Nothing of a run's own stays for the next one's figures.
        del run
    assert executor.most == 2
    one, two = peaks
    assert one > 0
    assert two <= 1.2 * one, f"{one:,} bytes with a pair, {two:,} with two"


def test_what_finished_before_a_run_was_stopped_is_not_trained_again(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    in_turn: tuple[FreqtradeBacktest, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    executor = TwoAtATime(monkeypatch)
    with pytest.MonkeyPatch.context() as stopping:
        # The first pair's second period finishes before any first one is begun.
        fail_on(stopping, "2024-09-03", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            FreqtradeBacktest(tmp_path, market, **BOTH).run()
    assert executor.started == [f"{PAIR} 2024-09-05", f"{PAIR} 2024-09-06", f"{OTHER_PAIR} 2024-09-05"]
    watch.forget()
    # Another executor, and the same policies.
    monkeypatch.setattr(model, "executor_for", lambda settings: InlineExecutor())
    again = FreqtradeBacktest(tmp_path, market, **BOTH)
    again.run()
    assert watch.trained == [PAIR, OTHER_PAIR, OTHER_PAIR]
    assert_same_run(again, in_turn)
    assert not (again.archive.root / "trainings").exists()


def test_a_policy_that_lacks_alone_is_trained_here_and_waits_for_no_process(
    tmp_path: Path, market: Path, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"timerange": "20240905-20240906"}
    runs = {}
    with pytest.MonkeyPatch.context() as patched:
        # No process is started.
        patched.setattr(processes, "start_pool", None)
        for executor in ("inline", "processes"):
            rl = {"executor": executor, "threads_per_job": 1}
            run = FreqtradeBacktest(tmp_path / executor, market, **one, freqai={"rl_config": rl})
            run.run()
            runs[executor] = run
    assert watch.trained == [PAIR, PAIR]
    inline, here = runs.values()
    pd.testing.assert_frame_equal(here.frames[PAIR], inline.frames[PAIR])
    assert_same_policies(*(folder(run, "BTC", KEPT[0]) / f"cb_btc_{KEPT[0]}_model.zip" for run in (here, inline)))
    # Two may be trained side by side; without threads of its own a training has others in a process.
    plain = {"executor": "processes", "workers": 2}
    assert here_if_alone(tiny_settings(**plain, threads_per_job=1), 1) is not None
    assert here_if_alone(tiny_settings(**plain, threads_per_job=1), 2) is None
    assert here_if_alone(tiny_settings(**plain, threads_per_job=1, ensemble=3), 1) is None
    assert here_if_alone(tiny_settings(**plain), 1) is None


def test_a_strategy_that_keeps_something_is_planned_pair_by_pair_and_one_line_says_so(
    tmp_path: Path,
    market: Path,
    watch: Watch,
    in_turn: tuple[FreqtradeBacktest, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    executor = TwoAtATime(monkeypatch)
    run = FreqtradeBacktest(tmp_path, market, **BOTH)
    kind = type(run.strategy)
    real = kind.populate_indicators

    def counting(self: Any, dataframe: pd.DataFrame, metadata: Any) -> pd.DataFrame:
        self.seen = [*getattr(self, "seen", []), metadata["pair"]]
        return real(self, dataframe, metadata)

    monkeypatch.setattr(kind, "populate_indicators", counting)
    run.run()
    assert executor.most == 2
    assert_same_run(run, in_turn)
    assert run.strategy.seen == [PAIR, OTHER_PAIR]
    [line] = told(caplog, "cannot be asked for all pairs")
    assert "it keeps something in seen" in line
    assert told(caplog, f"Planned {OTHER_PAIR}: 2 policies to train")
