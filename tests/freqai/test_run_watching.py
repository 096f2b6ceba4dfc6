"""Which trainings a backtest expects: by what lies on disk, until that is disproved."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from freqtrade.enums import RunMode
from tiny_training import tiny_settings

from mtfscalper.freqai import run_watching
from mtfscalper.freqai.run_watching import BacktestWatch, period_name, watch_of
from mtfscalper.progress.run import RunProgress

DAY = 86_400
FIRST, SECOND = 1_727_740_800, 1_728_345_600


class Kitchen:
    """As much of FreqAI's as is asked."""

    def __init__(self, folder: Path, pair: str, sealed: set[str], left_out: frozenset[int] = frozenset()) -> None:
        self.pair, self._folder = pair, folder
        self.training_timeranges = [SimpleNamespace(stopts=stop) for stop in (FIRST, SECOND)]
        self.run = SimpleNamespace(
            left_out=left_out,
            archive=SimpleNamespace(
                versions=lambda pair, name: SimpleNamespace(to_reuse=lambda: ["v"] if name in sealed else [])
            ),
        )

    def set_new_model_names(self, pair: str, stop: int) -> None:
        self.model_filename = f"cb_{pair.split('/')[0].lower()}_{stop}"
        self.data_path = self._folder / self.model_filename


def watched() -> BacktestWatch:
    run = RunProgress()
    watch: Any = SimpleNamespace(run=run, shown=nullcontext, begin=lambda job: None)
    return BacktestWatch(watch, members=1)


def job(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_a_run_is_all_periods_of_all_pairs_but_those_that_lie_on_disk_or_are_left_out(tmp_path: Path) -> None:
    watch = watched()
    pairs = ["A/USDT", "B/USDT", "C/USDT"]
    watch.begin_pair(Kitchen(tmp_path, "A/USDT", set(), frozenset({FIRST})), pairs)  # type: ignore[arg-type]
    assert watch.watch.run.n_policies == 5
    watch.begin_pair(Kitchen(tmp_path, "B/USDT", {f"cb_b_{FIRST}"}), pairs)  # type: ignore[arg-type]
    # A's turn is over, and nothing of it was trained.
    assert watch.watch.run.n_policies == 3


def test_once_a_period_on_disk_is_out_of_date_those_after_it_are_expected_to_be(tmp_path: Path) -> None:
    watch = watched()
    sealed = {f"cb_{coin}_{stop}" for coin in "ab" for stop in (FIRST, SECOND)}
    watch.begin_pair(Kitchen(tmp_path, "A/USDT", sealed), ["A/USDT", "B/USDT"])  # type: ignore[arg-type]
    assert watch.watch.run.n_policies == 0
    watch.begin_training(job("A/USDT 2024-10-08"))
    assert watch.watch.run.n_policies == 3
    watch.begin_pair(Kitchen(tmp_path, "B/USDT", sealed), ["A/USDT", "B/USDT"])  # type: ignore[arg-type]
    # That one of A's, and both of B's.
    assert watch.watch.run.n_policies == 3


def test_a_period_that_the_run_has_passed_by_was_reused(tmp_path: Path) -> None:
    watch = watched()
    sealed = {f"cb_{coin}_{stop}" for coin in "ab" for stop in (FIRST, SECOND)}
    pairs = ["A/USDT", "B/USDT"]
    watch.begin_pair(Kitchen(tmp_path, "A/USDT", sealed), pairs)  # type: ignore[arg-type]
    watch.begin_training(job("A/USDT 2024-10-01"))
    assert watch.watch.run.n_policies == 4
    watch.begin_pair(Kitchen(tmp_path, "B/USDT", sealed), pairs)  # type: ignore[arg-type]
    watch.begin_training(job("B/USDT 2024-10-08"))
    # Two of A: one was trained, and of its other one nobody has heard.
    assert watch.watch.run.n_policies == 2


def test_trainings_that_begin_together_are_all_expected(tmp_path: Path) -> None:
    watch = watched()
    watch.begin_pair(Kitchen(tmp_path, "A/USDT", set()), ["A/USDT"])  # type: ignore[arg-type]
    for name in ("A/USDT 2024-10-01", "A/USDT 2024-10-08"):
        watch.begin_training(job(name))
    assert watch.watch.run.n_policies == 2


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        (f"cb_btc_{FIRST}", "2024-10-01"),
        (f"cb_btc_{FIRST + 5400}", "2024-10-01T01:30"),
        ("", ""),
        ("cb_btc", ""),
    ],
)
def test_a_period_is_called_by_the_end_of_its_training(filename: str, name: str) -> None:
    dk: Any = SimpleNamespace(model_filename=filename)
    assert period_name(dk) == name


@pytest.mark.parametrize(
    ("runmode", "progress_bar", "has_console"),
    [
        (RunMode.BACKTEST, True, True),
        (RunMode.BACKTEST, False, False),
        (RunMode.HYPEROPT, True, False),
        (RunMode.DRY_RUN, True, False),
        (RunMode.LIVE, True, False),
    ],
)
def test_only_a_backtest_draws(
    runmode: RunMode, progress_bar: bool, has_console: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    consoles: list[Any] = []
    monkeypatch.setattr(run_watching, "RunWatch", lambda run, console, **_: consoles.append(console))
    watch_of(tiny_settings(device="cpu").model_copy(), RunMode.OTHER)
    settings = tiny_settings(progress_bar=progress_bar)
    watch_of(settings, runmode)
    assert consoles[0] is None
    assert (consoles[1] is run_watching.error_console) == has_console
