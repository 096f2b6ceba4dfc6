"""freqtrade's cache of results does not stand in for a backtest of policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from freqai_runs import TIMERANGE, FreqtradeBacktest, configuration
from freqtrade.configuration import TimeRange
from freqtrade.enums import RunMode
from freqtrade.optimize import backtesting

from mtfscalper.freqai.result_cache import never_reuse_results, tell_of_reused_results
from mtfscalper.freqai.run_planning import RunPlanning

CONFIG = {"runmode": RunMode.BACKTEST, "freqai": {"enabled": True}, "backtest_cache": "day"}


@pytest.mark.parametrize("mode", ["exact", "replay"])
def test_a_backtest_of_policies_runs_although_freqtrade_has_a_result_of_the_same_config_and_strategy(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Own rewards, candles, code and the model's file are none of what freqtrade looks at."""
    asked: list[Any] = []
    monkeypatch.setattr(backtesting, "find_existing_backtest_stats", lambda *which: asked.append(which) or {})
    config, exchange = configuration(tmp_path, market, freqai={"rl_config": {"decision_mode": mode}})
    config["backtest_cache"] = "day"
    made = backtesting.Backtesting(config, exchange)
    made.timerange = TimeRange.parse_timerange(TIMERANGE)
    made.load_prior_backtest()
    assert asked == []
    # It would have looked.
    made.config["backtest_cache"] = "day"
    made.load_prior_backtest()
    assert len(asked) == 1


@pytest.mark.parametrize("mode", [RunMode.BACKTEST, RunMode.WEBSERVER])
def test_freqtrades_cache_is_off_and_the_log_says_so(mode: RunMode, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    config = {**CONFIG, "runmode": mode}
    never_reuse_results(config)
    assert config == {**CONFIG, "runmode": mode, "backtest_cache": "none"}
    assert "--cache day is off" in caplog.text


def test_where_the_config_is_a_copy_no_result_of_before_has_its_name() -> None:
    configs = [{**CONFIG, "strategy_list": ["A", "B"]} for _ in range(2)]
    for config in configs:
        never_reuse_results(config)
    assert configs[0] != configs[1]


@pytest.mark.parametrize("other", [{"runmode": RunMode.DRY_RUN}, {"freqai": {"enabled": False}}, {"freqai": None}])
def test_without_policies_freqtrade_does_as_it_is_told(other: dict[str, Any]) -> None:
    config = {**CONFIG, **other}
    never_reuse_results(config)
    assert config == {**CONFIG, **other}


@pytest.mark.parametrize(
    ("changes", "warns"), [({}, True), ({"backtest_cache": "none"}, False), ({"runmode": RunMode.DRY_RUN}, False)]
)
def test_where_nothing_switches_it_off_a_warning_says_how(
    changes: dict[str, Any], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tell_of_reused_results(cast(Any, object()), {**CONFIG, **changes})
    assert ("Remedy: give --cache none." in caplog.text) == warns


def test_a_strategy_that_only_reads_the_action_column_gets_that_warning_before_the_training(
    tmp_path: Path, market: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = {"strategy": "ColumnOnlyStrategy", "strategy_path": Path(__file__).parent / "strategies"}
    run = FreqtradeBacktest(tmp_path, market, **strategy, freqai={"rl_config": {"entry_mode": "agent"}})
    run.strategy.freqai.config["backtest_cache"] = "day"
    monkeypatch.setattr(RunPlanning, "begin_pair", refuse)
    with pytest.raises(RuntimeError, match="no training"):
        run.run()
    assert "ColumnOnlyStrategy has neither PolicyExits nor TradeDecisions" in caplog.text


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("no training")
