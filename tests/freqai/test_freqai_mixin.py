"""A strategy of somebody else's with the mixin: its backtest makes the trades of training, and leaves a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from exact_runs import assert_no_gap, judge
from freqai_runs import PAIR, FreqtradeBacktest, Watch
from freqtrade.persistence.custom_data import CustomDataWrapper

from mtfscalper.strategy import PROBABILITY_KEY
from mtfscalper.trading.actions import Action

STRATEGIES = Path(__file__).parent / "strategies"
LONGEST = 6
FREQAI: dict[str, Any] = {"rl_config": {"entry_mode": "agent", "max_trade_duration_candles": LONGEST}}
FIVE_MINUTES = pd.Timedelta(minutes=5)


def the_record(home: Path) -> pd.DataFrame:
    [file] = (home / "decisions" / "test").glob("*.feather")
    assert file.name.startswith("backtest_")
    return pd.read_feather(file)


@pytest.mark.parametrize("strategy", ["MixinStrategy", "RaisingStrategy"])
def test_a_column_only_strategy_with_the_mixin_makes_the_trades_of_the_rollout(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    verdicts = judge(
        tmp_path,
        market,
        monkeypatch,
        "random",
        leaves=0.1,
        strategy=strategy,
        strategy_path=STRATEGIES,
        freqai=FREQAI,
    )
    assert_no_gap(verdicts)
    reasons = [trade.exit_reason for trade in verdicts.backtest]
    assert reasons.count("exit_signal") > 5
    assert reasons.count("max_duration") > 5
    # The record has what was asked, question by question.
    asked, record = verdicts.asked_in_backtest, the_record(tmp_path)
    assert len(asked) > 100
    assert record["pair"].tolist() == [PAIR] * len(asked)
    assert record["candle"].astype("int64").tolist() == [question.now_ms for question in asked]
    assert record["opened"].astype("int64").tolist() == [question.open_ms for question in asked]
    assert record["leave"].tolist() == [question.action != Action.NEUTRAL for question in asked]
    assert ((record["probability"] > 0.5) == record["leave"]).all()
    assert (record["best_profit"] >= record["profit"]).all()
    assert set(record["held_candles"]) == set(range(1, LONGEST + 1))


def test_its_own_exits_come_after_the_policys_and_nothing_outlives_the_longest_duration(
    tmp_path: Path, market: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Watch(monkeypatch, leaves=0.1)
    rl_config = FREQAI["rl_config"] | {"decision_mode": "exact"}
    run = FreqtradeBacktest(
        tmp_path,
        market,
        strategy="TakeProfitStrategy",
        strategy_path=STRATEGIES,
        freqai={"rl_config": rl_config},
    )
    run.run()
    trades = run.trades()
    counts = trades["exit_reason"].value_counts()
    assert counts["rl_exit"] > 5
    assert counts["max_duration"] > 5
    assert counts["take_profit"] > 5
    held = trades["close_date"] - trades["open_date"]
    assert held.max() == LONGEST * FIVE_MINUTES
    assert (held[trades["exit_reason"] == "max_duration"] == LONGEST * FIVE_MINUTES).all()
    # No entry in the candle of an exit.
    assert (trades["open_date"].iloc[1:].to_numpy() > trades["close_date"].iloc[:-1].to_numpy()).all()
    record = the_record(tmp_path)
    left = record[record["leave"]].set_index("opened")
    assert sorted(left["candle"]) == sorted(trades.loc[trades["exit_reason"] == "rl_exit", "close_date"])
    # What the policy left says how probable that was, and nothing else does.
    noted = {entry.ft_trade_id: float(entry.cd_value) for entry in CustomDataWrapper.custom_data}
    assert {entry.cd_key for entry in CustomDataWrapper.custom_data} == {PROBABILITY_KEY}
    numbered = trades.sort_values("open_date").reset_index(drop=True)
    expected = {
        number + 1: left.loc[trade.open_date, "probability"]
        for number, trade in enumerate(numbered.itertuples())
        if trade.exit_reason == "rl_exit"
    }
    assert noted == pytest.approx(expected)
