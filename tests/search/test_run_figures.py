"""Figures of a real backtest in this process: those of the report, and every trade counted once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from freqai.freqai_runs import PAIR, Watch, configuration
from studies import LOOSE

from mtfscalper.offline.synthetic import write_market
from mtfscalper.reporting import rivals
from mtfscalper.reporting.run_result import RunResult
from mtfscalper.reporting.without_freqai import NotRun
from mtfscalper.search import trial_run
from mtfscalper.search.run_figures import Run, RunFigures, mean_difference
from mtfscalper.search.trial_run import run_backtest

SEED = 3 * 2**20


class Made(NamedTuple):
    run: Run
    result: RunResult
    config_is_as_it_was: bool
    trained: int
    again: Run
    trained_again: int


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    home, market = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("market")
    write_market(market, start=datetime(2024, 9, 1, tzinfo=UTC), stop=datetime(2024, 9, 10, tzinfo=UTC), pairs=(PAIR,))
    overlay = {"freqai": {"rl_config": {"decision_mode": "exact", "max_trade_duration_candles": 24}}}
    config, exchange = configuration(home, market, strategy_parameters=LOOSE, **overlay)
    before, results = deepcopy(config), list[RunResult]()

    def backtest() -> Run:
        return run_backtest(
            config, SEED, timerange="20240905-20240908", datadir=Path(market), identifier="figures", exchange=exchange
        )

    real = trial_run.figures_of
    with pytest.MonkeyPatch.context() as patch:
        watch = Watch(patch, "random", leaves=0.02)

        def figures_of(result: RunResult, *rest: Any, **named: Any) -> RunFigures:
            results.append(result)
            return real(result, *rest, **named)

        patch.setattr(trial_run, "figures_of", figures_of)
        run = backtest()
        trained = len(watch.trained)
        again = backtest()
        yield Made(run, results[0], config == before, trained, again, len(watch.trained) - trained)


def test_the_differences_of_days_are_the_reports_own(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "RANDOM_DRAWS", 1)
    run, figures = made.run, made.run.figures
    compared = rivals.compare(made.result, run.trades, run.tapes, run.rules, NotRun("not asked for"))
    np.testing.assert_array_equal(figures.differences, compared.paired.reindex(figures.days, fill_value=0.0))
    assert compared.run.statistics is not None
    assert figures.max_drawdown == compared.run.statistics.max_drawdown_ratio
    assert sum(figures.profits) == pytest.approx(compared.run.statistics.profit_ratio, abs=1e-12)
    assert (compared.classic.to_numpy() == run.classic.to_numpy()).all()


def test_each_trade_counts_in_one_instance_and_over_its_days(made: Made) -> None:
    run, figures = made.run, made.run.figures
    assert figures.trades == len(run.trades) > 10
    assert sum(figures.begun) == sum(instance.trades for instance in figures.instances) == figures.trades
    assert [instance.period for instance in figures.instances] == ["2024-09-05", "2024-09-06", "2024-09-07"]
    assert {(instance.pair, instance.seed, instance.days) for instance in figures.instances} == {(PAIR, SEED, 1.0)}
    in_all = run.trades["profit_ratio"].sum() - run.classic["profit_ratio"].sum()
    assert abs(in_all) > 0.001
    assert sum(figures.differences) == pytest.approx(in_all, abs=1e-12)
    assert sum(instance.difference for instance in figures.instances) == pytest.approx(in_all, abs=1e-12)
    assert mean_difference(figures.instances) == pytest.approx(in_all / 3, abs=1e-12)
    # A period that was cut short counts for as long as it was traded.
    long, short = (
        figures.instances[0]._replace(days=days, difference=of) for days, of in ((14.0, 0.001), (1.0, -0.029))
    )
    assert mean_difference([long, short]) == pytest.approx(-0.001, abs=1e-15)
    assert mean_difference([]) == 0.0


def test_the_policy_ended_trades_and_no_classic_exit_is_its(made: Made) -> None:
    assert "rl_exit" in set(made.run.trades["exit_reason"])
    assert not {"rl_exit", "exit_signal"} & set(made.run.classic["exit_reason"])


def test_the_same_run_again_trains_nothing_and_gives_the_same(made: Made) -> None:
    assert (made.trained, made.trained_again) == (3, 0)
    assert made.config_is_as_it_was
    assert made.again.figures.instances == made.run.figures.instances
    assert made.again.figures.timesteps == made.run.figures.timesteps > 0


def test_figures_are_read_as_they_were_written(made: Made) -> None:
    written = json.loads(json.dumps(made.run.figures.as_json()))
    assert RunFigures.from_json(written) == made.run.figures
    with pytest.raises(TypeError):
        RunFigures.from_json({**written, "unknown": 1})
