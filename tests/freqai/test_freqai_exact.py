"""Exact decisions: the backtest's trades are the policy's own, and nothing else can decide about them."""

from pathlib import Path
from typing import Any

import pytest
from exact_runs import assert_no_gap, judge


@pytest.mark.parametrize(("mode", "leverage", "window"), [("gated", 1.0, 1), ("classic", 3.0, 1), ("agent", 1.0, 4)])
def test_the_backtest_makes_the_trades_of_the_rollout(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, mode: str, leverage: float, window: int
) -> None:
    freqai: dict[str, Any] = {"conv_width": window, "rl_config": {"entry_mode": mode}}
    verdicts = judge(tmp_path, market, monkeypatch, "random", freqai=freqai)
    assert_no_gap(verdicts)
    assert len(verdicts.backtest) > 10
    assert sum(trade.exit_reason == "exit_signal" for trade in verdicts.backtest) > 2
    assert len(verdicts.asked_in_backtest) > 100
