"""Strategies written for freqtrade's own reinforcement learners: they read columns, and nothing of them is changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from freqai_runs import PAIR, PERIODS, FreqtradeBacktest, Watch
from freqtrade.exceptions import OperationalException
from parity.backtester import as_closed_trades

from mtfscalper.artefacts import read_manifest
from mtfscalper.freqai.columns import ACTION_COLUMN, PREDICTION_COLUMNS
from mtfscalper.trading.actions import Action
from mtfscalper.trading.trades import ClosedTrade

STRATEGIES = Path(__file__).parent / "strategies"
RAW_PRICES = {"%-raw_open", "%-raw_high", "%-raw_low", "%-raw_close"}
SHORT_ACTIONS = {Action.SHORT_ENTER, Action.SHORT_EXIT}


def run_of(home: Path, datadir: Path, strategy: str = "ColumnOnlyStrategy", **rl_config: Any) -> FreqtradeBacktest:
    """A backtest of a strategy that has no signals: the policy enters where it likes."""
    freqai = {"rl_config": {"entry_mode": "agent"} | rl_config}
    return FreqtradeBacktest(home, datadir, strategy=strategy, strategy_path=STRATEGIES, freqai=freqai)


def watched(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Policies that leave often: a trade would end by the ROI table's last line otherwise."""
    return Watch(monkeypatch, leaves=0.2)


def assert_same_trades(run: FreqtradeBacktest, watch: Watch) -> list[ClosedTrade]:
    """freqtrade's backtester makes the trades of the rollout that wrote the columns; gives them."""
    judged = as_closed_trades(run.trades().sort_values("close_date"))
    rollout = [trade for period in watch.replayed for trade in period.trades]
    if judged[-1].exit_reason == "force_exit":
        # The backtester closes what is open when its data end; the rollout is still in it.
        judged.pop()
    assert [trade._replace(profit_ratio=0.0) for trade in judged] == [t._replace(profit_ratio=0.0) for t in rollout]
    ratios = [[trade.profit_ratio for trade in trades] for trades in (judged, rollout)]
    np.testing.assert_allclose(*ratios, rtol=0, atol=1e-12)
    assert len(judged) > 10
    return judged


@pytest.mark.parametrize(
    ("strategy", "can_short"),
    [
        *(("ColumnOnlyStrategy", True), ("ColumnOnlyStrategy", False), ("RawPriceStrategy", True)),
        # With the mixin, whose rules are those of the rollout.
        ("MixinStrategy", True),
    ],
)
def test_a_strategy_that_reads_columns_makes_the_trades_of_the_rollout(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, can_short: bool
) -> None:
    watch = watched(monkeypatch)
    run = run_of(tmp_path, market, strategy)
    run.strategy.can_short = can_short
    rows = run.run()
    assert watch.trained == [PAIR] * 3
    assert len(rows) == 3 * 288
    assert (rows["do_predict"] == 1).all()
    assert set(rows[ACTION_COLUMN]) == (set(Action) if can_short else set(Action) - SHORT_ACTIONS)
    # What the strategy did not declare is not there.
    assert set(rows.columns) & set(PREDICTION_COLUMNS) == {ACTION_COLUMN}
    judged = assert_same_trades(run, watch)
    assert {trade.exit_reason for trade in judged} >= {"exit_signal", "roi"}
    assert sum(trade.exit_reason == "exit_signal" for trade in judged) > 5
    assert {trade.is_short for trade in judged} == ({True, False} if can_short else {False})
    features = set((read_manifest(run.folder(PERIODS[0])) or {})["features"])
    assert features & RAW_PRICES == (RAW_PRICES if strategy == "RawPriceStrategy" else set())


def test_state_information_can_be_asked_for_in_a_backtest(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """freqtrade's own environment refuses it."""
    watch = watched(monkeypatch)
    run = run_of(tmp_path, market, add_state_info=True)
    rows = run.run()
    assert (rows["do_predict"] == 1).all()
    assert_same_trades(run, watch)


def test_a_trade_of_the_longest_duration_is_left_by_the_columns(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shorter than the ROI table, which leaves after 48 candles: nothing but the columns can tell the strategy."""
    watch = watched(monkeypatch)
    run = run_of(tmp_path, market, max_trade_duration_candles=24)
    run.run()
    judged = as_closed_trades(run.trades().sort_values("close_date"))
    rollout = [trade for period in watch.replayed for trade in period.trades]
    assert sum(trade.exit_reason == "max_duration" for trade in rollout) > 5
    # freqtrade names whatever a column says a signal.
    told = [
        trade._replace(exit_reason="exit_signal") if trade.exit_reason == "max_duration" else trade for trade in rollout
    ]
    opened_and_closed = [(trade.open_ms, trade.close_ms, trade.exit_reason) for trade in told]
    assert [(trade.open_ms, trade.close_ms, trade.exit_reason) for trade in judged[: len(told)]] == opened_and_closed


def test_exact_decisions_are_refused_to_a_strategy_that_does_not_ask_for_them(tmp_path: Path, market: Path) -> None:
    run = run_of(tmp_path, market, decision_mode="exact")
    refused = r"decision_mode is 'exact', and ColumnOnlyStrategy does not ask .* remedy: add the mixin, or set decision"
    with pytest.raises(OperationalException, match=refused):
        run.run()
    assert not run.models.is_dir() or not list(run.models.rglob("*.zip"))
